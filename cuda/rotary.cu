// Rotary position embedding, in place, in the half-split form of the Hugging Face models.
//
//   (a, b) = (x[j], x[j + half]) of each head becomes (a cos - b sin, b cos + a sin), the angle being
//   position * inv_freq[j], a float32 product as in the models' own code
//
// Backward is the same kernel with direction -1: a rotation's gradient is the rotation back.
//
// rotary_append does all work between the projections of a cached block and its attention in one pass: it
// adds the biases of q, k and v, rotates q in place, and writes the rotated k and v to their rows of the cache.
// It has no backward: nothing is trained with a cache.
//
// A block takes one row; the pairs of all heads of a row share their angles.
#include "pointwise.cuh"

template <class A>
__device__ void rotary(const uint32_t* positions, const float* inv_freq, float direction, uint32_t heads,
                       uint32_t half, A* x) {
    A* row = x + uint64_t(blockIdx.x) * heads * 2 * half;
    const float position = float(positions[blockIdx.x]);
    for (uint32_t j = threadIdx.x; j < half; j += blockDim.x) {
        float sine, cosine;
        rotation(position * inv_freq[j], &sine, &cosine);
        sine *= direction;
        // Blocks along y share a row's heads.
        for (uint32_t h = blockIdx.y; h < heads; h += gridDim.y) {
            A* head = row + uint64_t(h) * 2 * half;
            const float a = to_float(head[j]), b = to_float(head[j + half]);
            head[j] = from_float<A>(a * cosine - b * sine);
            head[j + half] = from_float<A>(b * cosine + a * sine);
        }
    }
}

template <class A, uint32_t N>
__device__ __forceinline__ void load_biased(const A* from, const float* bias, uint64_t at, float x[N]) {
    const Some<A, N> raw = *reinterpret_cast<const Some<A, N>*>(from + at);
#pragma unroll
    for (uint32_t i = 0; i < N; i++) x[i] = to_float(raw.at[i]);
    if (bias == nullptr) return;
    const Some<float, N> more = *reinterpret_cast<const Some<float, N>*>(bias + at);
#pragma unroll
    for (uint32_t i = 0; i < N; i++) x[i] += more.at[i];
}

template <class A, uint32_t N>
__device__ __forceinline__ void store(A* to, const float x[N]) {
    Some<A, N> raw;
#pragma unroll
    for (uint32_t i = 0; i < N; i++) raw.at[i] = from_float<A>(x[i]);
    *reinterpret_cast<Some<A, N>*>(to) = raw;
}

// The row in pieces of N columns and, of the rotated, their partners half a head on; blocks along y share them.
template <class A, uint32_t N>
__device__ __forceinline__ void append_row(const float* cosines, const float* sines, uint32_t heads, uint32_t kv_heads,
                                           uint32_t half, const float* q_bias, const float* k_bias,
                                           const float* v_bias, A* q, const A* k, const A* v, A* key, A* value) {
    const uint32_t pieces = half / N, rotated = (heads + kv_heads) * pieces, all = rotated + 2 * kv_heads * pieces;
    for (uint32_t i = blockIdx.y * blockDim.x + threadIdx.x; i < all; i += gridDim.y * blockDim.x) {
        float a[N], b[N];
        if (i >= rotated) {
            const uint32_t at = (i - rotated) * N;
            load_biased<A, N>(v, v_bias, at, a);
            store<A, N>(value + at, a);
            continue;
        }
        const uint32_t head = i / pieces, j = i % pieces * N;
        const bool query = head < heads;
        const uint32_t at = (query ? head : head - heads) * 2 * half + j;
        load_biased<A, N>(query ? q : k, query ? q_bias : k_bias, at, a);
        load_biased<A, N>(query ? q : k, query ? q_bias : k_bias, at + half, b);
        float left[N], right[N];
#pragma unroll
        for (uint32_t e = 0; e < N; e++) {
            left[e] = a[e] * cosines[j + e] - b[e] * sines[j + e];
            right[e] = b[e] * cosines[j + e] + a[e] * sines[j + e];
        }
        A* to = query ? q : key;
        store<A, N>(to + at, left);
        store<A, N>(to + at + half, right);
    }
}

template <class A>
__device__ __forceinline__ void rotary_append(const uint32_t* positions, const float* inv_freq, const uint32_t* rows,
                                              uint32_t heads, uint32_t kv_heads, uint32_t half, const float* q_bias,
                                              const float* k_bias, const float* v_bias, A* q, const A* k, const A* v,
                                              A* keys, A* values) {
    DYNAMIC_SHARED(float, cosines);
    float* const sines = cosines + half;
    const float position = float(positions[blockIdx.x]);
    for (uint32_t j = threadIdx.x; j < half; j += blockDim.x) rotation(position * inv_freq[j], &sines[j], &cosines[j]);
    __syncthreads();
    const uint64_t row = blockIdx.x, to = rows[blockIdx.x], width = uint64_t(kv_heads) * 2 * half;
    q += row * heads * 2 * half, k += row * width, v += row * width;
    keys += to * width, values += to * width;
    // Where heads fall into whole vectors, every row does.
    if (half % Vec<A>::COUNT == 0) {
        append_row<A, Vec<A>::COUNT>(cosines, sines, heads, kv_heads, half, q_bias, k_bias, v_bias, q, k, v, keys,
                                     values);
    } else {
        append_row<A, 1>(cosines, sines, heads, kv_heads, half, q_bias, k_bias, v_bias, q, k, v, keys, values);
    }
}

#define ROTARY(A, a)                                                                                           \
    KERNEL(rotary_##a, 256, const uint32_t* positions, const float* inv_freq, float direction, uint32_t heads, \
           uint32_t half, A* x) {                                                                              \
        rotary(positions, inv_freq, direction, heads, half, x);                                                \
    }                                                                                                          \
    KERNEL(rotary_append_##a, 256, const uint32_t* positions, const float* inv_freq, const uint32_t* rows,     \
           uint32_t heads, uint32_t kv_heads, uint32_t half, const float* q_bias, const float* k_bias,         \
           const float* v_bias, A* q, const A* k, const A* v, A* keys, A* values) {                            \
        rotary_append(positions, inv_freq, rows, heads, kv_heads, half, q_bias, k_bias, v_bias, q, k, v, keys, \
                      values);                                                                                 \
    }

ROTARY(float, f32)
ROTARY(bf16, bf16)
