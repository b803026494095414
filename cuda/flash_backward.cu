// The gradients of causal grouped-query attention over spans in bf16, on the tensor cores.
//
//   p_ij = exp(scale * q_i . k_j - lse_i)      s'_ij = p_ij (dout_i . v_j - D_i)      D_i = dout_i . out_i
//   dq_i = scale * sum_j s'_ij k_j      dk_j = scale * sum_i s'_ij q_i      dv_j = sum_i p_ij dout_i
//
// Products of bf16 with sums, exponentials and differences in float32; p and s' are rounded before their second
// product. attention_backward.cu is the path in float32 and for other head sizes, has the plan of both, and
// computes D: one kernel for the gradients of queries, one for those of keys and values, without an addition that
// two blocks make. The scores are computed twice so, which costs two products of seven and no order of blocks.
//
// A block owns a tile of rows - pairs of a query and a head, or keys - with two vectors each, q_i and dout_i or k_j
// and v_j, in shared memory, and goes through the rows of the other side STEP at a time, the next ones being copied
// while these are used. The block's rows are those of the fragments A and D of a warp: p and s' come out of the
// first products as the second ones take them in. A warp holds SLABS fragments of 16 rows with their sums in
// registers. The layout of shared memory is that of flash.cu.
#include "flash.cuh"

// Rows of the other side that pass through shared memory together. Mirrored in src/device/cuda/flash_backward.rs.
constexpr uint32_t STEP = 32;

constexpr float LOG2_E = 1.44269504088896340736f;

// Starts the copies of STEP pairs of a span from `first` on, of which there are `count`, from two matrices.
template <uint32_t DIM>
__device__ __forceinline__ void copy_pairs(bf16* to_a, bf16* to_b, const bf16* a, const bf16* b, const Tile& tile,
                                           uint32_t first, uint32_t count, uint32_t kv_heads, uint32_t dim) {
    constexpr uint32_t CHUNKS = DIM / 8, ROWS = THREADS / CHUNKS;
    const uint32_t chunk = threadIdx.x % CHUNKS;
#pragma unroll
    for (uint32_t n = 0; n < STEP / ROWS; n++) {
        const uint32_t row = n * ROWS + threadIdx.x / CHUNKS;
        const bool held = row < count && 8 * chunk < dim;
        const uint64_t at = held ? tile.pair_of_span(first + row, kv_heads) * dim + 8 * chunk : 0;
        copy_async(to_a + place<DIM>(row, chunk), a + at, held ? 16 : 0);
        copy_async(to_b + place<DIM>(row, chunk), b + at, held ? 16 : 0);
    }
}

// The first pair of the span that sees a key.
__device__ __forceinline__ uint32_t first_pair(const Tile& tile, uint32_t key) {
    const uint32_t before = tile.k_len - tile.q_len;
    return key > before ? (key - before) * tile.group : 0;
}

