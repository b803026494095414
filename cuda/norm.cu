// RMSNorm, with the residual addition before it, and LayerNorm.
//
//   rms_norm     s = x, or s = x + delta which is stored too; out = s / sqrt(mean(s^2) + eps) * w
//   layer_norm   out = (x - mean(x)) / sqrt(variance(x) + 1e-5) * w + b
//
// Backward needs the rows that were normalised (x, or the sum) and w; the factor 1/sqrt is computed again, which
// costs one read of a row that is read anyhow. With r that factor and g = dout * w,
//   RMSNorm:    dx = r * (g - s * r^2 * mean(g * s))
//   LayerNorm:  dx = r * (g - mean(g) - n * mean(g * n)), n the normalised row
// and, summed over all rows, dw = dout * n and db = dout; of RMSNorm n is s * r.
//
// A block takes one row, or one head of it where heads are normalised one by one. Each thread keeps its columns in no
// registers but reads them again from the first-level cache: rows are at most some tens of KiB. Where the weights'
// gradients are wanted, a block takes `each` rows and adds up their parts in shared memory, every thread those of its
// own columns; norm_backward_weights then adds the blocks'.
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

// Adds to dx. `partials`, a row of sums for every block, may be null; otherwise a row is in shared memory.
template <class A>
__device__ void rms_norm_backward(const A* dout, const A* x, const float* w, float eps, uint32_t rows, uint32_t each,
                                  uint32_t cols, A* dx, float* partials) {
    DYNAMIC_SHARED(float, dw);
    if (partials != nullptr) {
        for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) dw[c] = 0.0f;
    }
    const uint32_t end = min(rows, (blockIdx.x + 1) * each);
    for (uint32_t row = blockIdx.x * each; row < end; row++) {
        const uint64_t at = uint64_t(row) * cols;
        float squares = 0.0f, along = 0.0f;
        for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
            const float s = to_float(x[at + c]);
            squares += s * s;
            along += to_float(dout[at + c]) * w[c] * s;
        }
        const float r = 1.0f / sqrtf(block_sum(squares) / float(cols) + eps);
        const float by = r * r * (block_sum(along) / float(cols));
        for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
            const float s = to_float(x[at + c]), d = to_float(dout[at + c]);
            dx[at + c] = from_float<A>(to_float(dx[at + c]) + r * (d * w[c] - s * by));
            if (partials != nullptr) dw[c] += d * s * r;
        }
    }
    if (partials == nullptr) return;
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) partials[uint64_t(blockIdx.x) * cols + c] = dw[c];
}

// Overwrites dx. A row of `partials`, and of shared memory, holds the sums for dw and then those for db.
template <class A>
__device__ void layer_norm_backward(const A* dout, const A* x, const float* w, uint32_t rows, uint32_t each,
                                    uint32_t cols, A* dx, float* partials) {
    DYNAMIC_SHARED(float, dw);
    float* db = dw + cols;
    if (partials != nullptr) {
        for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) dw[c] = db[c] = 0.0f;
    }
    const uint32_t end = min(rows, (blockIdx.x + 1) * each);
    for (uint32_t row = blockIdx.x * each; row < end; row++) {
        const uint64_t at = uint64_t(row) * cols;
        float sum = 0.0f, sum_g = 0.0f;
        for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
            sum += to_float(x[at + c]);
            sum_g += to_float(dout[at + c]) * w[c];
        }
        const float mean = block_sum(sum) / float(cols), mean_g = block_sum(sum_g) / float(cols);
        float squares = 0.0f, along = 0.0f;
        for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
            const float difference = to_float(x[at + c]) - mean;
            squares += difference * difference;
            along += to_float(dout[at + c]) * w[c] * difference;
        }
        const float r = 1.0f / sqrtf(block_sum(squares) / float(cols) + 1e-5f);
        const float mean_gn = r * (block_sum(along) / float(cols));
        for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
            const float n = (to_float(x[at + c]) - mean) * r, d = to_float(dout[at + c]);
            dx[at + c] = from_float<A>(r * (d * w[c] - mean_g - n * mean_gn));
            if (partials != nullptr) dw[c] += d * n, db[c] += d;
        }
    }
    if (partials == nullptr) return;
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
        float* to = partials + 2 * uint64_t(blockIdx.x) * cols + c;
        to[0] = dw[c], to[cols] = db[c];
    }
}

// Adds `count` rows of partial sums to dw or, in the second row of blocks where there is one, to db. A block takes 32
// columns, and of the rows each of its warps every eighth.
KERNEL(norm_backward_weights, 256, const float* partials, uint32_t count, uint32_t cols, float* dw, float* db) {
    SHARED(float, sums, 256);
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, c = blockIdx.x * 32 + lane;
    const uint64_t stride = uint64_t(gridDim.y) * cols;
    float sum = 0.0f;
    if (c < cols) {
        const float* from = partials + blockIdx.y * cols + c;
#pragma unroll 4
        for (uint32_t row = warp; row < count; row += 8) sum += from[row * stride];
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (warp > 0 || c >= cols) return;
    float total = 0.0f;
    for (uint32_t w = 0; w < 8; w++) total += sums[32 * w + lane];
    float* to = blockIdx.y == 0 ? dw : db;
    to[c] += total;
}

#define NORMS(A, a)                                                                                          \
    KERNEL(rms_norm_##a, 256, const A* x, const A* delta, const float* w, float eps, uint32_t cols, A* sum,  \
           A* out) {                                                                                         \
        rms_norm(x, delta, w, eps, cols, sum, out);                                                          \
    }                                                                                                        \
    KERNEL(layer_norm_##a, 256, const A* x, const float* w, const float* b, uint32_t cols, A* out) {         \
        layer_norm(x, w, b, cols, out);                                                                      \
    }                                                                                                        \
    KERNEL(rms_norm_backward_##a, 256, const A* dout, const A* x, const float* w, float eps, uint32_t rows,  \
           uint32_t each, uint32_t cols, A* dx, float* partials) {                                           \
        rms_norm_backward(dout, x, w, eps, rows, each, cols, dx, partials);                                  \
    }                                                                                                        \
    KERNEL(layer_norm_backward_##a, 256, const A* dout, const A* x, const float* w, uint32_t rows,           \
           uint32_t each, uint32_t cols, A* dx, float* partials) {                                           \
        layer_norm_backward(dout, x, w, rows, each, cols, dx, partials);                                     \
    }

NORMS(float, f32)
NORMS(bf16, bf16)
