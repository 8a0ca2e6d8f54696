// Gradients of attention in bf16 on tensor cores, after FlashAttention-2 (Dao 2023, algorithm 2), in two passes without
// atomics: one block owns a tile of keys, or a tile of queries, and nothing is added by two blocks.
//
//   P_ij = exp(s_ij - lse_i);  delta_i = dout_i . out_i;  dS_ij = P_ij (dout_i . v_j - delta_i)
//   dv_j = sum_i P_ij dout_i;  dk_j = sum_i dS_ij q_i / sqrt(D);  dq_i = sum_j dS_ij k_j / sqrt(D)
//
// Shapes: qkv and dqkv [T,(N+2K)D], out and dout [T,N*D] bf16; lse and delta [T,N] f32; segments [S,8], families [F+1] and
// tiles [.,3] u32. D is 16, 32, 64, 96 or 128. Scores, exponentials and sums are f32; P and dS are rounded to bf16 for their
// products, results once more. Rows in no segment get zeros, so dqkv is written whole.
// Bytes: delta reads 4 D and writes 4 per row and head. dk and dv read 4 D + 8 per query row, head and key tile that it sees,
// and 4 D per key row, and write 4 D; dq reads 4 D + 8 and writes 2 D per query row and head, and reads 4 D per key row, query
// tile and head: from L2 but for the first time. Not materialised: P and dS beyond 128 x 64. Seven products of 2 D
// operations per query and key, where one pass with atomics has five.
// Launch: delta with as many lanes per row and head as hold it in 16-byte pieces. dk and dv: one block per (key tile of 128,
// key/value head), which takes the query tiles of every segment of the family that sees these keys, for all query heads of
// the group, in the order of segment, head, row; a warp owns 32 or 16 keys, whose scores it computes transposed, so that P
// and dS leave one product as operands of the next. dq: one block of 4 warps per (query tile of 128, query head), 32 rows to
// a warp. In both the next tile comes in while one is worked on. Dynamic shared memory: 256 D bytes for the 128 rows owned,
// twice, and two stages of 32 (D above 64: 64) rows of Q and dO with lse and delta, or of 64 (32) rows of K and V.
// budget: attention_backward_delta_bf16_d16 24 registers 0 bytes shared, 16-byte loads
// budget: attention_backward_delta_bf16_d32 24 registers 0 bytes shared, 16-byte loads
// budget: attention_backward_delta_bf16_d64 24 registers 0 bytes shared, 16-byte loads
// budget: attention_backward_delta_bf16_d96 32 registers 0 bytes shared, 16-byte loads
// budget: attention_backward_delta_bf16_d128 24 registers 0 bytes shared, 16-byte loads
// budget: attention_backward_key_bf16_d16 152 registers 0 bytes shared, 16-byte loads, HMMA
// budget: attention_backward_key_bf16_d32 200 registers 0 bytes shared, 16-byte loads, HMMA
// budget: attention_backward_key_bf16_d64 255 registers 0 bytes shared, 16-byte loads, HMMA
// budget: attention_backward_key_bf16_d96 240 registers 0 bytes shared, 16-byte loads, HMMA
// budget: attention_backward_key_bf16_d128 255 registers 0 bytes shared, 16-byte loads, HMMA
// budget: attention_backward_query_bf16_d16 184 registers 0 bytes shared, 16-byte loads, HMMA
// budget: attention_backward_query_bf16_d32 232 registers 0 bytes shared, 16-byte loads, HMMA
// budget: attention_backward_query_bf16_d64 255 registers 0 bytes shared, 16-byte loads, HMMA
// budget: attention_backward_query_bf16_d96 240 registers 0 bytes shared, 16-byte loads, HMMA
// budget: attention_backward_query_bf16_d128 255 registers 0 bytes shared, 16-byte loads, HMMA

#include "lib/attention_bf16.cuh"

