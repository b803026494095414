// The output head on logits: the choice of a token, and the end-of-latent event. cross_entropy.cu has the loss.
//
//   choose_tokens        a draw from softmax(logits / temperature), restricted to the smallest set of likeliest
//                        tokens whose mass reaches top_p; at temperature 0 the largest logit, the first of equals; no
//                        token (all bits set) where a logit is not finite
//   token_event_own      the logit of one token, and the start of the scan
//   token_event_scan     whether that token is drawn: u < exp(own) / Z, where Z only grows (spec section 5, 2)
//   token_event_decide   the answer
//
// Draws have no backward.
//
// Logits are float32. A probability is counted as an integer, floor(p / p_max * 2^44): sums of integers do not
// depend on their order, so histograms by atomics give the same bits every time, and 2^18 tokens fit 64 bits.
#include "dot.cuh"
#include "sampling.cuh"

// ---- choice -------------------------------------------------------------------------------------

// The uniform number of a row's draw, as in latent.cu.
__device__ __forceinline__ float row_uniform(const uint32_t* draw) {
    return draw_uniform(draw[0], draw[1], draw[2], draw[3]);
}

__device__ __forceinline__ uint64_t mass_of(float p) { return uint64_t(double(p) * 17592186044416.0); }

// The sum of x over the block, in every thread.
__device__ uint64_t block_total(uint64_t x) {
    SHARED(uint64_t, parts, 32);
#pragma unroll
    for (uint32_t offset = 16; offset > 0; offset >>= 1) x += __shfl_xor_sync(FULL_WARP, x, offset);
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    uint64_t sum = 0;
    for (uint32_t w = 0; w < blockDim.x / 32; w++) sum += parts[w];
    return sum;
}

// Index of the largest value, the first of equals; in every thread.
__device__ uint32_t arg_max(const float* row, uint32_t count, float* top) {
    SHARED(float, values, 32);
    SHARED(uint32_t, places, 32);
    float best = -INFINITY;
    uint32_t at = 0xffffffffu;
    for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
        if (row[i] > best || at == 0xffffffffu) best = row[i], at = i;
    }
#pragma unroll
    for (uint32_t offset = 16; offset > 0; offset >>= 1) {
        const float other = __shfl_xor_sync(FULL_WARP, best, offset);
        const uint32_t place = __shfl_xor_sync(FULL_WARP, at, offset);
        if (place != 0xffffffffu && (at == 0xffffffffu || other > best || (other == best && place < at))) {
            best = other, at = place;
        }
    }
    if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = best, places[threadIdx.x / 32] = at;
    __syncthreads();
    best = values[0], at = places[0];
    for (uint32_t w = 1; w < blockDim.x / 32; w++) {
        if (places[w] != 0xffffffffu && (values[w] > best || (values[w] == best && places[w] < at))) {
            best = values[w], at = places[w];
        }
    }
    *top = best;
    return at;
}

// Finds, of the probabilities in descending order, the one at which their running mass exceeds `target`; returns its
// bits, and in `within` by how much the target exceeds the mass of all larger ones. The search goes digit by digit
// over the bits, which are ordered as the values are.
__device__ uint32_t crossing(const float* p, uint32_t count, uint64_t target, uint64_t* within) {
    // The lower and upper halves of the digits' masses. An atomic on 64 bits of shared memory would be a loop that
    // tries until no other thread came between; one on 32 bits is an instruction, and the carry goes to the upper half.
    SHARED(uint32_t, low, 256);
    SHARED(uint32_t, high, 256);
    SHARED(uint32_t, digit, 1);
    SHARED(uint64_t, remaining, 1);
    uint32_t prefix = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (uint32_t i = threadIdx.x; i < 256; i += blockDim.x) low[i] = high[i] = 0;
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
            const uint32_t bits = float_to_bits(p[i]);
            if (uint64_t(bits) >> (shift + 8) == prefix) {
                const uint32_t d = bits >> shift & 255;
                const uint64_t mass = mass_of(p[i]);
                const uint32_t before = atomicAdd(low + d, uint32_t(mass));
                const uint32_t above = uint32_t(mass >> 32) + (before + uint32_t(mass) < before);
                if (above != 0) atomicAdd(high + d, above);
            }
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            uint32_t d = 255;
            uint64_t left = target;
            while (d > 0) {
                const uint64_t mass = uint64_t(high[d]) << 32 | low[d];
                if (mass > left) break;
                left -= mass;
                d--;
            }
            *digit = d;
            *remaining = left;
        }
        __syncthreads();
        prefix = prefix << 8 | *digit;
        target = *remaining;
    }
    *within = target;
    return prefix;
}

