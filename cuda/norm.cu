// RMSNorm, with the residual addition before it, and LayerNorm.
//
//   rms_norm     s = x, or s = x + delta which is stored too; out = s / sqrt(mean(s^2) + eps) * w
//   layer_norm   out = (x - mean(x)) / sqrt(variance(x) + 1e-5) * w + b
//
// Backward needs the rows that were normalised (x, or the sum) and w; the factor 1/sqrt is computed again, which
// costs one read of a row that is read anyhow. With r that factor and g = dout * w,
//   RMSNorm:    dx = r * (g - s * r^2 * mean(g * s))
//   LayerNorm:  dx = r * (g - mean(g) - n * mean(g * n)), n the normalised row.
//
// A block takes one row. Each thread keeps its columns in no registers but reads them again from the first-level
// cache: rows are at most some tens of KiB.
#include "common.cuh"

template <class A>
__device__ void rms_norm(const A* x, const A* delta, const float* w, float eps, uint32_t cols, A* sum, A* out) {
    const uint64_t at = uint64_t(blockIdx.x) * cols;
    float squares = 0.0f;
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
        float s = to_float(x[at + c]);
        if (delta != nullptr) {
            const A rounded = from_float<A>(s + to_float(delta[at + c]));
            sum[at + c] = rounded;
            s = to_float(rounded);
        }
        squares += s * s;
    }
    const float r = 1.0f / sqrtf(block_sum(squares) / float(cols) + eps);
    const A* from = delta != nullptr ? sum : x;
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
        out[at + c] = from_float<A>(to_float(from[at + c]) * r * w[c]);
    }
}

template <class A>
__device__ void layer_norm(const A* x, const float* w, const float* b, uint32_t cols, A* out) {
    const uint64_t at = uint64_t(blockIdx.x) * cols;
    float sum = 0.0f;
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) sum += to_float(x[at + c]);
    const float mean = block_sum(sum) / float(cols);
    // From the differences: from the squares a mean far from 0 would leave no digits.
    float squares = 0.0f;
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
        const float d = to_float(x[at + c]) - mean;
        squares += d * d;
    }
    const float r = 1.0f / sqrtf(block_sum(squares) / float(cols) + 1e-5f);
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
        out[at + c] = from_float<A>((to_float(x[at + c]) - mean) * r * w[c] + b[c]);
    }
}

#define NORMS(A, a)                                                                                           \
    KERNEL(rms_norm_##a, 256, const A* x, const A* delta, const float* w, float eps, uint32_t cols, A* sum,  \
           A* out) {                                                                                          \
        rms_norm(x, delta, w, eps, cols, sum, out);                                                           \
    }                                                                                                         \
    KERNEL(layer_norm_##a, 256, const A* x, const float* w, const float* b, uint32_t cols, A* out) {         \
        layer_norm(x, w, b, cols, out);                                                                       \
    }

NORMS(float, f32)
NORMS(bf16, bf16)
