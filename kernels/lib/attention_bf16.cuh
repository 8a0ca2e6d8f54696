// What the bf16 attention kernels share: walks over key tiles, exponentials, rows in no segment.
#pragma once

#include "lib/attention.cuh"
#include "lib/mma.cuh"

static constexpr float LOG2_E = 1.44269504088896341f;

// 2^x within 2 units of the last place (PTX ISA 9.7.3.21); 0 for minus infinity.
__device__ __forceinline__ float exp2_fast(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

// The sum over the four lanes that share a row of a fragment; likewise the largest.
template <typename Operation> __device__ __forceinline__ float row_reduce(float value) {
    value = Operation::apply(value, __shfl_xor_sync(0xffffffffu, value, 1));
    return Operation::apply(value, __shfl_xor_sync(0xffffffffu, value, 2));
}

// Some keys of a range, from its key `first` on.
struct KeyTile {
    KeyRange range;
    u32 first;

    // How many of the tile's keys query `query` of the segment sees; not positive if none, and maybe more than there are.
    __device__ __forceinline__ int visible(u32 query) const { return (int)range.visible(query) - (int)first; }
    __device__ __forceinline__ u32 row() const { return range.row + first; }
    __device__ __forceinline__ u32 rows() const { return range.len - first; }
};

// The tiles of KEYS keys that some of a segment's queries see: those of the first range, then those of the second. Tiles
// start where ranges start, so it does not matter where anything lies.
template <u32 KEYS> struct KeyTiles {
    // In memory: registers are scarce, and the cache is near.
    const u32 *ranges;
    u32 in_first, count;

    __device__ __forceinline__ KeyTiles(const u32 *segments, u32 segment, u32 last_query) {
        ranges = segments + segment * 8 + 2;
        in_first = uniform((KeyRange::load(ranges).visible(last_query) + KEYS - 1) / KEYS);
        count = in_first + uniform((KeyRange::load(ranges + 3).visible(last_query) + KEYS - 1) / KEYS);
    }

    __device__ __forceinline__ KeyTile at(u32 index) const {
        const bool second = index >= in_first;
        return {KeyRange::load(ranges + (second ? 3 : 0)), (second ? index - in_first : index) * KEYS};
    }
};

// Zeros in `rows` rows of a head, by the whole block.
template <u32 D> __device__ __forceinline__ void clear_rows(bf16 *target, u32 stride, u32 rows) {
    for (u32 index = threadIdx.x; index < rows * Tile<D>::PIECES; index += blockDim.x) {
        const u32 row = index / Tile<D>::PIECES, piece = index % Tile<D>::PIECES;
        *reinterpret_cast<uint4 *>(target + (u64)row * stride + piece * 8) = make_uint4(0, 0, 0, 0);
    }
}

// An entry point for each head size: DEFINE(D).
#define FOR_EACH_HEAD_SIZE(DEFINE) DEFINE(16) DEFINE(32) DEFINE(64) DEFINE(96) DEFINE(128)
