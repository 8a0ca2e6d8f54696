// 8-bit codes of optimizer state: the dynamic maps of "8-bit Optimizers via Block-wise Quantization" (Dettmers et al.,
// arXiv 2110.02861, section 2.1), which src/optim/codes.rs makes as well.
//
// A map has magnitudes numbered from 0: zero, seven decades from 1e-6 to 1 of which each has twice as many entries as the
// one below, evenly spaced, and 1. Unsigned codes are the numbers 0..255; signed ones 127 + number and, but for 1 itself,
// 127 - number. A block's scale is its element of largest magnitude, with its sign: that element's code is that of 1, so
// what has been dequantised has the same codes and the same scale.
#pragma once

#include "lib/reduce.cuh"

static const u32 REGIONS = 9; // zero, the decades, one
static const u32 OCTAVES = 32, LOWEST_EXPONENT = 96;

// Where the regions lie among the numbers.
template <bool SIGNED> struct Numbers {
    // The lowest decade has 1 << shift entries, and its first number + shift is a power of two; so for every decade.
    static const u32 shift = SIGNED ? 0 : 1;
    static __device__ __forceinline__ u32 start(u32 region) { return region == 0 ? 0 : (1u << (region - 1 + shift)) - shift; }
    static __device__ __forceinline__ u32 last(u32 region) { return region == REGIONS - 1 ? start(region) : start(region + 1) - 1; }
};

// What the entries of a decade are multiples of.
__device__ __forceinline__ double decade_unit(u32 decade) {
    double unit = 1e-6;
    unit = decade == 1 ? 1e-5 : unit;
    unit = decade == 2 ? 1e-4 : unit;
    unit = decade == 3 ? 1e-3 : unit;
    unit = decade == 4 ? 1e-2 : unit;
    unit = decade == 5 ? 1e-1 : unit;
    return decade == 6 ? 1.0 : unit;
}

// The magnitude of a number. Nothing may be contracted: the host computes the same.
template <bool SIGNED> __device__ __forceinline__ float magnitude(u32 number) {
    if (number == 0) return 0.0f;
    if (number == Numbers<SIGNED>::start(REGIONS - 1)) return 1.0f;
    const u32 place = number + Numbers<SIGNED>::shift, level = 31 - __clz(place), entries = 1u << level;
    const double share = __dmul_rn(0.9, (double)(place - entries) + 0.5) / (double)entries;
    return (float)__dmul_rn(decade_unit(level - Numbers<SIGNED>::shift), __dadd_rn(0.1, share));
}

// One map in shared memory.
template <bool SIGNED> struct Map {
    typedef Numbers<SIGNED> N;

    float values[256];       // by code, for a scale of 1
    float2 octaves[OCTAVES]; // by exponent: the only threshold between two regions in it, or one above, and the region below
    float4 regions[REGIONS]; // the nearest number: round(magnitude * x + y), at most z; w: threshold to the next region

    // Filled by all threads of the block, of which there are at least 256, in two parts; after each a barrier must follow.
    __device__ __forceinline__ void fill_values() {
        const u32 index = threadIdx.x;
        if (index < 256) {
            const float size = magnitude<SIGNED>(!SIGNED ? index : index < 127 ? 127 - index : index - 127);
            values[index] = SIGNED && index < 127 ? -size : size;
        }
        if (index < REGIONS) {
            const u32 start = N::start(index), last = N::last(index);
            const bool decade = index > 0 && index < REGIONS - 1;
            const float slope = decade ? (float)((start + N::shift) / (0.9 * decade_unit(index - 1))) : 0.0f;
            const float middle = 0.5f * (magnitude<SIGNED>(last) + magnitude<SIGNED>(last + 1));
            regions[index] = make_float4(
                slope, (float)start - magnitude<SIGNED>(start) * slope, __uint_as_float(last),
                index < REGIONS - 1 ? middle : -NEGATIVE_INFINITY);
        }
    }
    __device__ __forceinline__ void fill_octaves() {
        if (threadIdx.x < OCTAVES) {
            const float begin = __uint_as_float((threadIdx.x + LOWEST_EXPONENT) << 23);
            u32 region = 0;
            for (u32 below = 0; below < REGIONS - 1; ++below) region += regions[below].w < begin ? 1 : 0;
            octaves[threadIdx.x] = make_float2(regions[region].w, __uint_as_float(region));
        }
    }

    // The code nearest to a value in [-1, 1] or [0, 1]. No unsigned value but zero has the code of zero: a second moment of
    // zero beside a first one that is not would make an update without bound.
    __device__ __forceinline__ u32 code(float value) const {
        const float size = fabsf(value);
        const u32 exponent = __float_as_uint(size) >> 23;
        const float2 octave = octaves[min(max(exponent, LOWEST_EXPONENT) - LOWEST_EXPONENT, OCTAVES - 1)];
        const float4 region = regions[__float_as_uint(octave.y) + (size > octave.x ? 1 : 0)];
        // Adding 2^23 rounds to a whole number, which is then the lower half of the bits.
        const u32 rounded = __float_as_uint(size * region.x + region.y + 8388608.0f) & 0xffffu;
        const u32 number = min(rounded, __float_as_uint(region.z));
        if (!SIGNED) return max(number, size > 0.0f ? 1u : 0u);
        const u32 negative = value < 0.0f ? 1 : 0;
        return 127 + (min(number, 128 - negative) ^ (0 - negative)) + negative;
    }
};

// The element of largest magnitude among the warp's, with its sign; the positive one of two. Below the normal numbers it is
// 0; what is infinite counts as the largest number, because an infinite scale would make NaN of a block's zeros.
template <u32 W> __device__ __forceinline__ float block_scale(const float (&values)[W]) {
    u32 largest = 0;
#pragma unroll
    for (u32 i = 0; i < W; ++i) {
        const u32 bits = __float_as_uint(values[i]);
        largest = max(largest, __funnelshift_l(bits, bits, 1) ^ 1u);
    }
    largest = __reduce_max_sync(0xffffffffu, largest) ^ 1u;
    const float scale = __uint_as_float(__funnelshift_r(largest, largest, 1));
    if (fabsf(scale) == -NEGATIVE_INFINITY) return copysignf(3.40282347e38f, scale);
    return fabsf(scale) < 1.17549435e-38f ? 0.0f : scale;
}
