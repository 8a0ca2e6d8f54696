// Residual add and RMS normalisation.
//
//   forward:  sum = x + residual;  rstd = 1/sqrt(mean(sum^2) + eps);  out = sum * rstd * weight
//   backward: w = dout * weight;  xhat = x * rstd;  dx = dresidual + rstd * (w - xhat * mean(w * xhat))
//             dweight (+)= sum over rows of dout * xhat
//
// Shapes: rows [T,H] stored, rstd [T] f32, weight [H] stored, dweight [H] and partial [parts,H] f32; without a residual
// `residual` is null and `sum` is not written. What is normalised is the sum as it is stored, so that normalising it again
// from memory gives the same bits.
// Stored values moved per element: forward 2 read (1 without residual) and 2 written (1); backward 2 read (3 with
// dresidual), 1 written, and for dweight 8 bytes per column and part, of which there is one for 32 rows, at most 256.
// Not materialised: xhat.
// Launch: forward one block per row; backward one block per part, which walks rows part, part + parts, ... with the row's
// values and its share of dweight in registers up to H = 8 * 2 * 512 (f32: half of it), then one thread per column adds
// the parts in order. H that is no multiple of 16 bytes is moved value by value.
//
// budget: rmsnorm_forward_f32 40 registers 256 bytes shared, 16-byte loads
// budget: rmsnorm_forward_bf16 52 registers 256 bytes shared, 16-byte loads
// budget: rmsnorm_backward_f32 64 registers 256 bytes shared, 16-byte loads
// budget: rmsnorm_backward_bf16 128 registers 256 bytes shared, 16-byte loads
// budget: rmsnorm_backward_weight 32 registers 0 bytes shared

#include "lib/storage.cuh"

// 16-byte pieces of a row that a thread keeps in registers.
static const u32 PIECES = 2;

template <typename T, u32 W>
__device__ __forceinline__ void forward_row(
    const T *x, const T *residual, T *sum, const T *weight, T *out, float *rstd, u32 hidden, float epsilon) {
    __shared__ float shared[32];
    const u64 row = (u64)blockIdx.x * hidden;
    const u32 stride = blockDim.x * W;
    Values<T, W> kept[PIECES];
    float square = 0.0f;
    // A piece beyond the registers is read again from memory (`sum`, or x where nothing is added).
    auto piece = [&](u32 h, Values<T, W> &value) {
        value.load(x + row + h);
        if (residual) {
            Values<T, W> other;
            other.load(residual + row + h);
#pragma unroll
            for (u32 i = 0; i < W; ++i) value.at[i] = rounded<T>(value.at[i] + other.at[i]);
            value.store(sum + row + h);
        }
#pragma unroll
        for (u32 i = 0; i < W; ++i) square += value.at[i] * value.at[i];
    };
#pragma unroll
    for (u32 p = 0; p < PIECES; ++p) {
        const u32 h = threadIdx.x * W + p * stride;
        if (h < hidden) piece(h, kept[p]);
    }
    for (u32 h = threadIdx.x * W + PIECES * stride; h < hidden; h += stride) {
        Values<T, W> value;
        piece(h, value);
    }
    square = block_reduce<Sum>(square, 0.0f, shared);
    const float scale = (float)(1.0 / sqrt((double)square / hidden + (double)epsilon));
    if (threadIdx.x == 0) rstd[blockIdx.x] = scale;
    auto normalise = [&](u32 h, Values<T, W> value) {
        Values<T, W> factor;
        factor.load(weight + h);
#pragma unroll
        for (u32 i = 0; i < W; ++i) value.at[i] = value.at[i] * scale * factor.at[i];
        value.store(out + row + h);
    };
#pragma unroll
    for (u32 p = 0; p < PIECES; ++p) {
        const u32 h = threadIdx.x * W + p * stride;
        if (h < hidden) normalise(h, kept[p]);
    }
    const T *source = residual ? sum : x;
    for (u32 h = threadIdx.x * W + PIECES * stride; h < hidden; h += stride) {
        Values<T, W> value;
        value.load(source + row + h);
        normalise(h, value);
    }
}

