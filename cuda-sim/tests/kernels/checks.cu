// Planted bugs, each with its correct twin: `x_bad` must be found, `x_good` must pass.
#define KERNEL extern "C" __global__ void

KERNEL bounds_bad(float* a, int n) { a[threadIdx.x + 1] = 1; }
KERNEL bounds_good(float* a, int n) { if (threadIdx.x + 1 < n) a[threadIdx.x + 1] = 1; }

KERNEL misaligned_bad(char* a) { *(float4*)(a + 4 * threadIdx.x) = make_float4(1, 2, 3, 4); }
KERNEL misaligned_good(char* a) { *(float4*)(a + 16 * threadIdx.x) = make_float4(1, 2, 3, 4); }

KERNEL shared_bounds_bad(int* out) {
    extern __shared__ int s[];
    s[threadIdx.x] = 1;
    out[threadIdx.x] = s[threadIdx.x];
}

// A local array's index beyond what the thread has.
KERNEL local_bounds(int* out, int k) {
    int v[8];
    for (int i = 0; i < 8; i++) v[(i * 3) & 7] = i;
    out[threadIdx.x] = v[k];
}

KERNEL uninitialised(const float* a, float* out) { out[threadIdx.x] = a[threadIdx.x]; }

KERNEL uninitialised_shared_bad(int* out) {
    __shared__ int s[64];
    if (threadIdx.x < 63) s[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x];
}
KERNEL uninitialised_shared_good(int* out) {
    __shared__ int s[64];
    s[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x];
}

KERNEL uninitialised_local_bad(int* out, int k) {
    int v[8];
    for (int i = 0; i < 7; i++) v[(i * k) & 7] = i;
    out[threadIdx.x] = v[(threadIdx.x * k) & 7];
}
KERNEL uninitialised_local_good(int* out, int k) {
    int v[8];
    for (int i = 0; i < 8; i++) v[(i * k) & 7] = i;
    out[threadIdx.x] = v[(threadIdx.x * k) & 7];
}

KERNEL barrier_bad(int* out) {
    if (threadIdx.x % 2) {
        asm volatile("bar.sync 0;");
        out[threadIdx.x] = 1;
    } else {
        out[threadIdx.x] = 2;
        asm volatile("bar.sync 0;");
    }
}
KERNEL barrier_good(int* out) {
    if (threadIdx.x % 2) out[threadIdx.x] = 1; else out[threadIdx.x] = 2;
    __syncthreads();
}

