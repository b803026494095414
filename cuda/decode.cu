// Decoding as one kernel: the blocks of a grid stay for all layers of a step, and for all latents of a chain, and wait
// for each other between phases. Nothing goes through the host meanwhile.
//
//   a latent step   latent head and draw -> input -> layers -> hidden state -> does the chain end here?
//   a token step    embedding -> layers -> hidden state -> logits
//
// Layers are those of src/model/transformer.rs, a phase for each product and one for attention:
//
//   qkv       RMSNorm staged; rotation, bias and the appends to the cache in the product's end
//   attend    each warp takes a row, a query head and a part of the keys
//   o         the parts are merged while they are staged; added to the stream in the product's end
//   gate/up   RMSNorm staged; SwiGLU in the product's end
//   down      added to the stream in the product's end
//
// Before each wait every warp asks for the first weights that it will read after it, so the memory goes on working
// while blocks wait and stage (prefetch_units).
//
// The chain's end: the event "the token is the separator", u < exp(l) / Z for its logit l (spec section 5, 2). Z only
// grows as tokens are added, so the scan stops as soon as u is not less than exp(l) / Z so far.
//
// Activations between phases are float32, what stays (cache, hidden states, latents) has the activations' dtype A,
// which the weights have too. There is no backward: training does not decode.
#include "attend.cuh"
#include "pointwise.cuh"
#include "sampling.cuh"
#include "stream.cuh"

// One layer's weights. Mirrored in src/device/cuda/decode.rs, as the other structures here.
template <class A>
struct Layer {
    const float* input_norm;
    const A* q;
    const float* q_bias;
    const A* k;
    const float* k_bias;
    const A* v;
    const float* v_bias;
    const A* o;
    const float* post_norm;
    const A* gate;
    const A* up;
    const A* down;
};

// The model, and what the phases leave each other.
template <class A>
struct Model {
    uint32_t layers, hidden, heads, kv_heads, head_dim, inner, vocab, head_inner;
    float eps, embeds_std;
    // Floats of shared memory that rows of activations may take.
    uint32_t staged, unused;
    const A *embed, *lm_head;
    const float *norm, *inv_freq;
    const A* fc0;
    const float* fc0_bias;
    const A* fc2;
    const float* fc2_bias;
    const float *head_norm, *head_norm_bias;
    const A* mean;
    const float* mean_bias;
    const A* log_std;
    const float* log_std_bias;
    // [rows, hidden], [rows, heads * head_dim], [rows, heads, PARTS, head_dim + 2], [rows, inner or head_inner],
    // [rows, head_inner], [rows, vocab].
    float *stream, *q, *partials, *act, *outer, *logits;
    // [rows], [rows], [rows, warps of the grid].
    double* z;
    uint32_t* lost;
    double* shares;
};

// A sequence.
struct Sequence {
    // Its first row in the cache, and how many it has there.
    uint32_t first, length;
    // The token to feed, in a token step.
    uint32_t token;
    // Whether its chain goes on; written back.
    uint32_t open;
    uint32_t key[2];
    // Latents drawn, written back, and how many end the chain whatever is drawn.
    uint32_t drawn, limit;
    float latent_temperature, eol_temperature;
    uint32_t unused[2];
};

// What a kernel is called with, and its state: in shared memory, so that the phases, each a function with registers
// of its own, find it there.
template <class A, uint32_t M>
struct Work {
    Model<A> model;
    const Layer<A>* layers;
    A* const* keys;
    A* const* values;
    // [steps + 1, count, hidden] and [steps, count, hidden].
    A *hidden, *latents;
    uint32_t count, separator;
    float bias;
    // Word 1 of the counters of draws.
    uint32_t latent_purpose, event_purpose;
    Sequence sequences[M];
    Grid grid;

    __device__ Rows rows(uint32_t k) const {
        // A piece begins at a multiple of 16 bytes of every row, and of a warp's step.
        const uint32_t most = model.staged / M / 256 * 256;
        return Rows{k <= model.staged / M ? k : most};
    }

