// Rows gathered, scattered back, and copied to given places.
//
//   gather:  out[r] = scale[r] * source[rows[r]]                       (scale null: 1)
//            or, with second rows, scale[r] * (k[r] source[rows[r]] + (1 - k[r]) source[second[r]])
//   scatter: out[t] = sum over i in offsets[t]..offsets[t+1] of weights[i] * scale[rows[i]] * source[rows[i]], its adjoint
//            (weights null: 1)
//   copy:    out[rows[r], out_column..] = source[r, source_column..]
//
// Shapes: gather source [T,H], out [R,H], scatter the other way round, both stored; scale, k [R] f32, weights as
// long as the list of scatter; copy a width of columns
// between matrices of given strides, stored.
// Bytes: one read and one write of each row; of an output made of two rows, both. Not materialised: the scaled rows before they are summed. No atomics: the
// loader builds the inverse list, added in its order in f32 and rounded once.
// Launch: one block per output row (copy: per source row), 16 bytes per thread and turn. A width, stride or column that is
// no multiple of 16 bytes goes value by value.
// budget: gather_rows_f32 32 registers 0 bytes shared, 16-byte loads
// budget: gather_rows_bf16 32 registers 0 bytes shared, 16-byte loads
// budget: scatter_rows_f32 32 registers 0 bytes shared, 16-byte loads
// budget: scatter_rows_bf16 32 registers 0 bytes shared, 16-byte loads
// budget: copy_rows_f32 24 registers 0 bytes shared, 16-byte loads
// budget: copy_rows_bf16 24 registers 0 bytes shared, 16-byte loads

#include "lib/storage.cuh"

template <typename T, u32 W>
__device__ __forceinline__ void gather_row(const T *source, T *target, float factor, u32 hidden) {
    for (u32 h = threadIdx.x * W; h < hidden; h += blockDim.x * W) {
        Values<T, W> value;
        value.load(source + h);
#pragma unroll
        for (u32 i = 0; i < W; ++i) value.at[i] *= factor;
        value.store(target + h);
    }
}

template <typename T, u32 W>
__device__ __forceinline__ void mix_rows(
    const T *first, const T *second, T *target, float weight, float factor, u32 hidden) {
    for (u32 h = threadIdx.x * W; h < hidden; h += blockDim.x * W) {
        Values<T, W> value, other;
        value.load(first + h);
        other.load(second + h);
#pragma unroll
        for (u32 i = 0; i < W; ++i) {
            value.at[i] = factor * fmaf(weight, value.at[i], (1.0f - weight) * other.at[i]);
        }
        value.store(target + h);
    }
}

template <typename T, u32 W>
__device__ __forceinline__ void scatter_row(
    const T *source, u32 first, u32 end, const u32 *rows, const float *weights, const float *scale, T *target,
    u32 hidden) {
    for (u32 h = threadIdx.x * W; h < hidden; h += blockDim.x * W) {
        Values<T, W> sum = {};
#pragma unroll 1
        for (u32 i = first; i < end; ++i) {
            const u32 row = rows[i];
            const float factor = (scale ? scale[row] : 1.0f) * (weights ? weights[i] : 1.0f);
            Values<T, W> value;
            value.load(source + (u64)row * hidden + h);
#pragma unroll
            for (u32 j = 0; j < W; ++j) sum.at[j] += factor * value.at[j];
        }
        sum.store(target + h);
    }
}

template <typename T, u32 W> __device__ __forceinline__ void copy_row(const T *source, T *target, u32 width) {
    for (u32 i = threadIdx.x * W; i < width; i += blockDim.x * W) copy_values<T, W>(target + i, source + i);
}

#define DEFINE(NAME, T)                                                                                                   \
    extern "C" __global__ __launch_bounds__(256) void gather_rows_##NAME(                                                 \
        const T *source, const u32 *rows, const u32 *second_rows, const float *weights, const float *scale, T *out,       \
        u32 hidden) {                                                                                                     \
        constexpr u32 W = Width<T>::value;                                                                                \
        const float factor = scale ? scale[blockIdx.x] : 1.0f;                                                            \
        const u32 row = rows[blockIdx.x], second = second_rows ? second_rows[blockIdx.x] : row;                           \
        const T *other = source + (u64)second * hidden;                                                                   \
        source += (u64)row * hidden;                                                                                      \
        out += (u64)blockIdx.x * hidden;                                                                                  \
        if (second != row) {                                                                                              \
            const float weight = weights[blockIdx.x];                                                                     \
            if (hidden % W == 0) mix_rows<T, W>(source, other, out, weight, factor, hidden);                              \
            else mix_rows<T, 1>(source, other, out, weight, factor, hidden);                                              \
            return;                                                                                                       \
        }                                                                                                                 \
        if (hidden % W == 0) gather_row<T, W>(source, out, factor, hidden);                                               \
        else gather_row<T, 1>(source, out, factor, hidden);                                                               \
    }                                                                                                                     \
    extern "C" __global__ __launch_bounds__(256) void scatter_rows_##NAME(                                                \
        const T *source, const u32 *offsets, const u32 *rows, const float *weights, const float *scale, T *out,           \
        u32 hidden) {                                                                                                     \
        constexpr u32 W = Width<T>::value;                                                                                \
        const u32 first = offsets[blockIdx.x], end = offsets[blockIdx.x + 1];                                             \
        out += (u64)blockIdx.x * hidden;                                                                                  \
        if (hidden % W == 0) scatter_row<T, W>(source, first, end, rows, weights, scale, out, hidden);                    \
        else scatter_row<T, 1>(source, first, end, rows, weights, scale, out, hidden);                                    \
    }                                                                                                                     \
    extern "C" __global__ __launch_bounds__(256) void copy_rows_##NAME(                                                   \
        const T *source, u32 source_stride, u32 source_column, const u32 *rows, T *out, u32 out_stride, u32 out_column,   \
        u32 width) {                                                                                                      \
        constexpr u32 W = Width<T>::value;                                                                                \
        source += (u64)blockIdx.x * source_stride + source_column;                                                        \
        out += (u64)rows[blockIdx.x] * out_stride + out_column;                                                           \
        if ((source_stride | source_column | out_stride | out_column | width) % W == 0) copy_row<T, W>(source, out, width); \
        else copy_row<T, 1>(source, out, width);                                                                          \
    }

FOR_EACH_STORAGE(DEFINE)