// delta of every row and head, in 16-byte pieces: one to a lane, or three.
template <u32 D> __device__ __forceinline__ void row_dots(const bf16 *out, const bf16 *dout, float *delta, u32 count) {
    constexpr u32 LANES = Tile<D>::PIECES == 12 ? 4 : Tile<D>::PIECES;
    const u32 index = (blockIdx.x * blockDim.x + threadIdx.x) / LANES, lane = threadIdx.x % LANES;
    float sum = 0.0f;
    if (index < count) {
#pragma unroll
        for (u32 piece = 0; piece < Tile<D>::PIECES; piece += LANES) {
            const u64 at = (u64)index * D + (piece + lane) * 8;
            Values<bf16, 8> a, b;
            a.load(out + at), b.load(dout + at);
#pragma unroll
            for (u32 i = 0; i < 8; ++i) sum += a.at[i] * b.at[i];
        }
    }
#pragma unroll
    for (u32 offset = LANES / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (index < count && lane == 0) delta[index] = sum;
}

struct Backward {
    // Heads of dqkv lie where those of qkv do.
    const bf16 *qkv, *dout;
    const float *lse, *delta;
    bf16 *dqkv;
    const u32 *segments, *families, *tiles;
    u32 stride, q_column, k_column, v_column, query_heads, key_heads;
    float scale;

    __device__ __forceinline__ u32 width(u32 head_dim) const { return query_heads * head_dim; }
};

// Query rows that see some of a key tile, of one head. Queries are counted within their segment, keys within their range.
struct QueryTile {
    u32 row, rows, head, query;
    // The key tile's first key, which may lie before the range (a wrapped number), and the range's other two numbers.
    u32 key, keys, causal_offset;
};

// All of these, in their order. A pair of segment and range without such queries is passed over.
template <u32 QUERIES> struct QueryTiles {
    const Backward &a;
    const RowTile &own;
    u32 key_head, group;
    // Twice the segment's index, plus the range's.
    u32 place, end;
    u32 start, len, from;
    QueryTile tile;

    __device__ __forceinline__ QueryTiles(const Backward &a, const RowTile &own, u32 key_head)
        : a(a), own(own), key_head(key_head), group(a.query_heads / a.key_heads) {
        place = 2 * a.families[own.owner] - 1, end = 2 * a.families[own.owner + 1];
        next_place();
    }

    __device__ __forceinline__ bool done() const { return place >= end; }

    __device__ __forceinline__ void advance() {
        if (tile.query + QUERIES < len) return set(tile.query + QUERIES);
        if (++tile.head < (key_head + 1) * group) return set(from);
        next_place();
    }

  private:
    __device__ __forceinline__ void set(u32 query) {
        tile.query = query, tile.row = start + query, tile.rows = len - query;
    }

    __device__ __forceinline__ void next_place() {
        while (++place < end) {
            const u32 *words = a.segments + place / 2 * 8;
            const KeyRange range = KeyRange::load(words + 2 + place % 2 * 3);
            if (own.row >= range.row + range.len || range.row >= own.row + own.rows) continue;
            start = words[0], len = words[1];
            // The first query that sees the tile's first key.
            const u32 key = own.row > range.row ? own.row - range.row : 0;
            from = key > range.causal_offset ? key - range.causal_offset : 0;
            if (from >= len) continue;
            tile.key = own.row - range.row, tile.keys = range.len, tile.causal_offset = range.causal_offset;
            tile.head = key_head * group;
            return set(from);
        }
    }
};

// How the kernel of dk and dv cuts its work: registers hold the sums of 16 M keys, so few warps of many keys where rows are
// short, more of fewer where they are long.
template <u32 D> struct KeyBlock {
    static constexpr u32 M = D <= 64 ? 2 : 1;
    static constexpr u32 WARPS = 8 / M;
    static constexpr u32 THREADS = 32 * WARPS;
    static constexpr u32 KEYS = 128;
    static constexpr u32 QUERIES = D <= 64 ? 32 : 64;
    static constexpr u32 N = QUERIES / 8;
    // One stage: Q, dO, then lse and delta.
    static constexpr u32 STAGE_BYTES = 2 * QUERIES * Tile<D>::ROW_BYTES + 8 * QUERIES;
};

template <u32 D> __device__ __forceinline__ void copy_stage(const Backward &a, const QueryTile &tile, u32 stage) {
    using Block = KeyBlock<D>;
    constexpr u32 QUERIES = Block::QUERIES, THREADS = Block::THREADS;
    const u32 width = a.width(D), dout_tile = stage + Tile<D>::bytes(QUERIES), numbers = dout_tile + Tile<D>::bytes(QUERIES);
    const bf16 *q = a.qkv + (u64)tile.row * a.stride + a.q_column + tile.head * D;
    copy_rows_async<D, QUERIES, THREADS>(stage, q, a.stride, tile.rows);
    copy_rows_async<D, QUERIES, THREADS>(dout_tile, a.dout + (u64)tile.row * width + tile.head * D, width, tile.rows);
    if (threadIdx.x < 2 * QUERIES) {
        const u32 query = threadIdx.x % QUERIES;
        const float *source = threadIdx.x < QUERIES ? a.lse : a.delta;
        source += (u64)(tile.row + query) * a.query_heads + tile.head;
        copy_async_4(numbers + 4 * threadIdx.x, source, query < tile.rows);
    }
}

// Transposed scores and products dout . v of 16 M keys and N * 8 queries, to P and dS. `numbers` is lse, then delta. Queries
// beyond the segment are zeros with lse 0 and delta 0, which adds nothing anywhere.
template <u32 M, u32 N>
__device__ __forceinline__ void score_gradients(float (&p)[M][N][4], float (&ds)[M][N][4], const float *numbers, float scale) {
    const u32 column = threadIdx.x % 4 * 2;
#pragma unroll
    for (u32 n = 0; n < N; ++n) {
        const float2 lse = *reinterpret_cast<const float2 *>(numbers + 8 * n + column);
        const float2 delta = *reinterpret_cast<const float2 *>(numbers + 8 * N + 8 * n + column);
        const float shifts[2] = {lse.x * LOG2_E, lse.y * LOG2_E}, deltas[2] = {delta.x, delta.y};
#pragma unroll
        for (u32 m = 0; m < M; ++m) {
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                p[m][n][i] = exp2_fast(fmaf(p[m][n][i], scale, -shifts[i % 2]));
                ds[m][n][i] = p[m][n][i] * (ds[m][n][i] - deltas[i % 2]);
            }
        }
    }
}