    __device__ bool open(uint32_t m) const { return m < count && sequences[m].open != 0; }
};

// ---- staging ------------------------------------------------------------------------------------

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

// Copies rows of `cols` elements from..from + len, a multiple of 4, and zeros for sequences that sit out.
template <uint32_t M, class A, class From>
__device__ __forceinline__ void stage_rows(const Work<A, M>& work, const Rows& x, uint32_t from, uint32_t len,
                                           From value) {
#pragma unroll 1
    for (uint32_t m = 0; m < M; m++) {
        const bool open = work.open(m);
        for (uint32_t c = threadIdx.x; c < len; c += blockDim.x) {
            x.at()[m * x.stride + c] = open ? value(m, from + c) : 0.0f;
        }
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
            for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) x.at()[m * x.stride + c] = 0.0f;
            continue;
        }
        const float* row = work.model.stream + uint64_t(m) * cols;
        for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
            const float s = row[c];
            x.at()[m * x.stride + c] = s;
            squares[m] += s * s;
        }
    }
    block_sums<M>(squares);
#pragma unroll
    for (uint32_t m = 0; m < M; m++) squares[m] = 1.0f / sqrtf(squares[m] / float(cols) + work.model.eps);
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
        const float factor = w[c];
#pragma unroll
        for (uint32_t m = 0; m < M; m++) x.at()[m * x.stride + c] *= squares[m] * factor;
    }
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
        for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) mean[m] += x.at()[m * x.stride + c];
    }
    block_sums<M>(mean);
#pragma unroll
    for (uint32_t m = 0; m < M; m++) {
        mean[m] /= float(cols);
        squares[m] = 0.0f;
        for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
            const float d = x.at()[m * x.stride + c] - mean[m];
            squares[m] += d * d;
        }
    }
    block_sums<M>(squares);
#pragma unroll
    for (uint32_t m = 0; m < M; m++) squares[m] = 1.0f / sqrtf(squares[m] / float(cols) + 1e-5f);
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
        const float w = work.model.head_norm[c], b = work.model.head_norm_bias[c];
#pragma unroll
        for (uint32_t m = 0; m < M; m++) {
            float& at = x.at()[m * x.stride + c];
            at = work.open(m) ? (at - mean[m]) * squares[m] * w + b : 0.0f;
        }
    }
}

// ---- rows of weights ----------------------------------------------------------------------------

// Unit u is rows u * J and on.
template <class A>
struct Successive {
    const A* w;
    uint32_t k, rows;
    __device__ const A* operator()(uint32_t unit, uint32_t j) const {
        return w + uint64_t(min(unit * J + j, rows - 1)) * k;
    }
};

// Unit u is row u of each of two.
template <class A>
struct Paired {
    const A *a, *b;
    uint32_t k;
    __device__ const A* operator()(uint32_t unit, uint32_t j) const { return (j == 0 ? a : b) + uint64_t(unit) * k; }
};

// A unit of qkv is two rows of q or k that rotate into each other, or two neighbours of v.
struct QkvRow {
    uint32_t which, row;
};

template <class A>
struct Qkv {
    const Layer<A>& layer;
    const Model<A>& model;

    __device__ uint32_t units() const { return (model.heads + 2 * model.kv_heads) * (model.head_dim / 2); }

    __device__ QkvRow row(uint32_t unit, uint32_t j) const {
        const uint32_t half = model.head_dim / 2, q = model.heads * half, k = model.kv_heads * half;
        if (unit >= q + k) return QkvRow{2, 2 * (unit - q - k) + j};
        const uint32_t of = unit < q ? unit : unit - q;
        return QkvRow{unit < q ? 0u : 1u, of / half * model.head_dim + of % half + j * half};
    }

    __device__ const A* operator()(uint32_t unit, uint32_t j) const {
        const QkvRow at = row(unit, j);
        const A* w = at.which == 0 ? layer.q : at.which == 1 ? layer.k : layer.v;
        return w + uint64_t(at.row) * model.hidden;
    }

