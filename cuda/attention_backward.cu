// The gradients of causal grouped-query attention over spans, by the equations of attention.cu:
//
//   p_ij = exp(scale * q_i . k_j - lse_i)      s'_ij = scale * p_ij (dout_i . v_j - D_i)      D_i = dout_i . out_i
//   dq_i = sum_j s'_ij k_j      dk_j = sum_i s'_ij q_i      dv_j = sum_i p_ij dout_i
//
// i over the queries of a span, with all heads that share a head of keys, and j over the keys that i sees. The
// probabilities come from lse again, so nothing the size of the scores is stored. Two kernels compute them, one for
// the gradients of queries and one for those of keys and values: every sum is then one block's, in an order that the
// span alone decides, and nothing is added to by two.
//
// Both have one form. A block owns OWN rows - pairs of a query and a head, or keys - with two vectors each, q_i and
// dout_i or k_j and v_j, and goes through the rows of the other side STEP at a time: first a lane takes one of these
// and a warp four of the block's own, for p and s'; then a lane takes columns, for the sums.
//
// This is the path in float32 arithmetic, for any head size up to MAX_DIM.
#include "common.cuh"

// Mirrored in src/device/cuda/attention_backward.rs.
constexpr uint32_t OWN = 16, STEP = 32, MAX_DIM = 128, WARPS = 4, PER_WARP = OWN / WARPS;

static_assert(PER_WARP == Vec<float>::COUNT, "the numbers that a lane makes of its row are one access");

// The work of one block: `first` counts the span's keys, or its pairs query by query and within it head by head.
struct Tile {
    uint32_t q_start, q_len, k_start, k_len, first, kv_head, kv_heads, group;

    __device__ __forceinline__ Tile(const uint32_t* tiles, uint32_t kv_heads, uint32_t group)
        : kv_head(blockIdx.y), kv_heads(kv_heads), group(group) {
        const uint32_t* t = tiles + 5 * uint64_t(blockIdx.x);
        q_start = t[0], q_len = t[1], k_start = t[2], k_len = t[3], first = t[4];
    }

    __device__ __forceinline__ uint32_t pairs() const { return q_len * group; }

    // Whether the query of a pair sees a key.
    __device__ __forceinline__ bool sees(uint32_t pair, uint32_t key) const {
        return key <= k_len - q_len + pair / group;
    }

    // The place of a key or of a pair among all heads of all rows.
    template <bool KEYS>
    __device__ __forceinline__ uint64_t place(uint32_t at) const {
        if (KEYS) return uint64_t(k_start + at) * kv_heads + kv_head;
        return (uint64_t(q_start + at / group) * kv_heads + kv_head) * group + at % group;
    }
};

// Elements of a vector in shared memory, filled up with zeros so that it is read four at a time.
__device__ __forceinline__ uint32_t padded(uint32_t dim) { return (dim + 3) / 4 * 4; }

// From one row of the other side to the next: an odd number of fours, so that lanes that read a four of each row do
// not meet in a bank.
__device__ __forceinline__ uint32_t other_stride(uint32_t dim) { return 4 * (padded(dim) / 4 | 1); }

// Fills `slots` rows of a and of b with keys or pairs from `first` on, of which there are `count`, then with zeros.
template <bool KEYS, class A>
__device__ __forceinline__ void fill(float* a, float* b, uint32_t stride, uint32_t slots, const Tile& tile,
                                     uint32_t first, uint32_t count, uint32_t dim, const A* from_a, const A* from_b) {
    for (uint32_t row = threadIdx.x / 32; row < slots; row += WARPS) {
        const uint64_t at = row < count ? tile.template place<KEYS>(first + row) * dim : 0;
        for (uint32_t e = threadIdx.x % 32; e < padded(dim); e += 32) {
            const bool held = row < count && e < dim;
            a[row * stride + e] = held ? to_float(from_a[at + e]) : 0.0f;
            b[row * stride + e] = held ? to_float(from_b[at + e]) : 0.0f;
        }
    }
}