// Zeros where a query does not see a key. `key` is that of the lane's first row, counted in the range.
template <u32 M, u32 N> __device__ __forceinline__ void mask(float (&p)[M][N][4], float (&ds)[M][N][4], const QueryTile &tile, u32 key) {
    const int column = threadIdx.x % 4 * 2;
#pragma unroll
    for (u32 m = 0; m < M; ++m) {
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            const u32 j = key + 16 * m + 8 * half;
            // The first column that sees the key.
            const int from = j < tile.keys ? (int)(j - tile.causal_offset - tile.query) - column : 0x7fffffff;
#pragma unroll
            for (u32 n = 0; n < N; ++n) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    if ((int)(8 * n) + i < from) p[m][n][2 * half + i] = ds[m][n][2 * half + i] = 0.0f;
                }
            }
        }
    }
}

template <u32 M, u32 N> __device__ __forceinline__ void multiply_by(float (&c)[M][N][4], float factor) {
#pragma unroll
    for (u32 m = 0; m < M; ++m) {
#pragma unroll
        for (u32 n = 0; n < N; ++n) {
#pragma unroll
            for (u32 i = 0; i < 4; ++i) c[m][n][i] *= factor;
        }
    }
}

// One tile of queries for the keys of one warp.
template <u32 D, u32 M>
__device__ __forceinline__ void add_queries(
    float (&dk)[M][D / 8][4], float (&dv)[M][D / 8][4], const Backward &a, const QueryTile &tile, u32 key, u32 key_tile,
    u32 value_tile, u32 stage, const float *numbers) {
    constexpr u32 QUERIES = KeyBlock<D>::QUERIES, N = QUERIES / 8;
    const Fragments<D> queries(stage), gradients(stage + Tile<D>::bytes(QUERIES));
    float p[M][N][4], ds[M][N][4];
    multiply_rows(p, Fragments<D>(key_tile), queries);
    multiply_rows(ds, Fragments<D>(value_tile), gradients);
    score_gradients(p, ds, numbers, a.scale * LOG2_E);
    const bool all = key < tile.keys && key + 16 * M <= tile.keys && key + 16 * M - 1 <= tile.query + tile.causal_offset;
    if (!all) mask(p, ds, tile, key + threadIdx.x % 32 / 4);
    u32 left[M][N / 2][4];
#pragma unroll
    for (u32 m = 0; m < M; ++m) round_fragments(left[m], p[m]);
    multiply_add<D>(dv, left, gradients);
#pragma unroll
    for (u32 m = 0; m < M; ++m) round_fragments(left[m], ds[m]);
    multiply_add<D>(dk, left, queries);
}

