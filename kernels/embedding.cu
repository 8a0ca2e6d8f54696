// Embedding.
//
//   forward:  out[t] = table[ids[t]]                                   out [T,H], ids [T], table [V,H]
//   backward: dtable[id] += sum of dout[t] over the rows t of that id, in ascending order of t
//
// Bytes: forward one read and one write of T*H elements; backward one read of T*H, one read and write of U*H (U distinct
// ids). Not materialised: a dense gradient of the rows nobody used. No atomics: the loader sorts the rows by token.
// Launch: one block per row (forward) or distinct id (backward), threads across H.
//
// budget: embedding_forward_f32 14 registers 0 bytes shared
// budget: embedding_backward_f32 32 registers 0 bytes shared

#include "lib/reduce.cuh"

extern "C" __global__ void embedding_forward_f32(const u32 *ids, const float *table, float *out, u32 hidden) {
    const float *source = table + (u64)ids[blockIdx.x] * hidden;
    float *target = out + (u64)blockIdx.x * hidden;
    for (u32 h = threadIdx.x; h < hidden; h += blockDim.x) target[h] = source[h];
}

extern "C" __global__ void embedding_backward_f32(
    const u32 *token_ids, const u32 *token_offsets, const u32 *token_rows, const float *dout, float *dtable, u32 hidden) {
    const u32 first = token_offsets[blockIdx.x], last = token_offsets[blockIdx.x + 1];
    float *target = dtable + (u64)token_ids[blockIdx.x] * hidden;
    for (u32 h = threadIdx.x; h < hidden; h += blockDim.x) {
        float sum = target[h];
        for (u32 i = first; i < last; ++i) sum += dout[(u64)token_rows[i] * hidden + h];
        target[h] = sum;
    }
}
