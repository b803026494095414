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
// registers but reads them again from the first-level cache: rows are at most some tens of KiB. Rows that begin at
// multiples of 16 bytes are read and written 16 bytes at a time. Where the weights' gradients are wanted, a block takes
// `each` rows and adds up their parts in shared memory, every thread those of its own columns; norm_backward_weights then
// adds the blocks'.
#include "common.cuh"

template <class A>
__device__ void rms_norm(const A* x, const A* delta, const float* w, float eps, uint32_t cols, A* sum, A* out) {
    const uint64_t at = uint64_t(blockIdx.x) * cols;
    float squares = 0.0f;
    each_columns<A>(cols, [&](auto count, uint32_t c) {
        constexpr uint32_t N = decltype(count)::VALUE;
        float s[N];
        load_columns(x + at + c, s);
        if (delta != nullptr) {
            float d[N];
            load_columns(delta + at + c, d);
#pragma unroll
            for (uint32_t i = 0; i < N; i++) s[i] = to_float(from_float<A>(s[i] + d[i]));
            store_columns(sum + at + c, s);
        }
#pragma unroll
        for (uint32_t i = 0; i < N; i++) squares += s[i] * s[i];
    });
    const float r = 1.0f / sqrtf(block_sum(squares) / float(cols) + eps);
    const A* from = delta != nullptr ? sum : x;
    each_columns<A>(cols, [&](auto count, uint32_t c) {
        constexpr uint32_t N = decltype(count)::VALUE;
        float s[N], weight[N];
        load_columns(from + at + c, s);
        load_columns(w + c, weight);
#pragma unroll
        for (uint32_t i = 0; i < N; i++) s[i] = s[i] * r * weight[i];
        store_columns(out + at + c, s);
    });
}

template <class A>
__device__ void layer_norm(const A* x, const float* w, const float* b, uint32_t cols, A* out) {
    const uint64_t at = uint64_t(blockIdx.x) * cols;
    float sum = 0.0f;
    each_columns<A>(cols, [&](auto count, uint32_t c) {
        constexpr uint32_t N = decltype(count)::VALUE;
        float v[N];
        load_columns(x + at + c, v);
#pragma unroll
        for (uint32_t i = 0; i < N; i++) sum += v[i];
    });
    const float mean = block_sum(sum) / float(cols);
    // From the differences: from the squares a mean far from 0 would leave no digits.
    float squares = 0.0f;
    each_columns<A>(cols, [&](auto count, uint32_t c) {
        constexpr uint32_t N = decltype(count)::VALUE;
        float v[N];
        load_columns(x + at + c, v);
#pragma unroll
        for (uint32_t i = 0; i < N; i++) squares += (v[i] - mean) * (v[i] - mean);
    });
    const float r = 1.0f / sqrtf(block_sum(squares) / float(cols) + 1e-5f);
    each_columns<A>(cols, [&](auto count, uint32_t c) {
        constexpr uint32_t N = decltype(count)::VALUE;
        float v[N], weight[N], bias[N];
        load_columns(x + at + c, v);
        load_columns(w + c, weight);
        load_columns(b + c, bias);
#pragma unroll
        for (uint32_t i = 0; i < N; i++) v[i] = (v[i] - mean) * r * weight[i] + bias[i];
        store_columns(out + at + c, v);
    });
}

// Columns that the backward of a norm reads: of the rows that were normalised, of the gradients, and of the weights.
template <uint32_t N>
struct Columns {
    float x[N], dout[N], w[N];

    template <class A>
    __device__ __forceinline__ Columns(const A* from_x, const A* from_dout, const float* from_w) {
        load_columns(from_x, x);
        load_columns(from_dout, dout);
        load_columns(from_w, w);
    }
};

// Adds x to elements in shared memory.
template <uint32_t N>
__device__ __forceinline__ void add_columns(float* to, const float (&x)[N]) {
    float sums[N];
    load_columns(to, sums);
#pragma unroll
    for (uint32_t i = 0; i < N; i++) sums[i] += x[i];
    store_columns(to, sums);
}

// Puts zeros into the elements of a row in shared memory, each by the thread that adds to it.
template <class A>
__device__ __forceinline__ void clear_columns(float* row, uint32_t cols) {
    each_columns<A>(cols, [&](auto count, uint32_t c) {
        const float zeros[decltype(count)::VALUE] = {};
        store_columns(row + c, zeros);
    });
}

// Copies a row of shared memory, each element by the thread that added to it.
template <class A>
__device__ __forceinline__ void copy_columns(const float* row, uint32_t cols, float* to) {
    each_columns<A>(cols, [&](auto count, uint32_t c) {
        float sums[decltype(count)::VALUE];
        load_columns(row + c, sums);
        store_columns(to + c, sums);
    });
}

