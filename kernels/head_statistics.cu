// What is known of the distribution of each row of logits beside its target's log-prob.
//
//   m = max over v of z_v,  S = sum e^(z_v - m),  Q = sum e^(2 (z_v - m)),  W = sum (z_v - m) e^(z_v - m)
//   log_sum_squares = log Q - 2 log S      (log of the sum of p_v^2)
//   entropy         = log S - W / S        (in nats)
//   mean_logit      = (sum z_v) / V
//
// Only for objectives and metrics that ask; so it stands beside the row kernel (head.cu), before it, and not in it.
// Shapes: logits [R,V] stored, not changed; log_sum_squares, entropy, mean_logit [R] f32.
// Bytes: each logit read twice, the second time from the second-level cache. Not materialised: anything of a row.
// Launch: one block of 512 per row. A thread takes logits t, t + 512, ... in order; sums are f64 across threads.
// budget: head_statistics_f32 32 registers 256 bytes shared
// budget: head_statistics_bf16 32 registers 256 bytes shared

#include "lib/storage.cuh"

template <typename T>
__device__ __forceinline__ void statistics(
    const T *logits, float *log_sum_squares, float *entropy, float *mean_logit, u32 vocabulary) {
    __shared__ double shared[32];
    const T *row = logits + (u64)blockIdx.x * vocabulary;
    float largest = NEGATIVE_INFINITY;
    for (u32 v = threadIdx.x; v < vocabulary; v += blockDim.x) largest = fmaxf(largest, widen(row[v]));
    largest = block_reduce<Max>(largest, NEGATIVE_INFINITY, reinterpret_cast<float *>(shared));
    double sum = 0.0, squares = 0.0, weighted = 0.0, total = 0.0;
    for (u32 v = threadIdx.x; v < vocabulary; v += blockDim.x) {
        const float z = widen(row[v]), d = z - largest, e = expf(d);
        sum += (double)e;
        squares += (double)e * (double)e;
        // A probability of 0 adds nothing, however low its logit.
        weighted += e > 0.0f ? (double)d * (double)e : 0.0;
        total += (double)z;
    }
    sum = block_reduce<Sum>(sum, 0.0, shared);
    squares = block_reduce<Sum>(squares, 0.0, shared);
    weighted = block_reduce<Sum>(weighted, 0.0, shared);
    total = block_reduce<Sum>(total, 0.0, shared);
    if (threadIdx.x != 0) return;
    const double log_sum = log(sum);
    log_sum_squares[blockIdx.x] = (float)(log(squares) - 2.0 * log_sum);
    entropy[blockIdx.x] = (float)(log_sum - weighted / sum);
    mean_logit[blockIdx.x] = (float)(total / vocabulary);
}

extern "C" __global__ __launch_bounds__(512) void head_statistics_f32(
    const float *logits, float *log_sum_squares, float *entropy, float *mean_logit, u32 vocabulary) {
    statistics(logits, log_sum_squares, entropy, mean_logit, vocabulary);
}

extern "C" __global__ __launch_bounds__(512) void head_statistics_bf16(
    const bf16 *logits, float *log_sum_squares, float *entropy, float *mean_logit, u32 vocabulary) {
    statistics(logits, log_sum_squares, entropy, mean_logit, vocabulary);
}
