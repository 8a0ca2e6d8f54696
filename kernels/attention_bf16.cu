// Attention forward in bf16 on tensor cores, in the structure of FlashAttention-2 (Dao 2023, algorithm 1).
//
//   query i of a segment: s_j = q_i . k_j / sqrt(D) over the keys j of its ranges with j < len and j <= i + causal_offset
//   lse = log sum exp s_j;  out = sum exp(s_j - lse) v_j
//
// Shapes: heads lie side by side in rows of `stride` bf16; out [T,N*D] bf16; lse [T,N] f32; segments [S,8] and tiles [.,3]
// u32. D is 16, 32, 64, 96 or 128. Scores, exponentials and sums are f32; the weights are rounded to bf16 for their product
// with the values. Rows in no segment get zeros.
// Bytes per query row and head: 2D read, 2D + 4 written; keys and values are read once per tile of 128 queries and head,
// from L2 but for the first head of a group. Not materialised: scores beyond 128 x 64.
// Launch: one block of 4 warps per (query tile, query head), heads of a tile next to each other; a warp owns 32 rows. While
// a tile's values come in, its scores are computed; while the next keys come in, the weighted sum. Dynamic shared memory:
// 128 query rows, 64 keys, 64 values: 512 D bytes.
// budget: attention_forward_bf16_d16 144 registers 0 bytes shared, 16-byte loads, HMMA
// budget: attention_forward_bf16_d32 168 registers 0 bytes shared, 16-byte loads, HMMA
// budget: attention_forward_bf16_d64 200 registers 0 bytes shared, 16-byte loads, HMMA
// budget: attention_forward_bf16_d96 240 registers 0 bytes shared, 16-byte loads, HMMA
// budget: attention_forward_bf16_d128 255 registers 0 bytes shared, 16-byte loads, HMMA

#include "lib/attention_bf16.cuh"

static constexpr u32 THREADS = 128;
static constexpr u32 QUERIES = 128;
static constexpr u32 KEYS = 64;
// Fragments of 16 rows that a warp owns.
static constexpr u32 M = 2;
static constexpr u32 N = KEYS / 8;

struct Forward {
    // Columns included; rows of `stride` elements hold keys and values, of `q_stride` queries.
    const bf16 *q, *k, *v;
    u32 q_stride, stride;
    const u32 *segments, *tiles;
    bf16 *out;
    float *lse;
    u32 query_heads, key_heads;
    float scale;
};

// Softmax over the keys so far, in the base-2 domain: weights are 2^((s - largest) * scale).
template <u32 D> struct OnlineSoftmax {
    float largest[M][2], total[M][2], sum[M][D / 8][4];

    __device__ __forceinline__ OnlineSoftmax() {
        clear(sum);
#pragma unroll
        for (u32 m = 0; m < M; ++m) {
            largest[m][0] = largest[m][1] = NEGATIVE_INFINITY;
            total[m][0] = total[m][1] = 0.0f;
        }
    }

    // Turns raw scores into weights relative to the new maximum, and rescales what was summed before where the maximum of
    // any row of the warp has grown. The total stays a lane's own share. A row's first tile has a key that it sees, so the
    // maximum is finite from then on.
    __device__ __forceinline__ void weigh(u32 (&weights)[M][N / 2][4], float (&s)[M][N][4], float scale) {
        float correction[M][2];
        bool grown = false;
#pragma unroll
        for (u32 m = 0; m < M; ++m) {
#pragma unroll
            for (u32 half = 0; half < 2; ++half) {
                float top = largest[m][half];
#pragma unroll
                for (u32 n = 0; n < N; ++n) top = fmaxf(top, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
                top = row_reduce<Max>(top);
                grown |= top != largest[m][half];
                correction[m][half] = exp2_fast((largest[m][half] - top) * scale);
                largest[m][half] = top;
            }
        }
        if (__any_sync(0xffffffffu, grown)) rescale(correction);
#pragma unroll
        for (u32 m = 0; m < M; ++m) {
#pragma unroll
            for (u32 half = 0; half < 2; ++half) {
                const float shift = largest[m][half] * scale;
                float shares[2] = {};
#pragma unroll
                for (u32 n = 0; n < N; ++n) {
                    float &first = s[m][n][2 * half], &second = s[m][n][2 * half + 1];
                    first = exp2_fast(fmaf(first, scale, -shift)), second = exp2_fast(fmaf(second, scale, -shift));
                    shares[n % 2] += first + second;
                }
                total[m][half] += shares[0] + shares[1];
            }
            round_fragments(weights[m], s[m]);
        }
    }

    __device__ __forceinline__ void rescale(const float (&correction)[M][2]) {
#pragma unroll
        for (u32 m = 0; m < M; ++m) {
            total[m][0] *= correction[m][0], total[m][1] *= correction[m][1];
#pragma unroll
            for (u32 n = 0; n < D / 8; ++n) {
#pragma unroll
                for (u32 i = 0; i < 4; ++i) sum[m][n][i] *= correction[m][i / 2];
            }
        }
    }
};

// Minus infinity for keys that a row does not see. `query` is the row of the lane's first score.
__device__ __forceinline__ void mask(float (&s)[M][N][4], const KeyTile &tile, u32 query) {
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
                    if ((int)(8 * n) + i >= visible) s[m][n][2 * half + i] = NEGATIVE_INFINITY;
                }
            }
        }
    }
}

