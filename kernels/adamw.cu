// AdamW (PyTorch's): one update of a run of parameters, nothing while the sticky flag is set.
//
//   g *= clip;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  p = p keep - step_size * m / (sqrt(v)/correction + eps)
//   keep = 1 - lr*wd,  step_size = lr/(1-b1^t),  correction = sqrt(1-b2^t), formed on the host in f64
//
// Four formats of what is kept, one arithmetic; gradients are f32 (bytes read and written per parameter, gradient included):
//   adamw_f32        f32 parameters and moments                                                               16 + 12
//   adamw_remainder  bf16 parameters and the 16 bits that make them f32 (src/model/master.rs), f32 moments     16 + 12
//   adamw_bf16       bf16 parameters and moments, all rounded stochastically                                   10 + 6
//   adamw_8bit       bf16 parameters, rounded stochastically; codes with a scale for each 256 (lib/codes.cuh)    8 + 4
// Random bits: Philox-4x32-10, key = seed, counter = (group of 8 elements and stream, step); the group is numbered by the
// element's place in its arena, so no result depends on the launch or on where runs begin.
// Not materialised: the clipped gradient, f32 weights, dequantised moments.
// Launch: a warp takes 256 elements at a time, a lane four of either half: accesses of 16 bytes for f32, 8 for 16-bit and
// 4 for 8-bit elements, all of a warp's side by side. What is left at the end is moved element by element. Blocks of 256
// threads; any number of them.

// budget: adamw_f32 64 registers 0 bytes shared, 16-byte loads
// budget: adamw_remainder 72 registers 0 bytes shared, 16-byte loads
// budget: adamw_bf16 64 registers 0 bytes shared, 16-byte loads
// budget: adamw_8bit 64 registers 2848 bytes shared, 16-byte loads

#include "lib/codes.cuh"
#include "lib/philox.cuh"

typedef unsigned short u16;
typedef unsigned char u8;

// Elements that a warp takes at a time, and that share a scale; elements of a lane.
static const u32 PIECE = 256, OWN = 8;

struct Factors {
    float beta1, rest1, beta2, rest2, step_size, correction, keep, epsilon;
};

// What a lane computes with.
struct Lane {
    float p[OWN], m[OWN], v[OWN];
};

// The update itself. The roundings are spelled out: all formats get the same bits.
__device__ __forceinline__ void update(Lane &lane, const float (&gradients)[OWN], float clip, const Factors &f) {
#pragma unroll
    for (u32 i = 0; i < OWN; ++i) {
        const float g = __fmul_rn(gradients[i], clip);
        const float m = __fmaf_rn(lane.m[i], f.beta1, __fmul_rn(g, f.rest1));
        const float v = __fmaf_rn(lane.v[i], f.beta2, __fmul_rn(g, __fmul_rn(g, f.rest2)));
        const float direction = __fdiv_rn(m, __fadd_rn(__fdiv_rn(__fsqrt_rn(v), f.correction), f.epsilon));
        lane.p[i] = __fsub_rn(__fmul_rn(lane.p[i], f.keep), __fmul_rn(direction, f.step_size));
        lane.m[i] = m;
        lane.v[i] = v;
    }
}

template <typename T> struct alignas(4 * sizeof(T)) Four {
    T at[4];
};

// A lane's place: elements `first`.. and `first + 128`.. of the run, four of each, as far as they are among the `left`.
struct Place {
    u64 piece, first;
    u32 left;

    __device__ __forceinline__ bool has(u32 own) const { return own / 4 * (PIECE / 2) + own % 4 < left; }
};

// W(hole): all elements of the piece are there; else those that are not read as zero and are not written.
template <bool W, typename T> __device__ __forceinline__ void load(const T *source, const Place &place, T (&target)[OWN]) {
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        const u64 first = place.first + half * (PIECE / 2);
        Four<T> four = {};
        if (W) four = *reinterpret_cast<const Four<T> *>(source + first);
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            if (!W && place.has(half * 4 + i)) four.at[i] = source[first + i];
            target[half * 4 + i] = four.at[i];
        }
    }
}

template <bool W, typename T> __device__ __forceinline__ void store(T *target, const Place &place, const T (&source)[OWN]) {
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        const u64 first = place.first + half * (PIECE / 2);
        Four<T> four;
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            four.at[i] = source[half * 4 + i];
            if (!W && place.has(half * 4 + i)) target[first + i] = four.at[i];
        }
        if (W) *reinterpret_cast<Four<T> *>(target + first) = four;
    }
}

