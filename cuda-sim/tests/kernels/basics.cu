// Programs of everyday shape: arithmetic, control flow, calls, local arrays, shared memory, printing.

extern "C" __global__ void add(const float* a, const float* b, float* c, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) c[i] = a[i] + b[i];
}

__device__ __noinline__ unsigned collatz(unsigned n) {
    unsigned steps = 0;
    while (n != 1) {
        n = n & 1 ? 3 * n + 1 : n / 2;
        steps++;
    }
    return steps;
}

// Divergent loops inside a function that is really called.
extern "C" __global__ void collatz_steps(unsigned* out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = collatz(i + 1);
}

__device__ __noinline__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

extern "C" __global__ void recursion(int* out) { out[threadIdx.x] = fibonacci(threadIdx.x % 12); }

__device__ __noinline__ int twice(int x) { return 2 * x; }
__device__ __noinline__ int square(int x) { return x * x; }
__device__ __noinline__ int negate(int x) { return -x; }
__device__ int (*const table[3])(int) = {twice, square, negate};

extern "C" __global__ void indirect(int* out) { out[threadIdx.x] = table[threadIdx.x % 3](threadIdx.x); }

extern "C" __global__ void switched(const int* which, int* out) {
    int i = threadIdx.x, r = 0;
    switch (which[i]) {
        case 0: r = 10; break;
        case 1: r = i * 3; break;
        case 2: r = i * i; // falls through
        case 3: r += 7; break;
        case 4: for (int j = 0; j < i; j++) r += j; break;
        case 5: r = -i; break;
        case 6: r = i ^ 0x55; break;
        default: r = 1000;
    }
    out[i] = r;
}

// An array that the compiler cannot keep in registers.
extern "C" __global__ void local_array(const int* index, int* out) {
    int values[16];
    for (int j = 0; j < 16; j++) values[j] = j * j + threadIdx.x;
    for (int j = 0; j < 16; j++) values[index[(threadIdx.x + j) & 15]] += values[j];
    int sum = 0;
    for (int j = 0; j < 16; j++) sum = sum * 3 + values[j];
    out[threadIdx.x] = sum;
}

// Block-wide sum in shared memory, then across blocks by an atomic.
extern "C" __global__ void sum(const int* in, int* total, int n) {
    __shared__ int partial[256];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    partial[threadIdx.x] = i < n ? in[i] : 0;
    __syncthreads();
    for (int s = blockDim.x / 2; s > 0; s /= 2) {
        if (threadIdx.x < s) partial[threadIdx.x] += partial[threadIdx.x + s];
        __syncthreads();
    }
    if (threadIdx.x == 0) atomicAdd(total, partial[0]);
}

// Inclusive scan of a block by shuffles.
extern "C" __global__ void scan(const int* in, int* out) {
    __shared__ int sums[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int v = in[blockIdx.x * blockDim.x + threadIdx.x];
    for (int d = 1; d < 32; d *= 2) {
        int o = __shfl_up_sync(0xffffffff, v, d);
        if (lane >= d) v += o;
    }
    if (lane == 31) sums[warp] = v;
    __syncthreads();
    if (warp == 0) {
        int s = lane < blockDim.x / 32 ? sums[lane] : 0;
        for (int d = 1; d < 32; d *= 2) {
            int o = __shfl_up_sync(0xffffffff, s, d);
            if (lane >= d) s += o;
        }
        sums[lane] = s;
    }
    __syncthreads();
    if (warp > 0) v += sums[warp - 1];
    out[blockIdx.x * blockDim.x + threadIdx.x] = v;
}

extern "C" __global__ void histogram(const unsigned char* in, unsigned* bins, int n) {
    __shared__ unsigned local[64];
    for (int i = threadIdx.x; i < 64; i += blockDim.x) local[i] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&local[in[i] % 64], 1);
    __syncthreads();
    for (int i = threadIdx.x; i < 64; i += blockDim.x) atomicAdd(&bins[i], local[i]);
}

extern "C" __global__ void transpose(const float* in, float* out, int n) {
    __shared__ float tile[32][33];
    int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32 + threadIdx.y;
    for (int j = 0; j < 32; j += 8) tile[threadIdx.y + j][threadIdx.x] = in[(y + j) * n + x];
    __syncthreads();
    x = blockIdx.y * 32 + threadIdx.x;
    y = blockIdx.x * 32 + threadIdx.y;
    for (int j = 0; j < 32; j += 8) out[(y + j) * n + x] = tile[threadIdx.x][threadIdx.y + j];
}

extern "C" __global__ void product(const float* a, const float* b, float* c, int n) {
    __shared__ float as[16][16], bs[16][16];
    int row = blockIdx.y * 16 + threadIdx.y, col = blockIdx.x * 16 + threadIdx.x;
    float sum = 0;
    for (int t = 0; t < n; t += 16) {
        as[threadIdx.y][threadIdx.x] = a[row * n + t + threadIdx.x];
        bs[threadIdx.y][threadIdx.x] = b[(t + threadIdx.y) * n + col];
        __syncthreads();
        for (int k = 0; k < 16; k++) sum = fmaf(as[threadIdx.y][k], bs[k][threadIdx.x], sum);
        __syncthreads();
    }
    c[row * n + col] = sum;
}

extern "C" __global__ void print(const char* name) {
    if (threadIdx.x < 2) printf("%s %d %5.2f %llx %c%%\n", name, threadIdx.x, 1.5 * threadIdx.x, 0x123456789abcull, 'x');
}

// A lock taken by every thread of a warp in turn.
extern "C" __global__ void lock(int* mutex, int* counter) {
    bool done = false;
    while (!done) {
        if (atomicCAS(mutex, 0, 1) == 0) {
            __threadfence();
            *(volatile int*)counter = *(volatile int*)counter + 1;
            __threadfence();
            atomicExch(mutex, 0);
            done = true;
        }
    }
}

// Blocks that wait for each other: a barrier of the whole grid.
extern "C" __global__ void grid_barrier(int* arrived, int* data, int* out) {
    if (threadIdx.x == 0) {
        data[blockIdx.x] = blockIdx.x + 1;
        __threadfence();
        atomicAdd(arrived, 1);
        while (*(volatile int*)arrived < gridDim.x) {}
        __threadfence();
        int sum = 0;
        for (int i = 0; i < gridDim.x; i++) sum += data[i];
        out[blockIdx.x] = sum;
    }
}

extern "C" __global__ void carry(const unsigned long long* a, const unsigned long long* b, unsigned long long* out) {
    int i = threadIdx.x;
    unsigned __int128 x = ((unsigned __int128)a[2 * i + 1] << 64) | a[2 * i];
    unsigned __int128 y = ((unsigned __int128)b[2 * i + 1] << 64) | b[2 * i];
    unsigned __int128 s = x + y, d = x - y, p = x * y;
    out[6 * i] = s; out[6 * i + 1] = s >> 64;
    out[6 * i + 2] = d; out[6 * i + 3] = d >> 64;
    out[6 * i + 4] = p; out[6 * i + 5] = p >> 64;
}
