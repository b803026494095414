// Causal grouped-query attention over spans, forward: prefill, packed batches and decoding with a cache.
//
//   s_ij = scale * q_i . k_j     out_i = sum_j exp(s_ij - lse_i) v_j     lse_i = ln sum_j exp(s_ij)
//
// over the keys j <= k_len - q_len + i of the span. Nothing the size of the scores is stored: running maxima and
// sums (Milakov and Gimelshein, arXiv 1805.02867) let one pass over the keys do, as in flash attention.
//
// Backward needs q, k, v, out, lse and dout: with D_i = dout_i . out_i, p'_ij = dout_i . v_j and
// s'_ij = scale * p_ij (p'_ij - D_i), dq_i = sum_j s'_ij k_j, dk_j = sum_i s'_ij q_i, dv_j = sum_i p_ij dout_i.
//
// A block takes a tile of ROWS rows and one head of keys and values. A row is a pair of a query and one of the
// query heads that share the keys, so decoding reads each key once for its whole group. Where there are
// few tiles, as in decoding, a tile's keys are cut into parts for several blocks, and attention_merge puts their
// results together; the cut follows from the shapes alone.
//
// This is the path in float32 arithmetic, for any head size up to MAX_DIM; flash.cu takes bf16 with more rows.
#include "common.cuh"

// Mirrored in src/device/cuda/attention.rs.
constexpr uint32_t ROWS = 16, KEYS = 32, MAX_DIM = 128, WARPS = 4, ROWS_PER_WARP = ROWS / WARPS;

// The work of one block: `first` counts the span's rows, query by query and within it head by head; keys
// k_from .. k_to of the span; the place among the tile's parts.
struct Tile {
    uint32_t q_start, q_len, k_start, k_len, first, k_from, k_to, part, parts, slot;
};

__device__ __forceinline__ Tile read_tile(const uint32_t* tiles, uint32_t at) {
    const uint32_t* t = tiles + 10 * uint64_t(at);
    return Tile{t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7], t[8], t[9]};
}

// Floats of dynamic shared memory: queries, keys (rows padded by one against bank conflicts), values, and
// probabilities.
__device__ __forceinline__ uint32_t key_stride(uint32_t dim) { return dim + 1; }

template <class A>
__device__ void attention(const uint32_t* tiles, float scale, uint32_t kv_heads, uint32_t group, uint32_t dim,
                          const A* q, const A* k, const A* v, A* out, float* lse, float* partials) {
    const Tile tile = read_tile(tiles, blockIdx.x);
    const uint32_t kv_head = blockIdx.y, kv_width = kv_heads * dim, heads = kv_heads * group;
    const uint64_t q_width = uint64_t(heads) * dim;
    DYNAMIC_SHARED(float, shared);
    float* qs = shared;
    float* ks = qs + ROWS * dim;
    float* vs = ks + KEYS * key_stride(dim);
    float* ps = vs + KEYS * dim;
    const uint32_t rows = min(ROWS, tile.q_len * group - tile.first);
    for (uint32_t i = threadIdx.x; i < rows * dim; i += blockDim.x) {
        const uint32_t r = tile.first + i / dim, query = r / group, head = kv_head * group + r % group;
        qs[i] = scale * to_float(q[(tile.q_start + query) * q_width + head * dim + i % dim]);
    }
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    // For row warp * ROWS_PER_WARP + r: how many keys it sees, the running maximum, this lane's part of the sum,
    // and columns lane, lane + 32, … of the output.
    uint32_t sees[ROWS_PER_WARP];
    float top[ROWS_PER_WARP], sum[ROWS_PER_WARP], acc[ROWS_PER_WARP][MAX_DIM / 32];
#pragma unroll
    for (uint32_t r = 0; r < ROWS_PER_WARP; r++) {
        const uint32_t row = warp * ROWS_PER_WARP + r;
        sees[r] = row < rows ? tile.k_len - tile.q_len + (tile.first + row) / group + 1 : 0;
        top[r] = -INFINITY;
        sum[r] = 0.0f;
#pragma unroll
        for (uint32_t e = 0; e < MAX_DIM / 32; e++) acc[r][e] = 0.0f;
    }
    // No row of the tile sees further than its last one.
    const uint32_t last = tile.k_len - tile.q_len + (tile.first + rows - 1) / group + 1;
    const uint32_t end = min(tile.k_to, last);
    for (uint32_t from = tile.k_from; from < end; from += KEYS) {
        const uint32_t keys = min(KEYS, end - from);
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < KEYS * dim; i += blockDim.x) {
            const uint32_t j = i / dim, e = i % dim;
            const uint64_t at = uint64_t(tile.k_start + from + j) * kv_width + kv_head * dim + e;
            ks[j * key_stride(dim) + e] = j < keys ? to_float(k[at]) : 0.0f;
            vs[i] = j < keys ? to_float(v[at]) : 0.0f;
        }
        __syncthreads();
        float s[ROWS_PER_WARP];
#pragma unroll
        for (uint32_t r = 0; r < ROWS_PER_WARP; r++) s[r] = 0.0f;
        if (warp * ROWS_PER_WARP < rows) {
            for (uint32_t e = 0; e < dim; e++) {
                const float key = ks[lane * key_stride(dim) + e];
#pragma unroll
                for (uint32_t r = 0; r < ROWS_PER_WARP; r++) {
                    // Rows past the last repeat it; they see nothing below.
                    s[r] += qs[min(warp * ROWS_PER_WARP + r, rows - 1) * dim + e] * key;
                }
            }
        }
#pragma unroll
        for (uint32_t r = 0; r < ROWS_PER_WARP; r++) {
            const bool seen = from + lane < min(sees[r], end);
            const float score = seen ? s[r] : -INFINITY;
            const float next = fmaxf(top[r], warp_max(score));
            // Before the first key that the row sees, both are -inf and the difference is no number.
            const float keep = top[r] == next ? 1.0f : expf(top[r] - next);
            const float p = seen ? expf(score - next) : 0.0f;
            top[r] = next;
            sum[r] = sum[r] * keep + p;
            ps[(warp * ROWS_PER_WARP + r) * KEYS + lane] = p;
#pragma unroll
            for (uint32_t e = 0; e < MAX_DIM / 32; e++) acc[r][e] *= keep;
        }
        __syncwarp();
        if (warp * ROWS_PER_WARP < rows) {
            for (uint32_t j = 0; j < keys; j++) {
#pragma unroll
                for (uint32_t e = 0; e < MAX_DIM / 32; e++) {
                    if (lane + 32 * e >= dim) continue;
                    const float value = vs[j * dim + lane + 32 * e];
#pragma unroll
                    for (uint32_t r = 0; r < ROWS_PER_WARP; r++) {
                        acc[r][e] += ps[(warp * ROWS_PER_WARP + r) * KEYS + j] * value;
                    }
                }
            }
        }
    }
