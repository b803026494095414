// Rotary position embedding, in place, in the half-split form of the Hugging Face models.
//
//   (a, b) = (x[j], x[j + half]) of each head becomes (a cos - b sin, b cos + a sin), the angle being
//   position * inv_freq[j], a float32 product as in the models' own code
//
// Backward is the same kernel with direction -1: a rotation's gradient is the rotation back.
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

#define ROTARY(A, a)                                                                                           \
    KERNEL(rotary_##a, 256, const uint32_t* positions, const float* inv_freq, float direction, uint32_t heads, \
           uint32_t half, A* x) {                                                                              \
        rotary(positions, inv_freq, direction, heads, half, x);                                                \
    }

ROTARY(float, f32)
ROTARY(bf16, bf16)