// In order of index: the first element at which the running sum of weights exceeds `target`, where an element
// weighs its mass, or with `only` given, 1 if it has those bits and else 0. The result is in *found.
__device__ void first_exceeding(const float* p, uint32_t count, uint64_t target, bool by_mass, uint32_t only,
                                uint32_t* found) {
    SHARED(uint64_t, sums, 32);
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    // Each warp has a range of its own, a multiple of 32 long.
    const uint32_t range = (count + 32 * warps - 1) / (32 * warps) * 32;
    const uint32_t begin = min(warp * range, count), end = min(begin + range, count);
    uint64_t sum = 0;
    for (uint32_t i = begin + lane; i < end; i += 32) {
        sum += by_mass ? mass_of(p[i]) : uint64_t(float_to_bits(p[i]) == only);
    }
#pragma unroll
    for (uint32_t offset = 16; offset > 0; offset >>= 1) sum += __shfl_xor_sync(FULL_WARP, sum, offset);
    __syncthreads();  // an earlier call's sums have been read, in a kernel that calls it twice
    if (lane == 0) sums[warp] = sum;
    __syncthreads();
    uint64_t before = 0;
    for (uint32_t w = 0; w < warp; w++) before += sums[w];
    if (target < before || target >= before + sum) return;  // all of this warp, and no barrier follows
    for (uint32_t from = begin; from < end; from += 32) {
        const uint32_t i = from + lane;
        uint64_t running = i >= end ? 0 : by_mass ? mass_of(p[i]) : uint64_t(float_to_bits(p[i]) == only);
        for (uint32_t offset = 1; offset < 32; offset <<= 1) {
            const uint64_t left = __shfl_sync(FULL_WARP, running, lane - offset);
            if (lane >= offset) running += left;
        }
        const uint32_t over = __ballot_sync(FULL_WARP, i < end && before + running > target);
        if (over != 0) {
            if (lane == 0) *found = from + __ffs(int(over)) - 1;
            return;
        }
        before += __shfl_sync(FULL_WARP, running, 31);
    }
}

