// What every attention kernel knows of segments: eight words each, as `backend/operations.rs` encodes them.
#pragma once

#include "lib/reduce.cuh"

struct KeyRange {
    u32 row, len, causal_offset;

    // How many of its keys query `query` of the segment sees: j < len and j <= query + causal_offset.
    __device__ __forceinline__ u32 visible(u32 query) const { return min(len, query + causal_offset + 1); }
};

struct Segment {
    u32 start, len;
    KeyRange ranges[2];

    static __device__ __forceinline__ Segment load(const u32 *segments, u32 index) {
        const u32 *word = segments + index * 8;
        return {word[0], word[1], {{word[2], word[3], word[4]}, {word[5], word[6], word[7]}}};
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
