// Philox-4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011): random bits as
// a pure function of a counter and a key, so that they do not depend on who asks for them, or when.
#pragma once

#include "lib/storage.cuh"

// 128 random bits for a 128-bit counter, lowest word first.
__device__ __forceinline__ uint4 philox(uint4 counter, u64 key) {
    u32 key0 = (u32)key, key1 = (u32)(key >> 32);
#pragma unroll
    for (u32 round = 0; round < 10; ++round) {
        const u64 even = (u64)0xD2511F53u * counter.x, odd = (u64)0xCD9E8D57u * counter.z;
        counter = make_uint4((u32)(odd >> 32) ^ counter.y ^ key0, (u32)odd, (u32)(even >> 32) ^ counter.w ^ key1, (u32)even);
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return counter;
}

// One of the two bf16 around the value, the nearer one the more often, so that the mean over all `random` below 2^16 is
// the value itself. What bf16 can represent stays, infinities and NaN too.
__device__ __forceinline__ bf16 narrow_stochastically(float value, u32 random) {
    u32 bits = __float_as_uint(value);
    const u32 magnitude = bits & 0x7fffffffu;
    if (magnitude < 0x7f800000u) bits += random;
    else if (magnitude > 0x7f800000u) bits |= 0x00400000u;
    return {(unsigned short)(bits >> 16)};
}