    __device__ float bias(const QkvRow& at) const {
        const float* bias = at.which == 0 ? layer.q_bias : at.which == 1 ? layer.k_bias : layer.v_bias;
        return bias == nullptr ? 0.0f : bias[at.row];
    }
};

// ---- a layer ------------------------------------------------------------------------------------

template <class A, uint32_t M>
__device__ __noinline__ void qkv(Work<A, M>& work, uint32_t l) {
    const Model<A>& model = work.model;
    const Qkv<A> weight{work.layers[l], model};
    const Rows x = work.rows(model.hidden);
    const uint32_t dim = model.head_dim, half = dim / 2;
    product<M, A>(
        x, weight.units(), model.hidden, weight,
        [&](uint32_t, uint32_t) { stage_rms_norm<M>(work, x, work.layers[l].input_norm); },
        [&](uint32_t unit, const Place<M>& place, float sum, float partner) {
            if (!place.leads || !work.open(place.m)) return;
            const Sequence& s = work.sequences[place.m];
            const QkvRow at = weight.row(unit, place.j);
            sum += weight.bias(at);
            if (at.which < 2) {
                partner += weight.bias(weight.row(unit, 1 - place.j));
                float sine, cosine;
                rotation(float(s.length) * model.inv_freq[at.row % half], &sine, &cosine);
                sum = place.j == 0 ? sum * cosine - partner * sine : sum * cosine + partner * sine;
            }
            if (at.which == 0) {
                model.q[uint64_t(place.m) * model.heads * dim + at.row] = sum;
            } else {
                A* cache = (at.which == 1 ? work.keys : work.values)[l];
                cache[uint64_t(s.first + s.length) * model.kv_heads * dim + at.row] = from_float<A>(sum);
            }
        });
}

template <class A, uint32_t M>
__device__ __noinline__ void attend(Work<A, M>& work, uint32_t l) {
    const Model<A>& model = work.model;
    const uint32_t dim = model.head_dim, group = model.heads / model.kv_heads;
    uint32_t longest = 0;
    for (uint32_t m = 0; m < work.count; m++) {
        if (work.open(m)) longest = max(longest, work.sequences[m].length + 1);
    }
    const KeyParts parts(longest);
    for (uint32_t unit = grid_warp(); unit < work.count * model.heads * parts.count; unit += grid_warps()) {
        const uint32_t part = unit % parts.count, head = unit / parts.count % model.heads;
        const uint32_t m = unit / (parts.count * model.heads);
        if (!work.open(m)) continue;
        const Sequence& s = work.sequences[m];
        const uint32_t from = part * parts.keys, to = min(from + parts.keys, s.length + 1);
        if (from >= to) continue;
        const uint64_t width = uint64_t(model.kv_heads) * dim;
        const uint64_t start = (s.first + from) * width + head / group * dim;
        const float* q = model.q + (uint64_t(m) * model.heads + head) * dim;
        float* out = model.partials + ((uint64_t(m) * model.heads + head) * PARTS + part) * (dim + 2);
        attend_part(q, work.keys[l] + start, work.values[l] + start, width, to - from, dim, out);
    }
}

template <class A, uint32_t M>
__device__ __forceinline__ void add_to_stream(Work<A, M>& work, uint32_t row, uint32_t m, float sum) {
    work.model.stream[uint64_t(m) * work.model.hidden + row] += sum;
}

