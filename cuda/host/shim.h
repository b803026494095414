// CUDA for the C++ compiler: the part of it that the kernels of this directory's parent use, for `cuda-host`.
//
// The threads of a block are coroutines on one thread of the operating system; src/device/cuda/host runs
// them in a shuffled order and sets `lane` and `block` before each resumes. A thread gives way only where
// CUDA would make it wait: at a barrier, and at an exchange within its warp. An exchange goes through
// `Slots`: each lane leaves its operand, waits for its warp, and reads what it needs of the others'. Two
// sets of slots alternate, so that a lane that runs ahead overwrites nothing that is still to be read.
//
// Checks: all threads of a block wait at the same barrier, all lanes of a warp at the same exchange, and all blocks
// launched together at the same barrier of the grid; shared memory starts as NaN and has guarded ends; a copy by
// cp.async arrives when it is waited for and not before.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict

namespace shim {

struct Dim {
    uint32_t x, y, z;
};

// One warp's operands, by parity of the exchange and lane. 64 bytes hold those of any instruction.
struct alignas(16) Slots {
    unsigned char at[2][32][64];
};

struct SharedArray {
    const void* key;
    unsigned char* at;
};

// The state of a block. Mirrored by `Block` in src/device/cuda/host/block.rs.
struct Block {
    Dim index, dim, grid;
    Slots* slots;
    // Shared memory of fixed size: taken up from the front as arrays are met.
    unsigned char* arena;
    uint32_t arena_len, arena_used;
    SharedArray arrays[32];
    uint32_t array_count;
    // Shared memory whose size the launch gave.
    unsigned char* dynamic;
    uint32_t dynamic_len;
};

struct AsyncCopy {
    void* to;
    const void* from;
    uint32_t bytes, valid, group;
};

// The state of a thread. Mirrored by `Lane` in src/device/cuda/host/block.rs.
struct Lane {
    Dim thread;
    uint32_t warp, lane;
    uint32_t exchanges;
    uint32_t async_groups, async_count;
    AsyncCopy async[64];
    // The coroutine to suspend.
    void* yielder;
};

extern __thread Block* block;
extern __thread Lane* lane;

// Suspends the running thread; `place` is the line of the source that waits. Written in Rust.
extern "C" void colar_host_wait(void* yielder, uint32_t kind, uint32_t place);
// Reports a fault of the running kernel and does not return. Written in Rust.
extern "C" void colar_host_fault(void* yielder, const char* what);

// A warp waits at its barrier and at exchanges; only the barrier orders accesses to memory.
enum Wait : uint32_t { BARRIER = 0, WARP = 1, GRID = 2, WARP_BARRIER = 3 };

// Told of accesses where the compiler does not see them as such: within instructions that have twins here, and the
// reads that do not see writes of their launch. observed/accesses.cpp listens, if the kernels are compiled for it.
#ifdef COLAR_ACCESSES
// A copy by cp.async of 16 bytes, `valid` of them read: when it begins, and when it is waited for and `arrives`.
void saw_copy(void* to, const void* from, uint32_t valid, bool arrives, const void* code);
void saw_read_of_warp(const void* at, uint32_t bytes, const void* from);
void saw_read_of_constant(const void* at, uint32_t bytes);
// A product of fragments, by each lane of the warp.
void saw_product();
#else
inline void saw_copy(void*, const void*, uint32_t, bool, const void*) {}
inline void saw_read_of_warp(const void*, uint32_t, const void*) {}
inline void saw_read_of_constant(const void*, uint32_t) {}
inline void saw_product() {}
#endif

// Touches the first and the last byte: a prefetch beyond a buffer, which faults nowhere, meets its guard.
void touch(const void* from, uint32_t bytes);

template <class To, class From>
inline To bit_cast(const From& from) {
    static_assert(sizeof(To) == sizeof(From), "sizes differ");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

float half_to_float(uint16_t bits);
uint16_t float_to_bf16(float x);

// Shared memory for the array declared at `key`: one array for all threads that meet the declaration.
void* shared_array(const void* key, uint32_t bytes);

template <class T>
inline T* shared(const void* key, uint32_t count) {
    return static_cast<T*>(shared_array(key, count * sizeof(T)));
}

// Leaves `mine` for the warp, waits for all its lanes, and returns the lanes' operands, 64 bytes apart.
template <class T>
inline const unsigned char* exchange(const T& mine, uint32_t place) {
    static_assert(sizeof(T) <= 64, "operand too large for its slot");
    auto& set = block->slots[lane->warp].at[lane->exchanges++ & 1];
    memcpy(set[lane->lane], &mine, sizeof mine);
    colar_host_wait(lane->yielder, WARP, place);
    return &set[0][0];
}

template <class T>
inline T operand(const unsigned char* set, uint32_t from) {
    T value;
    memcpy(&value, set + 64 * (from & 31), sizeof value);
    return value;
}

inline void check_mask(uint32_t mask) {
    if (mask != 0xffffffffu) colar_host_fault(lane->yielder, "an exchange without all lanes of its warp");
}

template <class T>
inline T shuffle(uint32_t mask, const T& value, uint32_t from, uint32_t place) {
    check_mask(mask);
    return operand<T>(exchange(value, place), from);
}

inline uint32_t ballot(uint32_t mask, bool vote, uint32_t place) {
    check_mask(mask);
    const unsigned char* set = exchange(uint32_t(vote), place);
    uint32_t votes = 0;
    for (uint32_t i = 0; i < 32; i++) votes |= operand<uint32_t>(set, i) << i;
    return votes;
}

// ---- entry points -------------------------------------------------------------------------------

// A letter for each kind of parameter; `Arg` in src/device/cuda/driver.rs has the same.
template <class T>
struct Code;
template <class T>
struct Code<T*> {
    static constexpr char value = 'p';
};
template <>
struct Code<uint32_t> {
    static constexpr char value = 'u';
};
template <>
struct Code<uint64_t> {
    static constexpr char value = 'U';
};
template <>
struct Code<float> {
    static constexpr char value = 'f';
};

template <size_t... I>
struct Indices {};
template <size_t N, size_t... I>
struct MakeIndices : MakeIndices<N - 1, N - 1, I...> {};
template <size_t... I>
struct MakeIndices<0, I...> {
    using type = Indices<I...>;
};

template <class... A, size_t... I>
inline void call(void (*kernel)(A...), void** args, Indices<I...>) {
    kernel(*static_cast<A*>(args[I])...);
}

// The signature of a kernel, which a launch must agree with. Mirrored by `Signature` in src/device/cuda/kernels.rs.
struct Signature {
    uint32_t threads;
    const char* codes;
};

// Runs one thread of a kernel or, without arguments, gives its signature.
template <uint32_t THREADS, class... A>
inline const Signature* enter(void (*kernel)(A...), void** args) {
    static const char codes[] = {Code<A>::value..., 0};
    static const Signature signature{THREADS, codes};
    if (args == nullptr) return &signature;
    call(kernel, args, typename MakeIndices<sizeof...(A)>::type());
    return nullptr;
}

}  // namespace shim

// The symbol that Rust links to: an entry point for one thread.
#define KERNEL(name, threads, ...)                                                    \
    static void name(__VA_ARGS__);                                                    \
    extern "C" const shim::Signature* colar_host_##name(void** args) {                \
        return shim::enter<threads>(name, args);                                      \
    }                                                                                 \
    static void name(__VA_ARGS__)