// A block takes one row; the row is overwritten. `draws` as in latent.cu.
KERNEL(choose_tokens, 1024, float* logits, const float* temperatures, const float* top_ps, const uint32_t* draws,
       uint32_t vocab, uint32_t biased, float bias, uint32_t* tokens) {
    float* row = logits + uint64_t(blockIdx.x) * vocab;
    const float temperature = temperatures[blockIdx.x], top_p = top_ps[blockIdx.x];
    uint32_t* token = tokens + blockIdx.x;
    if (threadIdx.x == 0 && biased < vocab) row[biased] += bias;
    __syncthreads();
    // No order holds among numbers that are none, and masses would be: NO_TOKEN of the host's code then.
    uint64_t unfit = 0;
    for (uint32_t i = threadIdx.x; i < vocab; i += blockDim.x) unfit += !(fabsf(row[i]) <= 3.40282346638528859812e38f);
    if (block_total(unfit) != 0) {
        if (threadIdx.x == 0) *token = 0xffffffffu;
        return;
    }
    float top;
    const uint32_t likeliest = arg_max(row, vocab, &top);
    if (threadIdx.x == 0) *token = likeliest;
    if (!(temperature > 0.0f)) return;
    const float inverse = inverse_temperature(temperature);
    uint64_t mass = 0;
    for (uint32_t i = threadIdx.x; i < vocab; i += blockDim.x) {
        // The difference first: at a low temperature the quotients alone overflow.
        const float p = expf((row[i] - top) * inverse);
        row[i] = p;
        mass += mass_of(p);
    }
    mass = block_total(mass);  // its barriers also publish the row
    const double u = row_uniform(draws + 4 * uint64_t(blockIdx.x));
    if (top_p >= 1.0f) {
        first_exceeding(row, vocab, min(uint64_t(u * double(mass)), mass - 1), true, 0, token);
        return;
    }
    // The nucleus ends with the element at which the mass reaches its share of the total.
    const uint64_t share = min(max(uint64_t(ceil(double(top_p) * double(mass))), uint64_t(1)), mass);
    uint64_t within;
    uint32_t bits = crossing(row, vocab, share - 1, &within);
    uint64_t each = mass_of(bits_to_float(bits));
    const uint64_t kept = share - 1 - within + (within / each + 1) * each;
    bits = crossing(row, vocab, min(uint64_t(u * double(kept)), kept - 1), &within);
    each = mass_of(bits_to_float(bits));
    first_exceeding(row, vocab, within / each, false, bits, token);
}

// ---- event --------------------------------------------------------------------------------------

// Rows of h that one block of the scan takes together.
constexpr uint32_t EVENT_ROWS = 4;
// Rows of w that a warp multiplies at a time.
constexpr uint32_t EVENT_COLUMNS = 4;

// own[b] = h[b] . w[token] + bias, by the same sums as the scan, so that equals stay equal; z[b] = 1, the token's
// own share; lost[b] = 0. One warp takes EVENT_ROWS rows.
template <class A, class W>
__device__ void token_event_own(const A* h, uint32_t rows, const W* w, uint64_t vocab, uint32_t hidden, uint32_t token,
                          float bias, float* own, double* z, uint32_t* lost) {
    const uint32_t first = blockIdx.x * EVENT_ROWS, here = min(EVENT_ROWS, rows - first);
    float sums[EVENT_ROWS][EVENT_COLUMNS];
    dot_rows<EVENT_ROWS, EVENT_COLUMNS>(h + uint64_t(first) * hidden, here, w, token, vocab, hidden, sums);
#pragma unroll
    for (uint32_t m = 0; m < EVENT_ROWS; m++) {
        if (threadIdx.x == m && m < here) {
            own[first + m] = sums[m][0] + bias;
            z[first + m] = 1.0;
            lost[first + m] = 0;
        }
    }
}

