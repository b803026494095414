// Arguments and state of the decoding kernel (decode.cu), and how rows of activations are staged.
#pragma once

#include <stddef.h>

#include "stream.cuh"

// One layer's weights; biases and the norms of heads may be null. Mirrored in src/device/cuda/decoder.rs, as the
// structures that follow.
template <class A>
struct Layer {
    Global<const float> input_norm;
    Global<const A> q;
    Global<const float> q_bias;
    Global<const A> k;
    Global<const float> k_bias;
    Global<const A> v;
    Global<const float> v_bias;
    Global<const float> q_norm, k_norm;
    Global<const A> o;
    Global<const float> post_norm;
    Global<const A> gate;
    Global<const A> up;
    Global<const A> down;
};

// The latent head; log_std and its bias are null in a deterministic one, and all without one.
template <class A>
struct Head {
    Global<const A> fc0;
    Global<const float> fc0_bias;
    Global<const A> fc2;
    Global<const float> fc2_bias;
    Global<const float> norm, norm_bias;
    Global<const A> mean;
    Global<const float> mean_bias;
    Global<const A> log_std;
    Global<const float> log_std_bias;
};

// The model, and the buffers by which the phases pass on results.
template <class A>
struct Model {
    uint32_t layers, hidden, heads, kv_heads, head_dim, inner, vocab, head_inner;
    float eps, embeds_std;
    // Floats of shared memory that rows of activations may take.
    uint32_t staged, unused;
    Global<const A> embed, lm_head;
    Global<const float> norm, inv_freq;
    Head<A> head;
    // [rows, hidden], [rows, heads * head_dim], [rows, kv_heads * head_dim] before their norm where they have one,
    // [rows, heads, PARTS, head_dim + 2], [rows, inner or head_inner], [rows, head_inner], [rows, vocab].
    Global<float> stream, q, k, partials, act, outer, logits;
    // [rows], [rows], [rows, warps of the grid].
    Global<double> z;
    Global<uint32_t> lost;
    Global<double> shares;
};

// A sequence.
struct Sequence {
    // Its first row in the cache, and how many it has there.
    uint32_t first, length;
    // The token to feed, in a token step.
    uint32_t token;
    // Whether it draws more latents; written back.
    uint32_t open;
    uint32_t key[2];
    // Latents drawn, written back, and how many end them whatever is drawn.
    uint32_t drawn, limit;
    float latent_temperature, eol_temperature;
    uint32_t unused[2];
};

// Checks where a structure's fields stand, as `laid_out` of src/device/cuda/decoder.rs does for its mirror.
#define FIELD(field, at) &&offsetof(Checked, field) == at
#define LAID_OUT(size, fields) static_assert(sizeof(Checked) == size fields, "not as src/device/cuda/decoder.rs has it")
namespace layer_table {
using Checked = Layer<float>;
LAID_OUT(112, FIELD(input_norm, 0) FIELD(q, 8) FIELD(q_bias, 16) FIELD(k, 24) FIELD(k_bias, 32) FIELD(v, 40));
LAID_OUT(112, FIELD(v_bias, 48) FIELD(q_norm, 56) FIELD(k_norm, 64) FIELD(o, 72) FIELD(post_norm, 80));
LAID_OUT(112, FIELD(gate, 88) FIELD(up, 96) FIELD(down, 104));
}  // namespace layer_table
namespace model_table {
using Checked = Model<float>;
LAID_OUT(240, FIELD(layers, 0) FIELD(hidden, 4) FIELD(heads, 8) FIELD(kv_heads, 12) FIELD(head_dim, 16));
LAID_OUT(240, FIELD(inner, 20) FIELD(vocab, 24) FIELD(head_inner, 28) FIELD(eps, 32) FIELD(embeds_std, 36));
LAID_OUT(240, FIELD(staged, 40) FIELD(embed, 48) FIELD(lm_head, 56) FIELD(norm, 64) FIELD(inv_freq, 72));
LAID_OUT(240, FIELD(head, 80) FIELD(stream, 160) FIELD(q, 168) FIELD(k, 176) FIELD(partials, 184));
LAID_OUT(240, FIELD(act, 192) FIELD(outer, 200) FIELD(logits, 208) FIELD(z, 216) FIELD(lost, 224));
LAID_OUT(240, FIELD(shares, 232));
}  // namespace model_table
namespace head_table {
using Checked = Head<float>;
LAID_OUT(80, FIELD(fc0, 0) FIELD(fc0_bias, 8) FIELD(fc2, 16) FIELD(fc2_bias, 24) FIELD(norm, 32) FIELD(norm_bias, 40));
LAID_OUT(80, FIELD(mean, 48) FIELD(mean_bias, 56) FIELD(log_std, 64) FIELD(log_std_bias, 72));
}  // namespace head_table
namespace sequence_words {
using Checked = Sequence;
LAID_OUT(48, FIELD(first, 0) FIELD(length, 4) FIELD(token, 8) FIELD(open, 12) FIELD(key, 16) FIELD(drawn, 24));
LAID_OUT(48, FIELD(limit, 28) FIELD(latent_temperature, 32) FIELD(eol_temperature, 36));
}  // namespace sequence_words
#undef FIELD
#undef LAID_OUT

