// Dropout: out = beta * out + kept * x * scale, where an element is kept whose uniform number is at least p.
//
// Element (r, c) takes word c mod 4 of the Philox block at [c / 4, row + r, second, third] (philox.cuh), so the backward
// pass, which is the same operation on the gradient, leaves out the same elements, and so does every device.
//
// A block takes a row, a thread four columns of it. Where rows are whole fours these are one access; the ten rounds of
// Philox for them hide in the memory's latency.
#include "philox.cuh"

template <class A>
using Four = Some<A, 4>;

template <class A>
__device__ void dropout(uint32_t k0, uint32_t k1, uint32_t first_row, uint32_t second, uint32_t third, float p,
                        float scale, const A* x, uint32_t cols, uint32_t add, A* out) {
    const uint64_t at = uint64_t(blockIdx.x) * cols;
    const uint32_t row = first_row + blockIdx.x;
    const bool whole = cols % 4 == 0;
    for (uint32_t four = threadIdx.x; four < (cols + 3) / 4; four += blockDim.x) {
        const uint32_t count = min(4u, cols - 4 * four);
        const A* from = x + at + 4 * four;
        A* to = out + at + 4 * four;
        Four<A> in = {}, sum = {};
        if (whole) {
            in = *reinterpret_cast<const Four<A>*>(from);
            if (add) sum = *reinterpret_cast<const Four<A>*>(to);
        } else {
            for (uint32_t k = 0; k < count; k++) {
                in.at[k] = from[k];
                if (add) sum.at[k] = to[k];
            }
        }
        const Words words = philox(k0, k1, four, row, second, third);
#pragma unroll
        for (uint32_t k = 0; k < 4; k++) {
            const float kept = unit_float(words.at[k]) >= p ? to_float(in.at[k]) * scale : 0.0f;
            sum.at[k] = from_float<A>(add ? to_float(sum.at[k]) + kept : kept);
        }
        if (whole) {
            *reinterpret_cast<Four<A>*>(to) = sum;
        } else {
            for (uint32_t k = 0; k < count; k++) to[k] = sum.at[k];
        }
    }
}

#define DROPOUT(A, a)                                                                                              \
    KERNEL(dropout_##a, 256, uint32_t k0, uint32_t k1, uint32_t first_row, uint32_t second, uint32_t third,        \
           float p, float scale, const A* x, uint32_t cols, uint32_t add, A* out) {                                \
        dropout(k0, k1, first_row, second, third, p, scale, x, cols, add, out);                                    \
    }

DROPOUT(float, f32)
DROPOUT(bf16, bf16)
