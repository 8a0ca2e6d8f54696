// What every attention kernel knows of segments and of the lists of work: eight words for a segment, three for a tile, as
// `backend/operations.rs` and `backend/tiles.rs` encode them.
#pragma once

#include "lib/reduce.cuh"

struct KeyRange {
    u32 row, len, causal_offset;

    // How many of its keys query `query` of the segment sees: j < len and j <= query + causal_offset.
    __device__ __forceinline__ u32 visible(u32 query) const { return min(len, query + causal_offset + 1); }

    static __device__ __forceinline__ KeyRange load(const u32 *words) { return {words[0], words[1], words[2]}; }
};

struct Segment {
    u32 start, len;
    KeyRange ranges[2];

    static __device__ __forceinline__ Segment load(const u32 *segments, u32 index) {
        const u32 *words = segments + index * 8;
        return {words[0], words[1], {KeyRange::load(words + 2), KeyRange::load(words + 5)}};
    }
};

// Rows that one block owns: consecutive ones of one segment, or rows in no segment at all.
struct RowTile {
    // The segment, or the family of segments, or NOBODY.
    u32 owner;
    u32 row, rows;

    static constexpr u32 NOBODY = 0xffffffffu;

    static __device__ __forceinline__ RowTile load(const u32 *tiles, u32 index) {
        return {tiles[index * 3], tiles[index * 3 + 1], tiles[index * 3 + 2]};
    }
};

// The last segment that starts at or before `row`; segments are sorted by their start. `count` is at least 1.
__device__ __forceinline__ u32 find_segment(const u32 *segments, u32 count, u32 row) {
    u32 low = 0, high = count;
    while (high - low > 1) {
        const u32 middle = (low + high) / 2;
        if (segments[middle * 8] <= row) low = middle;
        else high = middle;
    }
    return low;
}

__device__ __forceinline__ float dot(const float *a, const float *b, u32 len) {
    float sum = 0.0f;
    for (u32 i = 0; i < len; ++i) sum += a[i] * b[i];
    return sum;
}
