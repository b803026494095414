// Changes of the storage type.
//
//   convert   to[i] = from[i], in another type
#include "common.cuh"

template <class F, class T>
__device__ void convert(const F* from, uint64_t count, T* to) {
    for (uint64_t i = grid_thread(); i < count; i += grid_threads()) to[i] = from_float<T>(to_float(from[i]));
}

#define CONVERT(F, f, T, t) \
    KERNEL(convert_##f##_##t, 256, const F* from, uint64_t count, T* to) { convert(from, count, to); }

CONVERT(float, f32, float, f32)
CONVERT(bf16, bf16, float, f32)
CONVERT(f16, f16, float, f32)
CONVERT(float, f32, bf16, bf16)
CONVERT(bf16, bf16, bf16, bf16)
CONVERT(f16, f16, bf16, bf16)
