// Rotary position embedding, in place, Hugging Face's layout: element i of a head is paired with i + D/2.
//
//   (a, b) -> (a cos - b sin, b cos + a sin), angle = position * frequency[i]; the backward pass turns the other way.
//
// Shapes: x [T,stride] stored, with the heads at columns 0..heads*D; positions [T]; cos and sin [P,D/2] f32.
// Bytes: each rotated element read and written once, and per row 4 D bytes of tables, once for all its heads.
// Not materialised: rows expanded by head, or a rotated copy.
// Launch: a warp per row, 8 rows per block. Lanes are dealt out to the 16-byte pieces of half a head and, where these are
// fewer than 32, to several heads at once; a lane keeps its cosines and sines while it walks the heads. D/2 or a stride
// that is no multiple of 16 bytes goes value by value.
// budget: rope_f32 48 registers 0 bytes shared, 16-byte loads
// budget: rope_bf16 64 registers 0 bytes shared, 16-byte loads

#include "lib/storage.cuh"

template <typename T, u32 W>
__device__ __forceinline__ void rotate_row(
    T *row, const float *cosine, const float *sine, u32 heads, u32 head_dim, float sign) {
    const u32 half = head_dim / 2, pieces = half / W, lane = threadIdx.x & 31;
    const u32 across = min(pieces, 32u), at_once = 32 / across;
    if (lane / across >= at_once) return;
    for (u32 piece = lane % across; piece < pieces; piece += across) {
        const u32 i = piece * W;
        float c[W], s[W];
#pragma unroll
        for (u32 j = 0; j < W; j += W == 1 ? 1 : 4) {
            Values<float, W == 1 ? 1 : 4> part;
            part.load(cosine + i + j);
#pragma unroll
            for (u32 k = 0; k < (W == 1 ? 1 : 4); ++k) c[j + k] = part.at[k];
            part.load(sine + i + j);
#pragma unroll
            for (u32 k = 0; k < (W == 1 ? 1 : 4); ++k) s[j + k] = sign * part.at[k];
        }
#pragma unroll 2
        for (u32 head = lane / across; head < heads; head += at_once) {
            T *low = row + head * head_dim + i;
            Values<T, W> a, b, x, y;
            a.load(low);
            b.load(low + half);
#pragma unroll
            for (u32 j = 0; j < W; ++j) {
                x.at[j] = a.at[j] * c[j] - b.at[j] * s[j];
                y.at[j] = b.at[j] * c[j] + a.at[j] * s[j];
            }
            x.store(low);
            y.store(low + half);
        }
    }
}

#define DEFINE(NAME, T)                                                                                                   \
    extern "C" __global__ __launch_bounds__(256) void rope_##NAME(                                                        \
        T *x, const u32 *positions, const float *cos_table, const float *sin_table, u32 rows, u32 stride, u32 heads,      \
        u32 head_dim, float sign) {                                                                                       \
        constexpr u32 W = Width<T>::value;                                                                                \
        const u32 row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;                                                \
        if (row >= rows) return;                                                                                          \
        const u64 table = (u64)positions[row] * (head_dim / 2);                                                           \
        T *start = x + (u64)row * stride;                                                                                 \
        if (head_dim % (2 * W) == 0 && stride % W == 0) {                                                                 \
            rotate_row<T, W>(start, cos_table + table, sin_table + table, heads, head_dim, sign);                         \
        } else {                                                                                                          \
            rotate_row<T, 1>(start, cos_table + table, sin_table + table, heads, head_dim, sign);                         \
        }                                                                                                                 \
    }

FOR_EACH_STORAGE(DEFINE)