template <u32 D> __device__ __forceinline__ void backward_key(const Backward &a) {
    using Block = KeyBlock<D>;
    constexpr u32 M = Block::M, KEYS = Block::KEYS, THREADS = Block::THREADS;
    extern __shared__ uint4 shared[];
    const u32 key_head = blockIdx.x % a.key_heads, warp_row = warp_index() * 16 * M;
    const RowTile own = RowTile::load(a.tiles, blockIdx.x / a.key_heads);
    bf16 *const target = a.dqkv + (u64)own.row * a.stride + key_head * D;
    if (own.owner == RowTile::NOBODY) {
        clear_rows<D>(target + a.k_column, a.stride, own.rows);
        clear_rows<D>(target + a.v_column, a.stride, own.rows);
        return;
    }
    unsigned char *const bytes = reinterpret_cast<unsigned char *>(shared);
    constexpr u32 STAGES = 2 * KEYS * Tile<D>::ROW_BYTES;
    const u32 key_tile = shared_address(shared), value_tile = key_tile + Tile<D>::bytes(KEYS), stages = key_tile + STAGES;
    const bf16 *source = a.qkv + (u64)own.row * a.stride + key_head * D;
    copy_rows_async<D, KEYS, THREADS>(key_tile, source + a.k_column, a.stride, own.rows);
    copy_rows_async<D, KEYS, THREADS>(value_tile, source + a.v_column, a.stride, own.rows);

    QueryTiles<Block::QUERIES> queries(a, own, key_head);
    if (!queries.done()) copy_stage<D>(a, queries.tile, stages);
    copies_commit();
    float dk[M][D / 8][4], dv[M][D / 8][4];
    clear(dk), clear(dv);
    for (u32 stage = 0; !queries.done(); stage ^= 1) {
        const QueryTile tile = queries.tile;
        copies_wait<0>();
        __syncthreads();
        queries.advance();
        if (!queries.done()) copy_stage<D>(a, queries.tile, stages + (stage ^ 1) * Block::STAGE_BYTES);
        copies_commit();
        const u32 key = tile.key + warp_row, last = tile.query + min(Block::QUERIES, tile.rows) - 1;
        // A warp without keys, or whose keys none of these queries sees, only copies.
        if (warp_row >= own.rows || (int)key > (int)(last + tile.causal_offset)) continue;
        const u32 here = STAGES + stage * Block::STAGE_BYTES;
        const float *numbers = reinterpret_cast<const float *>(bytes + here + 2 * Tile<D>::bytes(Block::QUERIES));
        add_queries<D, M>(dk, dv, a, tile, key, key_tile + Tile<D>::bytes(warp_row), value_tile + Tile<D>::bytes(warp_row), key_tile + here, numbers);
    }

    // Nobody may have seen these keys, and then their copies have not been waited for.
    copies_wait<0>();
    __syncthreads();
    if (warp_row >= own.rows) return;
    multiply_by(dk, a.scale);
    bf16 *const rows = target + (u64)warp_row * a.stride;
    store_rows<D, M>(dk, bytes + Tile<D>::bytes(warp_row), rows + a.k_column, a.stride, own.rows - warp_row);
    store_rows<D, M>(dv, bytes + Tile<D>::bytes(KEYS + warp_row), rows + a.v_column, a.stride, own.rows - warp_row);
}

