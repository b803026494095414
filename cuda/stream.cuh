// Matrix products of a decoding step by all warps of a grid: each reads whole rows of weights as a stream.
//
// With a few rows of activations a product is bound by reading its weights once. Each warp takes units of two rows of
// the weight, unit u going to block u % blocks so that a part of a round keeps all multiprocessors busy; up to
// sixteen loads of 16 bytes a lane are in flight. The activations stand in shared memory as float32, widened once for
// all units. A unit's sums end in lanes of their own (scatter_sum), where the caller finishes them: bias, rotation,
// activation and residual never go through memory.
#pragma once

#include "grid.cuh"

// Rows of weights in a unit.
constexpr uint32_t J = 2;

// Columns that a warp takes of a row of 16-bit weights in a step.
constexpr uint32_t WARP_STEP = 256;

// The place of column c in a staged row. Beside the sixteen bytes that a lane takes of a row of 16-bit weights it reads
// thirty-two of activations, in two halves. Were these neighbours, lanes that read their first halves at once would meet two
// by two in the same banks, so of each step of a warp the first halves of all lanes stand before the second ones.
template <class A>
__device__ __forceinline__ uint32_t staged_at(uint32_t c) {
    if (sizeof(A) == 4) return c;
    return c / WARP_STEP * WARP_STEP + c % 8 / 4 * (WARP_STEP / 2) + c % WARP_STEP / 8 * 4 + c % 4;
}

// Floats that a staged row of so many columns takes.
template <class A>
__device__ __forceinline__ uint32_t staged_length(uint32_t cols) {
    return sizeof(A) == 4 ? cols : (cols + WARP_STEP - 1) / WARP_STEP * WARP_STEP;
}

// Rows of activations in the shared memory whose size the launch gave: column c of row m at
// `at() + m * stride + staged_at(c)`, zeros where a sequence sits out.
struct Rows {
    uint32_t stride;

    // Not a member: so the compiler sees where it points to.
    __device__ float* at() const {
        DYNAMIC_SHARED(float, rows);
        return rows;
    }
};

// The sums of x[m][i] * w[j][i] over columns i < len, a multiple of the elements in 16 bytes: lane l of the warp gets
// that of m * J + j = l / (32 / (M * J)).
//
// A function of its own, so that the loops of a kernel's many products share one allocation of registers.
template <uint32_t M, class A>
__device__ __noinline__ float dot(Rows x, const A* w0, const A* w1, uint32_t len) {
    // With eight rows of activations their sums take the registers of half the loads.
    constexpr uint32_t N = Vec<A>::COUNT, STEP = 32 * N, DEPTH = M < 8 ? 8 : 4;
    const A* const w[2] = {w0, w1};
    // A lane's columns begin at multiples of N: by this much their place, `staged_at`, is before them.
    const uint32_t shift = threadIdx.x % 32 * (N - 4);
    float sums[M * J];
#pragma unroll
    for (uint32_t i = 0; i < M * J; i++) sums[i] = 0.0f;
    const auto add = [&](uint32_t at, const Stream (&loaded)[J]) {
        float v[J][N];
        const float* const staged = x.at() + (at - shift);
#pragma unroll
        for (uint32_t j = 0; j < J; j++) widen(loaded[j], v[j]);
#pragma unroll
        for (uint32_t m = 0; m < M; m++) {
#pragma unroll
            for (uint32_t i = 0; i < N; i += 4) {
                const Vec<float> a = load_vec(staged + m * x.stride + i / 4 * (WARP_STEP / 2));
#pragma unroll
                for (uint32_t j = 0; j < J; j++) {
#pragma unroll
                    for (uint32_t e = 0; e < 4; e++) sums[m * J + j] += a.at[e] * v[j][i + e];
                }
            }
        }
    };
#pragma unroll 1
    for (uint32_t at = threadIdx.x % 32 * N; at < len; at += DEPTH * STEP) {
        Stream loaded[DEPTH][J];
#pragma unroll
        for (uint32_t d = 0; d < DEPTH; d++) {
            if (at + d * STEP >= len) continue;
#pragma unroll
            for (uint32_t j = 0; j < J; j++) loaded[d][j] = load_stream(w[j] + at + d * STEP);
        }
#pragma unroll
        for (uint32_t d = 0; d < DEPTH; d++) {
            if (at + d * STEP < len) add(at + d * STEP, loaded[d]);
        }
    }
    return scatter_sum<M * J>(sums);
}

// The warps of a grid as one list: the same place in every block comes before the next place.
__device__ __forceinline__ uint32_t grid_warp() { return threadIdx.x / 32 * gridDim.x + blockIdx.x; }

__device__ __forceinline__ uint32_t grid_warps() { return blockDim.x / 32 * gridDim.x; }

// How a unit's sums lie in a warp.
template <uint32_t M>
struct Place {
    static constexpr uint32_t SHARE = 32 / (M * J);
    uint32_t m, j;
    // Of the lanes that have the same sum, the one that stores it.
    bool leads;

    __device__ Place() {
        const uint32_t lane = threadIdx.x % 32;
        m = lane / SHARE / J;
        j = lane / SHARE % J;
        leads = lane % SHARE == 0;
    }
};

// Calls finish(unit, m, j, sum, partner) for the sums of every unit, where `weight(unit, j)` is the j-th of its
// rows of k elements and `partner` the sum of the same m and the other j. Called by all threads; all lanes call
// `finish`, which stores where `leads` is given.
//
// `stage(from, len)` puts columns from .. from + len of the activations into `x`. It is called once where x holds
// whole rows, and else piece by piece in every round.
template <uint32_t M, class A, class Weight, class Stage, class Finish>
__device__ __forceinline__ void product(const Rows& x, uint32_t units, uint32_t k, Weight weight, Stage stage,
                                        Finish finish) {
    const uint32_t piece = min(k, x.stride);
    for (uint32_t first = 0; first < units; first += grid_warps()) {
        const uint32_t unit = first + grid_warp();
        float sum = 0.0f;
#pragma unroll 1
        for (uint32_t from = 0; from < k; from += piece) {
            const uint32_t len = min(piece, k - from);
            if (first == 0 || piece < k) {
                __syncthreads();
                stage(from, len);
                __syncthreads();
            }
            if (unit < units) {
                sum += dot<M>(x, weight(unit, 0) + from, weight(unit, 1) + from, len);
            }
        }
        if (unit >= units) continue;
        const float partner = __shfl_xor_sync(FULL_WARP, sum, Place<M>::SHARE);
        finish(unit, Place<M>(), sum, partner);
    }
}

// Brings the beginning of this warp's first unit of a product to come closer, for the time in which the grid waits.
template <class Weight>
__device__ __forceinline__ void prefetch_units(uint32_t units, uint32_t row_bytes, Weight weight) {
    constexpr uint32_t MOST = 8192;
    if (grid_warp() >= units) return;
#pragma unroll
    for (uint32_t j = 0; j < J; j++) prefetch_l2(weight(grid_warp(), j), min(row_bytes, MOST));
}
