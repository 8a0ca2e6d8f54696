// Rotary position embedding, in place, Hugging Face's layout: element i of a head is paired with i + D/2.
//
//   (a, b) -> (a cos - b sin, b cos + a sin), angle = position * frequency[i]; the backward pass turns the other way.
//
// Shapes: x [T,stride] with the heads at columns 0..heads*D, cos and sin [P,D/2].
// Bytes per rotated element: 4 read, 4 written, 4 of tables. Launch: one block per row, threads across head pairs.
//
// budget: rope_f32 24 registers 0 bytes shared

#include "lib/reduce.cuh"

extern "C" __global__ void rope_f32(
    float *x, const u32 *positions, const float *cos_table, const float *sin_table, u32 stride, u32 heads, u32 head_dim,
    float sign) {
    const u32 half = head_dim / 2;
    float *row = x + (u64)blockIdx.x * stride;
    const float *cosine = cos_table + (u64)positions[blockIdx.x] * half;
    const float *sine = sin_table + (u64)positions[blockIdx.x] * half;
    for (u32 pair = threadIdx.x; pair < heads * half; pair += blockDim.x) {
        const u32 i = pair % half, at = pair / half * head_dim + i;
        const float a = row[at], b = row[at + half], s = sign * sine[i];
        row[at] = a * cosine[i] - b * s;
        row[at + half] = b * cosine[i] + a * s;
    }
}
