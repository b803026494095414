// Operations that move or add whole rows: the compression merge, gathers, scatters, biases, addition.
//
//   gather_merge   out[r] = scale[r] * sum of table[ids[i]], i in offsets[r] .. offsets[r+1]   (spec section 2)
//   gather_rows    out[n] = alpha * src[rows[n]]
//   scatter_rows   dst[rows[n]] = alpha * src[n], or += that; the rows are distinct
//   add_bias       y[t] += bias
//   add            y += x
//
// Backward: a gather's is a scatter_rows that adds and a scatter's a gather_rows.
//
//   gather_merge_backward   dtable[ids[i]] += scale[r] * dout[r], i in offsets[r] .. offsets[r+1]
//   add_bias_backward       db += sum of dy[t], of parts of the rows first; add_bias_backward_sum adds the parts up
//
// All are bound by memory. A block takes one row and its threads neighbouring columns, but where said otherwise.
// An id occurs many times, so the merge's gradient goes by id: the launch code sorts them, a block has one, and sums
// its rows in their order.
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

// Segment s is rows[starts[s] .. starts[s+1]] of dout, those that the table's row ids[s] went into. Block x takes a
// segment and block y 256 of its columns, one a thread.
template <class A>
__device__ void gather_merge_backward(const A* dout, const uint32_t* ids, const uint32_t* starts,
                                      const uint32_t* rows, const float* scale, uint32_t cols, float* dtable) {
    const uint32_t c = blockIdx.y * blockDim.x + threadIdx.x;
    if (c >= cols) return;
    const uint32_t begin = starts[blockIdx.x], end = starts[blockIdx.x + 1];
    float sum = 0.0f;
#pragma unroll 4
    for (uint32_t i = begin; i < end; i++) {
        const uint32_t r = rows[i];
        sum += scale[r] * to_float(dout[uint64_t(r) * cols + c]);
    }
    dtable[uint64_t(ids[blockIdx.x]) * cols + c] += sum;
}

// Columns of a block of add_bias_backward: four a lane. `SUM_COLUMNS` of src/device/cuda/rows.rs.
constexpr uint32_t SUM_COLUMNS = 128;

// partials[y][c] is the sum of column c over part y of the rows. Block x takes SUM_COLUMNS columns; its warps take
// turns at the rows.
template <class A>
__device__ void add_bias_backward(const A* x, uint32_t rows, uint32_t part, uint32_t cols, float* partials) {
    SHARED(float, sums, 8 * SUM_COLUMNS);
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const uint32_t c = blockIdx.x * SUM_COLUMNS + 4 * lane;
    const uint32_t begin = blockIdx.y * part, end = min(begin + part, rows);
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (cols % 4 == 0 && c < cols) {
#pragma unroll 4
        for (uint32_t r = begin + warp; r < end; r += warps) {
            const Some<A, 4> v = *reinterpret_cast<const Some<A, 4>*>(x + uint64_t(r) * cols + c);
#pragma unroll
            for (uint32_t e = 0; e < 4; e++) sum[e] += to_float(v.at[e]);
        }
    } else {
        for (uint32_t r = begin + warp; r < end; r += warps) {
#pragma unroll
            for (uint32_t e = 0; e < 4; e++) {
                if (c + e < cols) sum[e] += to_float(x[uint64_t(r) * cols + c + e]);
            }
        }
    }
#pragma unroll
    for (uint32_t e = 0; e < 4; e++) sums[warp * SUM_COLUMNS + 4 * lane + e] = sum[e];
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < SUM_COLUMNS; i += blockDim.x) {
        const uint32_t column = blockIdx.x * SUM_COLUMNS + i;
        if (column >= cols) return;
        float total = 0.0f;
        for (uint32_t w = 0; w < warps; w++) total += sums[w * SUM_COLUMNS + i];
        partials[uint64_t(blockIdx.y) * cols + column] = total;
    }
}

// sums[c] += partials[0][c] + partials[1][c] + ...
KERNEL(add_bias_backward_sum, 256, const float* partials, uint32_t parts, uint32_t cols, float* sums) {
    const uint64_t c = grid_thread();
    if (c >= cols) return;
    float sum = 0.0f;
    for (uint32_t p = 0; p < parts; p++) sum += partials[uint64_t(p) * cols + c];
    sums[c] += sum;
}

template <class A>
__device__ void add(const A* x, uint64_t count, A* y) {
    for (uint64_t i = grid_thread(); i < count; i += grid_threads()) {
        y[i] = from_float<A>(to_float(y[i]) + to_float(x[i]));
    }
}

#define FROM(W, w, A, a)                                                                                         \
    KERNEL(gather_merge_##w##_##a, 256, const W* table, const uint32_t* ids, const uint32_t* offsets,            \
           const float* scale, uint32_t cols, A* out) {                                                          \
        gather_merge(table, ids, offsets, scale, cols, out);                                                     \
    }                                                                                                            \
    KERNEL(gather_rows_##w##_##a, 256, float alpha, const W* src, const uint32_t* rows, uint32_t cols, A* out) { \
        gather_rows(alpha, src, rows, cols, out);                                                                \
    }

#define WITHIN(A, a)                                                                                               \
    KERNEL(scatter_rows_##a, 256, float alpha, const A* src, const uint32_t* rows, uint32_t cols,                  \
           uint32_t add, A* dst) {                                                                                 \
        scatter_rows(alpha, src, rows, cols, add, dst);                                                            \
    }                                                                                                              \
    KERNEL(add_bias_##a, 256, const float* bias, uint32_t cols, A* y) { add_bias(bias, cols, y); }                 \
    KERNEL(gather_merge_backward_##a, 256, const A* dout, const uint32_t* ids, const uint32_t* starts,             \
           const uint32_t* rows, const float* scale, uint32_t cols, float* dtable) {                               \
        gather_merge_backward(dout, ids, starts, rows, scale, cols, dtable);                                       \
    }                                                                                                              \
    KERNEL(add_bias_backward_##a, 256, const A* x, uint32_t rows, uint32_t part, uint32_t cols, float* partials) { \
        add_bias_backward(x, rows, part, cols, partials);                                                          \
    }                                                                                                              \
    KERNEL(add_##a, 256, const A* x, uint64_t count, A* y) { add(x, count, y); }

FROM(float, f32, float, f32)
FROM(bf16, bf16, float, f32)
FROM(f16, f16, float, f32)
FROM(float, f32, bf16, bf16)
FROM(bf16, bf16, bf16, bf16)
FROM(f16, f16, bf16, bf16)
WITHIN(float, f32)
WITHIN(bf16, bf16)
