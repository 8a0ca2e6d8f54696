// Reductions over a warp and over a block, in one fixed order: the same inputs give the same bits on every run.
#pragma once

typedef unsigned int u32;
typedef unsigned long long u64;

#define NEGATIVE_INFINITY __int_as_float(0xff800000)

struct Sum {
    template <typename T> static __device__ __forceinline__ T apply(T a, T b) { return a + b; }
};

struct Max {
    static __device__ __forceinline__ float apply(float a, float b) { return b > a ? b : a; }
};

// Every lane gets the result. Butterfly: the order of the additions does not depend on the lane.
template <typename Operation, typename T> __device__ __forceinline__ T warp_reduce(T value) {
    for (int offset = 16; offset > 0; offset >>= 1) {
        value = Operation::apply(value, __shfl_xor_sync(0xffffffffu, value, offset));
    }
    return value;
}

// Every thread of a one-dimensional block of whole warps gets the result. `shared` holds 32 elements and may be used
// again at once: the function ends with a barrier.
template <typename Operation, typename T> __device__ __forceinline__ T block_reduce(T value, T neutral, T *shared) {
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    value = warp_reduce<Operation>(value);
    if (lane == 0) shared[warp] = value;
    __syncthreads();
    value = warp_reduce<Operation>(lane < warps ? shared[lane] : neutral);
    __syncthreads();
    return value;
}
