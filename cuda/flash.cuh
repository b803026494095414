// Tiles of attention on the tensor cores, forward and backward: bf16 in shared memory, and which part of
// a span is a block's.
#pragma once

#include "mma.cuh"

// Mirrored in src/device/cuda/flash.rs and flash_backward.rs.
constexpr uint32_t WARPS = 4, THREADS = 32 * WARPS;

// Where chunk `chunk` of row `row` begins in a tile of rows of DIM elements.
template <uint32_t DIM>
__device__ __forceinline__ uint32_t place(uint32_t row, uint32_t chunk) {
    return row * DIM + 8 * (chunk ^ row % 8);
}

// Starts the copies of the first `count` of KEYS rows of `dim` elements, `width` apart.
template <uint32_t DIM, uint32_t KEYS>
__device__ __forceinline__ void copy_rows(bf16* to, const bf16* from, uint64_t width, uint32_t count, uint32_t dim) {
    constexpr uint32_t CHUNKS = DIM / 8, STEP = THREADS / CHUNKS;
    const uint32_t chunk = threadIdx.x % CHUNKS, first = threadIdx.x / CHUNKS;
#pragma unroll
    for (uint32_t n = 0; n < KEYS / STEP; n++) {
        const uint32_t row = n * STEP + first;
        const bool held = row < count && 8 * chunk < dim;
        copy_async(to + place<DIM>(row, chunk), held ? from + row * width + 8 * chunk : from, held ? 16 : 0);
    }
}

// The work of a block: `first` counts the span's rows, query by query and within it head by head. It is read again
// where it is needed, rather than kept in registers that the steps over the keys want.
struct Tile {
    uint32_t q_start, q_len, k_start, k_len, first, kv_head, group;

    __device__ __forceinline__ Tile(const uint32_t* tiles, uint32_t kv_heads, uint32_t group) : group(group) {
        // Heads run fastest, so that all blocks of the longest tiles, which come first, start first.
        const uint32_t* t = tiles + 5 * uint64_t(blockIdx.x / kv_heads);
        q_start = t[0], q_len = t[1], k_start = t[2], k_len = t[3], first = t[4];
        kv_head = blockIdx.x % kv_heads;
    }

    // Rows of the tile, of at most `most`.
    __device__ __forceinline__ uint32_t rows(uint32_t most) const { return min(most, q_len * group - first); }

    // Keys that a row sees, or would if it were one.
    __device__ __forceinline__ uint32_t sees(uint32_t row) const {
        return k_len - q_len + (first + row) / group + 1;
    }

    // The place of a row of the tile among all pairs of a query and a head, and that of any row of the span.
    __device__ __forceinline__ uint64_t pair(uint32_t row, uint32_t kv_heads) const {
        return pair_of_span(first + row, kv_heads);
    }

    __device__ __forceinline__ uint64_t pair_of_span(uint32_t of, uint32_t kv_heads) const {
        return (uint64_t(q_start + of / group) * kv_heads + kv_head) * group + of % group;
    }
};
