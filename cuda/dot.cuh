// Dot products of a few rows of activations with rows of weights, by one warp: the heart of decoding.
#pragma once

#include "common.cuh"

// sums[m][j] = x[m] . w[n + j] for M rows of x and J of w, in every lane. Rows of w at `rows` and beyond repeat
// the last one; the caller drops their sums. Lane order and vector width depend on k alone, so equal rows give
// equal bits, whatever n is.
//
// Lanes take neighbouring 16 bytes of each row of w; the J loads of a step are independent and stay in flight
// together. x is small and comes from the first-level cache.
template <uint32_t M, uint32_t J, class A, class W>
__device__ __forceinline__ void dot_rows(const A* x, uint32_t x_rows, const W* w, uint64_t n, uint64_t rows,
                                         uint32_t k, float sums[M][J]) {
    constexpr uint32_t N = Vec<W>::COUNT;
    const W* from[J];
#pragma unroll
    for (uint32_t j = 0; j < J; j++) from[j] = w + min(n + j, rows - 1) * k;
    const A* of[M];
#pragma unroll
    for (uint32_t m = 0; m < M; m++) of[m] = x + uint64_t(min(m, x_rows - 1)) * k;
#pragma unroll
    for (uint32_t m = 0; m < M; m++) {
#pragma unroll
        for (uint32_t j = 0; j < J; j++) sums[m][j] = 0.0f;
    }
    const uint32_t lane = threadIdx.x % 32;
    // Rows that start at a multiple of 16 bytes are read so.
    const uint32_t whole = k % N == 0 && k % Vec<A>::COUNT == 0 ? k : 0;
    // More of them at once would not fit the registers.
#pragma unroll 1
    for (uint32_t at = lane * N; at < whole; at += 32 * N) {
        Vec<W> v[J];
#pragma unroll
        for (uint32_t j = 0; j < J; j++) v[j] = load_vec(from[j] + at);
#pragma unroll
        for (uint32_t m = 0; m < M; m++) {
            const Some<A, N> a = *reinterpret_cast<const Some<A, N>*>(of[m] + at);
#pragma unroll
            for (uint32_t i = 0; i < N; i++) {
#pragma unroll
                for (uint32_t j = 0; j < J; j++) sums[m][j] += to_float(a.at[i]) * to_float(v[j].at[i]);
            }
        }
    }
    for (uint32_t at = whole + lane; at < k; at += 32) {
#pragma unroll
        for (uint32_t m = 0; m < M; m++) {
            const float a = to_float(of[m][at]);
#pragma unroll
            for (uint32_t j = 0; j < J; j++) sums[m][j] += a * to_float(from[j][at]);
        }
    }
#pragma unroll
    for (uint32_t m = 0; m < M; m++) {
#pragma unroll
        for (uint32_t j = 0; j < J; j++) sums[m][j] = warp_sum(sums[m][j]);
    }
}