// Adds to dx. `partials`, a row of sums for every block, may be null; otherwise a row is in shared memory.
template <class A>
__device__ void rms_norm_backward(const A* dout, const A* x, const float* w, float eps, uint32_t rows, uint32_t each,
                                  uint32_t cols, A* dx, float* partials) {
    DYNAMIC_SHARED(float, dw);
    if (partials != nullptr) clear_columns<A>(dw, cols);
    const uint32_t end = min(rows, (blockIdx.x + 1) * each);
    for (uint32_t row = blockIdx.x * each; row < end; row++) {
        const uint64_t at = uint64_t(row) * cols;
        float squares = 0.0f, along = 0.0f;
        each_columns<A>(cols, [&](auto count, uint32_t c) {
            constexpr uint32_t N = decltype(count)::VALUE;
            const Columns<N> of(x + at + c, dout + at + c, w + c);
#pragma unroll
            for (uint32_t i = 0; i < N; i++) {
                squares += of.x[i] * of.x[i];
                along += of.dout[i] * of.w[i] * of.x[i];
            }
        });
        const float r = 1.0f / sqrtf(block_sum(squares) / float(cols) + eps);
        const float by = r * r * (block_sum(along) / float(cols));
        each_columns<A>(cols, [&](auto count, uint32_t c) {
            constexpr uint32_t N = decltype(count)::VALUE;
            Columns<N> of(x + at + c, dout + at + c, w + c);
            float to[N];
            load_columns(dx + at + c, to);
#pragma unroll
            for (uint32_t i = 0; i < N; i++) to[i] += r * (of.dout[i] * of.w[i] - of.x[i] * by);
            store_columns(dx + at + c, to);
            if (partials == nullptr) return;
#pragma unroll
            for (uint32_t i = 0; i < N; i++) of.dout[i] = of.dout[i] * of.x[i] * r;
            add_columns(dw + c, of.dout);
        });
    }
    if (partials != nullptr) copy_columns<A>(dw, cols, partials + uint64_t(blockIdx.x) * cols);
}

// Overwrites dx. A row of `partials`, and of shared memory, holds the sums for dw and then those for db.
template <class A>
__device__ void layer_norm_backward(const A* dout, const A* x, const float* w, uint32_t rows, uint32_t each,
                                    uint32_t cols, A* dx, float* partials) {
    DYNAMIC_SHARED(float, dw);
    float* db = dw + cols;
    if (partials != nullptr) {
        clear_columns<A>(dw, cols);
        clear_columns<A>(db, cols);
    }
    const uint32_t end = min(rows, (blockIdx.x + 1) * each);
    for (uint32_t row = blockIdx.x * each; row < end; row++) {
        const uint64_t at = uint64_t(row) * cols;
        float sum = 0.0f, sum_g = 0.0f;
        each_columns<A>(cols, [&](auto count, uint32_t c) {
            constexpr uint32_t N = decltype(count)::VALUE;
            const Columns<N> of(x + at + c, dout + at + c, w + c);
#pragma unroll
            for (uint32_t i = 0; i < N; i++) {
                sum += of.x[i];
                sum_g += of.dout[i] * of.w[i];
            }
        });
        const float mean = block_sum(sum) / float(cols), mean_g = block_sum(sum_g) / float(cols);
        float squares = 0.0f, along = 0.0f;
        each_columns<A>(cols, [&](auto count, uint32_t c) {
            constexpr uint32_t N = decltype(count)::VALUE;
            const Columns<N> of(x + at + c, dout + at + c, w + c);
#pragma unroll
            for (uint32_t i = 0; i < N; i++) {
                const float difference = of.x[i] - mean;
                squares += difference * difference;
                along += of.dout[i] * of.w[i] * difference;
            }
        });
        const float r = 1.0f / sqrtf(block_sum(squares) / float(cols) + 1e-5f);
        const float mean_gn = r * (block_sum(along) / float(cols));
        each_columns<A>(cols, [&](auto count, uint32_t c) {
            constexpr uint32_t N = decltype(count)::VALUE;
            Columns<N> of(x + at + c, dout + at + c, w + c);
            float to[N];
#pragma unroll
            for (uint32_t i = 0; i < N; i++) {
                of.x[i] = (of.x[i] - mean) * r;
                to[i] = r * (of.dout[i] * of.w[i] - mean_g - of.x[i] * mean_gn);
            }
            store_columns(dx + at + c, to);
            if (partials == nullptr) return;
            add_columns(db + c, of.dout);
#pragma unroll
            for (uint32_t i = 0; i < N; i++) of.dout[i] *= of.x[i];
            add_columns(dw + c, of.dout);
        });
    }
    if (partials == nullptr) return;
    float* to = partials + 2 * uint64_t(blockIdx.x) * cols;
    copy_columns<A>(dw, cols, to);
    copy_columns<A>(db, cols, to + cols);
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
