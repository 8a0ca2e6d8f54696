// The head's row kernel, and the target logits beside the product.
//
//   target_logits: out[r] = x[r] . weight[targets[r]], in f32 whatever is stored
//   head_rows, per row with target y: m = max(z_y, max over v != y of z_v),  S = sum over v != y of exp(z_v - m),
//     e = exp(z_y - m);  logp = -log1p(S) if z_y = m, else (z_y - m) - log(S + e);  lse = m + log(S + e);
//     U_y = S/(S+e), U_v = -exp(z_v - m)/(S+e), written in place of the logits, or beside them, or not at all.
//
//   head_rows_two, per row with targets y and x of weights k and 1 - k: m = max(z_y, z_x, the others), S over the others,
//     D = S + e_y + e_x;  log p_y = -log1p(S + e_x) if z_y = m, else (z_y - m) - log D, x alike;
//     logp = k log p_y + (1 - k) log p_x;  U_y = (k (S + e_x) - (1 - k) e_y)/D, x alike, U_v = -exp(z_v - m)/D;
//     where x = y: head_rows, to the bit.
//
// Targets stay out of the sum, which keeps the log-prob exact as p -> 1.
// Shapes: x [R,H] and weight [V,H] stored, logits [R,V] and unit [R,V]: both f32, both bf16, or f32 and bf16; targets,
// argmax [R] u32; target_logits, logp, lse [R] f32; of the second targets: ids [R] u32, logits and k [R] f32.
// Bytes per bf16 logit: sm_90 2 read, 2 written; sm_80 4 read (the second time from the second-level cache), 2 written.
// target_logits: 2 H read per row, twice. Not materialised: the softmax, or anything of a row beyond 16 bytes per warp.
//
// A row is four quarters of ceil(V / 32) * 8 logits, a quarter has 256 threads, and thread t takes its 16-byte pieces t,
// t + 256, ... in order, with a running maximum and a running sum of exponentials about it (one pass over the logits);
// then lanes, then the 32 warps of the row are combined by butterflies, in f64. This order is the same everywhere:
// launch on sm_90: a cluster of 4 blocks of 256 per row, a block per quarter. The quarter comes into shared memory by
// asynchronous copies and stays there (V = 128,256 in bf16: 62.6 KiB, three blocks per SM), and each warp's result goes to
// all four blocks through distributed shared memory, with one cluster barrier;
// launch on sm_80: a block of 1,024 per row, which reads the row again for U. So does a cluster whose quarter does not fit
// into shared memory, or whose V is no multiple of 16 bytes, which goes value by value.
// budget: target_logits_f32 40 registers 256 bytes shared, 16-byte loads
// budget: target_logits_bf16 40 registers 256 bytes shared, 16-byte loads
// budget: head_rows_f32 64 registers 512 bytes shared, 16-byte loads
// budget: head_rows_bf16 64 registers 512 bytes shared, 16-byte loads
// budget: head_rows_f32_bf16 64 registers 512 bytes shared, 16-byte loads
// budget: head_rows_two_f32 64 registers 512 bytes shared, 16-byte loads
// budget: head_rows_two_bf16 64 registers 512 bytes shared, 16-byte loads
// budget: head_rows_two_f32_bf16 64 registers 512 bytes shared, 16-byte loads

#include "lib/async.cuh"
#include "lib/storage.cuh"

static const u32 QUARTERS = 4;
static const u32 QUARTER_THREADS = 256;
// Warps of a row: one lane for each when their results are combined.
static const u32 SLOTS = QUARTERS * QUARTER_THREADS / 32;
// Pieces that a thread loads ahead where a row does not stay in shared memory.
static const u32 AHEAD = 4;
// Stands for minus infinity where a maximum is subtracted: minus infinity minus itself would be NaN.
#define LOWEST __int_as_float(0xff7fffff)

#if __CUDA_ARCH__ >= 900
#define ROW_GEOMETRY __cluster_dims__(QUARTERS, 1, 1) __launch_bounds__(QUARTER_THREADS, 3)
#else
#define ROW_GEOMETRY __launch_bounds__(QUARTERS *QUARTER_THREADS, 1)
#endif

struct Min {
    static __device__ __forceinline__ u32 apply(u32 a, u32 b) { return b < a ? b : a; }
};

// The larger of two; NaN only where both are.
struct Larger {
    static __device__ __forceinline__ float apply(float a, float b) { return fmaxf(a, b); }
};

