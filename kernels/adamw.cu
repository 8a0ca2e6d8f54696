// AdamW (PyTorch's): one update of a run of parameters, nothing while the sticky flag is set.
//
//   g *= clip;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  p = p keep - step_size * m / (sqrt(v)/correction + eps)
//   keep = 1 - lr*wd,  step_size = lr/(1-b1^t),  correction = sqrt(1-b2^t), formed on the host in f64
//
// Bytes per parameter: 16 read, 12 written. Launch: a grid-stride loop.
//
// budget: adamw_f32 24 registers 0 bytes shared

#include "lib/reduce.cuh"

extern "C" __global__ void adamw_f32(
    float *parameters, const float *gradients, float *first, float *second, const double *state, u64 elements,
    float beta1, float rest1, float beta2, float rest2, float step_size, float correction, float keep, float epsilon) {
    if (state[2] != 0.0) return;
    const float clip = (float)state[1];
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < elements; i += (u64)gridDim.x * blockDim.x) {
        const float g = gradients[i] * clip;
        const float m = beta1 * first[i] + rest1 * g;
        const float v = beta2 * second[i] + rest2 * g * g;
        first[i] = m;
        second[i] = v;
        parameters[i] = parameters[i] * keep - step_size * (m / (sqrtf(v) / correction + epsilon));
    }
}
