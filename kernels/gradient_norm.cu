// Global gradient norm, clip factor, and the sticky flag for what is not finite.
//
//   norm = sqrt(sum g^2);  factor = min(1, max_norm / (norm + 1e-6))
//
// Bytes: one read of every gradient. Two launches: one partial sum (f64) per block of 65,536 elements, then one block that
// adds them in order; the blocks' bounds depend on the length alone, so the bits do.
//
// budget: gradient_norm_partial_f32 20 registers 256 bytes shared
// budget: gradient_norm_finish 26 registers 256 bytes shared

#include "lib/reduce.cuh"

static const u64 BLOCK = 65536;

extern "C" __global__ void gradient_norm_partial_f32(const float *gradients, double *partial, u64 elements) {
    __shared__ double shared[32];
    const u64 first = blockIdx.x * BLOCK, last = min(first + BLOCK, elements);
    double sum = 0.0;
    for (u64 i = first + threadIdx.x; i < last; i += blockDim.x) sum += (double)gradients[i] * (double)gradients[i];
    sum = block_reduce<Sum>(sum, 0.0, shared);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// state: norm, clip factor, bad (see backend/operations.rs). A max_norm that is not positive means no clipping.
extern "C" __global__ void gradient_norm_finish(const double *partial, u32 count, double max_norm, double *state) {
    __shared__ double shared[32];
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) sum += partial[i];
    sum = block_reduce<Sum>(sum, 0.0, shared);
    if (threadIdx.x != 0) return;
    const double norm = sqrt(sum);
    state[0] = norm;
    state[1] = max_norm > 0.0 ? min(1.0, max_norm / (norm + 1e-6)) : 1.0;
    if (!isfinite(norm)) state[2] = 1.0;
}
