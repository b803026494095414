// Causal grouped-query attention over spans in bf16, forward: prefill and packed batches, on the tensor cores.
//
//   s_ij = scale * q_i . k_j     out_i = sum_j exp(s_ij - lse_i) v_j     lse_i = ln sum_j exp(s_ij)
//
// over the keys j <= k_len - q_len + i of the span; products of bf16 with sums, maxima and exponentials in
// float32. Backward needs q, k, v, out, lse and dout, by the equations of attention.cu, which is the path in
// float32, for other head sizes and for few rows.
//
// A block takes a tile of rows and one head of keys and values, as in attention.cu: a row is a pair of a query
// and one of the query heads that share the keys, so that a tile loads its keys once for the whole group, and
// short queries still fill it. Row r of a tile is row r % 16 of a fragment; a warp holds SLABS fragments of 16
// rows, their scores and their outputs in registers, and all warps go through the keys together. Two slabs read
// each fragment of keys and values once for 32 rows, where shared memory otherwise sets the pace; one leaves
// more and smaller tiles, for launches that would not fill the GPU.
//
// Keys and values pass through shared memory KEYS at a time, the next ones being copied while these are used:
// one barrier a step. Chunks of 16 bytes are swizzled, chunk c of row r to place c ^ (r % 8), so that neither
// the copies nor the loads of fragments meet a bank twice. Heads narrower than DIM are filled up with zeros
// there, and so are the rows past a span's end, of which nothing is read.
//
// A row's steps are the same in every tile, whatever its rows and neighbours: its bits follow from its own keys.
#include "flash.cuh"

