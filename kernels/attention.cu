// Attention in f32: plain FFMA, kept as the simple reference of the tuned kernels.
//
//   forward, query i of a segment: s_j = q_i . k_j / sqrt(D) over the keys j of its ranges with j < len and
//   j <= i + causal_offset;  lse = log sum exp s_j;  out = sum exp(s_j - lse) v_j
//   backward: P_ij = exp(s_ij - lse_i);  delta_i = dout_i . out_i;  dS_ij = P_ij (dout_i . v_j - delta_i)/sqrt(D)
//             dq_i = sum_j dS_ij k_j;  dk_j = sum_i dS_ij q_i;  dv_j = sum_i P_ij dout_i
//
// Shapes: heads lie side by side in rows of `stride` elements; out, dout [T,N*D]; lse [T,N]; segments [S,8].
// Not materialised: any row of scores beyond 128 keys. Launch: one block of 128 per (row, head); the backward pass takes a
// kernel for dq and one for dk and dv that owns a key row and walks its queries in order, so nothing is added twice and
// nothing by atomics. Bytes: every query row and head reads the keys and values that it sees, 8 D for each; every key row
// the queries and gradients that see it.
// budget: attention_forward_f32 40 registers 640 bytes shared
// budget: attention_backward_delta_f32 32 registers 0 bytes shared
// budget: attention_backward_query_f32 40 registers 512 bytes shared
// budget: attention_backward_key_f32 40 registers 1024 bytes shared

#include "lib/attention.cuh"

static const u32 THREADS = 128;

extern "C" __global__ void attention_forward_f32(
    const float *q, u32 q_stride, const float *k, u32 k_stride, const float *v, u32 v_stride, const u32 *segments,
    u32 segment_count, float *out, float *lse, u32 query_heads, u32 key_heads, u32 head_dim) {
    __shared__ float weights[THREADS];
    __shared__ float shared[32];
    const u32 row = blockIdx.x, head = blockIdx.y, key_head = head / (query_heads / key_heads);
    float *target = out + ((u64)row * query_heads + head) * head_dim;
    const Segment segment = Segment::load(segments, find_segment(segments, segment_count, row));
    const bool inside = row >= segment.start && row < segment.start + segment.len;
    const float scale = rsqrtf((float)head_dim);
    const float *query = q + (u64)row * q_stride + head * head_dim;
    float largest = NEGATIVE_INFINITY, total = 0.0f, sum = 0.0f;
    for (u32 r = 0; r < 2 && inside; ++r) {
        const KeyRange range = segment.ranges[r];
        const u32 seen = range.visible(row - segment.start);
        for (u32 first = 0; first < seen; first += THREADS) {
            const u32 count = min(THREADS, seen - first);
            float score = NEGATIVE_INFINITY;
            if (threadIdx.x < count) {
                const u64 key = range.row + first + threadIdx.x;
                score = dot(query, k + key * k_stride + key_head * head_dim, head_dim) * scale;
            }
            const float maximum = Max::apply(largest, block_reduce<Max>(score, NEGATIVE_INFINITY, shared));
            const float weight = threadIdx.x < count ? expf(score - maximum) : 0.0f;
            weights[threadIdx.x] = weight;
            const float correction = expf(largest - maximum);
            total = total * correction + block_reduce<Sum>(weight, 0.0f, shared);
            largest = maximum;
            if (threadIdx.x < head_dim) {
                sum *= correction;
                for (u32 j = 0; j < count; ++j) {
                    sum += weights[j] * v[(u64)(range.row + first + j) * v_stride + key_head * head_dim + threadIdx.x];
                }
            }
            __syncthreads();
        }
    }
    if (threadIdx.x < head_dim) target[threadIdx.x] = inside ? sum / total : 0.0f;
    if (threadIdx.x == 0) lse[(u64)row * query_heads + head] = inside ? largest + logf(total) : 0.0f;
}

