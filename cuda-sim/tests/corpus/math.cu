// Every f32 and f64 function of CUDA's math library, so that whatever NVRTC makes of them is executed.
#define F1(f) out[i++] = f(x);
#define F2(f) out[i++] = f(x, y);
extern "C" __global__ void math_f32(const float* in, float* out, int* whole) {
    float x = in[threadIdx.x], y = in[threadIdx.x + 1], z = in[threadIdx.x + 2];
    int i = threadIdx.x * 128, e;
    F1(acosf) F1(acoshf) F1(asinf) F1(asinhf) F1(atanf) F1(atanhf) F1(cbrtf) F1(ceilf) F1(cosf) F1(coshf) F1(cospif)
    F1(cyl_bessel_i0f) F1(cyl_bessel_i1f) F1(erfcf) F1(erfcinvf) F1(erfcxf) F1(erff) F1(erfinvf) F1(exp10f) F1(exp2f) F1(expf)
    F1(expm1f) F1(fabsf) F1(floorf) F1(j0f) F1(j1f) F1(lgammaf) F1(log10f) F1(log1pf) F1(log2f) F1(logbf) F1(logf)
    F1(nearbyintf) F1(normcdff) F1(normcdfinvf) F1(rcbrtf) F1(rintf) F1(roundf) F1(rsqrtf) F1(sinf) F1(sinhf) F1(sinpif)
    F1(sqrtf) F1(tanf) F1(tanhf) F1(tgammaf) F1(truncf) F1(y0f) F1(y1f)
    F2(atan2f) F2(copysignf) F2(fdimf) F2(fdividef) F2(fmaxf) F2(fminf) F2(fmodf) F2(hypotf) F2(nextafterf) F2(powf)
    F2(remainderf) F2(rhypotf)
    out[i++] = fmaf(x, y, z); out[i++] = norm3df(x, y, z); out[i++] = frexpf(x, &e); out[i++] = ldexpf(y, e);
    out[i++] = jnf(2, x); out[i++] = ynf(2, x); out[i++] = remquof(x, y, &e); out[i++] = modff(x, out + i + 1);
    sincosf(x, out + i, out + i + 1); i += 2;
    F1(__cosf) F1(__exp10f) F1(__expf) F1(__log10f) F1(__log2f) F1(__logf) F1(__sinf) F1(__tanf) F1(__saturatef) F1(__frsqrt_rn)
    F2(__powf) F2(__fdividef)
    F2(__fadd_rd) F2(__fadd_ru) F2(__fadd_rz) F2(__fmul_rd) F2(__fmul_ru) F2(__fmul_rz) F2(__fdiv_rd) F2(__fdiv_ru) F2(__fdiv_rz)
    F1(__frcp_rd) F1(__frcp_ru) F1(__frcp_rz) F1(__frcp_rn) F1(__fsqrt_rd) F1(__fsqrt_ru) F1(__fsqrt_rz)
    out[i++] = __fmaf_rz(x, y, z); out[i++] = __fmaf_rd(x, y, z); out[i++] = __fmaf_ru(x, y, z);
    whole[threadIdx.x] = ilogbf(x) + isnan(x) + isinf(x) + isfinite(x) + signbit(x) + (int)llrintf(x) + (int)lroundf(x)
        + __float2int_rd(x) + __float2int_ru(x) + __float2uint_rn(x) + (int)__float2ll_rz(x) + (int)__float2ull_rd(x)
        + __float_as_int(x);
    out[i++] = __int2float_rz(e) + __uint2float_ru(e) + __ll2float_rd(e) + __ull2float_rn(e);
}
extern "C" __global__ void math_f64(const double* in, double* out, int* whole) {
    double x = in[threadIdx.x], y = in[threadIdx.x + 1], z = in[threadIdx.x + 2];
    int i = threadIdx.x * 128, e;
    F1(acos) F1(acosh) F1(asin) F1(asinh) F1(atan) F1(atanh) F1(cbrt) F1(ceil) F1(cos) F1(cosh) F1(cospi) F1(cyl_bessel_i0)
    F1(cyl_bessel_i1) F1(erf) F1(erfc) F1(erfcinv) F1(erfcx) F1(erfinv) F1(exp) F1(exp10) F1(exp2) F1(expm1) F1(fabs) F1(floor)
    F1(j0) F1(j1) F1(lgamma) F1(log) F1(log10) F1(log1p) F1(log2) F1(logb) F1(nearbyint) F1(normcdf) F1(normcdfinv) F1(rcbrt)
    F1(rint) F1(round) F1(rsqrt) F1(sin) F1(sinh) F1(sinpi) F1(sqrt) F1(tan) F1(tanh) F1(tgamma) F1(trunc) F1(y0) F1(y1)
    F2(atan2) F2(copysign) F2(fdim) F2(fmax) F2(fmin) F2(fmod) F2(hypot) F2(nextafter) F2(pow) F2(remainder) F2(rhypot)
    out[i++] = fma(x, y, z); out[i++] = norm3d(x, y, z); out[i++] = frexp(x, &e); out[i++] = ldexp(y, e);
    out[i++] = jn(2, x); out[i++] = yn(2, x); out[i++] = remquo(x, y, &e); out[i++] = modf(x, out + i + 1);
    sincos(x, out + i, out + i + 1); i += 2;
    F2(__dadd_rd) F2(__dadd_ru) F2(__dadd_rz) F2(__dmul_rd) F2(__dmul_ru) F2(__dmul_rz) F2(__ddiv_rd) F2(__ddiv_ru) F2(__ddiv_rz)
    F1(__drcp_rd) F1(__drcp_ru) F1(__drcp_rz) F1(__dsqrt_rd) F1(__dsqrt_ru) F1(__dsqrt_rz)
    out[i++] = __fma_rz(x, y, z); out[i++] = __fma_rd(x, y, z); out[i++] = __fma_ru(x, y, z);
    whole[threadIdx.x] = ilogb(x) + isnan(x) + __double2int_rd(x) + (int)__double2ll_ru(x) + __double2hiint(x) + __double2loint(x)
        + (int)__double2uint_rz(x) + (int)llround(x);
    out[i++] = __ll2double_rd(e) + __ull2double_ru(e) + __hiloint2double(e, e);
}
extern "C" __global__ void integers(const unsigned* in, const unsigned long long* wide, unsigned* out) {
    unsigned a = in[threadIdx.x], b = in[threadIdx.x + 1], c = in[threadIdx.x + 2];
    unsigned long long x = wide[threadIdx.x], y = wide[threadIdx.x + 1];
    int i = threadIdx.x * 64;
    out[i++] = __brev(a); out[i++] = __clz(a); out[i++] = __ffs(a); out[i++] = __popc(a); out[i++] = __byte_perm(a, b, c);
    out[i++] = __brevll(x); out[i++] = __clzll(x); out[i++] = __ffsll(x); out[i++] = __popcll(x);
    out[i++] = __funnelshift_l(a, b, c); out[i++] = __funnelshift_lc(a, b, c); out[i++] = __funnelshift_r(a, b, c);
    out[i++] = __funnelshift_rc(a, b, c); out[i++] = __hadd(a, b); out[i++] = __rhadd(a, b); out[i++] = __uhadd(a, b);
    out[i++] = __mul24(a, b); out[i++] = __umul24(a, b); out[i++] = __mulhi(a, b); out[i++] = __umulhi(a, b);
    out[i++] = __mul64hi(x, y); out[i++] = __umul64hi(x, y); out[i++] = __sad(a, b, c); out[i++] = __usad(a, b, c);
    out[i++] = __vadd2(a, b); out[i++] = __vmaxs2(a, b); out[i++] = __vabsdiffu4(a, b); out[i++] = __vcmpgts4(a, b);
    out[i++] = __dp4a((int)a, (int)b, (int)c); out[i++] = __dp2a_lo((int)a, (int)b, (int)c); out[i++] = __fns(a, b & 31, 2);
    out[i++] = x / y; out[i++] = x % y; out[i++] = (long long)x / (long long)(y | 1); out[i++] = a / (b | 1); out[i++] = (int)a % (int)(b | 1);
    out[i++] = max((long long)x, (long long)y); out[i++] = min(x, y); out[i++] = x >> (a & 63); out[i++] = x << (b & 63);
    out[i++] = __reduce_add_sync(~0u, a); out[i++] = __reduce_max_sync(~0u, (int)b); out[i++] = __reduce_xor_sync(~0u, c);
    out[i++] = __match_any_sync(~0u, a & 3); int p; out[i++] = __match_all_sync(~0u, a, &p); out[i++] = p;
    out[i++] = __ballot_sync(~0u, a & 1); out[i++] = __any_sync(~0u, b & 1); out[i++] = __all_sync(~0u, c & 1); out[i++] = __activemask();
    out[i++] = __syncthreads_count(a & 1); out[i++] = __syncthreads_and(a); out[i++] = __syncthreads_or(b);
    out[i++] = __shfl_sync(~0u, a, b); out[i++] = __shfl_up_sync(~0u, a, 3, 8); out[i++] = __shfl_down_sync(~0u, x, 5, 16);
    out[i++] = __isShared(out) + __isGlobal(out) + __isConstant(out) + __isLocal(out);
    out[i++] = clock() + clock64(); __nanosleep(10);
}
extern "C" __global__ void atomics(unsigned* u, int* s, unsigned long long* w, float* f, double* d) {
    unsigned a = threadIdx.x;
    atomicAdd(u, a); atomicSub(u, a); atomicExch(u + 1, a); atomicMin(u, a); atomicMax(u, a); atomicInc(u, a); atomicDec(u, a);
    atomicCAS(u, a, a + 1); atomicAnd(u, a); atomicOr(u, a); atomicXor(u, a); atomicMin(s, a); atomicMax(s, a);
    atomicAdd(w, a); atomicMin(w, a); atomicMax((long long*)w, a); atomicCAS(w, a, a); atomicExch(w, a); atomicOr(w, a);
    u[2] = atomicAdd(f, a) + atomicAdd(d, a) + atomicExch(f, a) + atomicAdd_system(u, a) + atomicMax_block(s, a) + atomicCAS((unsigned short*)u, 1, 2);
}
