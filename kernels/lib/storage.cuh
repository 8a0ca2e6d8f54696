// How a stored value becomes an f32 and back: bf16 and f32 behind one interface, one value or 16 bytes at a time.
//
// Arithmetic is f32 everywhere; a stored result is rounded once, to nearest, ties to even.
#pragma once

#include "lib/reduce.cuh"

// The upper half of an f32.
struct bf16 {
    unsigned short bits;
};

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(bf16 value) { return __uint_as_float((u32)value.bits << 16); }

template <typename T> __device__ __forceinline__ T narrow(float value);
template <> __device__ __forceinline__ float narrow<float>(float value) { return value; }
template <> __device__ __forceinline__ bf16 narrow<bf16>(float value) {
    bf16 result;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
    return result;
}

// Two values in one register, the first in the lower half.
__device__ __forceinline__ u32 narrow_pair(float first, float second) {
    u32 result;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(second), "f"(first));
    return result;
}

// What a stored value is after rounding.
template <typename T> __device__ __forceinline__ float rounded(float value) { return widen(narrow<T>(value)); }

// Values in 16 bytes.
template <typename T> struct Width;
template <> struct Width<float> { static constexpr u32 value = 4; };
template <> struct Width<bf16> { static constexpr u32 value = 8; };

// W consecutive values in f32. W is 1, or Width<T>::value: one 16-byte access, whose address must be a multiple of 16.
template <typename T, u32 W> struct Values {
    float at[W];

    __device__ __forceinline__ void load(const T *source) {
        if constexpr (W == 1) {
            at[0] = widen(*source);
        } else if constexpr (sizeof(T) == 4) {
            const float4 raw = *reinterpret_cast<const float4 *>(source);
            at[0] = raw.x, at[1] = raw.y, at[2] = raw.z, at[3] = raw.w;
        } else {
            const uint4 raw = *reinterpret_cast<const uint4 *>(source);
            const u32 words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                at[2 * i] = __uint_as_float(words[i] << 16);
                at[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
            }
        }
    }

    __device__ __forceinline__ void store(T *target) const {
        if constexpr (W == 1) {
            *target = narrow<T>(at[0]);
        } else if constexpr (sizeof(T) == 4) {
            *reinterpret_cast<float4 *>(target) = make_float4(at[0], at[1], at[2], at[3]);
        } else {
            *reinterpret_cast<uint4 *>(target) = make_uint4(
                narrow_pair(at[0], at[1]), narrow_pair(at[2], at[3]), narrow_pair(at[4], at[5]), narrow_pair(at[6], at[7]));
        }
    }
};

// W consecutive values moved as they are: whatever is stored, NaN with its bits.
template <typename T, u32 W> __device__ __forceinline__ void copy_values(T *target, const T *source) {
    if constexpr (W == 1) *target = *source;
    else *reinterpret_cast<uint4 *>(target) = *reinterpret_cast<const uint4 *>(source);
}

// An entry point for each storage format: DEFINE(name, T) is expanded with f32 and bf16.
#define FOR_EACH_STORAGE(DEFINE) DEFINE(f32, float) DEFINE(bf16, bf16)