template <uint32_t DIM, uint32_t SLABS, uint32_t KEYS>
__device__ __forceinline__ void flash(const uint32_t* tiles, float scale, uint32_t kv_heads, uint32_t group,
                                      uint32_t dim, const bf16* q, const bf16* k, const bf16* v, bf16* out,
                                      float* lse) {
    constexpr uint32_t ROWS = 16 * SLABS * WARPS, CHUNKS = DIM / 8, STEP = KEYS * DIM;
    // More fragments of queries than this would leave no registers for the rest; they are loaded at each use.
    constexpr bool KEEP_QUERIES = SLABS * DIM <= 128;
    // Queries, two steps of keys, two of values.
    DYNAMIC_SHARED(bf16, shared);
    bf16* const qs = shared;
    bf16* const ks = qs + ROWS * DIM;
    bf16* const vs = ks + 2 * STEP;
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t warp_row = 16 * SLABS * warp;

    const Tile tile(tiles, kv_heads, group);
    const uint32_t rows = tile.rows(ROWS), end = tile.sees(rows - 1);
    const uint32_t sees_first = tile.sees(warp_row), sees_last = tile.sees(warp_row + 16 * SLABS - 1);
    const bool idle = warp_row >= rows;
    const uint64_t kv_width = uint64_t(kv_heads) * dim, kv_at = tile.k_start * kv_width + tile.kv_head * dim;
    k += kv_at;
    v += kv_at;
#pragma unroll
    for (uint32_t n = 0; n < ROWS * CHUNKS / THREADS; n++) {
        const uint32_t i = n * THREADS + threadIdx.x, row = i / CHUNKS, chunk = i % CHUNKS;
        const bool held = row < rows && 8 * chunk < dim;
        const bf16* from = held ? q + tile.pair(row, kv_heads) * dim + 8 * chunk : q;
        copy_async(qs + place<DIM>(row, chunk), from, held ? 16 : 0);
    }
    copy_rows<DIM, KEYS>(ks, k, kv_width, end, dim);
    copy_rows<DIM, KEYS>(vs, v, kv_width, end, dim);
    copy_commit();

    // A lane's part of each fragment is in rows lane / 4 and lane / 4 + 8: half 0 and half 1.
    float top[SLABS][2], sum[SLABS][2], acc[SLABS][DIM / 8][4];
#pragma unroll
    for (uint32_t s = 0; s < SLABS; s++) {
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) top[s][half] = -INFINITY, sum[s][half] = 0.0f;
#pragma unroll
        for (uint32_t n = 0; n < DIM / 8; n++) {
#pragma unroll
            for (uint32_t e = 0; e < 4; e++) acc[s][n][e] = 0.0f;
        }
    }
    // Addresses of fragments: the second matrix of A, and of B transposed, lies below the first; that of B lies
    // beside it.
    const uint32_t below = lane % 16, beside = lane / 16;
    const float log2_scale = scale * 1.44269504088896340736f;
    uint32_t queries[SLABS][KEEP_QUERIES ? DIM / 16 : 1][4];

    for (uint32_t from = 0, stage = 0; from < end; from += KEYS, stage ^= 1) {
        copy_wait<0>();
        // This step is there for all threads, and none is still at the last one, whose place the next one takes.
        __syncthreads();
        const uint32_t next = from + KEYS;
        if (next < end) {
            const uint32_t to = (stage ^ 1) * STEP;
            copy_rows<DIM, KEYS>(ks + to, k + next * kv_width, kv_width, end - next, dim);
            copy_rows<DIM, KEYS>(vs + to, v + next * kv_width, kv_width, end - next, dim);
            copy_commit();
        }
        if (KEEP_QUERIES && from == 0) {
#pragma unroll
            for (uint32_t s = 0; s < SLABS; s++) {
#pragma unroll
                for (uint32_t c = 0; c < DIM / 16; c++) {
                    load_matrices(queries[s][c], qs + place<DIM>(warp_row + 16 * s + below, 2 * c + beside));
                }
            }
        }
        if (idle || from >= sees_last) continue;

        float scores[SLABS][KEYS / 8][4];
#pragma unroll
        for (uint32_t s = 0; s < SLABS; s++) {
#pragma unroll
            for (uint32_t n = 0; n < KEYS / 8; n++) {
#pragma unroll
                for (uint32_t e = 0; e < 4; e++) scores[s][n][e] = 0.0f;
            }
        }
        const bf16* keys = ks + stage * STEP;
#pragma unroll
        for (uint32_t c = 0; c < DIM / 16; c++) {
            if (!KEEP_QUERIES) {
#pragma unroll
                for (uint32_t s = 0; s < SLABS; s++) {
                    load_matrices(queries[s][0], qs + place<DIM>(warp_row + 16 * s + below, 2 * c + beside));
                }
            }
#pragma unroll
            for (uint32_t n = 0; n < KEYS / 16; n++) {
                // Keys 0-7 with both halves of the columns, then keys 8-15.
                uint32_t b[4];
                load_matrices(b, keys + place<DIM>(16 * n + lane / 16 * 8 + lane % 8, 2 * c + lane / 8 % 2));
#pragma unroll
                for (uint32_t s = 0; s < SLABS; s++) {
                    mma(scores[s][2 * n], queries[s][KEEP_QUERIES ? c : 0], b);
                    mma(scores[s][2 * n + 1], queries[s][KEEP_QUERIES ? c : 0], b + 2);
                }
            }
        }
        if (next > sees_first) {
            const Tile tile(tiles, kv_heads, group);
            const uint32_t mine = from + 2 * (lane % 4);
#pragma unroll
            for (uint32_t s = 0; s < SLABS; s++) {
#pragma unroll
                for (uint32_t half = 0; half < 2; half++) {
                    const uint32_t sees = tile.sees(warp_row + 16 * s + 8 * half + lane / 4);
#pragma unroll
                    for (uint32_t n = 0; n < KEYS / 8; n++) {
                        if (mine + 8 * n >= sees) scores[s][n][2 * half] = -INFINITY;
                        if (mine + 8 * n + 1 >= sees) scores[s][n][2 * half + 1] = -INFINITY;
                    }
                }
            }
        }
        // Scores become probabilities relative to the running maximum, which is in units of ln 2; as every row
        // sees the first key, it is finite from the first step on.
        uint32_t p[SLABS][KEYS / 16][4];
#pragma unroll
        for (uint32_t s = 0; s < SLABS; s++) {
#pragma unroll
            for (uint32_t half = 0; half < 2; half++) {
                float most = scores[s][0][2 * half];
#pragma unroll
                for (uint32_t n = 0; n < KEYS / 8; n++) {
                    most = fmaxf(most, fmaxf(scores[s][n][2 * half], scores[s][n][2 * half + 1]));
                }
                most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 1));
                most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 2));
                const float higher = fmaxf(top[s][half], most * log2_scale);
                const float keep = fast_exp2(top[s][half] - higher);
                top[s][half] = higher;
                float part = 0.0f;