template <bool W> __device__ __forceinline__ void load_bf16(const u16 *source, const Place &place, float (&target)[OWN]) {
    u16 raw[OWN];
    load<W>(source, place, raw);
#pragma unroll
    for (u32 i = 0; i < OWN; ++i) target[i] = widen(bf16{raw[i]});
}

// Keys of stochastic rounding. A call gives a lane 16 bits for each of its elements.
struct Random {
    u64 seed, step, piece; // the first piece of the run, counted from the start of the arena

    __device__ __forceinline__ void bits(const Place &place, u32 stream, u32 (&random)[OWN]) const {
        const u64 group = (piece + place.piece) * 32 + (threadIdx.x & 31);
        const uint4 counter = make_uint4((u32)group, (u32)(group >> 32) | stream << 24, (u32)step, (u32)(step >> 32));
        const uint4 words = philox(counter, seed);
        const u32 word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            random[i] = word[i] & 0xffffu;
            random[4 + i] = word[i] >> 16;
        }
    }

    template <bool W> __device__ __forceinline__ void store(u16 *target, const Place &place, u32 stream, const float (&source)[OWN]) const {
        u32 random[OWN];
        u16 raw[OWN];
        bits(place, stream, random);
#pragma unroll
        for (u32 i = 0; i < OWN; ++i) raw[i] = narrow_stochastically(source[i], random[i]).bits;
        ::store<W>(target, place, raw);
    }
};

static const u32 STREAM_PARAMETERS = 0, STREAM_FIRST = 1, STREAM_SECOND = 2;

struct F32 {
    float *parameters, *first, *second;

    template <bool W> __device__ __forceinline__ void load(const Place &place, Lane &lane) const {
        ::load<W>(parameters, place, lane.p);
        ::load<W>(first, place, lane.m);
        ::load<W>(second, place, lane.v);
    }
    template <bool W> __device__ __forceinline__ void store(const Place &place, Lane &lane) const {
        ::store<W>(parameters, place, lane.p);
        ::store<W>(first, place, lane.m);
        ::store<W>(second, place, lane.v);
    }
};

struct Remainder {
    u16 *parameters, *remainder;
    float *first, *second;

    template <bool W> __device__ __forceinline__ void load(const Place &place, Lane &lane) const {
        u16 high[OWN], low[OWN];
        ::load<W>(parameters, place, high);
        ::load<W>(remainder, place, low);
#pragma unroll
        for (u32 i = 0; i < OWN; ++i) {
            // The remainder is signed: the stored value has been rounded up where it is negative.
            lane.p[i] = __uint_as_float(((u32)high[i] << 16) + (u32)(int)(short)low[i]);
        }
        ::load<W>(first, place, lane.m);
        ::load<W>(second, place, lane.v);
    }
    template <bool W> __device__ __forceinline__ void store(const Place &place, Lane &lane) const {
        u16 high[OWN], low[OWN];
#pragma unroll
        for (u32 i = 0; i < OWN; ++i) {
            // The NaN that arithmetic makes would be rounded up to a zero.
            const u32 bits = lane.p[i] == lane.p[i] ? __float_as_uint(lane.p[i]) : 0x7fc00000u;
            high[i] = (u16)((bits + 0x8000u) >> 16);
            low[i] = (u16)bits;
        }
        ::store<W>(parameters, place, high);
        ::store<W>(remainder, place, low);
        ::store<W>(first, place, lane.m);
        ::store<W>(second, place, lane.v);
    }
};

struct Bf16 {
    u16 *parameters, *first, *second;
    Random random;

    template <bool W> __device__ __forceinline__ void load(const Place &place, Lane &lane) const {
        load_bf16<W>(parameters, place, lane.p);
        load_bf16<W>(first, place, lane.m);
        load_bf16<W>(second, place, lane.v);
    }
    template <bool W> __device__ __forceinline__ void store(const Place &place, Lane &lane) const {
        random.template store<W>(parameters, place, STREAM_PARAMETERS, lane.p);
        random.template store<W>(first, place, STREAM_FIRST, lane.m);
        random.template store<W>(second, place, STREAM_SECOND, lane.v);
    }
};

struct EightBit {
    u16 *parameters;
    u8 *first, *second;
    float *first_scales, *second_scales;
    const Map<true> &first_map;
    const Map<false> &second_map;
    Random random;