// With KEYS the block owns keys and writes dk and dv, else pairs and writes dq, to `da`.
template <bool KEYS, uint32_t DIM, uint32_t SLABS>
__device__ __forceinline__ void gradients(const uint32_t* tiles, float scale, uint32_t kv_heads, uint32_t group,
                                          uint32_t dim, const bf16* q, const bf16* k, const bf16* v,
                                          const bf16* dout, const float* lse, const float* dots, bf16* da,
                                          bf16* dv) {
    constexpr uint32_t OWN = 16 * SLABS * WARPS, CHUNKS = DIM / 8, STAGE = STEP * DIM;
    // The block's rows, two steps of the other side, and of these, where they are pairs, lse in units of ln 2 and D.
    DYNAMIC_SHARED(bf16, shared);
    bf16* const own_a = shared;
    bf16* const own_b = own_a + OWN * DIM;
    bf16* const other_a = own_b + OWN * DIM;
    bf16* const other_b = other_a + 2 * STAGE;
    float* const numbers = reinterpret_cast<float*>(other_b + 2 * STAGE);
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, warp_row = 16 * SLABS * warp;

    const Tile tile(tiles, kv_heads, group);
    const uint32_t count = KEYS ? min(OWN, tile.k_len - tile.first) : tile.rows(OWN);
    const bool idle = warp_row >= count;
    uint32_t from = KEYS ? first_pair(tile, tile.first) : 0;
    const uint32_t to = KEYS ? tile.q_len * group : tile.sees(count - 1);
    // Where the warp's first and last rows begin to see pairs, or cease to see keys.
    const uint32_t bound_first = KEYS ? first_pair(tile, tile.first + warp_row) : tile.sees(warp_row);
    const uint32_t last_row = warp_row + 16 * SLABS - 1;
    const uint32_t bound_last = KEYS ? first_pair(tile, tile.first + last_row) : tile.sees(last_row);
    const uint64_t kv_width = uint64_t(kv_heads) * dim, kv_at = tile.k_start * kv_width + tile.kv_head * dim;
    k += kv_at;
    v += kv_at;

    const auto copy_others = [&](uint32_t stage, uint32_t at) {
        bf16 *const a = other_a + stage * STAGE, *const b = other_b + stage * STAGE;
        if (KEYS) {
            copy_pairs<DIM>(a, b, q, dout, tile, at, to - at, kv_heads, dim);
        } else {
            copy_rows<DIM, STEP>(a, k + at * kv_width, kv_width, to - at, dim);
            copy_rows<DIM, STEP>(b, v + at * kv_width, kv_width, to - at, dim);
        }
        copy_commit();
    };
    // Thread t's number of a step: lse of pair t, or D of pair t - STEP.
    const auto number = [&](uint32_t at) {
        const uint32_t pair = at + threadIdx.x % STEP;
        if (threadIdx.x >= 2 * STEP || pair >= to) return 0.0f;
        const uint64_t i = tile.pair_of_span(pair, kv_heads);
        return threadIdx.x < STEP ? LOG2_E * lse[i] : dots[i];
    };
    if (KEYS) {
        copy_rows<DIM, OWN>(own_a, k + tile.first * kv_width, kv_width, count, dim);
        copy_rows<DIM, OWN>(own_b, v + tile.first * kv_width, kv_width, count, dim);
    } else {
#pragma unroll
        for (uint32_t n = 0; n < OWN / STEP; n++) {
            const uint32_t held = count > n * STEP ? count - n * STEP : 0, at = n * STAGE;
            copy_pairs<DIM>(own_a + at, own_b + at, q, dout, tile, tile.first + n * STEP, held, kv_heads, dim);
        }
    }
    copy_commit();
    if (from < to) {
        copy_others(0, from);
        if (KEYS && threadIdx.x < 2 * STEP) numbers[threadIdx.x] = number(from);
    }

    // A lane's part of each fragment is in rows lane / 4 and lane / 4 + 8: half 0 and half 1.
    float sum_a[SLABS][DIM / 8][4], sum_b[KEYS ? SLABS : 1][DIM / 8][4];
    float own_lse[SLABS][2], own_dot[SLABS][2];
#pragma unroll
    for (uint32_t s = 0; s < SLABS; s++) {
#pragma unroll
        for (uint32_t n = 0; n < DIM / 8; n++) {
#pragma unroll
            for (uint32_t e = 0; e < 4; e++) {
                sum_a[s][n][e] = 0.0f;
                if (KEYS) sum_b[s][n][e] = 0.0f;
            }
        }
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            const uint32_t row = warp_row + 16 * s + 8 * half + lane / 4;
            const bool held = !KEYS && row < count;
            const uint64_t at = held ? tile.pair(row, kv_heads) : 0;
            own_lse[s][half] = held ? LOG2_E * lse[at] : 0.0f;
            own_dot[s][half] = held ? dots[at] : 0.0f;
        }
    }
    // Addresses of fragments: the second matrix of A, and of B transposed, lies below the first; that of B lies
    // beside it.
    const uint32_t below = lane % 16, beside = lane / 16;
    const float log2_scale = scale * LOG2_E;

    for (uint32_t stage = 0; from < to; from += STEP, stage ^= 1) {
        copy_wait<0>();
        // This step is there for all threads, and none is still at the last one, whose place the next one takes.
        __syncthreads();
        const uint32_t next = from + STEP;
        float ahead = 0.0f;
        if (next < to) {
            copy_others(stage ^ 1, next);
            if (KEYS) ahead = number(next);
        }
        const bool meets = KEYS ? next > bound_first : from < bound_last;
        if (meets && !idle) {
            const bf16* a = other_a + stage * STAGE;
            const bf16* b = other_b + stage * STAGE;
            // q . k and dout . v.
            float score[SLABS][STEP / 8][4], product[SLABS][STEP / 8][4];
#pragma unroll
            for (uint32_t s = 0; s < SLABS; s++) {
#pragma unroll
                for (uint32_t n = 0; n < STEP / 8; n++) {
#pragma unroll
                    for (uint32_t e = 0; e < 4; e++) score[s][n][e] = product[s][n][e] = 0.0f;
                }
            }
#pragma unroll
            for (uint32_t c = 0; c < DIM / 16; c++) {
                uint32_t x[SLABS][4], y[SLABS][4];
#pragma unroll
                for (uint32_t s = 0; s < SLABS; s++) {
                    load_matrices(x[s], own_a + place<DIM>(warp_row + 16 * s + below, 2 * c + beside));
                    load_matrices(y[s], own_b + place<DIM>(warp_row + 16 * s + below, 2 * c + beside));
                }
#pragma unroll
                for (uint32_t n = 0; n < STEP / 16; n++) {
                    // Rows 0-7 with both halves of the columns, then rows 8-15.
                    const uint32_t at = place<DIM>(16 * n + lane / 16 * 8 + lane % 8, 2 * c + lane / 8 % 2);
                    uint32_t fragments[4];
                    load_matrices(fragments, a + at);
#pragma unroll
                    for (uint32_t s = 0; s < SLABS; s++) {
                        mma(score[s][2 * n], x[s], fragments);
                        mma(score[s][2 * n + 1], x[s], fragments + 2);
                    }
                    load_matrices(fragments, b + at);
#pragma unroll
                    for (uint32_t s = 0; s < SLABS; s++) {
                        mma(product[s][2 * n], y[s], fragments);
                        mma(product[s][2 * n + 1], y[s], fragments + 2);
                    }
                }
            }
            // Whether some row does not meet some of this step's.
            if (KEYS ? from < bound_last : next > bound_first) {
                const Tile again(tiles, kv_heads, group);
                const uint32_t column = from + 2 * (lane % 4);
#pragma unroll
                for (uint32_t s = 0; s < SLABS; s++) {
#pragma unroll
                    for (uint32_t half = 0; half < 2; half++) {
                        const uint32_t row = warp_row + 16 * s + 8 * half + lane / 4;
                        const uint32_t bound = KEYS ? first_pair(again, again.first + row) : again.sees(row);
#pragma unroll
                        for (uint32_t n = 0; n < STEP / 8; n++) {
#pragma unroll
                            for (uint32_t e = 0; e < 2; e++) {
                                const uint32_t other = column + 8 * n + e;
                                if (KEYS ? other < bound : other >= bound) score[s][n][2 * half + e] = -INFINITY;
                            }
                        }
                    }
                }
            }
            // Pairs past the end are zeros with lse and D of 0, and so add nothing.
            uint32_t p[SLABS][STEP / 16][4], slope[SLABS][STEP / 16][4];
#pragma unroll
            for (uint32_t n = 0; n < STEP / 8; n++) {
                Some<float, 2> other_lse, other_dot;
                if (KEYS) {
                    const float* of = numbers + 2 * STEP * stage + 8 * n + 2 * (lane % 4);
                    other_lse = *reinterpret_cast<const Some<float, 2>*>(of);
                    other_dot = *reinterpret_cast<const Some<float, 2>*>(of + STEP);
                }
#pragma unroll
                for (uint32_t s = 0; s < SLABS; s++) {
#pragma unroll
                    for (uint32_t half = 0; half < 2; half++) {
                        float prob[2], change[2];
#pragma unroll
                        for (uint32_t e = 0; e < 2; e++) {
                            const float l = KEYS ? other_lse.at[e] : own_lse[s][half];
                            const float d = KEYS ? other_dot.at[e] : own_dot[s][half];
                            prob[e] = fast_exp2(fmaf(score[s][n][2 * half + e], log2_scale, -l));
                            change[e] = prob[e] * (product[s][n][2 * half + e] - d);
                        }
                        p[s][n / 2][n % 2 * 2 + half] = pack_bf16(prob[0], prob[1]);
                        slope[s][n / 2][n % 2 * 2 + half] = pack_bf16(change[0], change[1]);
                    }
                }
            }
#pragma unroll
            for (uint32_t c = 0; c < STEP / 16; c++) {
#pragma unroll
                for (uint32_t n = 0; n < DIM / 16; n++) {
                    const uint32_t at = place<DIM>(16 * c + below, 2 * n + beside);
                    uint32_t fragments[4];
                    load_matrices_transposed(fragments, a + at);
#pragma unroll
                    for (uint32_t s = 0; s < SLABS; s++) {
                        mma(sum_a[s][2 * n], slope[s][c], fragments);
                        mma(sum_a[s][2 * n + 1], slope[s][c], fragments + 2);
                    }
                    if (!KEYS) continue;
                    load_matrices_transposed(fragments, b + at);
#pragma unroll
                    for (uint32_t s = 0; s < SLABS; s++) {
                        mma(sum_b[KEYS ? s : 0][2 * n], p[s][c], fragments);
                        mma(sum_b[KEYS ? s : 0][2 * n + 1], p[s][c], fragments + 2);
                    }
                }
            }
        }
        if (KEYS && next < to && threadIdx.x < 2 * STEP) numbers[2 * STEP * (stage ^ 1) + threadIdx.x] = ahead;
    }
    // The results go by way of the warp's own rows, for whole chunks to be written; without a step these may still be
    // on their way.
    copy_wait<0>();
    __syncthreads();
    if (idle) return;