// A kernel's arguments and state: in shared memory, so that the phases, each a function with registers
// of its own, find it there.
template <class A, uint32_t M>
struct Work {
    Model<A> model;
    Global<const Layer<A>> layers;
    Global<const Global<A>> keys, values;
    // [steps + 1, count, hidden] and [steps, count, hidden].
    Global<A> hidden, latents;
    uint32_t count, separator;
    float bias;
    // Word 1 of the counters of draws.
    uint32_t latent_purpose, event_purpose;
    Sequence sequences[M];
    Grid grid;

    __device__ Rows rows(uint32_t k) const {
        // A piece begins at a multiple of 16 bytes of every row, and of a warp's step.
        const uint32_t most = model.staged / M / WARP_STEP * WARP_STEP, whole = staged_length<A>(k);
        return Rows{whole <= model.staged / M ? whole : most};
    }

    __device__ bool open(uint32_t m) const { return m < count && sequences[m].open != 0; }
};

// The sums of M values a thread over the block, in every thread. All threads take part.
template <uint32_t M>
__device__ __forceinline__ void block_sums(float (&values)[M]) {
    SHARED(float, parts, 32 * M);
    const uint32_t warps = blockDim.x / 32;
    const float mine = scatter_sum<M>(values);
    __syncthreads();  // an earlier call's parts have been read
    if (threadIdx.x % (32 / M) == 0) parts[threadIdx.x / 32 * M + threadIdx.x % 32 / (32 / M)] = mine;
    __syncthreads();
#pragma unroll
    for (uint32_t m = 0; m < M; m++) {
        values[m] = 0.0f;
        for (uint32_t w = 0; w < warps; w++) values[m] += parts[w * M + m];
    }
}

// Columns of a row that a thread loads before it stores any.
constexpr uint32_t AHEAD = 8;

// Calls use(c, load(c)) for this thread's columns of a row. The loads of LOADS columns are under way at once; those
// past the end repeat the last column.
template <uint32_t LOADS, class Load, class Use>
__device__ __forceinline__ void each_column(uint32_t cols, Load load, Use use) {
    for (uint32_t first = threadIdx.x; first < cols; first += LOADS * blockDim.x) {
        decltype(load(0u)) loaded[LOADS];
#pragma unroll
        for (uint32_t a = 0; a < LOADS; a++) loaded[a] = load(min(first + a * blockDim.x, cols - 1));
#pragma unroll
        for (uint32_t a = 0; a < LOADS; a++) {
            if (first + a * blockDim.x < cols) use(first + a * blockDim.x, loaded[a]);
        }
    }
}

