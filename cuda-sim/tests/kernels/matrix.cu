// Register layouts of tensor-core instructions, made visible: every thread stores its fragments.
#define KERNEL extern "C" __global__ void
__device__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

// Four 8x8 matrices of 16-bit numbers, each element its own index.
KERNEL load_matrix(unsigned* out, int transposed) {
    __shared__ __align__(16) unsigned short s[256];
    for (int i = threadIdx.x; i < 256; i += 32) s[i] = i;
    __syncwarp();
    unsigned a, b, c, d;
    if (transposed)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "r"(shared_address(s + 8 * threadIdx.x)));
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "r"(shared_address(s + 8 * threadIdx.x)));
    out[threadIdx.x] = a; out[32 + threadIdx.x] = b; out[64 + threadIdx.x] = c; out[96 + threadIdx.x] = d;
}

KERNEL store_matrix(unsigned short* out) {
    __shared__ __align__(16) unsigned short s[128];
    unsigned a = threadIdx.x * 2 | (threadIdx.x * 2 + 1) << 16;
    asm volatile("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%0], {%1};" ::"r"(shared_address(s + 8 * (threadIdx.x % 8))), "r"(a) : "memory");
    asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};" ::"r"(shared_address(s + 64 + 8 * (threadIdx.x % 8))), "r"(a) : "memory");
    __syncwarp();
    for (int i = threadIdx.x; i < 128; i += 32) out[i] = s[i];
}

#define MMA_16(name, types, cType)                                                                              \
    KERNEL name(const unsigned* a, const unsigned* b, const float* c, float* d) {                               \
        int t = threadIdx.x;                                                                                    \
        float d0, d1, d2, d3;                                                                                   \
        asm volatile("mma.sync.aligned." types " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"     \
                     : "=f"(d0), "=f"(d1), "=f"(d2), "=f"(d3)                                                   \
                     : "r"(a[4 * t]), "r"(a[4 * t + 1]), "r"(a[4 * t + 2]), "r"(a[4 * t + 3]), "r"(b[2 * t]),   \
                       "r"(b[2 * t + 1]), "f"(c[4 * t]), "f"(c[4 * t + 1]), "f"(c[4 * t + 2]), "f"(c[4 * t + 3])); \
        d[4 * t] = d0; d[4 * t + 1] = d1; d[4 * t + 2] = d2; d[4 * t + 3] = d3;                                 \
    }
MMA_16(mma_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32", float)
MMA_16(mma_f16, "m16n8k16.row.col.f32.f16.f16.f32", float)
MMA_16(mma_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32", float)

KERNEL mma_f16_f16(const unsigned* a, const unsigned* b, const unsigned* c, unsigned* d) {
    int t = threadIdx.x;
    unsigned d0, d1;
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%8,%9};"
                 : "=r"(d0), "=r"(d1)
                 : "r"(a[4 * t]), "r"(a[4 * t + 1]), "r"(a[4 * t + 2]), "r"(a[4 * t + 3]), "r"(b[2 * t]), "r"(b[2 * t + 1]),
                   "r"(c[2 * t]), "r"(c[2 * t + 1]));
    d[2 * t] = d0; d[2 * t + 1] = d1;
}

// Distributed shared memory: every block writes into its neighbour's.
KERNEL cluster_ring(int* out) {
    __shared__ int s[32];
    unsigned rank, size, remote;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared_address(s + threadIdx.x)), "r"((rank + 1) % size));
    asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
    asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(remote), "r"(rank * 100 + threadIdx.x) : "memory");
    asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
    out[blockIdx.x * 32 + threadIdx.x] = s[threadIdx.x];
}
KERNEL cluster_ring_bad(int* out) {
    __shared__ int s[32];
    unsigned rank, size, remote;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared_address(s + threadIdx.x)), "r"((rank + 1) % size));
    asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(remote), "r"(rank * 100 + threadIdx.x) : "memory");
    __syncthreads();
    out[blockIdx.x * 32 + threadIdx.x] = s[threadIdx.x];
}

// Counters with known answers.
KERNEL copy(const float* in, float* out, int stride) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = in[i * stride];
}
KERNEL column(float* out, int width) {
    extern __shared__ float tile[];
    tile[threadIdx.x * width] = threadIdx.x;
    __syncwarp();
    out[threadIdx.x] = tile[threadIdx.x * width];
}