#pragma unroll
    for (uint32_t s = 0; s < SLABS; s++) {
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            const uint32_t row = warp_row + 16 * s + 8 * half + lane / 4;
#pragma unroll
            for (uint32_t n = 0; n < DIM / 8; n++) {
                const uint32_t at = place<DIM>(row, n) + 2 * (lane % 4);
                *reinterpret_cast<uint32_t*>(own_a + at) =
                    pack_bf16(scale * sum_a[s][n][2 * half], scale * sum_a[s][n][2 * half + 1]);
                if (!KEYS) continue;
                *reinterpret_cast<uint32_t*>(own_b + at) =
                    pack_bf16(sum_b[KEYS ? s : 0][n][2 * half], sum_b[KEYS ? s : 0][n][2 * half + 1]);
            }
        }
    }
    __syncwarp();
    const Tile again(tiles, kv_heads, group);
#pragma unroll 1
    for (uint32_t i = lane; i < 16 * SLABS * CHUNKS; i += 32) {
        const uint32_t row = warp_row + i / CHUNKS, chunk = i % CHUNKS;
        if (row >= count || 8 * chunk >= dim) continue;
        const uint64_t key = uint64_t(again.k_start + again.first + row) * kv_heads + again.kv_head;
        const uint64_t at = (KEYS ? key : again.pair(row, kv_heads)) * dim + 8 * chunk;
        *reinterpret_cast<Vec<bf16>*>(da + at) = load_vec(own_a + place<DIM>(row, chunk));
        if (KEYS) *reinterpret_cast<Vec<bf16>*>(dv + at) = load_vec(own_b + place<DIM>(row, chunk));
    }
}