// With KEYS the block owns keys and writes dk and dv, else pairs and writes dq, to `da`.
template <bool KEYS, class A>
__device__ __forceinline__ void gradients(const uint32_t* tiles, float scale, uint32_t kv_heads, uint32_t group,
                                          uint32_t dim, const A* q, const A* k, const A* v, const A* dout,
                                          const float* lse, const float* dots, A* da, A* dv) {
    const Tile tile(tiles, kv_heads, group);
    const uint32_t count = min(OWN, (KEYS ? tile.k_len : tile.pairs()) - tile.first);
    const uint32_t before = tile.k_len - tile.q_len;
    // Pairs of the other side that the block's rows meet: all from the first query on that sees the first key, or the
    // keys that the last pair sees.
    uint32_t from = 0, to = tile.pairs();
    if (KEYS) {
        from = tile.first > before ? (tile.first - before) * group : 0;
    } else {
        to = before + (tile.first + count - 1) / group + 1;
    }
    const uint32_t width = padded(dim), stride = other_stride(dim);
    DYNAMIC_SHARED(float, shared);
    float* own_a = shared;
    float* own_b = own_a + OWN * width;
    float* other_a = own_b + OWN * width;
    float* other_b = other_a + STEP * stride;
    // For every warp and row of the other side: s' and p with the warp's four rows.
    float* slopes = other_b + STEP * stride;
    float* probs = slopes + WARPS * STEP * PER_WARP;
    fill<KEYS>(own_a, own_b, width, OWN, tile, tile.first, count, dim, KEYS ? k : q, KEYS ? v : dout);

    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, mine = warp * PER_WARP;
    float own_lse[PER_WARP], own_dot[PER_WARP];
    // Columns lane, lane + 32, … of the sums.
    float sum_a[PER_WARP][MAX_DIM / 32], sum_b[PER_WARP][MAX_DIM / 32];
#pragma unroll
    for (uint32_t r = 0; r < PER_WARP; r++) {
        const bool held = !KEYS && mine + r < count;
        const uint64_t at = held ? tile.template place<false>(tile.first + mine + r) : 0;
        own_lse[r] = held ? lse[at] : 0.0f;
        own_dot[r] = held ? dots[at] : 0.0f;
#pragma unroll
        for (uint32_t c = 0; c < MAX_DIM / 32; c++) sum_a[r][c] = sum_b[r][c] = 0.0f;
    }
    for (; from < to; from += STEP) {
        const uint32_t others = min(STEP, to - from);
        __syncthreads();
        fill<!KEYS>(other_a, other_b, stride, STEP, tile, from, others, dim, KEYS ? q : k, KEYS ? dout : v);
        __syncthreads();
        float other_lse = 0.0f, other_dot = 0.0f;
        if (KEYS && lane < others) {
            const uint64_t at = tile.template place<false>(from + lane);
            other_lse = lse[at];
            other_dot = dots[at];
        }
        // q . k and dout . v of the lane's row with the warp's.
        float score[PER_WARP], product[PER_WARP];
#pragma unroll
        for (uint32_t r = 0; r < PER_WARP; r++) score[r] = product[r] = 0.0f;
#pragma unroll 2
        for (uint32_t e = 0; e < width; e += 4) {
            const Vec<float> a = load_vec(other_a + lane * stride + e), b = load_vec(other_b + lane * stride + e);
#pragma unroll
            for (uint32_t r = 0; r < PER_WARP; r++) {
                const Vec<float> x = load_vec(own_a + (mine + r) * width + e);
                const Vec<float> y = load_vec(own_b + (mine + r) * width + e);
#pragma unroll
                for (uint32_t i = 0; i < 4; i++) {
                    score[r] += a.at[i] * x.at[i];
                    product[r] += b.at[i] * y.at[i];
                }
            }
        }
        Vec<float> p, slope;
#pragma unroll
        for (uint32_t r = 0; r < PER_WARP; r++) {
            const uint32_t own = tile.first + mine + r, other = from + lane;
            const bool met = mine + r < count && lane < others && (KEYS ? tile.sees(other, own) : tile.sees(own, other));
            const float prob = expf(scale * score[r] - (KEYS ? other_lse : own_lse[r]));
            p.at[r] = met ? prob : 0.0f;
            slope.at[r] = met ? scale * prob * (product[r] - (KEYS ? other_dot : own_dot[r])) : 0.0f;
        }
        const uint32_t place = (warp * STEP + lane) * PER_WARP;
        *reinterpret_cast<Vec<float>*>(slopes + place) = slope;
        if (KEYS) *reinterpret_cast<Vec<float>*>(probs + place) = p;
        __syncwarp();
        for (uint32_t j = 0; j < others; j++) {
            slope = load_vec(slopes + (warp * STEP + j) * PER_WARP);
            if (KEYS) p = load_vec(probs + (warp * STEP + j) * PER_WARP);
#pragma unroll
            for (uint32_t c = 0; c < MAX_DIM / 32; c++) {
                if (lane + 32 * c >= dim) continue;
                const float a = other_a[j * stride + lane + 32 * c];
                const float b = KEYS ? other_b[j * stride + lane + 32 * c] : 0.0f;
#pragma unroll
                for (uint32_t r = 0; r < PER_WARP; r++) {
                    sum_a[r][c] += slope.at[r] * a;
                    if (KEYS) sum_b[r][c] += p.at[r] * b;
                }
            }
        }
    }
#pragma unroll
    for (uint32_t r = 0; r < PER_WARP; r++) {
        if (mine + r >= count) continue;
        const uint64_t at = tile.template place<KEYS>(tile.first + mine + r) * dim;
#pragma unroll
        for (uint32_t c = 0; c < MAX_DIM / 32; c++) {
            if (lane + 32 * c >= dim) continue;
            da[at + lane + 32 * c] = from_float<A>(sum_a[r][c]);
            if (KEYS) dv[at + lane + 32 * c] = from_float<A>(sum_b[r][c]);
        }
    }
}