// Block x takes `tile` rows of w, block y EVENT_ROWS rows of h. Writes partials[x][row], the tile's share of Z.
//
// z is a running sum that only serves to stop early: it may lag, and its order of additions is free. It
// decides nothing that is closer than a margin for both, so the answer does not depend on it.
template <class A, class W>
__device__ void token_event_scan(const A* h, uint32_t rows, const W* w, uint64_t vocab, uint32_t hidden, uint32_t token,
                           const float* temperatures, const uint32_t* draws, const float* own, uint32_t tile,
                           double* z, uint32_t* lost, double* partials) {
    SHARED(uint32_t, open, 1);
    SHARED(double, shares, 32 * EVENT_ROWS);
    const uint32_t first = blockIdx.y * EVENT_ROWS, here = min(EVENT_ROWS, rows - first);
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    if (threadIdx.x == 0) {
        uint32_t undecided = 0;
        for (uint32_t m = 0; m < here; m++) {
            undecided += *const_cast<volatile const uint32_t*>(lost + first + m) == 0;
        }
        *open = undecided;
    }
    __syncthreads();
    if (*open == 0) return;
    // Lane m keeps the books of row m.
    const bool mine = lane < here;
    const uint32_t row = first + (mine ? lane : 0);
    const float temperature = temperatures[row], bar = own[row];
    const bool greedy = !(temperature > 0.0f);
    const float inverse = greedy ? 0.0f : inverse_temperature(temperature);
    const uint64_t begin = uint64_t(blockIdx.x) * tile, end = min(begin + tile, vocab);
    double share = 0.0;
    bool beaten = false;
    for (uint64_t n = begin + warp * EVENT_COLUMNS; n < end; n += warps * EVENT_COLUMNS) {
        float sums[EVENT_ROWS][EVENT_COLUMNS];
        dot_rows<EVENT_ROWS, EVENT_COLUMNS>(h + uint64_t(first) * hidden, here, w, n, vocab, hidden, sums);
#pragma unroll
        for (uint32_t j = 0; j < EVENT_COLUMNS; j++) {
            float logit = 0.0f;
#pragma unroll
            for (uint32_t m = 0; m < EVENT_ROWS; m++) {
                if (lane == m) logit = sums[m][j];
            }
            if (n + j >= end || n + j == token) continue;
            if (greedy) {
                beaten |= logit > bar || (logit == bar && n + j < token);
            } else {
                share += double(expf((logit - bar) * inverse));
            }
        }
    }
    if (lane < EVENT_ROWS) shares[warp * EVENT_ROWS + lane] = beaten ? INFINITY : share;
    __syncthreads();
    if (warp != 0 || !mine) return;
    double sum = 0.0;
    for (uint32_t i = 0; i < warps; i++) sum += shares[i * EVENT_ROWS + lane];
    partials[uint64_t(blockIdx.x) * rows + row] = sum;
    const double u = row_uniform(draws + 4 * uint64_t(row));
    const double running = atomicAdd(z + row, sum) + sum;
    if (greedy ? sum > 0.0 : certainly_lost(u, running)) atomicExch(lost + row, 1u);
}

#define EVENT(A, a, W, w_)                                                                                           \
    KERNEL(token_event_own_##a##_##w_, 32, const A* h, uint32_t rows, const W* w, uint64_t vocab, uint32_t hidden,   \
           uint32_t token, float bias, float* own, double* z, uint32_t* lost) {                                      \
        token_event_own(h, rows, w, vocab, hidden, token, bias, own, z, lost);                                       \
    }                                                                                                                \
    KERNEL(token_event_scan_##a##_##w_, 256, const A* h, uint32_t rows, const W* w, uint64_t vocab, uint32_t hidden, \
           uint32_t token, const float* temperatures, const uint32_t* draws, const float* own, uint32_t tile,        \
           double* z, uint32_t* lost, double* partials) {                                                            \
        token_event_scan(h, rows, w, vocab, hidden, token, temperatures, draws, own, tile, z, lost, partials);       \
    }

EVENT(float, f32, float, f32)
EVENT(float, f32, bf16, bf16)
EVENT(float, f32, f16, f16)
EVENT(bf16, bf16, float, f32)
EVENT(bf16, bf16, bf16, bf16)
EVENT(bf16, bf16, f16, f16)

// A thread takes one row: the shares of all tiles in their order.
KERNEL(token_event_decide, 128, const float* temperatures, const uint32_t* draws, const uint32_t* lost,
       const double* partials, uint32_t tiles, uint32_t rows, uint32_t* happened) {
    const uint64_t row = grid_thread();
    if (row >= rows) return;
    bool won = lost[row] == 0;
    if (won && temperatures[row] > 0.0f) {
        double z = 1.0;
        for (uint32_t t = 0; t < tiles; t++) z += partials[uint64_t(t) * rows + row];
        won = double(row_uniform(draws + 4 * row)) * z < 1.0;
    }
    happened[row] = won ? 1 : 0;
}