// flash_backward_dq_DIM and flash_backward_dkv_DIM: heads up to that width, with tiles of 64 SLABS rows.
#define FLASH_BACKWARD(DIM, SLABS)                                                                               \
    RESIDENT_KERNEL(flash_backward_dq_##DIM, 128, 2, const uint32_t* tiles, float scale, uint32_t kv_heads,      \
                    uint32_t group, uint32_t dim, const bf16* q, const bf16* k, const bf16* v, const bf16* dout, \
                    const float* lse, const float* dots, bf16* dq) {                                             \
        gradients<false, DIM, SLABS>(tiles, scale, kv_heads, group, dim, q, k, v, dout, lse, dots, dq, nullptr); \
    }                                                                                                            \
    RESIDENT_KERNEL(flash_backward_dkv_##DIM, 128, 2, const uint32_t* tiles, float scale, uint32_t kv_heads,     \
                    uint32_t group, uint32_t dim, const bf16* q, const bf16* k, const bf16* v, const bf16* dout, \
                    const float* lse, const float* dots, bf16* dk, bf16* dv) {                                   \
        gradients<true, DIM, SLABS>(tiles, scale, kv_heads, group, dim, q, k, v, dout, lse, dots, dk, dv);       \
    }

FLASH_BACKWARD(64, 2)
FLASH_BACKWARD(128, 1)