// Copies rows of `cols` elements from..from + len, a multiple of 4, and zeros for sequences that sit out.
template <uint32_t M, uint32_t LOADS = AHEAD, class A, class From>
__device__ __forceinline__ void stage_rows(const Work<A, M>& work, const Rows& x, uint32_t from, uint32_t len,
                                           From value) {
#pragma unroll 1
    for (uint32_t m = 0; m < M; m++) {
        float* const row = x.at() + m * x.stride;
        if (!work.open(m)) {
            for (uint32_t c = threadIdx.x; c < len; c += blockDim.x) row[staged_at<A>(c)] = 0.0f;
            continue;
        }
        each_column<LOADS>(
            len, [&](uint32_t c) { return value(m, from + c); }, [&](uint32_t c, float s) { row[staged_at<A>(c)] = s; });
    }
}

// Whole rows of the stream, normalised.
template <uint32_t M, class A>
__device__ __forceinline__ void stage_rms_norm(const Work<A, M>& work, const Rows& x, const float* w) {
    const uint32_t cols = work.model.hidden;
    float squares[M];
#pragma unroll
    for (uint32_t m = 0; m < M; m++) {
        squares[m] = 0.0f;
        if (!work.open(m)) {
            for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) x.at()[m * x.stride + staged_at<A>(c)] = 0.0f;
            continue;
        }
        const float* row = work.model.stream + uint64_t(m) * cols;
        each_column<AHEAD>(
            cols, [&](uint32_t c) { return row[c]; },
            [&](uint32_t c, float s) {
                x.at()[m * x.stride + staged_at<A>(c)] = s;
                squares[m] += s * s;
            });
    }
    block_sums<M>(squares);
#pragma unroll
    for (uint32_t m = 0; m < M; m++) squares[m] = 1.0f / sqrtf(squares[m] / float(cols) + work.model.eps);
    each_column<AHEAD>(
        cols, [&](uint32_t c) { return w[c]; },
        [&](uint32_t c, float factor) {
#pragma unroll
            for (uint32_t m = 0; m < M; m++) x.at()[m * x.stride + staged_at<A>(c)] *= squares[m] * factor;
        });
}

// Whole rows of `outer`, through LayerNorm.
template <uint32_t M, class A>
__device__ __forceinline__ void stage_layer_norm(const Work<A, M>& work, const Rows& x) {
    const uint32_t cols = work.model.head_inner;
    stage_rows<M>(work, x, 0, cols, [&](uint32_t m, uint32_t c) { return work.model.outer[uint64_t(m) * cols + c]; });
    float mean[M], squares[M];
#pragma unroll
    for (uint32_t m = 0; m < M; m++) {
        mean[m] = 0.0f;
        for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) mean[m] += x.at()[m * x.stride + staged_at<A>(c)];
    }
    block_sums<M>(mean);
#pragma unroll
    for (uint32_t m = 0; m < M; m++) {
        mean[m] /= float(cols);
        squares[m] = 0.0f;
        for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
            const float d = x.at()[m * x.stride + staged_at<A>(c)] - mean[m];
            squares[m] += d * d;
        }
    }
    block_sums<M>(squares);
#pragma unroll
    for (uint32_t m = 0; m < M; m++) squares[m] = 1.0f / sqrtf(squares[m] / float(cols) + 1e-5f);
    struct Affine {
        float w, b;
    };
    const float *const w = work.model.head.norm, *const b = work.model.head.norm_bias;
    each_column<AHEAD>(
        cols, [&](uint32_t c) { return Affine{w[c], b[c]}; },
        [&](uint32_t c, Affine affine) {
#pragma unroll
            for (uint32_t m = 0; m < M; m++) {
                float& at = x.at()[m * x.stride + staged_at<A>(c)];
                at = work.open(m) ? (at - mean[m]) * squares[m] * affine.w + affine.b : 0.0f;
            }
        });
}
