// The optimiser's step over all tensors in one launch, and the sum of all gradients' squares in two (spec section 7).
//
//   sum_squares   of all elements of all tensors, in float64
//   adamw         g' = grad_scale * clip * g,  m = beta1 m + (1 - beta1) g',  v = beta2 v + (1 - beta2) g'^2,
//                 value -= lr * (weight_decay * value + (m / correct1) / (sqrt(v) / correct2 + eps))
//                 with correct1 = 1 - beta1^step and correct2 = sqrt(1 - beta2^step)
//                 where the sum of the gradients' squares is given, clip = most / norm if norm > most > 0, else 1,
//                 and nothing is done if the sum is not finite
//
// A list on the device says where the tensors are. They are cut into chunks of CHUNK elements, numbered from the
// first tensor to the last, and a block takes one: so a model of some hundred matrices and vectors keeps the whole GPU
// busy to the end. All is float32 and bound by memory: 28 bytes an element for a step, 4 for the sum. A weight that
// products take in bf16 has a copy that the step writes with it: 2 bytes more.
#include "common.cuh"

// `CHUNK` of src/device/cuda/optimizer.rs.
constexpr uint32_t CHUNK = 8192;

// A tensor of the list: `Slot` of src/device/cuda/optimizer.rs. `first` is the number of its first chunk.
struct Slot {
    Global<float> value;
    Global<const float> grad;
    Global<float> m, v;
    Global<bf16> copy;  // may be null
    uint64_t count, first;
};

// The tensor that a chunk is of: the last one that begins there or before. None is empty.
__device__ __forceinline__ Slot slot_of(const Slot* slots, uint32_t tensors, uint64_t chunk) {
    uint32_t low = 0, high = tensors;
    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        if (slots[middle].first <= chunk) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return slots[low];
}

// The sum of x over the block, in every thread. All threads take part.
__device__ __forceinline__ double block_sum(double x) {
    SHARED(double, parts, 32);
#pragma unroll
    for (uint32_t offset = 16; offset > 0; offset >>= 1) x += __shfl_xor_sync(FULL_WARP, x, offset);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    double sum = parts[0];
    for (uint32_t w = 1; w < blockDim.x / 32; w++) sum += parts[w];
    return sum;
}

// partials[c] is the sum of the squares of the gradients in chunk c.
KERNEL(sum_squares_chunks, 256, const Slot* slots, uint32_t tensors, double* partials) {
    const Slot slot = slot_of(slots, tensors, blockIdx.x);
    const uint64_t begin = (blockIdx.x - slot.first) * CHUNK, end = min(begin + CHUNK, slot.count);
    double sum = 0.0;
    for (uint64_t i = begin + 4 * threadIdx.x; i < end; i += 4 * blockDim.x) {
        if (i + 4 <= end) {
            const Vec<float> g = load_vec(slot.grad + i);
#pragma unroll
            for (uint32_t e = 0; e < 4; e++) sum += double(g.at[e]) * double(g.at[e]);
        } else {
#pragma unroll 1
            for (uint64_t e = i; e < end; e++) sum += double(slot.grad[e]) * double(slot.grad[e]);
        }
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

// One block adds up the sums of the others, in the first `count` of `all` partials, in an order that their number
// decides. The other partials are of watched tensors: where a number of theirs is not finite, the total is not finite
// either.
KERNEL(sum_squares_total, 256, const double* partials, uint64_t count, uint64_t all, double* total) {
    double sum = 0.0, watched = 0.0;
    for (uint64_t i = threadIdx.x; i < count; i += blockDim.x) sum += partials[i];
    for (uint64_t i = count + threadIdx.x; i < all; i += blockDim.x) watched += partials[i];
    sum = block_sum(sum);
    __syncthreads();
    watched = block_sum(watched);
    // Zero times a finite number is zero; times anything else it is NaN.
    if (threadIdx.x == 0) *total = all > count ? sum + 0.0 * watched : sum;
}

struct Hyper {
    float lr, beta1, beta2, eps, weight_decay, correct1, correct2, grad_scale;
};

// One element.
__device__ __forceinline__ void update(const Hyper& h, float grad, float* value, float* m, float* v) {
    const float g = grad * h.grad_scale;
    *m = h.beta1 * *m + (1.0f - h.beta1) * g;
    *v = h.beta2 * *v + (1.0f - h.beta2) * g * g;
    const float change = (*m / h.correct1) / (sqrtf(*v) / h.correct2 + h.eps);
    *value -= h.lr * (h.weight_decay * *value + change);
}

// The factor that clips gradients whose squares have this sum to the norm `most`; 0 never clips.
__device__ __forceinline__ float clipping(double squares, float most) {
    const double norm = sqrt(squares);
    return most > 0.0f && norm > double(most) ? float(double(most) / norm) : 1.0f;
}

KERNEL(adamw, 256, const Slot* slots, uint32_t tensors, float lr, float beta1, float beta2, float eps,
       float weight_decay, float correct1, float correct2, float grad_scale, const double* squares, float most) {
    if (squares != nullptr) {
        // The difference is NaN where the sum is not finite.
        if (!(*squares - *squares == 0.0)) return;
        grad_scale *= clipping(*squares, most);
    }
    const Hyper hyper{lr, beta1, beta2, eps, weight_decay, correct1, correct2, grad_scale};
    const Slot slot = slot_of(slots, tensors, blockIdx.x);
    const uint64_t begin = (blockIdx.x - slot.first) * CHUNK, end = min(begin + CHUNK, slot.count);
    for (uint64_t i = begin + 4 * threadIdx.x; i < end; i += 4 * blockDim.x) {
        if (i + 4 <= end) {
            const Vec<float> g = load_vec(slot.grad + i);
            Vec<float> value = load_vec(slot.value + i), m = load_vec(slot.m + i), v = load_vec(slot.v + i);
#pragma unroll
            for (uint32_t e = 0; e < 4; e++) update(hyper, g.at[e], &value.at[e], &m.at[e], &v.at[e]);
            *reinterpret_cast<Vec<float>*>(slot.value + i) = value;
            *reinterpret_cast<Vec<float>*>(slot.m + i) = m;
            *reinterpret_cast<Vec<float>*>(slot.v + i) = v;
            if (slot.copy != nullptr) {
                bf16 copy[4];
#pragma unroll
                for (uint32_t e = 0; e < 4; e++) copy[e] = from_float<bf16>(value.at[e]);
                store_four(slot.copy + i, copy);
            }
        } else {
#pragma unroll 1
            for (uint64_t e = i; e < end; e++) {
                update(hyper, slot.grad[e], slot.value + e, slot.m + e, slot.v + e);
                if (slot.copy != nullptr) slot.copy[e] = from_float<bf16>(slot.value[e]);
            }
        }
    }
}