// exp(d), d <= 0. A bf16 logit is itself off by 2^-9 of its size: the fast exponential, off by 2^-22 and d * 2^-24, adds
// nothing. f32 logits are there for accuracy.
template <typename T> __device__ __forceinline__ float exponential(float d) { return expf(d); }
template <> __device__ __forceinline__ float exponential<bf16>(float d) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(d * 1.4426950408889634f));
    return result;
}

// W consecutive logits as they are stored: 16 bytes, or one value.
template <typename T, u32 W> struct Piece {
    u32 word[4];

    __device__ __forceinline__ void load(const T *source) {
        const uint4 raw = *reinterpret_cast<const uint4 *>(source);
        word[0] = raw.x, word[1] = raw.y, word[2] = raw.z, word[3] = raw.w;
    }
    __device__ __forceinline__ float at(u32 i) const {
        if constexpr (sizeof(T) == 4) return __uint_as_float(word[i]);
        else return __uint_as_float(i % 2 ? word[i / 2] & 0xffff0000u : word[i / 2] << 16);
    }
    // Makes value `which` minus infinity.
    __device__ __forceinline__ void drop(u32 which) {
        const bool upper = sizeof(T) == 4 || which % 2 == 1;
        const u32 others = sizeof(T) == 4 ? 0 : upper ? 0xffffu : 0xffff0000u;
#pragma unroll
        for (u32 w = 0; w < 4; ++w) {
            const u32 dropped = (word[w] & others) | (upper ? 0xff800000u : 0xff80u);
            word[w] = which * (u32)sizeof(T) / 4 == w ? dropped : word[w];
        }
    }
};
template <typename T> struct Piece<T, 1> {
    float value;

    __device__ __forceinline__ void load(const T *source) { value = widen(*source); }
    __device__ __forceinline__ float at(u32) const { return value; }
    __device__ __forceinline__ void drop(u32) { value = NEGATIVE_INFINITY; }
};

// W values of the unit gradient, in one access.
template <typename U, u32 W> __device__ __forceinline__ void store_unit(U *target, const float (&unit)[W]) {
    if constexpr (sizeof(U) == 2 && W == 4) {
        *reinterpret_cast<uint2 *>(target) = make_uint2(narrow_pair(unit[0], unit[1]), narrow_pair(unit[2], unit[3]));
    } else {
        Values<U, W> values;
#pragma unroll
        for (u32 i = 0; i < W; ++i) values.at[i] = unit[i];
        values.store(target);
    }
}

// What a row's log-prob is of: a target with its exact logit, or two of them and what the first counts.
template <bool TWO> struct Targets {
    u32 first, second;
    float z_first, z_second, weight;

    // Takes the targets among W logits, from v on, out of the sum.
    template <typename T, u32 W> __device__ __forceinline__ void leave_out(Piece<T, W> &piece, u32 v) const {
        if (first - v < W) piece.drop(first - v);
        if constexpr (TWO) {
            if (second - v < W) piece.drop(second - v);
        }
    }
    // One target that is named twice counts once.
    __device__ __forceinline__ bool both() const { return TWO && second != first; }
    __device__ __forceinline__ float largest() const { return both() ? fmaxf(z_first, z_second) : z_first; }
};

// What is known of some logits of a row, the targets left out: their maximum, the sum of exp(z - maximum), and the lowest
// id that has the maximum.
struct Part {
    double sum;
    float largest;
    u32 first;

    // As 16 bytes, which a warp reads and writes without bank conflicts.
    __device__ __forceinline__ ulonglong2 packed() const {
        const u64 rest = (u64)first << 32 | __float_as_uint(largest);
        return make_ulonglong2((u64)__double_as_longlong(sum), rest);
    }
    static __device__ __forceinline__ Part unpacked(ulonglong2 words) {
        Part part;
        part.sum = __longlong_as_double((long long)words.x);
        part.largest = __uint_as_float((u32)words.y);
        part.first = (u32)(words.y >> 32);
        return part;
    }
};

