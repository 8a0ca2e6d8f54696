// Rows gathered, scattered back, and copied to given places.
//
//   gather:  out[r] = scale[r] * source[rows[r]]                       (scale null: 1)
//   scatter: out[t] = sum over i in offsets[t]..offsets[t+1] of scale[rows[i]] * source[rows[i]], its adjoint
//   copy:    out[rows[r], out_column..] = source[r, source_column..]
//
// Bytes: one read and one write of each row. No atomics: the loader builds the inverse list, added in its order.
// Launch: one block per output row (copy: per source row), threads across columns.
//
// budget: gather_rows_f32 14 registers 0 bytes shared
// budget: scatter_rows_f32 32 registers 0 bytes shared
// budget: copy_rows_f32 14 registers 0 bytes shared

#include "lib/reduce.cuh"

extern "C" __global__ void gather_rows_f32(
    const float *source, const u32 *rows, const float *scale, float *out, u32 hidden) {
    const float factor = scale ? scale[blockIdx.x] : 1.0f;
    const float *from = source + (u64)rows[blockIdx.x] * hidden;
    for (u32 h = threadIdx.x; h < hidden; h += blockDim.x) out[(u64)blockIdx.x * hidden + h] = factor * from[h];
}

extern "C" __global__ void scatter_rows_f32(
    const float *source, const u32 *offsets, const u32 *rows, const float *scale, float *out, u32 hidden) {
    const u32 first = offsets[blockIdx.x], last = offsets[blockIdx.x + 1];
    for (u32 h = threadIdx.x; h < hidden; h += blockDim.x) {
        float sum = 0.0f;
        for (u32 i = first; i < last; ++i) {
            const u32 row = rows[i];
            sum += (scale ? scale[row] : 1.0f) * source[(u64)row * hidden + h];
        }
        out[(u64)blockIdx.x * hidden + h] = sum;
    }
}

extern "C" __global__ void copy_rows_f32(
    const float *source, u32 source_stride, u32 source_column, const u32 *rows, float *out, u32 out_stride,
    u32 out_column, u32 width) {
    const float *from = source + (u64)blockIdx.x * source_stride + source_column;
    float *to = out + (u64)rows[blockIdx.x] * out_stride + out_column;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) to[i] = from[i];
}