extern "C" __global__ void attention_backward_query_f32(
    const float *qkv, const float *delta, const float *lse, const float *dout, float *dqkv, const u32 *segments,
    u32 segment_count, u32 stride, u32 q_column, u32 k_column, u32 v_column, u32 query_heads, u32 key_heads,
    u32 head_dim) {
    __shared__ float dscores[THREADS];
    const u32 row = blockIdx.x, head = blockIdx.y, key_head = head / (query_heads / key_heads);
    float *target = dqkv + (u64)row * stride + q_column + head * head_dim;
    const Segment segment = Segment::load(segments, find_segment(segments, segment_count, row));
    const bool inside = row >= segment.start && row < segment.start + segment.len;
    const u64 at = ((u64)row * query_heads + head) * head_dim;
    const float row_delta = delta[(u64)row * query_heads + head], row_lse = lse[(u64)row * query_heads + head];
    const float scale = rsqrtf((float)head_dim);
    const float *query = qkv + (u64)row * stride + q_column + head * head_dim;
    float sum = 0.0f;
    for (u32 r = 0; r < 2 && inside; ++r) {
        const KeyRange range = segment.ranges[r];
        const u32 seen = range.visible(row - segment.start);
        for (u32 first = 0; first < seen; first += THREADS) {
            const u32 count = min(THREADS, seen - first);
            if (threadIdx.x < count) {
                const float *key = qkv + (u64)(range.row + first + threadIdx.x) * stride + key_head * head_dim;
                const float weight = expf(dot(query, key + k_column, head_dim) * scale - row_lse);
                dscores[threadIdx.x] = weight * (dot(dout + at, key + v_column, head_dim) - row_delta) * scale;
            }
            __syncthreads();
            if (threadIdx.x < head_dim) {
                for (u32 j = 0; j < count; ++j) {
                    const u64 key = (u64)(range.row + first + j) * stride + k_column + key_head * head_dim;
                    sum += dscores[j] * qkv[key + threadIdx.x];
                }
            }
            __syncthreads();
        }
    }
    if (threadIdx.x < head_dim) target[threadIdx.x] = sum;
}

// delta[row, head] = dout . out, which both kernels subtract.
extern "C" __global__ void attention_backward_delta_f32(
    const float *out, const float *dout, float *delta, u32 rows, u32 query_heads, u32 head_dim) {
    const u32 index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= rows * query_heads) return;
    delta[index] = dot(out + (u64)index * head_dim, dout + (u64)index * head_dim, head_dim);
}

extern "C" __global__ void attention_backward_key_f32(
    const float *qkv, const float *delta, const float *lse, const float *dout, float *dqkv, const u32 *segments,
    u32 segment_count, const u32 *families, u32 family_count, u32 stride, u32 q_column, u32 k_column, u32 v_column,
    u32 query_heads, u32 key_heads, u32 head_dim) {
    __shared__ float weights[THREADS];
    __shared__ float dscores[THREADS];
    const u32 row = blockIdx.x, key_head = blockIdx.y, group = query_heads / key_heads;
    const u32 own = find_segment(segments, segment_count, row);
    u32 family = 0;
    while (family + 1 < family_count && families[family + 1] <= own) ++family;
    const float scale = rsqrtf((float)head_dim);
    const float *key = qkv + (u64)row * stride + k_column + key_head * head_dim;
    const float *value = qkv + (u64)row * stride + v_column + key_head * head_dim;
    float dkey = 0.0f, dvalue = 0.0f;
    for (u32 index = families[family]; index < families[family + 1]; ++index) {
        const Segment segment = Segment::load(segments, index);
        for (u32 r = 0; r < 2; ++r) {
            const KeyRange range = KeyRange::load(segments + index * 8 + 2 + 3 * r);
            if (row < range.row || row >= range.row + range.len) continue;
            // The first query that sees this key.
            const u32 j = row - range.row, from = j > range.causal_offset ? j - range.causal_offset : 0;
            for (u32 head = key_head * group; head < (key_head + 1) * group; ++head) {
                for (u32 first = from; first < segment.len; first += THREADS) {
                    const u32 count = min(THREADS, segment.len - first);
                    if (threadIdx.x < count) {
                        const u64 query = segment.start + first + threadIdx.x, at = query * query_heads + head;
                        const float score = dot(qkv + query * stride + q_column + head * head_dim, key, head_dim);
                        const float weight = expf(score * scale - lse[at]);
                        weights[threadIdx.x] = weight;
                        dscores[threadIdx.x] =
                            weight * (dot(dout + at * head_dim, value, head_dim) - delta[at]) * scale;
                    }
                    __syncthreads();
                    if (threadIdx.x < head_dim) {
                        for (u32 i = 0; i < count; ++i) {
                            const u64 query = segment.start + first + i;
                            dvalue += weights[i] * dout[(query * query_heads + head) * head_dim + threadIdx.x];
                            dkey += dscores[i] * qkv[query * stride + q_column + head * head_dim + threadIdx.x];
                        }
                    }
                    __syncthreads();
                }
            }
        }
    }
    if (threadIdx.x < head_dim) {
        dqkv[(u64)row * stride + k_column + key_head * head_dim + threadIdx.x] = dkey;
        dqkv[(u64)row * stride + v_column + key_head * head_dim + threadIdx.x] = dvalue;
    }
}