template <class A, uint32_t M>
__device__ __noinline__ void project_attention(Work<A, M>& work, uint32_t l) {
    const Model<A>& model = work.model;
    const uint32_t dim = model.head_dim, k = model.heads * dim;
    const Rows x = work.rows(k);
    uint32_t longest = 0;
    for (uint32_t m = 0; m < work.count; m++) {
        if (work.open(m)) longest = max(longest, work.sequences[m].length + 1);
    }
    const KeyParts parts(longest);
    const auto merged = [&](uint32_t m, uint32_t c) {
        const float* from = model.partials + (uint64_t(m) * model.heads + c / dim) * PARTS * (dim + 2);
        const uint32_t count = (work.sequences[m].length + parts.keys) / parts.keys;
        return merge_parts(from, count, dim, c % dim);
    };
    product<M, A>(
        x, model.hidden / J, k, Successive<A>{work.layers[l].o, k, model.hidden},
        [&](uint32_t from, uint32_t len) { stage_rows<M>(work, x, from, len, merged); },
        [&](uint32_t unit, const Place<M>& place, float sum, float) {
            if (place.leads && work.open(place.m)) add_to_stream(work, unit * J + place.j, place.m, sum);
        });
}

template <class A, uint32_t M>
__device__ __noinline__ void gate_and_up(Work<A, M>& work, uint32_t l) {
    const Model<A>& model = work.model;
    const Layer<A>& layer = work.layers[l];
    const Rows x = work.rows(model.hidden);
    product<M, A>(
        x, model.inner, model.hidden, Paired<A>{layer.gate, layer.up, model.hidden},
        [&](uint32_t, uint32_t) { stage_rms_norm<M>(work, x, layer.post_norm); },
        [&](uint32_t unit, const Place<M>& place, float gate, float up) {
            if (!place.leads || place.j != 0 || !work.open(place.m)) return;
            model.act[uint64_t(place.m) * model.inner + unit] = silu(gate) * up;
        });
}

template <class A, uint32_t M>
__device__ __noinline__ void down(Work<A, M>& work, uint32_t l) {
    const Model<A>& model = work.model;
    const Rows x = work.rows(model.inner);
    const auto act = [&](uint32_t m, uint32_t c) { return model.act[uint64_t(m) * model.inner + c]; };
    product<M, A>(
        x, model.hidden / J, model.inner, Successive<A>{work.layers[l].down, model.inner, model.hidden},
        [&](uint32_t from, uint32_t len) { stage_rows<M>(work, x, from, len, act); },
        [&](uint32_t unit, const Place<M>& place, float sum, float) {
            if (place.leads && work.open(place.m)) add_to_stream(work, unit * J + place.j, place.m, sum);
        });
}

template <class A>
__device__ __forceinline__ void prefetch_qkv(const Model<A>& model, const Layer<A>& layer) {
    const Qkv<A> weight{layer, model};
    prefetch_units(weight.units(), model.hidden * sizeof(A), weight);
}

// The final hidden states, which stay staged and go to `hidden`.
template <class A, uint32_t M>
__device__ __noinline__ void final_norm(Work<A, M>& work, uint32_t step) {
    const Model<A>& model = work.model;
    const uint32_t k = model.hidden;
    const Rows x = work.rows(k);
    __syncthreads();
    stage_rms_norm<M>(work, x, model.norm);
    __syncthreads();
    A* to = work.hidden + uint64_t(step) * work.count * k;
    for (uint64_t i = grid_thread(); i < uint64_t(work.count) * k; i += grid_threads()) {
        if (work.open(i / k)) to[i] = from_float<A>(x.at()[i / k * x.stride + i % k]);
    }
}

// From the stream to the final hidden states.
template <class A, uint32_t M>
__device__ __forceinline__ void run_layers(Work<A, M>& work, uint32_t step) {
    const Model<A>& model = work.model;
    const uint32_t k = model.hidden;
    for (uint32_t l = 0; l < model.layers; l++) {
        const Layer<A>& layer = work.layers[l];
        const Successive<A> o{layer.o, model.heads * model.head_dim, k}, below{layer.down, model.inner, k};
        qkv(work, l);
        prefetch_units(k / J, o.k * sizeof(A), o);
        GRID_SYNC(work.grid);
        attend(work, l);
        GRID_SYNC(work.grid);
        project_attention(work, l);
        prefetch_units(model.inner, k * sizeof(A), Paired<A>{layer.gate, layer.up, k});
        GRID_SYNC(work.grid);
        gate_and_up(work, l);
        prefetch_units(k / J, model.inner * sizeof(A), below);
        GRID_SYNC(work.grid);
        down(work, l);
        if (l + 1 < model.layers) {
            prefetch_qkv(model, work.layers[l + 1]);
        } else {
            prefetch_units((model.vocab + 1) / 2, k * sizeof(A), Successive<A>{model.lm_head, k, model.vocab});
        }
        GRID_SYNC(work.grid);
    }
    final_norm(work, step);
}

