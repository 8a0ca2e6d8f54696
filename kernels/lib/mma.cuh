// Products of bf16 tiles on tensor cores, with f32 sums: mma.sync.m16n8k16 (PTX ISA 9.7.14.5.8) fed by ldmatrix
// (9.7.14.5.15) from tiles in shared memory.
//
// A fragment of C, 16 rows and 8 columns: lane l holds columns 2(l%4) and 2(l%4)+1 of row l/4 in [0] and [1], of row
// l/4 + 8 in [2] and [3]. Two such fragments side by side, rounded, are a fragment of A, 16 rows and 16 columns: what
// one product leaves in registers is an operand of the next without a detour.
#pragma once

#include "lib/async.cuh"
#include "lib/storage.cuh"

// Rows of D bf16 in shared memory without padding, in pieces of 16 bytes. Piece p of row r lies at place p ^ turn(r) of
// its row, so that eight rows of one piece (what ldmatrix reads and what a fragment is stored to) and eight neighbouring
// pieces (what a quarter of a warp copies) fall on all 32 banks once. Tiles begin at multiples of 128 bytes.
template <u32 D> struct Tile {
    static_assert(D == 16 || D == 32 || D == 64 || D == 96 || D == 128, "the permutation is made for these row lengths");
    static constexpr u32 PIECES = D / 8;
    static constexpr u32 ROW_BYTES = D * 2;
    // The bits of a piece's number that are turned: as many as it takes to fill 128 bytes from rows of this length.
    static constexpr u32 TURNED = PIECES % 8 == 0 ? 7 : PIECES % 4 == 0 ? 3 : 1;

    static __device__ __forceinline__ u32 turn(u32 row) { return row / (8 / (TURNED + 1)) & TURNED; }
    static __device__ __forceinline__ u32 offset(u32 row, u32 piece) { return row * ROW_BYTES + ((piece ^ turn(row)) << 4); }
    static __device__ __forceinline__ constexpr u32 bytes(u32 rows) { return rows * ROW_BYTES; }
};

// Begins to copy rows of a matrix into a tile; those from `count` on become zeros.
template <u32 D, u32 ROWS, u32 THREADS>
__device__ __forceinline__ void copy_rows_async(u32 tile, const bf16 *source, u32 stride, u32 count) {
    // Threads side by side in a row, and rows that the block copies at a time.
    constexpr u32 ACROSS = Tile<D>::PIECES == 12 ? 4 : Tile<D>::PIECES, STEP = THREADS / ACROSS;
    static_assert(STEP % 8 == 0, "every step is turned like the first");
    const u32 row = threadIdx.x / ACROSS, piece = threadIdx.x % ACROSS;
    const bf16 *from = source + (row * stride + piece * 8);
    const u32 to = tile + Tile<D>::offset(row, piece);
#pragma unroll
    for (u32 first = 0; first < ROWS; first += STEP) {
        if (ROWS < STEP && row >= ROWS) break;
#pragma unroll
        for (u32 next = 0; next < Tile<D>::PIECES; next += ACROSS) {
            copy_async_16(to + first * Tile<D>::ROW_BYTES + next * 16, from + next * 8, first + row < count);
        }
        from += STEP * stride;
    }
}

// Four 8x8 matrices: those at rows 0-7 and 8-15 of one piece, then of the next. Read as they lie, the registers are a
// fragment of A (16 rows, 16 of depth); or of B for columns 0-7 ([0], [2]) and 8-15 ([1], [3]), whose columns are the
// tile's rows. Read transposed they are B for columns 0-7 ([0], [1]) and 8-15 ([2], [3]), whose depth is the tile's rows.
template <u32 D> struct Fragments {
    // Where the lane reads of the first block.
    u32 lane_address;

    // `tile` is the address of a row that is a multiple of 8.
    __device__ __forceinline__ explicit Fragments(u32 tile) {
        const u32 lane = threadIdx.x & 31;
        lane_address = tile + Tile<D>::offset(lane & 15, lane >> 4);
    }

    // The same in the block of 16 rows and 16 columns with these numbers. A row's length is a multiple of what its turned
    // pieces span, so turned bits of a piece's number are bits of the address; the others are added.
    __device__ __forceinline__ u32 address(u32 rows, u32 columns) const {
        const u32 piece = 2 * columns, turned = piece & Tile<D>::TURNED;
        return (lane_address ^ turned << 4) + rows * 16 * Tile<D>::ROW_BYTES + ((piece - turned) << 4);
    }

    __device__ __forceinline__ void load(u32 (&to)[4], u32 rows, u32 columns) const {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(address(rows, columns))
                     : "memory");
    }

    __device__ __forceinline__ void load_transposed(u32 (&to)[4], u32 rows, u32 columns) const {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(address(rows, columns))
                     : "memory");
    }
};