    template <bool W, bool SIGNED>
    static __device__ __forceinline__ void load_codes(
        const u8 *source, const float *scales, const Map<SIGNED> &map, const Place &place, float (&target)[OWN]) {
        u8 codes[OWN];
        ::load<W>(source, place, codes);
        const float scale = scales[place.piece];
#pragma unroll
        for (u32 i = 0; i < OWN; ++i) {
            target[i] = W || place.has(i) ? map.values[codes[i]] * scale : 0.0f;
        }
    }
    // Gives the block's scale.
    template <bool W, bool SIGNED>
    static __device__ __forceinline__ float store_codes(
        u8 *target, const Map<SIGNED> &map, const Place &place, const float (&source)[OWN]) {
        const float scale = block_scale(source), inverse = scale == 0.0f ? 0.0f : __frcp_rn(scale);
        u8 codes[OWN];
#pragma unroll
        for (u32 i = 0; i < OWN; ++i) codes[i] = (u8)map.code(source[i] * inverse);
        ::store<W>(target, place, codes);
        return scale;
    }
    template <bool W> __device__ __forceinline__ void load(const Place &place, Lane &lane) const {
        load_bf16<W>(parameters, place, lane.p);
        load_codes<W>(first, first_scales, first_map, place, lane.m);
        load_codes<W>(second, second_scales, second_map, place, lane.v);
    }
    template <bool W> __device__ __forceinline__ void store(const Place &place, Lane &lane) const {
        random.template store<W>(parameters, place, STREAM_PARAMETERS, lane.p);
        const float first_scale = store_codes<W>(first, first_map, place, lane.m);
        const float second_scale = store_codes<W>(second, second_map, place, lane.v);
        if ((threadIdx.x & 31) == 0) {
            first_scales[place.piece] = first_scale;
            second_scales[place.piece] = second_scale;
        }
    }
};

template <bool W, typename Format>
__device__ __forceinline__ void update_piece(
    const Format &format, const float *gradients, float clip, const Place &place, const Factors &factors) {
    Lane lane;
    float gradient[OWN];
    format.template load<W>(place, lane);
    load<W>(gradients, place, gradient);
    update(lane, gradient, clip, factors);
    format.template store<W>(place, lane);
}

template <typename Format>
__device__ __forceinline__ void update_run(
    const Format &format, const float *gradients, const double *state, u64 elements, const Factors &factors) {
    if (state[2] != 0.0) return;
    const float clip = (float)state[1];
    const u32 warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x & 31;
    for (u64 piece = (u64)blockIdx.x * warps + warp; piece * PIECE < elements; piece += (u64)gridDim.x * warps) {
        // Lanes that have gone different ways meet again: only together are their accesses side by side.
        __syncwarp();
        const u64 first = piece * PIECE + lane * 4;
        const Place place = {piece, first, first < elements ? (u32)min(elements - first, (u64)PIECE) : 0};
        if ((piece + 1) * PIECE <= elements) update_piece<true>(format, gradients, clip, place, factors);
        else update_piece<false>(format, gradients, clip, place, factors);
    }
}

#define KERNEL extern "C" __global__ __launch_bounds__(256) void
// The arguments that all formats end with.
#define REST                                                                                                              \
    const float *gradients, const double *state, u64 elements, float beta1, float rest1, float beta2, float rest2,        \
        float step_size, float correction, float keep, float epsilon
#define FACTORS {beta1, rest1, beta2, rest2, step_size, correction, keep, epsilon}

KERNEL adamw_f32(float *parameters, float *first, float *second, REST) {
    update_run(F32{parameters, first, second}, gradients, state, elements, FACTORS);
}

KERNEL adamw_remainder(u16 *parameters, u16 *remainder, float *first, float *second, REST) {
    update_run(Remainder{parameters, remainder, first, second}, gradients, state, elements, FACTORS);
}

// `piece`: where the run begins in its arena, in units of 256 elements.
KERNEL adamw_bf16(u16 *parameters, u16 *first, u16 *second, u64 seed, u64 step, u64 piece, REST) {
    const Random random = {seed, step, piece};
    update_run(Bf16{parameters, first, second, random}, gradients, state, elements, FACTORS);
}

KERNEL adamw_8bit(
    u16 *parameters, u8 *first, u8 *second, float *first_scales, float *second_scales, u64 seed, u64 step, u64 piece, REST) {
    __shared__ Map<true> first_map;
    __shared__ Map<false> second_map;
    first_map.fill_values();
    second_map.fill_values();
    __syncthreads();
    first_map.fill_octaves();
    second_map.fill_octaves();
    __syncthreads();
    const Random random = {seed, step, piece};
    const EightBit format = {parameters, first, second, first_scales, second_scales, first_map, second_map, random};
    update_run(format, gradients, state, elements, FACTORS);
}