// Threads that have ended are not waited for: lanes of a warp, and whole warps.
KERNEL exit_good(int* out, int n) {
    __shared__ int s[96];
    if (threadIdx.x >= n) return;
    s[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = s[n - 1 - threadIdx.x];
}
// What is left of a warp still needs the barrier.
KERNEL exit_bad(int* out, int n) {
    __shared__ int s[96];
    if (threadIdx.x >= n) return;
    s[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = s[n - 1 - threadIdx.x];
}

// Some warps wait at a barrier that the others never reach.
KERNEL deadlock_bad(int* out) {
    if (threadIdx.x < 32) asm volatile("bar.sync 1, 64;");
    out[threadIdx.x] = 1;
}
KERNEL deadlock_good(int* out) {
    asm volatile("bar.sync 1, 64;");
    out[threadIdx.x] = 1;
}

KERNEL race_bad(int* out) {
    __shared__ int s[64];
    s[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = s[63 - threadIdx.x];
}
KERNEL race_good(int* out) {
    __shared__ int s[64];
    s[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = s[63 - threadIdx.x];
}

// Write after read: the next round overwrites what others still read.
KERNEL overwrite_bad(int* out) {
    __shared__ int s[64];
    int v = 0;
    for (int i = 0; i < 4; i++) {
        s[threadIdx.x] = i * threadIdx.x;
        __syncthreads();
        v += s[63 - threadIdx.x];
    }
    out[threadIdx.x] = v;
}
KERNEL overwrite_good(int* out) {
    __shared__ int s[64];
    int v = 0;
    for (int i = 0; i < 4; i++) {
        s[threadIdx.x] = i * threadIdx.x;
        __syncthreads();
        v += s[63 - threadIdx.x];
        __syncthreads();
    }
    out[threadIdx.x] = v;
}

// Within a warp there is no order without a warp barrier.
KERNEL warp_race_bad(int* out) {
    __shared__ int s[32];
    s[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = s[31 - threadIdx.x];
}
KERNEL warp_race_good(int* out) {
    __shared__ int s[32];
    s[threadIdx.x] = threadIdx.x;
    __syncwarp();
    out[threadIdx.x] = s[31 - threadIdx.x];
}
KERNEL shuffle_orders_good(int* out) {
    __shared__ int s[32];
    s[threadIdx.x] = threadIdx.x;
    int other = __shfl_xor_sync(0xffffffff, (int)threadIdx.x, 1);
    out[threadIdx.x] = s[31 - threadIdx.x] + other;
}
// A shuffle orders its members, and nobody else.
KERNEL shuffle_orders_bad(int* out) {
    __shared__ int s[32];
    unsigned mask = threadIdx.x < 16 ? 0xffffu : 0xffff0000u;
    s[threadIdx.x] = threadIdx.x;
    int other = __shfl_xor_sync(mask, (int)threadIdx.x, 1);
    out[threadIdx.x] = s[31 - threadIdx.x] + other;
}
// Halves of a warp that synchronise among themselves only.
KERNEL half_warp_bad(int* out) {
    __shared__ int s[32];
    unsigned mask = threadIdx.x < 16 ? 0xffffu : 0xffff0000u;
    s[threadIdx.x] = threadIdx.x;
    __syncwarp(mask);
    out[threadIdx.x] = s[threadIdx.x ^ 16];
}
KERNEL half_warp_good(int* out) {
    __shared__ int s[32];
    unsigned mask = threadIdx.x < 16 ? 0xffffu : 0xffff0000u;
    s[threadIdx.x] = threadIdx.x;
    __syncwarp(mask);
    out[threadIdx.x] = s[threadIdx.x ^ 8];
}

// Lanes of one warp that store to one place in one instruction: no race if they store the same.
KERNEL together_good(int* out) {
    __shared__ int s[32];
    asm volatile("st.shared.u32 [%0], 7;" ::"r"((unsigned)__cvta_generic_to_shared(s + threadIdx.x / 16)) : "memory");
    __syncwarp();
    out[threadIdx.x] = s[threadIdx.x / 16];
}
KERNEL together_bad(int* out) {
    __shared__ int s[32];
    asm volatile("st.shared.u32 [%0], %1;" ::"r"((unsigned)__cvta_generic_to_shared(s)), "r"(threadIdx.x / 16) : "memory");
    __syncwarp();
    out[threadIdx.x] = s[0];
}
// The same by two warps, or by two instructions, is a race, whatever they store.
KERNEL sticky_flag_bad(int* flag) { if (threadIdx.x % 32 == 5) *flag = 1; }
KERNEL sticky_flag_good(int* flag) { if (threadIdx.x % 32 == 5) atomicOr(flag, 1); }
KERNEL two_stores_bad(int* out) {
    if (threadIdx.x == 0) asm volatile("st.global.u32 [%0], 7;" ::"l"(out) : "memory");
    if (threadIdx.x == 1) asm volatile("st.global.u32 [%0], 7;" ::"l"(out) : "memory");
}

// Named barriers: a producer warp arrives, a consumer warp waits.
KERNEL producer_bad(int* out) {
    __shared__ int s[32];
    if (threadIdx.x < 32) {
        asm volatile("bar.arrive 1, 64;" ::: "memory");
        s[threadIdx.x] = threadIdx.x;
    } else {
        asm volatile("bar.sync 1, 64;" ::: "memory");
        out[threadIdx.x - 32] = s[63 - threadIdx.x];
    }
}
KERNEL producer_good(int* out) {
    __shared__ int s[32];
    if (threadIdx.x < 32) {
        s[threadIdx.x] = threadIdx.x;
        asm volatile("bar.arrive 1, 64;" ::: "memory");
    } else {
        asm volatile("bar.sync 1, 64;" ::: "memory");
        out[threadIdx.x - 32] = s[63 - threadIdx.x];
    }
}

// Who only arrives does not wait, and so learns nothing.
KERNEL arrive_bad(int* out) {
    __shared__ int s[32];
    if (threadIdx.x < 32) {
        s[threadIdx.x] = 1;
        asm volatile("bar.sync 1, 64;" ::: "memory");
    } else {
        asm volatile("bar.arrive 1, 64;" ::: "memory");
        out[threadIdx.x] = s[threadIdx.x - 32];
    }
}
KERNEL arrive_good(int* out) {
    __shared__ int s[32];
    if (threadIdx.x < 32) {
        s[threadIdx.x] = 1;
        asm volatile("bar.arrive 1, 64;" ::: "memory");
    } else {
        asm volatile("bar.sync 1, 64;" ::: "memory");
        out[threadIdx.x] = s[threadIdx.x - 32];
    }
}
// Many read what one then overwrites.
KERNEL readers_bad(int* out) {
    __shared__ int s;
    if (threadIdx.x == 0) s = 1;
    __syncthreads();
    out[threadIdx.x] = s;
    if (threadIdx.x == 0) s = 2;
}
KERNEL readers_good(int* out) {
    __shared__ int s;
    if (threadIdx.x == 0) s = 1;
    __syncthreads();
    out[threadIdx.x] = s;
    __syncthreads();
    if (threadIdx.x == 0) s = 2;
}
// Pairs of warps with a barrier each: what the other pair wrote is not known.
KERNEL pairs_bad(int* out) {
    __shared__ int s[128];
    s[threadIdx.x] = threadIdx.x;
    if (threadIdx.x < 64) asm volatile("bar.sync 1, 64;" ::: "memory");
    else asm volatile("bar.sync 2, 64;" ::: "memory");
    out[threadIdx.x] = s[threadIdx.x ^ 64];
}
KERNEL pairs_good(int* out) {
    __shared__ int s[128];
    s[threadIdx.x] = threadIdx.x;
    if (threadIdx.x < 64) asm volatile("bar.sync 1, 64;" ::: "memory");
    else asm volatile("bar.sync 2, 64;" ::: "memory");
    out[threadIdx.x] = s[threadIdx.x ^ 32];
}
// An atomic beside a plain access within a block.
KERNEL shared_atomic_bad(int* out) {
    __shared__ int s;
    if (threadIdx.x == 0) s = 0;
    __syncthreads();
    if (threadIdx.x == 40) s = 5;
    else atomicAdd(&s, 1);
    __syncthreads();
    out[threadIdx.x] = s;
}
KERNEL shared_atomic_good(int* out) {
    __shared__ int s;
    if (threadIdx.x == 0) s = 0;
    __syncthreads();
    if (threadIdx.x == 40) atomicAdd(&s, 5);
    else atomicAdd(&s, 1);
    __syncthreads();
    out[threadIdx.x] = s;
}

// Sixteen-bit neighbours and bytes of one word by different threads are no race.
KERNEL neighbours_good(unsigned short* a) { a[threadIdx.x + blockIdx.x * blockDim.x] = threadIdx.x; }

KERNEL bytes_good(unsigned char* a) { a[threadIdx.x + blockIdx.x * blockDim.x] = threadIdx.x; }

KERNEL block_conflict_bad(int* a) { a[threadIdx.x] = blockIdx.x; }
KERNEL block_conflict_good(int* a) { a[blockIdx.x * blockDim.x + threadIdx.x] = blockIdx.x; }
KERNEL block_read_bad(int* a, int* out) {
    a[blockIdx.x * blockDim.x + threadIdx.x] = 1;
    out[blockIdx.x * blockDim.x + threadIdx.x] = a[((blockIdx.x + 1) % gridDim.x) * blockDim.x + threadIdx.x];
}
// An atomic beside a plain store.
KERNEL atomic_bad(int* a) { if (blockIdx.x) atomicAdd(a, 1); else if (threadIdx.x == 0) *a = 0; }
KERNEL atomic_good(int* a) { atomicAdd(a, 1); }
// An atomic of block scope does not reach other blocks.
KERNEL scope_bad(int* a) { atomicAdd_block(a, 1); }
KERNEL scope_good(int* a) { atomicAdd_block(a + blockIdx.x, 1); }

// A message from block 0 to block 1. A fence reaches as far as its scope, so do release and acquire.
#define MESSAGE(name, publish, receive)                                                            \
    KERNEL name(int* data, int* flag) {                                                            \
        if (threadIdx.x != 0) return;                                                              \
        if (blockIdx.x == 0) {                                                                     \
            *data = 7;                                                                             \
            asm volatile(publish ::"l"(flag) : "memory");                                          \
        } else {                                                                                   \
            int f;                                                                                 \
            do asm volatile(receive : "=r"(f) : "l"(flag) : "memory");                             \
            while (!f);                                                                            \
            data[1] = *data;                                                                       \
        }                                                                                          \
    }
MESSAGE(fence_scope_good, "fence.acq_rel.gpu; st.relaxed.gpu.u32 [%0], 1;", "ld.relaxed.gpu.u32 %0, [%1]; fence.acq_rel.gpu;")
MESSAGE(fence_scope_bad, "fence.acq_rel.cta; st.relaxed.gpu.u32 [%0], 1;", "ld.relaxed.gpu.u32 %0, [%1]; fence.acq_rel.cta;")
MESSAGE(fence_release_bad, "fence.acq_rel.cta; st.relaxed.gpu.u32 [%0], 1;", "ld.relaxed.gpu.u32 %0, [%1]; fence.acq_rel.gpu;")
MESSAGE(fence_acquire_bad, "fence.acq_rel.gpu; st.relaxed.gpu.u32 [%0], 1;", "ld.relaxed.gpu.u32 %0, [%1]; fence.acq_rel.cta;")
MESSAGE(no_acquire_bad, "st.release.gpu.u32 [%0], 1;", "ld.relaxed.gpu.u32 %0, [%1];")
MESSAGE(no_release_bad, "st.relaxed.gpu.u32 [%0], 1;", "ld.acquire.gpu.u32 %0, [%1];")
MESSAGE(release_good, "st.release.gpu.u32 [%0], 1;", "ld.acquire.gpu.u32 %0, [%1];")
MESSAGE(atomic_release_good, "red.release.gpu.global.add.u32 [%0], 1;", "atom.acquire.gpu.global.add.u32 %0, [%1], 0;")

// The last block to finish reads what all have written.
KERNEL last_block_bad(int* data, int* count, int* out) {
    if (threadIdx.x == 0) {
        data[blockIdx.x] = blockIdx.x;
        if (atomicAdd(count, 1) == gridDim.x - 1) {
            int sum = 0;
            for (int i = 0; i < gridDim.x; i++) sum += data[i];
            *out = sum;
        }
    }
}
KERNEL last_block_good(int* data, int* count, int* out) {
    if (threadIdx.x == 0) {
        data[blockIdx.x] = blockIdx.x;
        __threadfence();
        if (atomicAdd(count, 1) == gridDim.x - 1) {
            __threadfence();
            int sum = 0;
            for (int i = 0; i < gridDim.x; i++) sum += data[i];
            *out = sum;
        }
    }
}
// The same, where the whole block writes and one thread publishes for it.
KERNEL last_block_team_good(int* data, int* count, int* out) {
    __shared__ bool last;
    data[blockIdx.x * blockDim.x + threadIdx.x] = threadIdx.x;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicAdd(count, 1) == gridDim.x - 1;
        __threadfence();
    }
    __syncthreads();
    if (last) {
        int sum = 0;
        for (int i = threadIdx.x; i < gridDim.x * blockDim.x; i += blockDim.x) sum += data[i];
        atomicAdd(out, sum);
    }
}

// Release and acquire through a flag in shared memory.
#define FLAG(name, publish, receive)                                                                                        \
    KERNEL name(int* out) {                                                                                                 \
        __shared__ int data, flag;                                                                                          \
        unsigned at = (unsigned)__cvta_generic_to_shared(&flag);                                                            \
        if (threadIdx.x == 0) flag = 0;                                                                                     \
        __syncthreads();                                                                                                    \
        if (threadIdx.x == 0) {                                                                                             \
            data = *out + 7;                                                                                                \
            asm volatile(publish ::"r"(at) : "memory");                                                                     \
        } else if (threadIdx.x == 32) {                                                                                     \
            int f;                                                                                                          \
            do asm volatile(receive : "=r"(f) : "r"(at) : "memory");                                                        \
            while (!f);                                                                                                     \
            *out = data;                                                                                                    \
        }                                                                                                                   \
    }
FLAG(flag_good, "st.release.cta.shared.u32 [%0], 1;", "ld.acquire.cta.shared.u32 %0, [%1];")
FLAG(flag_bad, "st.relaxed.cta.shared.u32 [%0], 1;", "ld.relaxed.cta.shared.u32 %0, [%1];")
FLAG(flag_release_bad, "st.release.cta.shared.u32 [%0], 1;", "ld.relaxed.cta.shared.u32 %0, [%1];")
FLAG(flag_acquire_bad, "st.relaxed.cta.shared.u32 [%0], 1;", "ld.acquire.cta.shared.u32 %0, [%1];")
FLAG(flag_fence_good, "fence.acq_rel.cta; st.relaxed.cta.shared.u32 [%0], 1;", "ld.relaxed.cta.shared.u32 %0, [%1]; fence.acq_rel.cta;")

#define COPY(to, from) asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"((unsigned)__cvta_generic_to_shared(to)), "l"(from) : "memory")
#define COMMIT asm volatile("cp.async.commit_group;" ::: "memory")
#define WAIT(n) asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory")

KERNEL copy_bad(const int* in, int* out) {
    __shared__ int s[64];
    COPY(s + threadIdx.x, in + threadIdx.x);
    COMMIT;
    __syncthreads();
    out[threadIdx.x] = s[63 - threadIdx.x];
    WAIT(0);
}
// The source must stay as it is until the copy has been waited for.
KERNEL copy_source_bad(int* in, int* out) {
    __shared__ int s[64];
    COPY(s + threadIdx.x, in + threadIdx.x);
    COMMIT;
    in[threadIdx.x] = 5;
    WAIT(0);
    out[threadIdx.x] = s[threadIdx.x];
}
KERNEL copy_source_good(int* in, int* out) {
    __shared__ int s[64];
    COPY(s + threadIdx.x, in + threadIdx.x);
    COMMIT;
    WAIT(0);
    in[threadIdx.x] = 5;
    out[threadIdx.x] = s[threadIdx.x];
}
// Waiting is for the own copies only; the barrier makes it everybody's.
KERNEL copy_no_barrier_bad(const int* in, int* out) {
    __shared__ int s[64];
    COPY(s + threadIdx.x, in + threadIdx.x);
    COMMIT;
    WAIT(0);
    out[threadIdx.x] = s[63 - threadIdx.x];
}
// A barrier before the wait is too early.
KERNEL copy_early_barrier_bad(const int* in, int* out) {
    __shared__ int s[64];
    COPY(s + threadIdx.x, in + threadIdx.x);
    COMMIT;
    __syncthreads();
    WAIT(0);
    out[threadIdx.x] = s[63 - threadIdx.x];
}
KERNEL copy_good(const int* in, int* out) {
    __shared__ int s[64];
    COPY(s + threadIdx.x, in + threadIdx.x);
    COMMIT;
    WAIT(0);
    __syncthreads();
    out[threadIdx.x] = s[63 - threadIdx.x];
}
// Two groups in flight, as pipelines have them; `wait 1` leaves the newer one.
KERNEL pipeline_good(const int* in, int* out, int n) {
    __shared__ int s[2][64];
    int sum = 0;
    COPY(&s[0][threadIdx.x], in + threadIdx.x);
    COMMIT;
    for (int i = 0; i < n; i++) {
        if (i + 1 < n) COPY(&s[(i + 1) & 1][threadIdx.x], in + 64 * (i + 1) + threadIdx.x);
        COMMIT;
        WAIT(1);
        __syncthreads();
        sum += s[i & 1][63 - threadIdx.x];
        __syncthreads();
    }
    out[threadIdx.x] = sum;
}
KERNEL pipeline_bad(const int* in, int* out, int n) {
    __shared__ int s[2][64];
    int sum = 0;
    COPY(&s[0][threadIdx.x], in + threadIdx.x);
    COMMIT;
    for (int i = 0; i < n; i++) {
        if (i + 1 < n) COPY(&s[(i + 1) & 1][threadIdx.x], in + 64 * (i + 1) + threadIdx.x);
        COMMIT;
        WAIT(2);
        __syncthreads();
        sum += s[i & 1][63 - threadIdx.x];
        __syncthreads();
    }
    out[threadIdx.x] = sum;
}

KERNEL partial_warp_bad(unsigned* out) {
    __shared__ __align__(16) unsigned short s[64];
    s[threadIdx.x] = s[threadIdx.x + 32] = threadIdx.x;
    __syncthreads();
    unsigned r = 0;
    if (threadIdx.x < 16)
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r) : "r"((unsigned)__cvta_generic_to_shared(s + threadIdx.x % 8 * 8)));
    out[threadIdx.x] = r;
}
KERNEL partial_warp_good(unsigned* out) {
    __shared__ __align__(16) unsigned short s[64];
    s[threadIdx.x] = s[threadIdx.x + 32] = threadIdx.x;
    __syncthreads();
    unsigned r = 0;
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r) : "r"((unsigned)__cvta_generic_to_shared(s + threadIdx.x % 8 * 8)));
    out[threadIdx.x] = r;
}