// The same while a thread goes through its pieces.
template <typename T, u32 W> struct Running {
    float largest = LOWEST, sum = 0.0f;
    u32 first, best_at = 0;
    Piece<T, W> best = {};

    template <bool TWO> __device__ __forceinline__ void add(Piece<T, W> piece, u32 v, const Targets<TWO> &targets) {
        targets.leave_out(piece, v);
        float top = piece.at(0);
#pragma unroll
        for (u32 i = 1; i < W; ++i) top = fmaxf(top, piece.at(i));
        if (top > largest) best = piece, best_at = v;
        const float base = fmaxf(largest, top);
        float power[W];
#pragma unroll
        for (u32 i = 0; i < W; ++i) power[i] = exponential<T>(piece.at(i) - base);
#pragma unroll
        for (u32 step = 1; step < W; step *= 2) {
#pragma unroll
            for (u32 i = 0; i < W; i += 2 * step) power[i] += power[i + step];
        }
        sum = fmaf(sum, exponential<T>(largest - base), power[0]);
        largest = base;
    }

    // Of all lanes of the warp. `first` must be the thread's first id, which stands where nothing is above LOWEST.
    __device__ __forceinline__ Part of_warp() const {
        u32 id = first;
        if (largest > LOWEST) {
#pragma unroll
            for (u32 k = 1; k <= W; ++k) {
                if (best.at(W - k) == largest) id = best_at + W - k;
            }
        }
        Part part;
        part.largest = warp_reduce<Larger>(largest);
        part.sum = warp_reduce<Sum>((double)sum * (double)expf(largest - part.largest));
        part.first = warp_reduce<Min>(largest == part.largest ? id : 0xffffffffu);
        return part;
    }
};

// Which part of which row this thread works on.
struct Place {
    u32 row, quarter, thread;

    __device__ __forceinline__ Place() {
#if __CUDA_ARCH__ >= 900
        asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(quarter));
        row = blockIdx.x / QUARTERS, thread = threadIdx.x;
#else
        row = blockIdx.x, quarter = threadIdx.x / QUARTER_THREADS, thread = threadIdx.x % QUARTER_THREADS;
#endif
    }
};

#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.aligned;" ::: "memory"); }

// Writes a slot of another block of the cluster.
__device__ __forceinline__ void send(ulonglong2 *slot, u32 block, ulonglong2 part) {
    u32 address;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(slot)), "r"(block));
    asm volatile("st.shared::cluster.v2.u64 [%0], {%1, %2};" ::"r"(address), "l"(part.x), "l"(part.y) : "memory");
}
#endif

// The parts of all warps of the row, known to every thread afterwards.
__device__ __forceinline__ void share(ulonglong2 *slots, const Place &place, const Part &part) {
    const u32 slot = (place.quarter * QUARTER_THREADS + place.thread) / 32, lane = threadIdx.x & 31;
#if __CUDA_ARCH__ >= 900
    // Until now the other blocks of the cluster need not have begun; beyond the second barrier nobody writes here.
    cluster_wait();
    if (lane < QUARTERS) send(slots + slot, lane, part.packed());
    cluster_arrive();
    cluster_wait();
#else
    if (lane == 0) slots[slot] = part.packed();
    __syncthreads();
#endif
}

// Calls f with (piece, id of its first logit) of every piece of the thread, in order: from shared memory if they are there.
template <typename T, u32 W, typename F>
__device__ __forceinline__ void each_piece(const T *row, const T *held, u32 begin, u32 end, u32 thread, F f) {
    const u32 stride = QUARTER_THREADS * W;
    if (held) {
        for (u32 v = begin + thread * W; v < end; v += stride) {
            Piece<T, W> piece;
            piece.load(held + (v - begin));
            f(piece, v);
        }
        return;
    }
    for (u32 v = begin + thread * W; v < end; v += AHEAD * stride) {
        Piece<T, W> pieces[AHEAD];
#pragma unroll
        for (u32 k = 0; k < AHEAD; ++k) {
            if (v + k * stride < end) pieces[k].load(row + v + k * stride);
        }
#pragma unroll
        for (u32 k = 0; k < AHEAD; ++k) {
            if (v + k * stride < end) f(pieces[k], v + k * stride);
        }
    }
}

// What the kernels of rows are given; `second_...` of those with two targets only.
template <typename T, typename U> struct Rows {
    const T *logits;
    U *unit;
    const float *target_logits;
    const u32 *targets;
    const float *second_logits;
    const u32 *second_targets;
    const float *weights;
    float *logp, *lse;
    u32 *argmax;
    u32 vocabulary;

    template <bool TWO> __device__ __forceinline__ Targets<TWO> targets_of(u32 row) const {
        Targets<TWO> result = {};
        result.first = targets[row], result.z_first = target_logits[row];
        if constexpr (TWO) {
            result.second = second_targets[row], result.z_second = second_logits[row], result.weight = weights[row];
        }
        return result;
    }
};

