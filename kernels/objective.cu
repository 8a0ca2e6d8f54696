// Coefficients of pointwise objectives (SFT, ASFT, SFTMix): d loss / d log-prob of every token of a span, from that span alone.
//
//   s = sum of the span's log-probs, T their number, a = s / T, p = e^a, o = a - log(1 - p)
//   prompt:   loss = token_slope s,  coefficient = token_slope
//   chosen:   loss = slope s + align softplus(-beta o),  coefficient = slope + align (d softplus / d a) / T,
//             slope = c (token_slope - sequence_weight / T)
//   rejected: loss = align softplus(beta o),  coefficient = align (d softplus / d a) / T
//   mixed:    loss = mixed_slope s,  coefficient = mixed_slope
//   each softplus term continued linearly beyond a = -eps where it diverges; closed forms at beta = 1
//
// The same function in Rust is `objective/asft.rs`; the two are compared in a test. Everything is f64 up to the
// coefficient. A loss that is not finite sets the sticky flag, so that no update follows.
//
// Shapes: spans [count,3] u32 (start, len, role: 0 prompt, 1 chosen, 2 rejected, 4 mixed), logp and coefficients [R] f32.
// Bytes: 4 read and 4 written per row. Launch: one block of 128 per span.
//
// budget: objective_pointwise 64 registers 256 bytes shared

#include "lib/reduce.cuh"

struct Term {
    double value, slope;
};

static const u32 PROMPT = 0, CHOSEN = 1, MIXED = 4;
static const double LN_2 = 0.693147180559945309417;

__device__ double log1mexp(double a) { return a > -LN_2 ? log(-expm1(a)) : log1p(-exp(a)); }

__device__ double softplus(double z) { return fmax(z, 0.0) + log1p(exp(-fabs(z))); }

__device__ double sigmoid(double z) {
    const double e = exp(-fabs(z));
    return z >= 0.0 ? 1.0 / (1.0 + e) : e / (1.0 + e);
}

// softplus(scale * o(a)) for a < 0; at scale 1 the form that never forms the log-odds.
__device__ Term softplus_odds(double scale, double a) {
    if (scale == 1.0) return {-log1mexp(a), 1.0 / expm1(-a)};
    const double z = scale * (a - log1mexp(a));
    return {softplus(z), scale * sigmoid(z) * (-1.0 / expm1(a))};
}

__device__ Term align_term(bool chosen, double beta, double eps, double a) {
    // -log p is linear already.
    if (chosen && beta == 1.0) return {-a, -1.0};
    const double scale = chosen ? -beta : beta;
    const bool beyond = !(a <= -eps);
    const Term edge = softplus_odds(scale, beyond ? -eps : a);
    return beyond ? Term{edge.value + edge.slope * (a + eps), edge.slope} : edge;
}

extern "C" __global__ void objective_pointwise(
    const u32 *spans, const float *logp, float *coefficients, double *state, double c, double token_slope,
    double sequence_weight, double align, double beta, double eps, double mixed_slope) {
    __shared__ double shared[32];
    const u32 *span = spans + 3 * blockIdx.x;
    const u32 start = span[0], len = span[1], role = span[2];
    if (len == 0) return;
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < len; i += blockDim.x) sum += (double)logp[start + i];
    sum = block_reduce<Sum>(sum, 0.0, shared);
    const double share = 1.0 / len;
    double slope = 0.0, loss = 0.0;
    if (role <= CHOSEN) {
        slope = c * (role == CHOSEN ? token_slope - sequence_weight * share : token_slope);
        loss = slope * sum;
    }
    if (role == MIXED) slope = mixed_slope, loss = mixed_slope * sum;
    if (role != PROMPT && role != MIXED && align != 0.0) {
        const Term term = align_term(role == CHOSEN, beta, eps, sum / len);
        loss += align * term.value;
        slope += align * term.slope * share;
    }
    for (u32 i = threadIdx.x; i < len; i += blockDim.x) coefficients[start + i] = (float)slope;
    if (threadIdx.x == 0 && !isfinite(loss)) {
        atomicExch(reinterpret_cast<u64 *>(state) + 2, (u64)__double_as_longlong(1.0));
    }
}
