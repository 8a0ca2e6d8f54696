// Global gradient norm, clip factor, and the sticky flag for what is not finite.
//
//   norm = sqrt(sum g^2);  factor = min(1, max_norm / (norm + 1e-6))
//
// Shapes: gradients [n] f32, whose address is a multiple of 16; partial [n / 65536 begun] f64; state f64.
// Bytes: one read of every gradient, 8 bytes per 65,536 of them. Not materialised: squares.
// Launch: one block of 256 per partial sum; then one block of 1,024 that adds the partial sums. A block's bounds depend on
// the length alone and its threads' shares on nothing, so the sum has one order. Squares and sums are f64: no gradient
// overflows or vanishes in its square.
// budget: gradient_norm_partial_f32 32 registers 256 bytes shared, 16-byte loads
// budget: gradient_norm_finish 32 registers 256 bytes shared

#include "lib/storage.cuh"

static const u64 BLOCK = 65536;

extern "C" __global__ __launch_bounds__(256) void gradient_norm_partial_f32(
    const float *gradients, double *partial, u64 elements) {
    __shared__ double shared[32];
    const u64 first = blockIdx.x * BLOCK;
    const u32 count = (u32)min(BLOCK, elements - first), whole = count / 4 * 4;
    gradients += first;
    double sum = 0.0;
#pragma unroll 4
    for (u32 i = threadIdx.x * 4; i < whole; i += blockDim.x * 4) {
        Values<float, 4> value;
        value.load(gradients + i);
#pragma unroll
        for (u32 k = 0; k < 4; ++k) sum = fma((double)value.at[k], (double)value.at[k], sum);
    }
    const u32 last = whole + threadIdx.x;
    if (last < count) sum = fma((double)gradients[last], (double)gradients[last], sum);
    sum = block_reduce<Sum>(sum, 0.0, shared);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// state: norm, clip factor, bad (see backend/operations.rs). A max_norm that is not positive means no clipping.
extern "C" __global__ __launch_bounds__(1024) void gradient_norm_finish(
    const double *partial, u32 count, double max_norm, double *state) {
    __shared__ double shared[32];
    double sum = 0.0;
#pragma unroll 8
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) sum += partial[i];
    sum = block_reduce<Sum>(sum, 0.0, shared);
    if (threadIdx.x != 0) return;
    const double norm = sqrt(sum);
    state[0] = norm;
    state[1] = max_norm > 0.0 ? min(1.0, max_norm / (norm + 1e-6)) : 1.0;
    if (!isfinite(norm)) state[2] = 1.0;
}