// ---- a latent -----------------------------------------------------------------------------------

// Draws a latent from each sequence's hidden state, into `latents` and, times the deviation of embeddings, into
// the stream.
template <class A, uint32_t M>
__device__ __noinline__ void draw_latents(Work<A, M>& work, uint32_t step) {
    const Model<A>& model = work.model;
    const uint32_t k = model.hidden, inner = model.head_inner;
    const uint64_t before = uint64_t(step) * work.count * k;
    const Rows x = work.rows(k), wide = work.rows(inner);
    const Successive<A> fc0{model.fc0, k, inner}, fc2{model.fc2, inner, inner};
    // A head without log_sigma draws its mean with a deviation that is next to nothing.
    const Paired<A> both{model.mean, model.log_std == nullptr ? model.mean : model.log_std, inner};
    product<M, A>(
        x, inner / J, k, fc0,
        [&](uint32_t from, uint32_t len) {
            stage_rows<M>(work, x, from, len,
                          [&](uint32_t m, uint32_t c) { return to_float(work.hidden[before + uint64_t(m) * k + c]); });
        },
        [&](uint32_t unit, const Place<M>& place, float sum, float) {
            const uint32_t row = unit * J + place.j;
            if (!place.leads || !work.open(place.m)) return;
            model.act[uint64_t(place.m) * inner + row] = exact_gelu(sum + model.fc0_bias[row]);
        });
    prefetch_units(inner / J, inner * sizeof(A), fc2);
    GRID_SYNC(work.grid);
    product<M, A>(
        wide, inner / J, inner, fc2,
        [&](uint32_t from, uint32_t len) {
            stage_rows<M>(work, wide, from, len,
                          [&](uint32_t m, uint32_t c) { return model.act[uint64_t(m) * inner + c]; });
        },
        [&](uint32_t unit, const Place<M>& place, float sum, float) {
            const uint32_t row = unit * J + place.j;
            if (!place.leads || !work.open(place.m)) return;
            model.outer[uint64_t(place.m) * inner + row] = sum + model.fc2_bias[row];
        });
    prefetch_units(k, inner * sizeof(A), both);
    GRID_SYNC(work.grid);
    product<M, A>(
        wide, k, inner, both, [&](uint32_t, uint32_t) { stage_layer_norm<M>(work, wide); },
        [&](uint32_t unit, const Place<M>& place, float mean, float log_sigma) {
            if (!place.leads || place.j != 0 || !work.open(place.m)) return;
            const Sequence& s = work.sequences[place.m];
            float z = mean + model.mean_bias[unit];
            if (s.latent_temperature != 0.0f) {
                float noise[4], sigma = DETERMINISTIC_SIGMA;
                normals(philox(s.key[0], s.key[1], unit / 4, work.latent_purpose, s.drawn, 0), noise);
                bool hit;
                if (model.log_std != nullptr) sigma = expf(bounded(log_sigma + model.log_std_bias[unit], &hit));
                const uint32_t which = unit % 4;
                const float eps = which == 0 ? noise[0] : which == 1 ? noise[1] : which == 2 ? noise[2] : noise[3];
                z += sigma * (s.latent_temperature * eps);
            }
            const A rounded = from_float<A>(z);
            const uint64_t at = uint64_t(place.m) * k + unit;
            work.latents[before + at] = rounded;
            model.stream[at] = model.embeds_std * to_float(rounded);
        });
    prefetch_qkv(model, work.layers[0]);
    GRID_SYNC(work.grid);
}

