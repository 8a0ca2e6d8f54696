// Residual add and RMS normalisation.
//
//   forward:  sum = x + residual;  rstd = 1/sqrt(mean(sum^2) + eps);  out = sum * rstd * weight
//   backward: w = dout * weight;  xhat = x * rstd;  dx = dresidual + rstd * (w - xhat * mean(w * xhat))
//             dweight (+)= sum over rows of dout * xhat
//
// Shapes: rows [T,H], rstd [T], weight [H]; without a residual `residual` is null and `sum` is not written.
// Bytes per element: forward 8 read (4 without residual) and 8 written (4); backward 8 read (12 with dresidual), 4 written,
// and 8 read again for dweight. Not materialised: xhat.
// Launch: one block of 256 per row; dweight one block of 32 columns x 8 rows per 32 columns, rows added in order.
//
// budget: rmsnorm_forward_f32 26 registers 128 bytes shared
// budget: rmsnorm_backward_f32 21 registers 128 bytes shared
// budget: rmsnorm_backward_weight_f32 32 registers 1056 bytes shared

#include "lib/reduce.cuh"

extern "C" __global__ void rmsnorm_forward_f32(
    const float *x, const float *residual, float *sum, const float *weight, float *out, float *rstd, u32 hidden,
    float epsilon) {
    __shared__ float shared[32];
    const u64 row = (u64)blockIdx.x * hidden;
    float square = 0.0f;
    for (u32 h = threadIdx.x; h < hidden; h += blockDim.x) {
        float value = x[row + h];
        if (residual) {
            value += residual[row + h];
            sum[row + h] = value;
        }
        square += value * value;
    }
    square = block_reduce<Sum>(square, 0.0f, shared);
    const float scale = (float)(1.0 / sqrt((double)square / hidden + (double)epsilon));
    if (threadIdx.x == 0) rstd[blockIdx.x] = scale;
    const float *source = residual ? sum : x;
    for (u32 h = threadIdx.x; h < hidden; h += blockDim.x) out[row + h] = source[row + h] * scale * weight[h];
}

extern "C" __global__ void rmsnorm_backward_f32(
    const float *dout, const float *x, const float *weight, const float *rstd, const float *dresidual, float *dx,
    u32 hidden) {
    __shared__ float shared[32];
    const u64 row = (u64)blockIdx.x * hidden;
    const float scale = rstd[blockIdx.x];
    float product = 0.0f;
    for (u32 h = threadIdx.x; h < hidden; h += blockDim.x) product += dout[row + h] * weight[h] * x[row + h];
    const float mean = block_reduce<Sum>(product, 0.0f, shared) / hidden * scale;
    for (u32 h = threadIdx.x; h < hidden; h += blockDim.x) {
        const float value = scale * (dout[row + h] * weight[h] - x[row + h] * scale * mean);
        dx[row + h] = dresidual ? value + dresidual[row + h] : value;
    }
}

extern "C" __global__ void rmsnorm_backward_weight_f32(
    const float *dout, const float *x, const float *rstd, float *dweight, u32 rows, u32 hidden, u32 accumulate) {
    __shared__ float partial[8][33];
    const u32 column = blockIdx.x * 32 + threadIdx.x;
    float sum = 0.0f;
    if (column < hidden) {
        for (u32 row = threadIdx.y; row < rows; row += 8) {
            sum += dout[(u64)row * hidden + column] * x[(u64)row * hidden + column] * rstd[row];
        }
    }
    partial[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < hidden) {
        float total = accumulate ? dweight[column] : 0.0f;
        for (u32 lane = 0; lane < 8; ++lane) total += partial[lane][threadIdx.x];
        dweight[column] = total;
    }
}
