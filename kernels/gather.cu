// Rows gathered, scattered back, and copied to given places.
//
//   gather:  out[r] = scale[r] * source[rows[r]]                       (scale null: 1)
//   scatter: out[t] = sum over i in offsets[t]..offsets[t+1] of scale[rows[i]] * source[rows[i]], its adjoint
//   copy:    out[rows[r], out_column..] = source[r, source_column..]
//
// Shapes: gather source [T,H], out [R,H], scatter the other way round, both stored; scale [R] f32; copy a width of columns
// between matrices of given strides, stored.
// Bytes: one read and one write of each row. Not materialised: the scaled rows before they are summed. No atomics: the
// loader builds the inverse list, added in its order in f32 and rounded once.
// Launch: one block per output row (copy: per source row), 16 bytes per thread and turn. A width, stride or column that is
// no multiple of 16 bytes goes value by value.
// budget: gather_rows_f32 32 registers 0 bytes shared, 16-byte loads
// budget: gather_rows_bf16 32 registers 0 bytes shared, 16-byte loads
// budget: scatter_rows_f32 40 registers 0 bytes shared, 16-byte loads
// budget: scatter_rows_bf16 40 registers 0 bytes shared, 16-byte loads
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
__device__ __forceinline__ void scatter_row(
    const T *source, const u32 *rows, u32 count, const float *scale, T *target, u32 hidden) {
    for (u32 h = threadIdx.x * W; h < hidden; h += blockDim.x * W) {
        Values<T, W> sum = {};
        for (u32 i = 0; i < count; ++i) {
            const float factor = scale ? scale[rows[i]] : 1.0f;
            Values<T, W> value;
            value.load(source + (u64)rows[i] * hidden + h);
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
        const T *source, const u32 *rows, const float *scale, T *out, u32 hidden) {                                       \
        constexpr u32 W = Width<T>::value;                                                                                \
        const float factor = scale ? scale[blockIdx.x] : 1.0f;                                                            \
        source += (u64)rows[blockIdx.x] * hidden;                                                                         \
        out += (u64)blockIdx.x * hidden;                                                                                  \
        if (hidden % W == 0) gather_row<T, W>(source, out, factor, hidden);                                               \
        else gather_row<T, 1>(source, out, factor, hidden);                                                               \
    }                                                                                                                     \
    extern "C" __global__ __launch_bounds__(256) void scatter_rows_##NAME(                                                \
        const T *source, const u32 *offsets, const u32 *rows, const float *scale, T *out, u32 hidden) {                   \
        constexpr u32 W = Width<T>::value;                                                                                \
        const u32 first = offsets[blockIdx.x], count = offsets[blockIdx.x + 1] - first;                                   \
        out += (u64)blockIdx.x * hidden;                                                                                  \
        if (hidden % W == 0) scatter_row<T, W>(source, rows + first, count, scale, out, hidden);                          \
        else scatter_row<T, 1>(source, rows + first, count, scale, out, hidden);                                          \
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
