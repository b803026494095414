// Attention of one query over a part of its keys, by one warp, and the merge of the parts: for decoding.
#pragma once

#include "common.cuh"

// Most parts that a sequence's keys are cut into; mirrored in src/device/cuda/decoder.rs.
constexpr uint32_t PARTS = 16;

// The cut of a batch's keys: by the longest sequence, so that all have parts of one size.
struct KeyParts {
    uint32_t keys, count;

    __device__ explicit KeyParts(uint32_t longest) {
        // Fewer keys would not pay for their merge.
        constexpr uint32_t LEAST = 64;
        keys = max(LEAST, (longest + PARTS - 1) / PARTS);
        count = (longest + keys - 1) / keys;
    }
};

// out[0 .. dim] = sum_j exp(s_j - top) v_j, out[dim] = top, out[dim + 1] = sum_j exp(s_j - top) with
// s_j = q . k_j / sqrt(dim) and top the largest s_j, over `count` keys, at least one, that are `width` elements apart.
// `dim` is a multiple of 8 and at most 128.
//
// A lane takes 8 columns, so a few lanes make up a key and the warp takes several keys side by side, BATCH times
// over so that their loads overlap. Each group of lanes has its own running maximum; they meet at the end.
template <class A>
__device__ __forceinline__ void attend_part(const float* q, const A* k, const A* v, uint64_t width, uint32_t count,
                                            uint32_t dim, float* out) {
    constexpr uint32_t BATCH = 4;
    const uint32_t lane = threadIdx.x % 32;
    uint32_t lanes = 1;
    while (8 * lanes < dim) lanes *= 2;
    const uint32_t side = 32 / lanes, column = lane % lanes * 8;
    const bool has = column < dim;
    const float scale = 1.0f / sqrtf(float(dim));
    float mine[8], acc[8], top = -INFINITY, sum = 0.0f;
#pragma unroll
    for (uint32_t e = 0; e < 8; e++) {
        mine[e] = has ? scale * q[column + e] : 0.0f;
        acc[e] = 0.0f;
    }
    for (uint32_t from = 0; from < count; from += BATCH * side) {
        Some<A, 8> keys[BATCH], values[BATCH];
        bool seen[BATCH];
#pragma unroll
        for (uint32_t b = 0; b < BATCH; b++) {
            const uint32_t key = from + b * side + lane / lanes;
            seen[b] = key < count;
            // A group past the end repeats the last key, which then weighs nothing.
            const uint64_t at = min(key, count - 1) * width + (has ? column : 0);
            keys[b] = *reinterpret_cast<const Some<A, 8>*>(k + at);
            values[b] = *reinterpret_cast<const Some<A, 8>*>(v + at);
        }
        float scores[BATCH], next = top;
#pragma unroll
        for (uint32_t b = 0; b < BATCH; b++) {
            float score = 0.0f;
#pragma unroll
            for (uint32_t e = 0; e < 8; e++) score += mine[e] * to_float(keys[b].at[e]);
            for (uint32_t offset = lanes / 2; offset > 0; offset /= 2) {
                score += __shfl_xor_sync(FULL_WARP, score, offset);
            }
            scores[b] = seen[b] ? score : -INFINITY;
            next = fmaxf(next, scores[b]);
        }
        // Before a group's first key both are -inf and their difference is no number.
        const float keep = top == next ? 1.0f : expf(top - next);
        sum *= keep;
#pragma unroll
        for (uint32_t e = 0; e < 8; e++) acc[e] *= keep;
#pragma unroll
        for (uint32_t b = 0; b < BATCH; b++) {
            const float p = seen[b] ? expf(scores[b] - next) : 0.0f;
            sum += p;
#pragma unroll
            for (uint32_t e = 0; e < 8; e++) acc[e] += p * to_float(values[b].at[e]);
        }
        top = next;
    }
    for (uint32_t offset = lanes; offset < 32; offset *= 2) {
        const float other = __shfl_xor_sync(FULL_WARP, top, offset), next = fmaxf(top, other);
        const float keep = top == next ? 1.0f : expf(top - next), add = other == next ? 1.0f : expf(other - next);
        sum = sum * keep + __shfl_xor_sync(FULL_WARP, sum, offset) * add;
#pragma unroll
        for (uint32_t e = 0; e < 8; e++) acc[e] = acc[e] * keep + __shfl_xor_sync(FULL_WARP, acc[e], offset) * add;
        top = next;
    }
    if (lane >= lanes) return;
    if (has) {
#pragma unroll
        for (uint32_t e = 0; e < 8; e++) out[column + e] = acc[e];
    }
    if (lane == 0) out[dim] = top, out[dim + 1] = sum;
}

// Column c of the output that `count` parts, dim + 2 floats apart, make up. They are added in their order.
__device__ __forceinline__ float merge_parts(const float* parts, uint32_t count, uint32_t dim, uint32_t c) {
    const uint32_t stride = dim + 2;
    float top = -INFINITY, total = 0.0f, sum = 0.0f;
    for (uint32_t p = 0; p < count; p++) top = fmaxf(top, parts[p * stride + dim]);
    for (uint32_t p = 0; p < count; p++) {
        const float weight = expf(parts[p * stride + dim] - top);
        total += weight * parts[p * stride + dim + 1];
        sum += weight * parts[p * stride + c];
    }
    return sum / total;
}