#pragma unroll
                for (uint32_t n = 0; n < KEYS / 8; n++) {
                    const float p0 = fast_exp2(fmaf(scores[s][n][2 * half], log2_scale, -higher));
                    const float p1 = fast_exp2(fmaf(scores[s][n][2 * half + 1], log2_scale, -higher));
                    part += p0 + p1;
                    p[s][n / 2][n % 2 * 2 + half] = pack_bf16(p0, p1);
                }
                // Fused by name: a compiler free to choose could choose otherwise in tiles of another size.
                sum[s][half] = fmaf(sum[s][half], keep, part);
#pragma unroll
                for (uint32_t n = 0; n < DIM / 8; n++) {
                    acc[s][n][2 * half] *= keep;
                    acc[s][n][2 * half + 1] *= keep;
                }
            }
        }
        const bf16* values = vs + stage * STEP;
#pragma unroll
        for (uint32_t c = 0; c < KEYS / 16; c++) {
#pragma unroll
            for (uint32_t n = 0; n < DIM / 16; n++) {
                uint32_t b[4];
                load_matrices_transposed(b, values + place<DIM>(16 * c + below, 2 * n + beside));
#pragma unroll
                for (uint32_t s = 0; s < SLABS; s++) {
                    mma(acc[s][2 * n], p[s][c], b);
                    mma(acc[s][2 * n + 1], p[s][c], b + 2);
                }
            }
        }
    }
    if (idle) return;

    // The outputs go by way of the queries' place, which is the warp's own, for whole chunks to be written.
    const Tile again(tiles, kv_heads, group);
    const uint32_t count = again.rows(ROWS);
    __syncwarp();
#pragma unroll
    for (uint32_t s = 0; s < SLABS; s++) {
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            float total = sum[s][half];
            total += __shfl_xor_sync(FULL_WARP, total, 1);
            total += __shfl_xor_sync(FULL_WARP, total, 2);
            const float by = 1.0f / total;
            const uint32_t row = warp_row + 16 * s + 8 * half + lane / 4;
#pragma unroll
            for (uint32_t n = 0; n < DIM / 8; n++) {
                *reinterpret_cast<uint32_t*>(qs + place<DIM>(row, n) + 2 * (lane % 4)) =
                    pack_bf16(acc[s][n][2 * half] * by, acc[s][n][2 * half + 1] * by);
            }
            if (lse != nullptr && lane % 4 == 0 && row < count) {
                lse[again.pair(row, kv_heads)] =
                    fmaf(top[s][half], 0.69314718055994530942f, logf(total));
            }
        }
    }
    __syncwarp();
#pragma unroll 1
    for (uint32_t i = lane; i < 16 * SLABS * CHUNKS; i += 32) {
        const uint32_t row = warp_row + i / CHUNKS, chunk = i % CHUNKS;
        if (row >= count || 8 * chunk >= dim) continue;
        *reinterpret_cast<Vec<bf16>*>(out + again.pair(row, kv_heads) * dim + 8 * chunk) =
            load_vec(qs + place<DIM>(row, chunk));
    }
}

// flash_DIM_ROWS: heads up to that width, tiles of that many rows; `blocks` of them share a multiprocessor.
#define FLASH(DIM, ROWS, KEYS, blocks)                                                                             \
    RESIDENT_KERNEL(flash_##DIM##_##ROWS, 128, blocks, const uint32_t* tiles, float scale, uint32_t kv_heads,      \
                    uint32_t group, uint32_t dim, const bf16* q, const bf16* k, const bf16* v, bf16* out,          \
                    float* lse) {                                                                                  \
        flash<DIM, ROWS / 64, KEYS>(tiles, scale, kv_heads, group, dim, q, k, v, out, lse);                        \
    }

FLASH(64, 64, 64, 4)
FLASH(64, 128, 64, 2)
FLASH(128, 64, 32, 3)
FLASH(128, 128, 32, 2)
