// SwiGLU.
//
//   forward:  out = silu(gate) * up,  silu(z) = z * sigmoid(z)
//   backward: dup = dout * silu(gate);  dgate = dout * up * (sigmoid + silu * (1 - sigmoid))
//
// Shapes: gate_up [T,2F] (gate first), out [T,F]. Bytes per output element: forward 8 read, 4 written; backward 12 read,
// 8 written. Not materialised: the sigmoid. Launch: a grid-stride loop over T*F.
//
// budget: swiglu_forward_f32 21 registers 0 bytes shared
// budget: swiglu_backward_f32 25 registers 0 bytes shared

#include "lib/reduce.cuh"

extern "C" __global__ void swiglu_forward_f32(const float *gate_up, float *out, u64 elements, u32 feed_forward) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < elements; i += (u64)gridDim.x * blockDim.x) {
        const u64 at = i / feed_forward * 2 * feed_forward + i % feed_forward;
        const float gate = gate_up[at], up = gate_up[at + feed_forward];
        out[i] = gate / (1.0f + expf(-gate)) * up;
    }
}

extern "C" __global__ void swiglu_backward_f32(
    const float *gate_up, const float *dout, float *dgate_up, u64 elements, u32 feed_forward) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < elements; i += (u64)gridDim.x * blockDim.x) {
        const u64 at = i / feed_forward * 2 * feed_forward + i % feed_forward;
        const float gate = gate_up[at], up = gate_up[at + feed_forward];
        const float sigmoid = 1.0f / (1.0f + expf(-gate)), silu = gate * sigmoid;
        dgate_up[at] = dout[i] * up * (sigmoid + silu * (1.0f - sigmoid));
        dgate_up[at + feed_forward] = dout[i] * silu;
    }
}
