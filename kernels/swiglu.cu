// SwiGLU.
//
//   forward:  out = silu(gate) * up,  silu(z) = z * sigmoid(z)
//   backward: dup = dout * silu(gate);  dgate = dout * up * (sigmoid + silu * (1 - sigmoid))
//
// Shapes: gate_up and dgate_up [T,2F] stored (gate first), out and dout [T,F] stored.
// Stored values moved per element of out: forward 2 read, 1 written; backward 3 read, 2 written, in one pass.
// Not materialised: the sigmoid, the activation silu(gate).
// Launch: blockIdx.x is the row, blockIdx.y a stretch of blockDim.x pieces of 16 bytes. F that is no multiple of 16 bytes
// goes value by value.
// budget: swiglu_forward_f32 32 registers 0 bytes shared, 16-byte loads
// budget: swiglu_forward_bf16 40 registers 0 bytes shared, 16-byte loads
// budget: swiglu_backward_f32 40 registers 0 bytes shared, 16-byte loads
// budget: swiglu_backward_bf16 48 registers 0 bytes shared, 16-byte loads

#include "lib/storage.cuh"

template <typename T, u32 W>
__device__ __forceinline__ void forward_piece(const T *gate_up, T *out, u32 feed_forward) {
    const u32 f = (blockIdx.y * blockDim.x + threadIdx.x) * W;
    if (f >= feed_forward) return;
    const T *row = gate_up + (u64)blockIdx.x * 2 * feed_forward;
    Values<T, W> gate, up;
    gate.load(row + f);
    up.load(row + feed_forward + f);
#pragma unroll
    for (u32 i = 0; i < W; ++i) up.at[i] = gate.at[i] / (1.0f + expf(-gate.at[i])) * up.at[i];
    up.store(out + (u64)blockIdx.x * feed_forward + f);
}

template <typename T, u32 W>
__device__ __forceinline__ void backward_piece(const T *gate_up, const T *dout, T *dgate_up, u32 feed_forward) {
    const u32 f = (blockIdx.y * blockDim.x + threadIdx.x) * W;
    if (f >= feed_forward) return;
    const u64 row = (u64)blockIdx.x * 2 * feed_forward;
    Values<T, W> gate, up, gradient, dgate, dup;
    gate.load(gate_up + row + f);
    up.load(gate_up + row + feed_forward + f);
    gradient.load(dout + (u64)blockIdx.x * feed_forward + f);
#pragma unroll
    for (u32 i = 0; i < W; ++i) {
        const float sigmoid = 1.0f / (1.0f + expf(-gate.at[i])), silu = gate.at[i] * sigmoid;
        dgate.at[i] = gradient.at[i] * up.at[i] * (sigmoid + silu * (1.0f - sigmoid));
        dup.at[i] = gradient.at[i] * silu;
    }
    dgate.store(dgate_up + row + f);
    dup.store(dgate_up + row + feed_forward + f);
}

#define DEFINE(NAME, T)                                                                                                   \
    extern "C" __global__ __launch_bounds__(256) void swiglu_forward_##NAME(                                              \
        const T *gate_up, T *out, u32 feed_forward) {                                                                     \
        constexpr u32 W = Width<T>::value;                                                                                \
        if (feed_forward % W == 0) forward_piece<T, W>(gate_up, out, feed_forward);                                       \
        else forward_piece<T, 1>(gate_up, out, feed_forward);                                                             \
    }                                                                                                                     \
    extern "C" __global__ __launch_bounds__(256) void swiglu_backward_##NAME(                                             \
        const T *gate_up, const T *dout, T *dgate_up, u32 feed_forward) {                                                 \
        constexpr u32 W = Width<T>::value;                                                                                \
        if (feed_forward % W == 0) backward_piece<T, W>(gate_up, dout, dgate_up, feed_forward);                           \
        else backward_piece<T, 1>(gate_up, dout, dgate_up, feed_forward);                                                 \
    }

FOR_EACH_STORAGE(DEFINE)
