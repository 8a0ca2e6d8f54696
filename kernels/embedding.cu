// Embedding.
//
//   forward:        out[t] = table[ids[t]]
//   mixed forward:  out[t] = (1 - weight) table[ids[t]] + weight table[others[t]], a copy where both ids are one
//   backward:       dtable[id] += sum of dout[token_rows[i]] over the entries i of that id, in their order
//   mixed backward: dtable[id] += sum of scale[i] * dout[token_rows[i]] over the same
//
// Shapes: ids, others [T], table [V,H] and out, dout [T,H] stored, dtable [V,H] f32; token_ids [U] distinct, with the
// entries of each in token_rows[token_offsets[u]..token_offsets[u+1]], scale beside them f32: the rows are sorted by token
// on the host, so no atomics are needed. A row of two ids has an entry under each, scaled by its share.
// Bytes: forward one read and one write of T*H stored values, and one more read for each row of two ids; backward one read
// of H stored values for each entry, one read and one write of U*H f32. Not materialised: a dense gradient of the rows
// nobody used; the scaled rows.
// Launch: forward one block per row, 16 bytes per thread and turn. Backward blockIdx.x is the id and blockIdx.y a stretch
// of 512 columns, 4 for each of 128 threads: so that a token with thousands of rows is spread over H/512 blocks, and each
// thread has the loads of 8 rows in flight ahead of the chain of additions, which stays one chain in the rows' order.
// H that is no multiple of 16 bytes (backward: of 4) goes value by value.
// budget: embedding_forward_f32 24 registers 0 bytes shared, 16-byte loads
// budget: embedding_forward_bf16 24 registers 0 bytes shared, 16-byte loads
// budget: embedding_mixed_forward_f32 32 registers 0 bytes shared, 16-byte loads
// budget: embedding_mixed_forward_bf16 32 registers 0 bytes shared, 16-byte loads
// budget: embedding_backward_f32 40 registers 0 bytes shared, 16-byte loads
// budget: embedding_backward_bf16 40 registers 0 bytes shared, 16-byte loads
// budget: embedding_mixed_backward_f32 40 registers 0 bytes shared, 16-byte loads
// budget: embedding_mixed_backward_bf16 40 registers 0 bytes shared, 16-byte loads

#include "lib/storage.cuh"

// Rows of one token whose loads are in flight together.
static const u32 AHEAD = 8;

template <typename T, u32 W>
__device__ __forceinline__ void forward_row(const u32 *ids, const T *table, T *out, u32 hidden) {
    const T *source = table + (u64)ids[blockIdx.x] * hidden;
    T *target = out + (u64)blockIdx.x * hidden;
    for (u32 h = threadIdx.x * W; h < hidden; h += blockDim.x * W) copy_values<T, W>(target + h, source + h);
}

template <typename T, u32 W>
__device__ __forceinline__ void mixed_row(
    const u32 *ids, const u32 *others, float weight, const T *table, T *out, u32 hidden) {
    const u32 id = ids[blockIdx.x], other = others[blockIdx.x];
    if (other == id) return forward_row<T, W>(ids, table, out, hidden);
    const T *first = table + (u64)id * hidden, *second = table + (u64)other * hidden;
    T *target = out + (u64)blockIdx.x * hidden;
    const float rest = 1.0f - weight;
    for (u32 h = threadIdx.x * W; h < hidden; h += blockDim.x * W) {
        Values<T, W> sum, more;
        sum.load(first + h);
        more.load(second + h);
#pragma unroll
        for (u32 i = 0; i < W; ++i) sum.at[i] = rest * sum.at[i] + weight * more.at[i];
        sum.store(target + h);
    }
}

// C columns (1 or 4) of one row as they are stored, 8 or 16 bytes in one access; C = 1 is one value.
template <typename T, u32 C> struct Raw;
template <typename T> struct Raw<T, 1> {
    T value;
    __device__ __forceinline__ void load(const T *source) { value = *source; }
    __device__ __forceinline__ float at(u32) const { return widen(value); }
};
template <> struct Raw<float, 4> {
    float4 value;
    __device__ __forceinline__ void load(const float *source) { value = *reinterpret_cast<const float4 *>(source); }
    __device__ __forceinline__ float at(u32 i) const { return i == 0 ? value.x : i == 1 ? value.y : i == 2 ? value.z : value.w; }
};
template <> struct Raw<bf16, 4> {
    uint2 value;
    __device__ __forceinline__ void load(const bf16 *source) { value = *reinterpret_cast<const uint2 *>(source); }
    __device__ __forceinline__ float at(u32 i) const {
        const u32 word = i < 2 ? value.x : value.y;
        return __uint_as_float(i % 2 ? word & 0xffff0000u : word << 16);
    }
};

