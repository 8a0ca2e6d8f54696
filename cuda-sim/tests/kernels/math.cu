// A function per kernel, so that each result can be compared with the host's.
#define F(name) extern "C" __global__ void f_##name(const float* x, float* y) { y[threadIdx.x] = name(x[threadIdx.x]); }
#define D(name) extern "C" __global__ void d_##name(const double* x, double* y) { y[threadIdx.x] = name(x[threadIdx.x]); }
F(sinf) F(cosf) F(tanf) F(expf) F(exp2f) F(expm1f) F(logf) F(log2f) F(log10f) F(log1pf) F(sinhf) F(coshf) F(tanhf) F(atanf) F(cbrtf) F(sqrtf) F(asinhf)
D(sin) D(cos) D(tan) D(exp) D(exp2) D(expm1) D(log) D(log2) D(log10) D(log1p) D(sinh) D(cosh) D(tanh) D(atan) D(cbrt) D(sqrt) D(asinh)