// The sums over a row: of the others, and of each target, all about the largest logit m.
struct Sums {
    float m;
    double others, first, second;

    __device__ __forceinline__ double all() const { return others + first + second; }
    // log p of a target with logit z, where `rest` is what everything else adds up to. An overflowed target would look
    // certain: infinity minus infinity is nobody's probability.
    __device__ __forceinline__ double log_probability(float z, double rest) const {
        if (z == -NEGATIVE_INFINITY) return (double)__int_as_float(0x7fffffff);
        return z == m ? -log1p(rest) : (double)(z - m) - log(all());
    }
};

// Nothing times minus infinity is nothing here.
__device__ __forceinline__ double share(double weight, double logp) { return weight == 0.0 ? 0.0 : weight * logp; }

template <bool TWO>
__device__ __forceinline__ double log_probability(const Targets<TWO> &targets, const Sums &sums) {
    const double logp = sums.log_probability(targets.z_first, sums.others + sums.second);
    if (!targets.both()) return logp;
    const double weight = (double)targets.weight;
    return share(weight, logp)
        + share(1.0 - weight, sums.log_probability(targets.z_second, sums.others + sums.first));
}

template <typename T, typename U, u32 W, bool TWO>
__device__ __forceinline__ void one_row(Rows<T, U> rows, bool hold, ulonglong2 *slots) {
    const T *held = nullptr;
    const Place place;
    const u32 vocabulary = rows.vocabulary;
    const u32 quarter = (vocabulary + 8 * QUARTERS - 1) / (8 * QUARTERS) * 8;
    const u32 begin = min(place.quarter * quarter, vocabulary), end = min(begin + quarter, vocabulary);
    const T *row = rows.logits + (u64)place.row * vocabulary;
#if __CUDA_ARCH__ >= 900
    cluster_arrive();
    if (hold) {
        extern __shared__ uint4 room[];
        T *target = reinterpret_cast<T *>(room);
        for (u32 v = begin + place.thread * W; v < end; v += QUARTER_THREADS * W) {
            if constexpr (W > 1) copy_async_16(shared_address(target + (v - begin)), row + v, true);
        }
        held = target;
        // A thread reads what it copied itself: no barrier.
        copies_commit();
        copies_wait<0>();
    }
#endif
    const Targets<TWO> targets = rows.template targets_of<TWO>(place.row);
    Running<T, W> running;
    running.first = begin + place.thread * W < end ? begin + place.thread * W : 0xffffffffu;
    each_piece<T, W>(row, held, begin, end, place.thread, [&](const Piece<T, W> &piece, u32 v) {
        running.add(piece, v, targets);
    });
    share(slots, place, running.of_warp());

    const Part part = Part::unpacked(slots[threadIdx.x & 31]);
    const float others = warp_reduce<Larger>(part.largest);
    Sums sums = {};
    sums.m = fmaxf(targets.largest(), others);
    sums.others = warp_reduce<Sum>(part.sum * (double)expf(part.largest - sums.m));
    sums.first = (double)expf(targets.z_first - sums.m);
    if (targets.both()) sums.second = (double)expf(targets.z_second - sums.m);
    const u32 other = warp_reduce<Min>(part.largest == others ? part.first : 0xffffffffu);
    if (place.quarter == 0 && place.thread == 0) {
        rows.logp[place.row] = (float)log_probability(targets, sums);
        rows.lse[place.row] = (float)((double)sums.m + log(sums.all()));
        float best = targets.z_first;
        u32 target = targets.first;
        if (targets.both() && (targets.z_second > best || (targets.z_second == best && targets.second < target))) {
            best = targets.z_second, target = targets.second;
        }
        rows.argmax[place.row] = best > others ? target : best == others ? min(other, target) : other;
    }
    if (!rows.unit) return;
    U *unit = rows.unit + (u64)place.row * vocabulary;
    const double all = sums.all();
    const float inverse = (float)(1.0 / all);
    float own = (float)((sums.others + sums.second) / all), own_second = 0.0f;
    if (targets.both()) {
        const double weight = (double)targets.weight, rest = 1.0 - weight;
        own = (float)((weight * (sums.others + sums.second) - rest * sums.first) / all);
        own_second = (float)((rest * (sums.others + sums.first) - weight * sums.second) / all);
    }
    each_piece<T, W>(row, held, begin, end, place.thread, [&](const Piece<T, W> &piece, u32 v) {
        float values[W];
#pragma unroll
        for (u32 i = 0; i < W; ++i) values[i] = -(exponential<T>(piece.at(i) - sums.m) * inverse);
        if constexpr (TWO) {
            if (targets.second - v < W) {
#pragma unroll
                for (u32 i = 0; i < W; ++i) values[i] = v + i == targets.second ? own_second : values[i];
            }
        }
        // Last, for where there is one target only.
        if (targets.first - v < W) {
#pragma unroll
            for (u32 i = 0; i < W; ++i) values[i] = v + i == targets.first ? own : values[i];
        }
        store_unit<U, W>(unit + v, values);
    });
}