template <typename T, u32 C, bool SCALED>
__device__ __forceinline__ void backward_columns(
    const u32 *rows, const float *scale, u32 count, const T *dout, float *dtable_row, u32 hidden) {
    const u32 h = (blockIdx.y * blockDim.x + threadIdx.x) * C;
    if (h >= hidden) return;
    Values<float, C> sum;
    sum.load(dtable_row + h);
    const auto add = [&](const Raw<T, C> &value, u32 i) {
        const float factor = SCALED ? scale[i] : 1.0f;
#pragma unroll
        for (u32 c = 0; c < C; ++c) sum.at[c] += SCALED ? factor * value.at(c) : value.at(c);
    };
    u32 i = 0;
    for (; i + AHEAD <= count; i += AHEAD) {
        Raw<T, C> value[AHEAD];
#pragma unroll
        for (u32 k = 0; k < AHEAD; ++k) value[k].load(dout + (u64)rows[i + k] * hidden + h);
#pragma unroll
        for (u32 k = 0; k < AHEAD; ++k) add(value[k], i + k);
    }
    for (; i < count; ++i) {
        Raw<T, C> value;
        value.load(dout + (u64)rows[i] * hidden + h);
        add(value, i);
    }
    sum.store(dtable_row + h);
}

#define DEFINE(NAME, T)                                                                                                   \
    extern "C" __global__ __launch_bounds__(256) void embedding_forward_##NAME(                                           \
        const u32 *ids, const T *table, T *out, u32 hidden) {                                                             \
        constexpr u32 W = Width<T>::value;                                                                                \
        if (hidden % W == 0) forward_row<T, W>(ids, table, out, hidden);                                                  \
        else forward_row<T, 1>(ids, table, out, hidden);                                                                  \
    }                                                                                                                     \
    extern "C" __global__ __launch_bounds__(256) void embedding_mixed_forward_##NAME(                                     \
        const u32 *ids, const u32 *others, float weight, const T *table, T *out, u32 hidden) {                            \
        constexpr u32 W = Width<T>::value;                                                                                \
        if (hidden % W == 0) mixed_row<T, W>(ids, others, weight, table, out, hidden);                                    \
        else mixed_row<T, 1>(ids, others, weight, table, out, hidden);                                                    \
    }                                                                                                                     \
    extern "C" __global__ __launch_bounds__(128) void embedding_backward_##NAME(                                          \
        const u32 *token_ids, const u32 *token_offsets, const u32 *token_rows, const T *dout, float *dtable,              \
        u32 hidden) {                                                                                                     \
        const u32 first = token_offsets[blockIdx.x], count = token_offsets[blockIdx.x + 1] - first;                       \
        float *row = dtable + (u64)token_ids[blockIdx.x] * hidden;                                                        \
        if (hidden % 4 == 0) backward_columns<T, 4, false>(token_rows + first, nullptr, count, dout, row, hidden);        \
        else backward_columns<T, 1, false>(token_rows + first, nullptr, count, dout, row, hidden);                        \
    }                                                                                                                     \
    extern "C" __global__ __launch_bounds__(128) void embedding_mixed_backward_##NAME(                                    \
        const u32 *token_ids, const u32 *token_offsets, const u32 *token_rows, const float *scale, const T *dout,         \
        float *dtable, u32 hidden) {                                                                                      \
        const u32 first = token_offsets[blockIdx.x], count = token_offsets[blockIdx.x + 1] - first;                       \
        float *row = dtable + (u64)token_ids[blockIdx.x] * hidden;                                                        \
        if (hidden % 4 == 0) backward_columns<T, 4, true>(token_rows + first, scale + first, count, dout, row, hidden);   \
        else backward_columns<T, 1, true>(token_rows + first, scale + first, count, dout, row, hidden);                   \
    }

FOR_EACH_STORAGE(DEFINE)