// A value that is the same in all lanes, in a way that the compiler can see: branches on it need no care for divergence.
__device__ __forceinline__ u32 uniform(u32 value) { return __shfl_sync(0xffffffffu, value, 0); }

__device__ __forceinline__ u32 warp_index() { return uniform(threadIdx.x / 32); }

// c += a b.
__device__ __forceinline__ void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <u32 M, u32 N> __device__ __forceinline__ void clear(float (&c)[M][N][4]) {
#pragma unroll
    for (u32 m = 0; m < M; ++m) {
#pragma unroll
        for (u32 n = 0; n < N; ++n) c[m][n][0] = c[m][n][1] = c[m][n][2] = c[m][n][3] = 0.0f;
    }
}

// c[i][j] = row i of `a` . row j of `b`: 16M rows of a, 8N of b, each of D elements.
template <u32 D, u32 M, u32 N>
__device__ __forceinline__ void multiply_rows(float (&c)[M][N][4], const Fragments<D> &a, const Fragments<D> &b) {
    clear(c);
#pragma unroll
    for (u32 k = 0; k < D / 16; ++k) {
        u32 left[M][4];
#pragma unroll
        for (u32 m = 0; m < M; ++m) a.load(left[m], m, k);
#pragma unroll
        for (u32 n = 0; n < N; n += 2) {
            u32 right[4];
            b.load(right, n / 2, k);
#pragma unroll
            for (u32 m = 0; m < M; ++m) {
                multiply(c[m][n], left[m], right[0], right[2]);
                multiply(c[m][n + 1], left[m], right[1], right[3]);
            }
        }
    }
}

// c[i][d] += sum over j of a[i][j] * row j of `b` at d: 16M rows and 16K columns of a, D columns of b.
template <u32 D, u32 M, u32 K>
__device__ __forceinline__ void multiply_add(float (&c)[M][D / 8][4], const u32 (&a)[M][K][4], const Fragments<D> &b) {
#pragma unroll
    for (u32 k = 0; k < K; ++k) {
#pragma unroll
        for (u32 n = 0; n < D / 8; n += 2) {
            u32 right[4];
            b.load_transposed(right, k, n / 2);
#pragma unroll
            for (u32 m = 0; m < M; ++m) {
                multiply(c[m][n], a[m][k], right[0], right[1]);
                multiply(c[m][n + 1], a[m][k], right[2], right[3]);
            }
        }
    }
}

// Sums of one product rounded to the left operand of the next: 16 rows.
template <u32 K> __device__ __forceinline__ void round_fragments(u32 (&to)[K][4], const float (&from)[2 * K][4]) {
#pragma unroll
    for (u32 k = 0; k < K; ++k) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            const float(&c)[4] = from[2 * k + i / 2];
            to[k][i] = narrow_pair(c[i % 2 * 2], c[i % 2 * 2 + 1]);
        }
    }
}

// Rounds a warp's 16M rows of sums and stores the first `count` of them, 16 bytes per lane and store. `room` is shared
// memory for them that only this warp uses.
template <u32 D, u32 M>
__device__ __forceinline__ void store_rows(const float (&c)[M][D / 8][4], unsigned char *room, bf16 *target, u32 stride, u32 count) {
    const u32 lane = threadIdx.x & 31;
    __syncwarp();
#pragma unroll
    for (u32 m = 0; m < M; ++m) {
#pragma unroll
        for (u32 n = 0; n < D / 8; ++n) {
#pragma unroll
            for (u32 half = 0; half < 2; ++half) {
                u32 *place = reinterpret_cast<u32 *>(room + Tile<D>::offset(16 * m + 8 * half + lane / 4, n));
                place[lane % 4] = narrow_pair(c[m][n][2 * half], c[m][n][2 * half + 1]);
            }
        }
    }
    __syncwarp();
#pragma unroll
    for (u32 index = lane; index < 16 * M * Tile<D>::PIECES; index += 32) {
        const u32 row = index / Tile<D>::PIECES, piece = index % Tile<D>::PIECES;
        if (row < count) {
            *reinterpret_cast<uint4 *>(target + (u64)row * stride + piece * 8) =
                *reinterpret_cast<const uint4 *>(room + Tile<D>::offset(row, piece));
        }
    }
}