// How the kernel of dq cuts its work.
template <u32 D> struct QueryBlock {
    static constexpr u32 M = 2;
    static constexpr u32 THREADS = 128;
    static constexpr u32 QUERIES = 128;
    static constexpr u32 KEYS = D <= 64 ? 64 : 32;
    static constexpr u32 N = KEYS / 8;
};

// P and dS of 16 M queries and 8 N keys from scores and products dout . v; zeros where a query does not see a key.
template <u32 M, u32 N>
__device__ __forceinline__ void score_gradients(
    float (&s)[M][N][4], float (&ds)[M][N][4], const float (&shift)[M][2], const float (&delta)[M][2], float scale) {
#pragma unroll
    for (u32 m = 0; m < M; ++m) {
#pragma unroll
        for (u32 n = 0; n < N; ++n) {
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                const float p = exp2_fast(fmaf(s[m][n][i], scale, -shift[m][i / 2]));
                ds[m][n][i] = p * (ds[m][n][i] - delta[m][i / 2]);
            }
        }
    }
}

template <u32 M, u32 N> __device__ __forceinline__ void mask(float (&ds)[M][N][4], const KeyTile &tile, u32 query) {
    const int column = threadIdx.x % 4 * 2;
#pragma unroll
    for (u32 m = 0; m < M; ++m) {
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            const int visible = tile.visible(query + 16 * m + 8 * half) - column;
#pragma unroll
            for (u32 n = 0; n < N; ++n) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    if ((int)(8 * n) + i >= visible) ds[m][n][2 * half + i] = 0.0f;
                }
            }
        }
    }
}

