// Tensor cores and the instructions that feed them: copies to shared memory that run beside arithmetic, loads of
// fragments, and the product of fragments. Each wrapper is one instruction of PTX, and on `cuda-host` its twin of
// host/mma.h, which has the same layout of operands over the lanes of a warp; all lanes take part.
//
// A fragment is a 16x16 or 16x8 matrix spread over a warp, two bf16 to a register, the lower column (of B: row) in
// the lower half. With g = lane / 4 and t = lane % 4, for D[16x8] += A[16x16] B[16x8]:
//
//   A   a[0]: row g,     columns 2t, 2t+1        a[2]: row g,     columns 2t+8, 2t+9
//       a[1]: row g + 8, columns 2t, 2t+1        a[3]: row g + 8, columns 2t+8, 2t+9
//   B   b[0]: rows 2t, 2t+1, column g            b[1]: rows 2t+8, 2t+9, column g
//   D   d[0], d[1]: row g, columns 2t, 2t+1      d[2], d[3]: row g + 8, columns 2t, 2t+1
//
// So two neighbouring D fragments, rounded, are an A fragment: the products of attention chain without an
// exchange.
#pragma once

#include "common.cuh"

#ifndef __CUDACC__
#include "host/mma.h"
#endif

#ifdef __CUDACC__
__device__ __forceinline__ uint32_t shared_address(const void* at) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(at));
}
#endif

// Starts the copy of 16 bytes to shared memory, past the registers and the first-level cache. The last 16 -
// `valid` bytes become zero, and those of `from` are not read. Both addresses are multiples of 16.
__device__ __forceinline__ void copy_async(void* to, const void* from, uint32_t valid) {
#ifdef __CUDACC__
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(to)), "l"(__cvta_generic_to_global(from)), "r"(valid)
                 : "memory");
#else
    shim::copy_async(to, from, valid);
#endif
}

// Closes a group of the copies that this thread started since the last one.
__device__ __forceinline__ void copy_commit() {
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;" : : : "memory");
#else
    shim::copy_commit();
#endif
}

// Waits for all but the last `PENDING` groups of this thread. Other threads see the bytes after a barrier.
template <uint32_t PENDING>
__device__ __forceinline__ void copy_wait() {
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" : : "n"(PENDING) : "memory");
#else
    shim::copy_wait(PENDING);
#endif
}

// Loads four 8x8 matrices of 16-bit elements from shared memory: lane 8 m + r gives the address of row r of
// matrix m, a multiple of 16, and of each matrix receives the elements 2t and 2t+1 of row g.
__device__ __forceinline__ void load_matrices(uint32_t out[4], const void* row) {
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
#else
    shim::load_matrices(out, row, false, __LINE__);
#endif
}

// The same of the transposed matrices: each lane receives the elements of column g in rows 2t and 2t+1.
__device__ __forceinline__ void load_matrices_transposed(uint32_t out[4], const void* row) {
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
#else
    shim::load_matrices(out, row, true, __LINE__);
#endif
}

// D += A B of bf16 fragments, in float32.
__device__ __forceinline__ void mma(float d[4], const uint32_t a[4], const uint32_t b[2]) {
#ifdef __CUDACC__
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    shim::mma(d, a, b, __LINE__);
#endif
}

// Two numbers rounded to bf16, `low` in the lower half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
#ifdef __CUDACC__
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
#else
    return uint32_t(shim::float_to_bf16(high)) << 16 | shim::float_to_bf16(low);
#endif
}

// 2^x to within 2^-22 of it; subnormal results are zero.
__device__ __forceinline__ float fast_exp2(float x) {
#ifdef __CUDACC__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}