// Logits of the staged hidden states.
template <class A, uint32_t M>
__device__ __noinline__ void logits(Work<A, M>& work) {
    const Model<A>& model = work.model;
    const uint32_t vocab = model.vocab;
    product<M, A>(
        work.rows(model.hidden), (vocab + 1) / 2, model.hidden, Successive<A>{model.lm_head, model.hidden, vocab},
        [](uint32_t, uint32_t) {},
        [&](uint32_t unit, const Place<M>& place, float sum, float) {
            const uint32_t token = 2 * unit + place.j;
            if (!place.leads || place.m >= work.count || token >= vocab) return;
            model.logits[uint64_t(place.m) * vocab + token] = sum;
        });
}

// ---- the end of a chain -------------------------------------------------------------------------

// The staged hidden states' share of the event's Z that this warp's tokens make up.
template <class A, uint32_t M>
__device__ __noinline__ void scan_event(Work<A, M>& work) {
    const Model<A>& model = work.model;
    const uint32_t k = model.hidden, units = (model.vocab + 1) / 2, separator = work.separator;
    const Rows x = work.rows(k);
    const Successive<A> weight{model.lm_head, k, model.vocab};
    const Place<M> place;
    // The separator's own logit, by the same sums as every other.
    const A* own = model.lm_head + uint64_t(separator) * k;
    const float bar = dot<M>(x, own, own, k) + work.bias;
    const bool open = work.open(place.m);
    const Sequence& s = work.sequences[open ? place.m : 0];
    const bool greedy = !(s.eol_temperature > 0.0f);
    const float inverse = greedy ? 0.0f : inverse_temperature(s.eol_temperature);
    const double u = draw_uniform(s.key[0], s.key[1], work.event_purpose, s.drawn);
    double share = 0.0, told = 0.0;
    bool beaten = false;
    uint32_t round = 0;
    for (uint32_t unit = grid_warp(); unit < units; unit += grid_warps(), round++) {
        const float logit = dot<M>(x, weight(unit, 0), weight(unit, 1), k);
        const uint32_t token = 2 * unit + place.j;
        if (open && token < model.vocab && token != separator) {
            beaten |= greedy && (logit > bar || (logit == bar && token < separator));
            if (!greedy) share += double(expf((logit - bar) * inverse));
        }
        // At rounds 0, 1, 3, 7 …: Z has doubled since.
        if ((round & (round + 1)) != 0) continue;
        bool undecided = false;
        if (place.leads && open) {
            bool lost = beaten;
            if (!greedy) lost = certainly_lost(u, 1.0 + atomicAdd(model.z + place.m, share - told) + (share - told));
            told = share;
            if (lost) atomicExch(model.lost + place.m, 1u);
            undecided = *const_cast<volatile uint32_t*>(model.lost + place.m) == 0;
        }
        if (!__any_sync(FULL_WARP, undecided)) break;
    }
    if (place.leads && place.m < work.count) {
        // A greedy sequence that was beaten is marked, if by a round that told no one.
        if (beaten) atomicExch(model.lost + place.m, 1u);
        model.shares[(uint64_t(place.m) * grid_warps() + grid_warp()) * 2 + place.j] = share;
    }
}