// The sums of one warp over all its keys, divided by their totals, and the logarithms of these.
template <u32 D>
__device__ __forceinline__ void finish(const Forward &a, OnlineSoftmax<D> &softmax, const RowTile &own, u32 head, uint4 *shared) {
    const u32 lane = threadIdx.x % 32, warp_row = warp_index() * 16 * M, width = a.query_heads * D;
    if (warp_row >= own.rows) return;
    float *lse = a.lse + (u64)own.row * a.query_heads + head;
#pragma unroll
    for (u32 m = 0; m < M; ++m) {
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            const float total = row_reduce<Sum>(softmax.total[m][half]), inverse = 1.0f / total;
            const u32 row = warp_row + 16 * m + 8 * half + lane / 4;
            if (lane % 4 == 0 && row < own.rows) lse[row * a.query_heads] = softmax.largest[m][half] * a.scale + logf(total);
#pragma unroll
            for (u32 n = 0; n < D / 8; ++n) {
                softmax.sum[m][n][2 * half] *= inverse, softmax.sum[m][n][2 * half + 1] *= inverse;
            }
        }
    }
    unsigned char *room = reinterpret_cast<unsigned char *>(shared) + Tile<D>::bytes(warp_row);
    bf16 *out = a.out + (u64)(own.row + warp_row) * width + head * D;
    store_rows<D, M>(softmax.sum, room, out, width, own.rows - warp_row);
}

template <u32 D> __device__ __forceinline__ void forward(const Forward &a) {
    extern __shared__ uint4 shared[];
    const u32 head = blockIdx.x % a.query_heads, key_head = head / (a.query_heads / a.key_heads);
    const u32 work = blockIdx.x / a.query_heads;
    const RowTile own = RowTile::load(a.tiles, work);
    if (own.owner == RowTile::NOBODY) {
        clear_rows<D>(a.out + (u64)own.row * a.query_heads * D + head * D, a.query_heads * D, own.rows);
        if (threadIdx.x < own.rows) a.lse[(u64)(own.row + threadIdx.x) * a.query_heads + head] = 0.0f;
        return;
    }
    // Queries are counted within their segment, the warp's from `first` to `last`.
    const u32 tile_first = uniform(own.row - a.segments[own.owner * 8]), warp_row = warp_index() * 16 * M;
    const u32 first = tile_first + warp_row, last = uniform(tile_first + min(warp_row + 16 * M, own.rows) - 1);
    const KeyTiles<KEYS> tiles(a.segments, own.owner, tile_first + own.rows - 1);

    const u32 query_tile = shared_address(shared), key_tile = query_tile + Tile<D>::bytes(QUERIES);
    const u32 value_tile = key_tile + Tile<D>::bytes(KEYS);
    auto copy_keys = [&](const KeyTile &tile) {
        copy_rows_async<D, KEYS, THREADS>(key_tile, a.k + (u64)tile.row() * a.stride + key_head * D, a.stride, tile.rows());
    };
    copy_rows_async<D, QUERIES, THREADS>(query_tile, a.q + (u64)own.row * a.q_stride + head * D, a.q_stride, own.rows);
    copy_keys(tiles.at(0));
    copies_commit();

    const Fragments<D> queries(query_tile + Tile<D>::bytes(warp_row)), keys(key_tile), values(value_tile);
    OnlineSoftmax<D> softmax;
    for (u32 index = 0; index < tiles.count; ++index) {
        const KeyTile tile = tiles.at(index);
        // A warp without queries, or whose queries see nothing of the tile, only copies.
        const bool works = first <= last && tile.visible(last) > 0;
        float s[M][N][4];
        copies_wait<0>();
        __syncthreads();
        copy_rows_async<D, KEYS, THREADS>(value_tile, a.v + (u64)tile.row() * a.stride + key_head * D, a.stride, tile.rows());
        copies_commit();
        if (works) multiply_rows(s, queries, keys);
        copies_wait<0>();
        __syncthreads();
        if (index + 1 < tiles.count) copy_keys(tiles.at(index + 1));
        copies_commit();
        if (works) {
            if (tile.visible(first) < (int)KEYS) mask(s, tile, first + threadIdx.x % 32 / 4);
            u32 weights[M][N / 2][4];
            softmax.weigh(weights, s, a.scale * LOG2_E);
            multiply_add<D>(softmax.sum, weights, values);
        }
    }
    finish(a, softmax, RowTile::load(a.tiles, work), head, shared);
}

// Blocks on a multiprocessor: as many as registers allow without spills, which on sm_80 are 28 more at D = 64.
#if __CUDA_ARCH__ >= 900
#define BLOCKS(D) ((D) == 64 ? 3 : 2)
#else
#define BLOCKS(D) 2
#endif

#define DEFINE(D)                                                                                                         \
    extern "C" __global__ __launch_bounds__(THREADS, BLOCKS(D)) void attention_forward_bf16_d##D(                         \
        const bf16 *q, u32 q_stride, const bf16 *k, const bf16 *v, u32 stride, const u32 *segments, const u32 *tiles,     \
        bf16 *out, float *lse, u32 query_heads, u32 key_heads, float scale) {                                             \
        forward<D>({q, k, v, q_stride, stride, segments, tiles, out, lse, query_heads, key_heads, scale});               \
    }

FOR_EACH_HEAD_SIZE(DEFINE)
