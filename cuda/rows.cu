// Operations that move or add whole rows: the compression merge, gathers, scatters, biases, addition.
//
//   gather_merge   out[r] = scale[r] * sum of table[ids[i]], i in offsets[r] .. offsets[r+1]   (spec section 2)
//   gather_rows    out[n] = alpha * src[rows[n]]
//   scatter_rows   dst[rows[n]] = alpha * src[n], or += that; the rows are distinct
//   add_bias       y[t] += bias
//   add            y += x
//   convert        another storage type
//
// Backward: the merge's gradient is dtable[ids[i]] += scale[r] * dout[r] and needs ids, offsets and scale; a
// gather's is a scatter_rows that adds and a scatter's a gather_rows; a bias's is the column sum.
//
// All are bound by memory. A block takes one row and its threads neighbouring columns.
#include "common.cuh"

template <class W, class A>
__device__ void gather_merge(const W* table, const uint32_t* ids, const uint32_t* offsets, const float* scale,
                             uint32_t cols, A* out) {
    const uint32_t r = blockIdx.x, begin = offsets[r], end = offsets[r + 1];
    const float factor = scale[r];
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
        // Summed first and scaled once, as in the reference.
        float sum = 0.0f;
        for (uint32_t i = begin; i < end; i++) sum += to_float(table[uint64_t(ids[i]) * cols + c]);
        out[uint64_t(r) * cols + c] = from_float<A>(sum * factor);
    }
}

template <class W, class A>
__device__ void gather_rows(float alpha, const W* src, const uint32_t* rows, uint32_t cols, A* out) {
    const W* from = src + uint64_t(rows[blockIdx.x]) * cols;
    A* to = out + uint64_t(blockIdx.x) * cols;
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) to[c] = from_float<A>(alpha * to_float(from[c]));
}

template <class A>
__device__ void scatter_rows(float alpha, const A* src, const uint32_t* rows, uint32_t cols, uint32_t add,
                             A* dst) {
    const A* from = src + uint64_t(blockIdx.x) * cols;
    A* to = dst + uint64_t(rows[blockIdx.x]) * cols;
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
        const float before = add ? to_float(to[c]) : 0.0f;
        to[c] = from_float<A>(before + alpha * to_float(from[c]));
    }
}

template <class A>
__device__ void add_bias(const float* bias, uint32_t cols, A* y) {
    A* row = y + uint64_t(blockIdx.x) * cols;
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) row[c] = from_float<A>(to_float(row[c]) + bias[c]);
}

template <class A>
__device__ void add(const A* x, uint64_t count, A* y) {
    for (uint64_t i = grid_thread(); i < count; i += grid_threads()) {
        y[i] = from_float<A>(to_float(y[i]) + to_float(x[i]));
    }
}

template <class F, class T>
__device__ void convert(const F* from, uint64_t count, T* to) {
    for (uint64_t i = grid_thread(); i < count; i += grid_threads()) to[i] = from_float<T>(to_float(from[i]));
}

#define FROM(W, w, A, a)                                                                                      \
    KERNEL(gather_merge_##w##_##a, 256, const W* table, const uint32_t* ids, const uint32_t* offsets,        \
           const float* scale, uint32_t cols, A* out) {                                                       \
        gather_merge(table, ids, offsets, scale, cols, out);                                                  \
    }                                                                                                         \
    KERNEL(gather_rows_##w##_##a, 256, float alpha, const W* src, const uint32_t* rows, uint32_t cols, A* out) { \
        gather_rows(alpha, src, rows, cols, out);                                                             \
    }                                                                                                         \
    KERNEL(convert_##w##_##a, 256, const W* from, uint64_t count, A* to) { convert(from, count, to); }

#define WITHIN(A, a)                                                                                        \
    KERNEL(scatter_rows_##a, 256, float alpha, const A* src, const uint32_t* rows, uint32_t cols,           \
           uint32_t add, A* dst) {                                                                          \
        scatter_rows(alpha, src, rows, cols, add, dst);                                                     \
    }                                                                                                       \
    KERNEL(add_bias_##a, 256, const float* bias, uint32_t cols, A* y) { add_bias(bias, cols, y); }          \
    KERNEL(add_##a, 256, const A* x, uint64_t count, A* y) { add(x, count, y); }

FROM(float, f32, float, f32)
FROM(bf16, bf16, float, f32)
FROM(f16, f16, float, f32)
FROM(float, f32, bf16, bf16)
FROM(bf16, bf16, bf16, bf16)
FROM(f16, f16, bf16, bf16)
WITHIN(float, f32)
WITHIN(bf16, bf16)
