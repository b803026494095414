// The parts common to every kernel file: how a kernel is declared, the storage types, and reductions.
//
// Each .cu file is compiled twice: by nvcc for the GPU, and by the C++ compiler for the device `cuda-host`,
// where host/shim.h stands in for CUDA and every thread of a block is a coroutine. So kernels keep to the
// part of CUDA that both know, and inline PTX lives in this file and in mma.cuh alone, each instruction
// beside its host twin.
//
// Conventions:
// * KERNEL(name, threads, parameters...) { body } declares a kernel that runs with at most `threads`
//   threads a block, a multiple of 32. Parameters are pointers, uint32_t, uint64_t and float.
//   RESIDENT_KERNEL(name, threads, blocks, parameters...) also keeps to the registers that let `blocks` of its blocks
//   share a multiprocessor.
// * Every buffer starts at a multiple of 16 bytes. Matrices are row-major and dense.
// * Indices into buffers are 64 bits wide: a cache of keys can exceed 2^32 elements.
// * Storage types are float, bf16 and f16; arithmetic is float32, sums of it in an order that shapes alone
//   decide, so that equal inputs give equal bits.
#pragma once

#include <stdint.h>

#ifdef __CUDACC__
#define KERNEL(name, threads, ...) RESIDENT_KERNEL(name, threads, 1, __VA_ARGS__)
#define RESIDENT_KERNEL(name, threads, blocks, ...) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(__VA_ARGS__)
// An array in shared memory with the life of the block.
#define SHARED(type, name, count) __shared__ type name[count]
// The shared memory whose size the launch gives, aligned to 16 bytes.
#define DYNAMIC_SHARED(type, name)                            \
    extern __shared__ __align__(16) unsigned char dynamic_[]; \
    type* name = reinterpret_cast<type*>(dynamic_)
#else
#include "host/shim.h"
#endif

constexpr uint32_t FULL_WARP = 0xffffffffu;

// The upper half of a float32.
struct bf16 {
    uint16_t bits;
};

// IEEE half precision; weights may be stored in it.
struct f16 {
    uint16_t bits;
};

__device__ __forceinline__ float bits_to_float(uint32_t bits) {
#ifdef __CUDACC__
    return __uint_as_float(bits);
#else
    return shim::bit_cast<float>(bits);
#endif
}

__device__ __forceinline__ uint32_t float_to_bits(float x) {
#ifdef __CUDACC__
    return __float_as_uint(x);
#else
    return shim::bit_cast<uint32_t>(x);
#endif
}

__device__ __forceinline__ float to_float(float x) { return x; }

__device__ __forceinline__ float to_float(bf16 x) { return bits_to_float(uint32_t(x.bits) << 16); }

__device__ __forceinline__ float to_float(f16 x) {
#ifdef __CUDACC__
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
#else
    return shim::half_to_float(x.bits);
#endif
}

// Rounds to nearest, ties to even.
template <class T>
__device__ __forceinline__ T from_float(float x);

template <>
__device__ __forceinline__ float from_float<float>(float x) {
    return x;
}

template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
    bf16 y;
#ifdef __CUDACC__
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else
    y.bits = shim::float_to_bf16(x);
#endif
    return y;
}

// Sixteen bytes: the widest access to memory.
template <class T>
struct alignas(16) Vec {
    static constexpr uint32_t COUNT = 16 / sizeof(T);
    T at[COUNT];
};

template <class T>
__device__ __forceinline__ Vec<T> load_vec(const T* from) {
    return *reinterpret_cast<const Vec<T>*>(from);
}

// A pointer into global memory, for structures that stand in memory. The compiler knows where the parameters of a
// kernel point to, but not what it loads: without this it would find out at every access which memory the address is
// in, keep the order with accesses to shared memory, and compile atomics for either.
template <class T>
struct Global {
    T* at;

    __device__ __forceinline__ operator T*() const {
#ifdef __CUDACC__
        __builtin_assume(__isGlobal(at));
#endif
        return at;
    }
};

// COUNT elements, as many as fit in one access or two.
template <class T, uint32_t COUNT>
struct alignas(COUNT * sizeof(T) < 16 ? COUNT * sizeof(T) : 16) Some {
    T at[COUNT];
};

// A number that is known when a kernel is compiled.
template <uint32_t N>
struct Count {
    static constexpr uint32_t VALUE = N;
};

// Calls take(Count<N>(), c) for all columns c .. c + N of a row, which the threads of the block share out among them: as
// many at a time as 16 bytes hold of A where every row begins at a multiple of 16 bytes, and else one by one.
template <class A, class Take>
__device__ __forceinline__ void each_columns(uint32_t cols, Take take) {
    constexpr uint32_t N = Vec<A>::COUNT;
    if (cols % N == 0) {
        for (uint32_t c = threadIdx.x * N; c < cols; c += blockDim.x * N) take(Count<N>(), c);
    } else {
        for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) take(Count<1>(), c);
    }
}

// Elements as float32.
template <uint32_t N, class A>
__device__ __forceinline__ void load_columns(const A* from, float (&x)[N]) {
    const Some<A, N> some = *reinterpret_cast<const Some<A, N>*>(from);
#pragma unroll
    for (uint32_t i = 0; i < N; i++) x[i] = to_float(some.at[i]);
}

template <uint32_t N, class A>
__device__ __forceinline__ void store_columns(A* to, const float (&x)[N]) {
    Some<A, N> some;
#pragma unroll
    for (uint32_t i = 0; i < N; i++) some.at[i] = from_float<A>(x[i]);
    *reinterpret_cast<Some<A, N>*>(to) = some;
}

// Stores four elements in one access, where a structure of them would be stored one by one.
__device__ __forceinline__ void store_four(bf16* to, const bf16 (&x)[4]) {
    uint64_t all = 0;
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) all |= uint64_t(x[i].bits) << 16 * i;
    *reinterpret_cast<uint64_t*>(to) = all;
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (uint32_t offset = 16; offset > 0; offset >>= 1) x += __shfl_xor_sync(FULL_WARP, x, offset);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (uint32_t offset = 16; offset > 0; offset >>= 1) x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, offset));
    return x;
}

// The sum of x over the block, in every thread. All threads take part.
__device__ __forceinline__ float block_sum(float x) {
    SHARED(float, parts, 32);
    const uint32_t warps = blockDim.x / 32;
    x = warp_sum(x);
    __syncthreads();  // an earlier call's parts have been read
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = parts[0];
    for (uint32_t w = 1; w < warps; w++) sum += parts[w];
    return sum;
}

// The maximum of x over the block, in every thread. All threads take part.
__device__ __forceinline__ float block_max(float x) {
    SHARED(float, parts, 32);
    const uint32_t warps = blockDim.x / 32;
    x = warp_max(x);
    __syncthreads();  // an earlier call's parts have been read, in a kernel that calls it twice
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    float most = parts[0];
    for (uint32_t w = 1; w < warps; w++) most = fmaxf(most, parts[w]);
    return most;
}

// The number of this thread in its grid, and the number of threads in the grid: for elementwise loops.
__device__ __forceinline__ uint64_t grid_thread() { return uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; }

__device__ __forceinline__ uint64_t grid_threads() { return uint64_t(gridDim.x) * blockDim.x; }