template <u32 D> __device__ __forceinline__ void backward_query(const Backward &a) {
    using Block = QueryBlock<D>;
    constexpr u32 M = Block::M, N = Block::N, KEYS = Block::KEYS, QUERIES = Block::QUERIES, THREADS = Block::THREADS;
    extern __shared__ uint4 shared[];
    const u32 head = blockIdx.x % a.query_heads, key_head = head / (a.query_heads / a.key_heads), width = a.width(D);
    const u32 lane = threadIdx.x % 32, warp_row = warp_index() * 16 * M;
    const RowTile own = RowTile::load(a.tiles, blockIdx.x / a.query_heads);
    const u64 own_offset = (u64)own.row * a.stride + a.q_column + head * D;
    if (own.owner == RowTile::NOBODY) return clear_rows<D>(a.dqkv + own_offset, a.stride, own.rows);
    const u32 tile_first = uniform(own.row - a.segments[own.owner * 8]);
    const u32 first = tile_first + warp_row, last = uniform(tile_first + min(warp_row + 16 * M, own.rows) - 1);
    const KeyTiles<KEYS> tiles(a.segments, own.owner, tile_first + own.rows - 1);

    constexpr u32 STAGE_BYTES = 2 * KEYS * Tile<D>::ROW_BYTES;
    const u32 query_tile = shared_address(shared), dout_tile = query_tile + Tile<D>::bytes(QUERIES);
    const u32 stages = dout_tile + Tile<D>::bytes(QUERIES);
    auto copy_keys = [&](const KeyTile &tile, u32 stage) {
        const bf16 *source = a.qkv + (u64)tile.row() * a.stride + key_head * D;
        copy_rows_async<D, KEYS, THREADS>(stage, source + a.k_column, a.stride, tile.rows());
        copy_rows_async<D, KEYS, THREADS>(stage + Tile<D>::bytes(KEYS), source + a.v_column, a.stride, tile.rows());
    };
    copy_rows_async<D, QUERIES, THREADS>(query_tile, a.qkv + own_offset, a.stride, own.rows);
    copy_rows_async<D, QUERIES, THREADS>(dout_tile, a.dout + (u64)own.row * width + head * D, width, own.rows);
    copy_keys(tiles.at(0), stages);
    copies_commit();

    float shift[M][2], delta[M][2], dq[M][D / 8][4];
    clear(dq);
#pragma unroll
    for (u32 m = 0; m < M; ++m) {
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            const u32 row = warp_row + 16 * m + 8 * half + lane / 4;
            const u64 at = (u64)(own.row + row) * a.query_heads + head;
            shift[m][half] = row < own.rows ? a.lse[at] * LOG2_E : 0.0f;
            delta[m][half] = row < own.rows ? a.delta[at] : 0.0f;
        }
    }
    const Fragments<D> queries(query_tile + Tile<D>::bytes(warp_row)), gradients(dout_tile + Tile<D>::bytes(warp_row));
    for (u32 index = 0; index < tiles.count; ++index) {
        const KeyTile tile = tiles.at(index);
        const u32 stage = stages + index % 2 * STAGE_BYTES;
        copies_wait<0>();
        __syncthreads();
        if (index + 1 < tiles.count) copy_keys(tiles.at(index + 1), stages + (index + 1) % 2 * STAGE_BYTES);
        copies_commit();
        if (first > last || tile.visible(last) <= 0) continue;
        const Fragments<D> keys(stage), values(stage + Tile<D>::bytes(KEYS));
        float s[M][N][4], ds[M][N][4];
        multiply_rows(s, queries, keys);
        multiply_rows(ds, gradients, values);
        score_gradients(s, ds, shift, delta, a.scale * LOG2_E);
        if (tile.visible(first) < (int)KEYS) mask(ds, tile, first + lane / 4);
        u32 left[M][N / 2][4];
#pragma unroll
        for (u32 m = 0; m < M; ++m) round_fragments(left[m], ds[m]);
        multiply_add<D>(dq, left, keys);
    }

    if (warp_row >= own.rows) return;
    multiply_by(dq, a.scale);
    unsigned char *room = reinterpret_cast<unsigned char *>(shared) + Tile<D>::bytes(warp_row);
    store_rows<D, M>(dq, room, a.dqkv + own_offset + (u64)warp_row * a.stride, a.stride, own.rows - warp_row);
}

#define DEFINE(D)                                                                                                         \
    extern "C" __global__ __launch_bounds__(128) void attention_backward_delta_bf16_d##D(                                 \
        const bf16 *out, const bf16 *dout, float *delta, u32 count) {                                                     \
        row_dots<D>(out, dout, delta, count);                                                                             \
    }                                                                                                                     \
    extern "C" __global__ __launch_bounds__(KeyBlock<D>::THREADS, D <= 64 ? 2 : 1) void attention_backward_key_bf16_d##D( \
        const bf16 *qkv, const bf16 *dout, const float *lse, const float *delta, bf16 *dqkv, const u32 *segments,         \
        const u32 *families, const u32 *tiles, u32 stride, u32 q_column, u32 k_column, u32 v_column, u32 query_heads,     \
        u32 key_heads, float scale) {                                                                                     \
        backward_key<D>({qkv, dout, lse, delta, dqkv, segments, families, tiles, stride, q_column, k_column, v_column,    \
                         query_heads, key_heads, scale});                                                                 \
    }                                                                                                                     \
    extern "C" __global__ __launch_bounds__(QueryBlock<D>::THREADS, 2) void attention_backward_query_bf16_d##D(           \
        const bf16 *qkv, const bf16 *dout, const float *lse, const float *delta, bf16 *dqkv, const u32 *segments,         \
        const u32 *tiles, u32 stride, u32 q_column, u32 k_column, u32 v_column, u32 query_heads, u32 key_heads,           \
        float scale) {                                                                                                    \
        backward_query<D>({qkv, dout, lse, delta, dqkv, segments, nullptr, tiles, stride, q_column, k_column, v_column,   \
                           query_heads, key_heads, scale});                                                               \
    }

FOR_EACH_HEAD_SIZE(DEFINE)
