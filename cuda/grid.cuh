// Barriers of kernels whose blocks all run at the same time and wait for each other.
#pragma once

#include "common.cuh"

// The barrier of a grid: a count of arrivals that starts at 0 with the launch and only grows. In shared memory.
struct Grid {
    Global<uint32_t> arrived;
    // Waits so far; the block's first thread counts them.
    uint32_t rounds;
};

// Waits until all threads of all blocks are here; what they wrote before is then visible to all.
#define GRID_SYNC(grid) grid_sync(grid, __LINE__)

__device__ __forceinline__ void grid_sync(Grid& grid, uint32_t line) {
    __syncthreads();
#ifdef __CUDACC__
    if (threadIdx.x == 0) {
        // The block's writes are ordered before its arrival by the barrier above and the release, and the
        // others' before this block's reads by the acquire and the barrier below.
        asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(grid.arrived.at) : "memory");
        const uint32_t wanted = ++grid.rounds * gridDim.x;
        uint32_t arrived;
        do {
            asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(arrived) : "l"(grid.arrived.at) : "memory");
        } while (arrived < wanted);
    }
#else
    // All threads stop here, so that the blocks can take turns; ordered are the first ones alone, as on a GPU.
    shim::colar_host_wait(shim::lane->yielder, shim::GRID, line);
#endif
    __syncthreads();
}

// Asks for `bytes` bytes, a multiple of 16, to be brought into the second-level cache. Called by a whole warp.
__device__ __forceinline__ void prefetch_l2(const void* from, uint32_t bytes) {
#if !defined(__CUDACC__)
    if (threadIdx.x % 32 == 0) shim::touch(from, bytes);
#elif __CUDA_ARCH__ >= 900
    if (threadIdx.x % 32 == 0) {
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes));
    }
#else
    for (uint32_t at = threadIdx.x % 32 * 128; at < bytes; at += 32 * 128) {
        asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const char*>(from) + at));
    }
#endif
}

// Sixteen bytes that are read once: they leave the first-level cache to data that is read again.
struct Stream {
    uint32_t at[4];
};

__device__ __forceinline__ Stream load_stream(const void* from) {
    Stream s;
#ifdef __CUDACC__
    asm("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(s.at[0]), "=r"(s.at[1]), "=r"(s.at[2]), "=r"(s.at[3])
        : "l"(from));
#else
    shim::saw_read_of_constant(from, sizeof s);
    memcpy(&s, from, sizeof s);
#endif
    return s;
}

// The elements of sixteen bytes.
__device__ __forceinline__ void widen(const Stream& s, float (&out)[4]) {
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) out[i] = bits_to_float(s.at[i]);
}

__device__ __forceinline__ void widen(const Stream& s, float (&out)[8]) {
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        out[2 * i] = bits_to_float(s.at[i] << 16);
        out[2 * i + 1] = bits_to_float(s.at[i] & 0xffff0000u);
    }
}

// Sums of V values over a warp, V a power of two up to 32: lane l gets that of value l / (32 / V). At each of the
// first steps lanes exchange the half of their values that the other keeps, so all sums together take fewer
// exchanges than two of them one by one.
//
// Each step is an instantiation, so that it knows which values it takes: in a loop over the steps the compiler put
// sixteen of them into local memory.
template <uint32_t V, uint32_t LEFT = V, uint32_t OFFSET = 16>
__device__ __forceinline__ float scatter_sum(float (&values)[V]) {
    if constexpr (OFFSET == 0) {
        return values[0];
    } else if constexpr (LEFT == 1) {
        values[0] += __shfl_xor_sync(FULL_WARP, values[0], OFFSET);
        return scatter_sum<V, 1, OFFSET / 2>(values);
    } else {
        constexpr uint32_t HALF = LEFT / 2;
        const bool upper = (threadIdx.x & OFFSET) != 0;
#pragma unroll
        for (uint32_t i = 0; i < HALF; i++) {
            const float low = values[i], high = values[i + HALF];
            values[i] = (upper ? high : low) + __shfl_xor_sync(FULL_WARP, upper ? low : high, OFFSET);
        }
        return scatter_sum<V, HALF, OFFSET / 2>(values);
    }
}