// Whether each chain ends, the same in every block, and what that makes of the sequences.
template <class A, uint32_t M>
__device__ __noinline__ void decide_event(Work<A, M>& work) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, shares = 2 * grid_warps();
    __syncthreads();
    for (uint32_t m = warp; m < work.count; m += blockDim.x / 32) {
        Sequence& s = work.sequences[m];
        if (s.open == 0) continue;
        double sum = 0.0;
        for (uint32_t i = lane; i < shares; i += 32) sum += work.model.shares[uint64_t(m) * shares + i];
#pragma unroll
        for (uint32_t offset = 16; offset > 0; offset >>= 1) sum += __shfl_xor_sync(FULL_WARP, sum, offset);
        bool ends = work.model.lost[m] == 0;
        if (ends && s.eol_temperature > 0.0f) {
            ends = double(draw_uniform(s.key[0], s.key[1], work.event_purpose, s.drawn)) * (1.0 + sum) < 1.0;
        }
        __syncwarp();
        if (lane == 0) {
            s.length++;
            s.drawn++;
            s.open = ends || s.drawn >= s.limit ? 0 : 1;
        }
    }
    __syncthreads();
}

// ---- the kernel ---------------------------------------------------------------------------------

// Up to `steps` latents of each sequence, or with 0 of them one token: `hidden` has [steps + 1, count, hidden]
// elements, of which the first step's stand there before, or for a token [count, hidden].
template <class A, uint32_t M>
__device__ void decode(const Model<A>* model, const Layer<A>* layers, A* const* keys, A* const* values,
                       Sequence* sequences, uint32_t count, uint32_t steps, uint32_t separator, float bias,
                       uint32_t latent_purpose, uint32_t event_purpose, A* hidden, A* latents, uint32_t* arrived) {
    using State = Work<A, M>;
    SHARED(State, only, 1);
    State& work = *only;
    if (threadIdx.x == 0) {
        work.model = *model, work.layers = layers, work.keys = keys, work.values = values;
        work.hidden = hidden, work.latents = latents;
        work.count = count, work.separator = separator, work.bias = bias;
        work.latent_purpose = latent_purpose, work.event_purpose = event_purpose;
        work.grid = Grid{arrived, 0};
        for (uint32_t m = 0; m < count; m++) work.sequences[m] = sequences[m];
    }
    __syncthreads();
    const uint64_t width = uint64_t(count) * model->hidden;
    if (steps == 0) {
        for (uint64_t i = grid_thread(); i < width; i += grid_threads()) {
            const uint64_t row = work.sequences[i / model->hidden].token;
            model->stream[i] = to_float(model->embed[row * model->hidden + i % model->hidden]);
        }
        prefetch_qkv(*model, layers[0]);
        GRID_SYNC(work.grid);
        run_layers(work, 0);
        logits(work);
        return;
    }
    for (uint32_t step = 0; step < steps; step++) {
        bool any = false;
        for (uint32_t m = 0; m < count; m++) any |= work.sequences[m].open != 0;
        if (!any) break;
        // Read by all since the step before; the next wait publishes the zeros.
        for (uint64_t m = grid_thread(); m < count; m += grid_threads()) model->z[m] = 0.0, model->lost[m] = 0;
        draw_latents(work, step);
        run_layers(work, step + 1);
        scan_event(work);
        GRID_SYNC(work.grid);
        decide_event(work);
        // No block may clear what another still reads.
        GRID_SYNC(work.grid);
    }
    if (blockIdx.x == 0 && threadIdx.x < count) sequences[threadIdx.x] = work.sequences[threadIdx.x];
}

#define DECODE(A, a, M)                                                                                              \
    KERNEL(decode_##a##_##M, 256, const Model<A>* model, const Layer<A>* layers, A* const* keys, A* const* values,   \
           Sequence* sequences, uint32_t count, uint32_t steps, uint32_t separator, float bias,                      \
           uint32_t latent_purpose, uint32_t event_purpose, A* hidden, A* latents, uint32_t* arrived) {              \
        decode<A, M>(model, layers, keys, values, sequences, count, steps, separator, bias, latent_purpose,          \
                     event_purpose, hidden, latents, arrived);                                                       \
    }

DECODE(float, f32, 1)
DECODE(float, f32, 2)
DECODE(float, f32, 4)
DECODE(float, f32, 8)
DECODE(bf16, bf16, 1)
DECODE(bf16, bf16, 2)
DECODE(bf16, bf16, 4)
DECODE(bf16, bf16, 8)
