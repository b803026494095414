// Matrix products with few rows of activations: y[m, n] = alpha * x[m, :] . w[n, :] + beta * y[m, n].
//
// With 1 to 16 rows a product reads every weight once and is bound by that, so it is written for the memory
// system alone (dot.cuh): each warp takes a few rows of w and all rows of x. More rows go to a library.
//
// Backward is a product with many rows, or not needed: training has no products with few rows.
#include "dot.cuh"

template <uint32_t M, uint32_t J, class A, class W>
__device__ void gemv(float alpha, const A* x, uint32_t x_rows, const W* w, uint64_t rows, uint32_t k, float beta,
                     A* y) {
    const uint64_t n = (uint64_t(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32) * J;
    if (n >= rows) return;  // a whole warp, and no barrier follows
    float sums[M][J];
    dot_rows<M, J>(x, x_rows, w, n, rows, k, sums);
    // Every lane has all sums: lane l writes the l-th.
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (uint32_t m = 0; m < M; m++) {
#pragma unroll
        for (uint32_t j = 0; j < J; j++) {
            if (lane == (m * J + j) % 32 && m < x_rows && n + j < rows) {
                A* to = y + uint64_t(m) * rows + n + j;
                const float before = beta == 0.0f ? 0.0f : beta * to_float(*to);
                *to = from_float<A>(alpha * sums[m][j] + before);
            }
        }
    }
}

#define GEMV(A, a, W, w_, M, J)                                                                                \
    KERNEL(gemv_##a##_##w_##_##M, 256, float alpha, const A* x, uint32_t x_rows, const W* w, uint64_t rows,    \
           uint32_t k, float beta, A* y) {                                                                     \
        gemv<M, J>(alpha, x, x_rows, w, rows, k, beta, y);                                                     \
    }

// Few rows of x leave registers for many loads of w.
#define ROWS(A, a, W, w)     \
    GEMV(A, a, W, w, 1, 4)   \
    GEMV(A, a, W, w, 4, 4)   \
    GEMV(A, a, W, w, 16, 2)

ROWS(float, f32, float, f32)
ROWS(float, f32, bf16, bf16)
ROWS(float, f32, f16, f16)
ROWS(bf16, bf16, float, f32)
ROWS(bf16, bf16, bf16, bf16)
ROWS(bf16, bf16, f16, f16)