#pragma unroll
    for (uint32_t r = 0; r < ROWS_PER_WARP; r++) {
        const float total = warp_sum(sum[r]);
        const uint32_t row = warp * ROWS_PER_WARP + r;
        if (row >= rows) continue;
        const uint32_t of = tile.first + row, query = of / group, head = kv_head * group + of % group;
        if (tile.parts > 1) {
            // Numerators, the maximum and the sum.
            float* to = partials + (uint64_t(tile.slot) * kv_heads + kv_head) * ROWS * (dim + 2) + row * (dim + 2);
#pragma unroll
            for (uint32_t e = 0; e < MAX_DIM / 32; e++) {
                if (lane + 32 * e < dim) to[lane + 32 * e] = acc[r][e];
            }
            if (lane == 0) to[dim] = top[r], to[dim + 1] = total;
            continue;
        }
        A* to = out + (tile.q_start + query) * q_width + head * dim;
#pragma unroll
        for (uint32_t e = 0; e < MAX_DIM / 32; e++) {
            if (lane + 32 * e < dim) to[lane + 32 * e] = from_float<A>(acc[r][e] / total);
        }
        if (lane == 0 && lse != nullptr) {
            lse[uint64_t(tile.q_start + query) * heads + head] = top[r] + logf(total);
        }
    }
}

// A block takes one tile that was cut into parts (the entry of its first part) and one head of keys and values;
// a warp takes rows in turn. The parts are added in their order.
template <class A>
__device__ void attention_merge(const uint32_t* tiles, uint32_t kv_heads, uint32_t group, uint32_t dim,
                                const float* partials, A* out, float* lse) {
    const Tile tile = read_tile(tiles, blockIdx.x);
    const uint32_t kv_head = blockIdx.y, heads = kv_heads * group, lane = threadIdx.x % 32;
    const uint32_t rows = min(ROWS, tile.q_len * group - tile.first), stride = dim + 2;
    for (uint32_t row = threadIdx.x / 32; row < rows; row += blockDim.x / 32) {
        const uint64_t step = uint64_t(kv_heads) * ROWS * stride;
        const float* from = partials + (uint64_t(tile.slot) * kv_heads + kv_head) * ROWS * stride + row * stride;
        float top = -INFINITY, total = 0.0f;
        for (uint32_t p = 0; p < tile.parts; p++) top = fmaxf(top, from[p * step + dim]);
        // A part whose keys the row does not see has sum 0 and maximum -inf, and so weighs nothing.
        for (uint32_t p = 0; p < tile.parts; p++) {
            total += expf(from[p * step + dim] - top) * from[p * step + dim + 1];
        }
        const uint32_t of = tile.first + row, query = of / group, head = kv_head * group + of % group;
        const uint64_t at = uint64_t(tile.q_start + query) * heads + head;
        for (uint32_t e = lane; e < dim; e += 32) {
            float sum = 0.0f;
            for (uint32_t p = 0; p < tile.parts; p++) sum += expf(from[p * step + dim] - top) * from[p * step + e];
            out[at * dim + e] = from_float<A>(sum / total);
        }
        if (lane == 0 && lse != nullptr) lse[at] = top + logf(total);
    }
}

#define ATTENTION(A, a)                                                                                            \
    KERNEL(attention_##a, 128, const uint32_t* tiles, float scale, uint32_t kv_heads, uint32_t group, uint32_t dim, \
           const A* q, const A* k, const A* v, A* out, float* lse, float* partials) {                              \
        attention(tiles, scale, kv_heads, group, dim, q, k, v, out, lse, partials);                                \
    }                                                                                                              \
    KERNEL(attention_merge_##a, 128, const uint32_t* tiles, uint32_t kv_heads, uint32_t group, uint32_t dim,       \
           const float* partials, A* out, float* lse) {                                                            \
        attention_merge(tiles, kv_heads, group, dim, partials, out, lse);                                          \
    }

ATTENTION(float, f32)
ATTENTION(bf16, bf16)