template <typename T, u32 W>
__device__ __forceinline__ void dot_row(const T *x, const T *weight, float *out, u32 hidden, double *shared) {
    double sum = 0.0;
    for (u32 h = threadIdx.x * W; h < hidden; h += blockDim.x * W) {
        Values<T, W> left, right;
        left.load(x + h);
        right.load(weight + h);
#pragma unroll
        for (u32 i = 0; i < W; ++i) sum = fma((double)left.at[i], (double)right.at[i], sum);
    }
    sum = block_reduce<Sum>(sum, 0.0, shared);
    if (threadIdx.x == 0) *out = (float)sum;
}

#define DEFINE(NAME, T)                                                                                                   \
    extern "C" __global__ __launch_bounds__(256) void target_logits_##NAME(                                               \
        const T *x, const T *weight, const u32 *targets, float *out, u32 hidden) {                                        \
        constexpr u32 W = Width<T>::value;                                                                                \
        __shared__ double shared[32];                                                                                     \
        x += (u64)blockIdx.x * hidden;                                                                                    \
        weight += (u64)targets[blockIdx.x] * hidden;                                                                      \
        if (hidden % W == 0) dot_row<T, W>(x, weight, out + blockIdx.x, hidden, shared);                                  \
        else dot_row<T, 1>(x, weight, out + blockIdx.x, hidden, shared);                                                  \
    }

FOR_EACH_STORAGE(DEFINE)

// `hold`: the quarter fits into the dynamic shared memory of the launch; only where V is a multiple of 16 bytes.
template <typename T, typename U, bool TWO>
__device__ __forceinline__ void head_rows(const Rows<T, U> &rows, bool hold, ulonglong2 *slots) {
    constexpr u32 W = Width<T>::value;
    if (rows.vocabulary % W == 0) one_row<T, U, W, TWO>(rows, hold, slots);
    else one_row<T, U, 1, TWO>(rows, false, slots);
}

#define DEFINE_ROWS(NAME, T, U)                                                                                           \
    extern "C" __global__ ROW_GEOMETRY void head_rows_##NAME(                                                             \
        const T *logits, U *unit, const float *target_logits, const u32 *targets, float *logp, float *lse, u32 *argmax,   \
        u32 vocabulary, u32 hold) {                                                                                       \
        __shared__ ulonglong2 slots[SLOTS];                                                                               \
        const Rows<T, U> rows = {                                                                                         \
            logits, unit, target_logits, targets, nullptr, nullptr, nullptr, logp, lse, argmax, vocabulary};              \
        head_rows<T, U, false>(rows, hold, slots);                                                                        \
    }                                                                                                                     \
    extern "C" __global__ ROW_GEOMETRY void head_rows_two_##NAME(                                                         \
        const T *logits, U *unit, const float *target_logits, const u32 *targets, const float *second_logits,             \
        const u32 *second_targets, const float *weights, float *logp, float *lse, u32 *argmax, u32 vocabulary,            \
        u32 hold) {                                                                                                       \
        __shared__ ulonglong2 slots[SLOTS];                                                                               \
        const Rows<T, U> rows = {logits,         unit,    target_logits, targets, second_logits,                          \
                                 second_targets, weights, logp,          lse,     argmax,        vocabulary};             \
        head_rows<T, U, true>(rows, hold, slots);                                                                         \
    }

DEFINE_ROWS(f32, float, float)
DEFINE_ROWS(bf16, bf16, bf16)
DEFINE_ROWS(f32_bf16, float, bf16)
