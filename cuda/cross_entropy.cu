// The loss of labels on rows of logits, and its gradient at the logits (spec sections 3 and 6).
//
//   loss       logsumexp(logits) - mean of the labels' logits
//   dlogits    g * (softmax(logits) - shares of the labels)
//
// The label of a row is uniform over its ids: an id that stands there k times of n has the share k / n. The gradient
// that reaches the loss is g: a given factor, or by way of the log-probability -loss the gradient of the policy
// objective.
//
// The logits are a chunk of rows, multiplied by the launch code before and after: logits = h w^T in float32;
// dh = dlogits w and dw += dlogits^T h, of dlogits in the activations' type. Rounded is the difference of
// probability and share, not its parts: for a label that the model knows they are nearly equal.
//
// A block takes one row. Its first pass reads the row once for maximum and sum together; the second reads it again
// and writes. Both are bound by memory, so a thread has BATCH loads in flight.
#include "policy.cuh"

constexpr uint32_t BATCH = 4;

// Maximum and sum of exp(x - maximum) over the row, in every thread.
__device__ __forceinline__ void softmax_sum(const float* row, uint32_t count, float* maximum, float* total) {
    float top = -INFINITY, sum = 0.0f;
    for (uint32_t from = threadIdx.x; from < count; from += BATCH * blockDim.x) {
        float x[BATCH], most = top;
#pragma unroll
        for (uint32_t b = 0; b < BATCH; b++) {
            const uint32_t i = from + b * blockDim.x;
            x[b] = i < count ? row[i] : -INFINITY;
        }
#pragma unroll
        for (uint32_t b = 0; b < BATCH; b++) most = fmaxf(most, x[b]);
        sum *= expf(top - most);
#pragma unroll
        for (uint32_t b = 0; b < BATCH; b++) sum += expf(x[b] - most);
        top = most;
    }
    *maximum = block_max(top);
    *total = block_sum(sum * expf(top - *maximum));
}

// The loss of row blockIdx.x of the logits, which is row `r` of the labels, with the row's maximum and sum; in every
// thread. The labels' distances from the maximum come first: the logarithm is small beside the logits, and added
// to one of them would lose its last digits.
__device__ __forceinline__ float row_loss(const float* row, const uint32_t* ids, const uint32_t* offsets,
                                          uint32_t vocab, uint64_t r, float* top, float* sum) {
    softmax_sum(row, vocab, top, sum);
    const uint32_t begin = offsets[r], end = offsets[r + 1];
    float distance = 0.0f;
    for (uint32_t i = begin; i < end; i++) distance += (*top - row[ids[i]]) / float(end - begin);
    return logf(*sum) + distance;
}

// The first row of the logits is row `first` of the labels and losses.
KERNEL(cross_entropy_loss, 1024, const float* logits, const uint32_t* ids, const uint32_t* offsets, uint32_t vocab,
       uint32_t first, float* loss) {
    const uint64_t r = uint64_t(first) + blockIdx.x;
    float top, sum;
    const float l = row_loss(logits + uint64_t(blockIdx.x) * vocab, ids, offsets, vocab, r, &top, &sum);
    if (threadIdx.x == 0) loss[r] = l;
}

// `scale` has a factor a row of the labels; without it `terms` has an element of the policy objective.
template <class A>
__device__ void cross_entropy_gradient(const float* logits, const uint32_t* ids, const uint32_t* offsets,
                                       uint32_t vocab, uint32_t first, const float* scale, const float* terms,
                                       Objective objective, float* loss, A* dlogits) {
    const uint64_t r = uint64_t(first) + blockIdx.x;
    const float* row = logits + uint64_t(blockIdx.x) * vocab;
    A* out = dlogits + uint64_t(blockIdx.x) * vocab;
    float top, sum;
    const float l = row_loss(row, ids, offsets, vocab, r, &top, &sum);
    const float inverse = 1.0f / sum;
    if (threadIdx.x == 0) loss[r] = l;
    const float g = scale != nullptr ? scale[r] : -policy_gradient(terms + 4 * r, -l, objective);
    for (uint32_t from = threadIdx.x; from < vocab; from += BATCH * blockDim.x) {
        float x[BATCH];
#pragma unroll
        for (uint32_t b = 0; b < BATCH; b++) {
            const uint32_t i = from + b * blockDim.x;
            x[b] = i < vocab ? row[i] : 0.0f;
        }
#pragma unroll
        for (uint32_t b = 0; b < BATCH; b++) {
            const uint32_t i = from + b * blockDim.x;
            if (i < vocab) out[i] = from_float<A>(g * (expf(x[b] - top) * inverse));
        }
    }
    __syncthreads();  // the labels' elements are written once more
    const uint32_t begin = offsets[r], end = offsets[r + 1];
    for (uint32_t i = begin + threadIdx.x; i < end; i += blockDim.x) {
        const uint32_t id = ids[i];
        uint32_t before = 0, times = 0;
        for (uint32_t j = begin; j < end; j++) {
            const uint32_t same = ids[j] == id ? 1 : 0;
            times += same;
            before += j < i ? same : 0;
        }
        if (before == 0) {
            out[id] = from_float<A>(g * (expf(row[id] - top) * inverse - float(times) / float(end - begin)));
        }
    }
}

#define GRADIENT(A, a)                                                                                                 \
    KERNEL(cross_entropy_gradient_##a, 1024, const float* logits, const uint32_t* ids, const uint32_t* offsets,        \
           uint32_t vocab, uint32_t first, const float* scale, const float* terms, float clip_eps, float kl_weight,    \
           float* loss, A* dlogits) {                                                                                  \
        cross_entropy_gradient(logits, ids, offsets, vocab, first, scale, terms, Objective{clip_eps, kl_weight}, loss, \
                               dlogits);                                                                               \
    }

GRADIENT(float, f32)
GRADIENT(bf16, bf16)
