// The head's row kernel, and the target logits beside the product.
//
//   target_logits: out[r] = x[r] . weight[targets[r]], in f32 whatever the logits are
//   head_rows, per row with target y: m = max(z_y, max over v != y of z_v),  S = sum over v != y of exp(z_v - m),
//     e = exp(z_y - m);  logp = -log1p(S) if z_y = m, else (z_y - m) - log(S + e);  lse = m + log(S + e);
//     U_y = S/(S+e), U_v = -exp(z_v - m)/(S+e), left in place of the logits if asked for.
//
// The target stays out of the sum, which keeps the log-prob exact as p -> 1.
// Bytes per logit: 4 read for the maximum, 4 for the sum (from the second-level cache), 4 read and written for U.
// Not materialised: the softmax. Launch: one block of 256 per row.
//
// budget: target_logits_f32 20 registers 128 bytes shared
// budget: head_rows_f32 32 registers 388 bytes shared

#include "lib/reduce.cuh"

extern "C" __global__ void target_logits_f32(
    const float *x, const float *weight, const u32 *targets, float *out, u32 hidden) {
    __shared__ float shared[32];
    const float *row = x + (u64)blockIdx.x * hidden;
    const float *column = weight + (u64)targets[blockIdx.x] * hidden;
    float sum = 0.0f;
    for (u32 h = threadIdx.x; h < hidden; h += blockDim.x) sum += row[h] * column[h];
    sum = block_reduce<Sum>(sum, 0.0f, shared);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

extern "C" __global__ void head_rows_f32(
    float *logits, const float *target_logits, const u32 *targets, float *logp, float *lse, u32 *argmax, u32 vocabulary,
    u32 write_gradient) {
    __shared__ float shared[32];
    __shared__ double shared_sum[32];
    __shared__ u32 first_other;
    float *row = logits + (u64)blockIdx.x * vocabulary;
    const u32 target = targets[blockIdx.x];
    const float z_y = target_logits[blockIdx.x];
    float others = NEGATIVE_INFINITY;
    for (u32 v = threadIdx.x; v < vocabulary; v += blockDim.x) {
        if (v != target) others = Max::apply(others, row[v]);
    }
    others = block_reduce<Max>(others, NEGATIVE_INFINITY, shared);
    const float m = Max::apply(z_y, others);
    if (threadIdx.x == 0) first_other = vocabulary;
    __syncthreads();
    float sum = 0.0f;
    for (u32 v = threadIdx.x; v < vocabulary; v += blockDim.x) {
        if (v == target) continue;
        const float z = row[v];
        if (z == others) atomicMin(&first_other, v);
        sum += expf(z - m);
    }
    const double total = block_reduce<Sum>((double)sum, 0.0, shared_sum);
    const double e = (double)expf(z_y - m);
    if (threadIdx.x == 0) {
        // An overflowed target would look certain: infinity minus infinity is nobody's probability.
        const bool overflowed = z_y == -NEGATIVE_INFINITY;
        logp[blockIdx.x] = overflowed ? __int_as_float(0x7fffffff) : (float)(z_y == m ? -log1p(total) : (double)(z_y - m) - log(total + e));
        lse[blockIdx.x] = (float)((double)m + log(total + e));
        const u32 other = first_other < vocabulary ? first_other : target;
        argmax[blockIdx.x] = z_y > others ? target : z_y == others ? min(other, target) : other;
    }
    if (!write_gradient) return;
    const float inverse = (float)(1.0 / (total + e));
    for (u32 v = threadIdx.x; v < vocabulary; v += blockDim.x) {
        row[v] = v == target ? (float)(total / (total + e)) : -(expf(row[v] - m) * inverse);
    }
}
