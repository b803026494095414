// Rotary position embedding, in place, in the half-split form of the Hugging Face models.
//
//   (a, b) = (x[j], x[j + half]) of each head becomes (a cos - b sin, b cos + a sin), the angle being
//   position * inv_freq[j], a float32 product as in the models' own code
//
// Backward is the same kernel with direction -1: a rotation's gradient is the rotation back.
//
// A block takes one row. The angle can be tens of thousands, where the float32 functions reduce it through local
// memory; here it is reduced to turns in float64, two multiplications and a rounding, for pairs that all heads
// of the row share.
#include "common.cuh"

template <class A>
__device__ void rotary(const uint32_t* positions, const float* inv_freq, float direction, uint32_t heads,
                       uint32_t half, A* x) {
    A* row = x + uint64_t(blockIdx.x) * heads * 2 * half;
    const float position = float(positions[blockIdx.x]);
    for (uint32_t j = threadIdx.x; j < half; j += blockDim.x) {
        double turns = double(position * inv_freq[j]) * 0.15915494309189533577;  // 1 / 2 pi
        turns -= rint(turns);
        float sine, cosine;
        sincospif(float(2.0 * turns), &sine, &cosine);
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