// D of every query and head, one a warp.
template <class A>
__device__ void attention_backward_dots(const A* out, const A* dout, uint64_t count, uint32_t dim, float* dots) {
    const uint32_t lane = threadIdx.x % 32;
    for (uint64_t at = grid_thread() / 32; at < count; at += grid_threads() / 32) {
        float sum = 0.0f;
        for (uint32_t e = lane; e < dim; e += 32) sum += to_float(out[at * dim + e]) * to_float(dout[at * dim + e]);
        sum = warp_sum(sum);
        if (lane == 0) dots[at] = sum;
    }
}

#define ATTENTION_BACKWARD(A, a)                                                                                       \
    KERNEL(attention_backward_dots_##a, 256, const A* out, const A* dout, uint64_t count, uint32_t dim, float* dots) { \
        attention_backward_dots(out, dout, count, dim, dots);                                                          \
    }                                                                                                                  \
    KERNEL(attention_backward_dq_##a, 128, const uint32_t* tiles, float scale, uint32_t kv_heads, uint32_t group,      \
           uint32_t dim, const A* q, const A* k, const A* v, const A* dout, const float* lse, const float* dots,       \
           A* dq) {                                                                                                    \
        gradients<false, A>(tiles, scale, kv_heads, group, dim, q, k, v, dout, lse, dots, dq, nullptr);                \
    }                                                                                                                  \
    KERNEL(attention_backward_dkv_##a, 128, const uint32_t* tiles, float scale, uint32_t kv_heads, uint32_t group,     \
           uint32_t dim, const A* q, const A* k, const A* v, const A* dout, const float* lse, const float* dots,       \
           A* dk, A* dv) {                                                                                             \
        gradients<true, A>(tiles, scale, kv_heads, group, dim, q, k, v, dout, lse, dots, dk, dv);                      \
    }

ATTENTION_BACKWARD(float, f32)
ATTENTION_BACKWARD(bf16, bf16)