// One row of dx; `add` is called with (column, dout * xhat) of W columns.
template <typename T, u32 W, typename Add>
__device__ __forceinline__ void backward_row(
    const T *dout, const T *x, const T *weight, float scale, const T *dresidual, T *dx, u32 hidden, float *shared,
    Add add) {
    const u32 stride = blockDim.x * W;
    Values<T, W> kept_dout[PIECES], kept_x[PIECES];
    float product = 0.0f;
    auto piece = [&](u32 h, Values<T, W> &gradient, Values<T, W> &value) {
        Values<T, W> factor;
        gradient.load(dout + h);
        value.load(x + h);
        factor.load(weight + h);
#pragma unroll
        for (u32 i = 0; i < W; ++i) product += gradient.at[i] * factor.at[i] * value.at[i];
    };
#pragma unroll
    for (u32 p = 0; p < PIECES; ++p) {
        const u32 h = threadIdx.x * W + p * stride;
        if (h < hidden) piece(h, kept_dout[p], kept_x[p]);
    }
    for (u32 h = threadIdx.x * W + PIECES * stride; h < hidden; h += stride) {
        Values<T, W> gradient, value;
        piece(h, gradient, value);
    }
    const float mean = block_reduce<Sum>(product, 0.0f, shared) / hidden * scale;
    auto finish = [&](u32 p, u32 h, Values<T, W> gradient, Values<T, W> value) {
        Values<T, W> factor, direct, result, share;
        factor.load(weight + h);
        if (dresidual) direct.load(dresidual + h);
#pragma unroll
        for (u32 i = 0; i < W; ++i) {
            const float xhat = value.at[i] * scale;
            const float inner = scale * (gradient.at[i] * factor.at[i] - xhat * mean);
            result.at[i] = dresidual ? inner + direct.at[i] : inner;
            share.at[i] = gradient.at[i] * xhat;
        }
        result.store(dx + h);
        add(p, h, share);
    };
#pragma unroll
    for (u32 p = 0; p < PIECES; ++p) {
        const u32 h = threadIdx.x * W + p * stride;
        if (h < hidden) finish(p, h, kept_dout[p], kept_x[p]);
    }
    for (u32 h = threadIdx.x * W + PIECES * stride; h < hidden; h += stride) {
        Values<T, W> gradient, value;
        gradient.load(dout + h);
        value.load(x + h);
        finish(PIECES, h, gradient, value);
    }
}

template <typename T, u32 W>
__device__ __forceinline__ void backward_part(
    const T *dout, const T *x, const T *weight, const float *rstd, const T *dresidual, T *dx, float *partial, u32 rows,
    u32 hidden) {
    __shared__ float shared[32];
    float *target = partial + (u64)blockIdx.x * hidden;
    float kept[PIECES][W] = {};
    for (u32 row = blockIdx.x; row < rows; row += gridDim.x) {
        const u64 at = (u64)row * hidden;
        const bool first = row == blockIdx.x;
        auto add = [&](u32 p, u32 h, const Values<T, W> &share) {
#pragma unroll
            for (u32 i = 0; i < W; ++i) {
                if (p < PIECES) kept[p][i] += share.at[i];
                else target[h + i] = (first ? 0.0f : target[h + i]) + share.at[i];
            }
        };
        backward_row<T, W>(dout + at, x + at, weight, rstd[row], dresidual ? dresidual + at : nullptr, dx + at, hidden, shared, add);
    }
#pragma unroll
    for (u32 p = 0; p < PIECES; ++p) {
        const u32 h = (threadIdx.x + p * blockDim.x) * W;
        if (h >= hidden) continue;
        constexpr u32 F = W == 1 ? 1 : 4;
#pragma unroll
        for (u32 i = 0; i < W; i += F) {
            Values<float, F> part;
#pragma unroll
            for (u32 j = 0; j < F; ++j) part.at[j] = kept[p][i + j];
            part.store(target + h + i);
        }
    }
}

#define DEFINE(NAME, T)                                                                                                   \
    extern "C" __global__ __launch_bounds__(512) void rmsnorm_forward_##NAME(                                             \
        const T *x, const T *residual, T *sum, const T *weight, T *out, float *rstd, u32 hidden, float epsilon) {         \
        constexpr u32 W = Width<T>::value;                                                                                \
        if (hidden % W == 0) forward_row<T, W>(x, residual, sum, weight, out, rstd, hidden, epsilon);                     \
        else forward_row<T, 1>(x, residual, sum, weight, out, rstd, hidden, epsilon);                                     \
    }                                                                                                                     \
    extern "C" __global__ __launch_bounds__(512) void rmsnorm_backward_##NAME(                                            \
        const T *dout, const T *x, const T *weight, const float *rstd, const T *dresidual, T *dx, float *partial,         \
        u32 rows, u32 hidden) {                                                                                           \
        constexpr u32 W = Width<T>::value;                                                                                \
        if (hidden % W == 0) backward_part<T, W>(dout, x, weight, rstd, dresidual, dx, partial, rows, hidden);            \
        else backward_part<T, 1>(dout, x, weight, rstd, dresidual, dx, partial, rows, hidden);                            \
    }

FOR_EACH_STORAGE(DEFINE)

extern "C" __global__ void rmsnorm_backward_weight(
    const float *partial, float *dweight, u32 parts, u32 hidden, u32 accumulate) {
    const u32 column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= hidden) return;
    float total = accumulate ? dweight[column] : 0.0f;
    for (u32 part = 0; part < parts; ++part) total += partial[(u64)part * hidden + column];
    dweight[column] = total;
}