#define MMA(d, a) asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%4,%4,%4}, {%4,%4}, {%0,%1,%2,%3};" \
                               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a))
KERNEL partial_mma_bad(float* out) {
    float d[4] = {0, 0, 0, 0};
    if (threadIdx.x < 31) MMA(d, threadIdx.x);
    out[threadIdx.x] = d[0];
}
KERNEL partial_mma_good(float* out) {
    float d[4] = {0, 0, 0, 0};
    MMA(d, threadIdx.x);
    out[threadIdx.x] = d[0];
}

// Blocks of a cluster. Arriving in the relaxed form gives nothing away.
#define NEIGHBOUR(name, before)                                                                                              \
    KERNEL name(int* out) {                                                                                                  \
        __shared__ int s[32];                                                                                                \
        unsigned rank, remote;                                                                                               \
        int value;                                                                                                           \
        asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));                                                                  \
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"((unsigned)__cvta_generic_to_shared(s + threadIdx.x)), "r"(rank ^ 1)); \
        s[threadIdx.x] = rank;                                                                                               \
        asm volatile(before ::: "memory");                                                                                   \
        asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(value) : "r"(remote) : "memory");                             \
        out[blockIdx.x * 32 + threadIdx.x] = value;                                                                          \
        asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");                          \
    }
NEIGHBOUR(cluster_good, "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;")
NEIGHBOUR(cluster_relaxed_bad, "barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.aligned;")
NEIGHBOUR(cluster_block_bad, "bar.sync 0;")

KERNEL trap_bad(int* out) { if (threadIdx.x == 5) __trap(); out[threadIdx.x] = 0; }
KERNEL constant_bad(int* out) {
    static __constant__ int c[4] = {1, 2, 3, 4};
    asm volatile("st.u32 [%0], 1;" ::"l"(&c[threadIdx.x & 3]));
    out[threadIdx.x] = c[threadIdx.x & 3];
}
