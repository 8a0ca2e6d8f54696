// Copies from global to shared memory that run beside the computation (PTX ISA 9.7.9.25.3, cp.async; sm_80 and up).
//
// A thread waits for its own copies only: a barrier between the wait and the first use makes everybody's visible.
#pragma once

#include "lib/reduce.cuh"

// The address of shared memory as instructions take it.
__device__ __forceinline__ u32 shared_address(const void *pointer) { return (u32)__cvta_generic_to_shared(pointer); }

// 16 bytes, past the L1 cache; zeros where the source is not `there`, and then it is not read.
__device__ __forceinline__ void copy_async_16(u32 target, const void *source, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(there ? 16 : 0)
                 : "memory");
}

// The same for one f32.
__device__ __forceinline__ void copy_async_4(u32 target, const void *source, bool there) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(target), "l"(source), "r"(there ? 4 : 0)
                 : "memory");
}

// Closes the group of the copies begun since the last call; it may be empty.
__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for all closed groups but the newest PENDING.
template <u32 PENDING> __device__ __forceinline__ void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