// The number of blocks that share a multiprocessor does not matter on the host.
#define RESIDENT_KERNEL(name, threads, blocks, ...) KERNEL(name, threads, __VA_ARGS__)

#define SHARED(type, name, count)                                     \
    static const char name##_key_ = 0;                                \
    type* const name = shim::shared<type>(&name##_key_, count)

#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(shim::block->dynamic)

#define threadIdx (shim::lane->thread)
#define blockIdx (shim::block->index)
#define blockDim (shim::block->dim)
#define gridDim (shim::block->grid)

#define __syncthreads() shim::colar_host_wait(shim::lane->yielder, shim::BARRIER, __LINE__)
#define __syncwarp() shim::colar_host_wait(shim::lane->yielder, shim::WARP_BARRIER, __LINE__)
#define __shfl_sync(mask, value, from) shim::shuffle(mask, value, from, __LINE__)
#define __shfl_xor_sync(mask, value, bits) shim::shuffle(mask, value, shim::lane->lane ^ (bits), __LINE__)
#define __ballot_sync(mask, vote) shim::ballot(mask, vote, __LINE__)
#define __any_sync(mask, vote) (shim::ballot(mask, vote, __LINE__) != 0)
#define __all_sync(mask, vote) (shim::ballot(mask, vote, __LINE__) == 0xffffffffu)

// Blocks run on several threads of the operating system, so atomics are atomic.
template <class T>
inline T atomicAdd(T* at, T value) {
    return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}

inline double atomicAdd(double* at, double value) {
    uint64_t old, sum;
    __atomic_load(reinterpret_cast<uint64_t*>(at), &old, __ATOMIC_RELAXED);
    do {
        sum = shim::bit_cast<uint64_t>(shim::bit_cast<double>(old) + value);
    } while (!__atomic_compare_exchange(reinterpret_cast<uint64_t*>(at), &old, &sum, false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED));
    return shim::bit_cast<double>(old);
}

template <class T>
inline T atomicExch(T* at, T value) {
    return __atomic_exchange_n(at, value, __ATOMIC_RELAXED);
}

// Arithmetic that must not be contracted into fused multiply-adds; the file is compiled without contraction.
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline uint32_t __umulhi(uint32_t a, uint32_t b) { return uint32_t(uint64_t(a) * b >> 32); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline void sincospif(float x, float* sine, float* cosine) {
    const double angle = 3.14159265358979323846 * double(x);
    *sine = float(sin(angle));
    *cosine = float(cos(angle));
}

template <class T>
inline T min(T a, T b) {
    return b < a ? b : a;
}

template <class T>
inline T max(T a, T b) {
    return a < b ? b : a;
}
