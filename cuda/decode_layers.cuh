// The decoder's layers as phases of the decoding kernel (decode.cu), from the stream to hidden states and logits.
//
// Layers are those of src/model/transformer.rs, a phase for each product and one for attention:
//
//   qkv       RMSNorm staged; rotation, bias and the appends to the cache in the product's end
//   heads     only where heads of queries and keys are normalised: RMSNorm, rotation, the appends of keys
//   attend    each warp takes a row, a query head and a part of the keys
//   o         the parts are merged while they are staged; added to the stream in the product's end
//   gate/up   RMSNorm staged; SwiGLU in the product's end
//   down      added to the stream in the product's end
//
// Before each wait every warp asks for the first weights that it will read after it, so the memory goes on working
// while blocks wait and stage (prefetch_units).
#pragma once

#include "attend.cuh"
#include "decode_state.cuh"
#include "pointwise.cuh"

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
            const bool normed = weight.layer.q_norm != nullptr;
            if (at.which < 2 && !normed) {
                partner += weight.bias(weight.row(unit, 1 - place.j));
                float sine, cosine;
                rotation(float(s.length) * model.inv_freq[at.row % half], &sine, &cosine);
                sum = place.j == 0 ? sum * cosine - partner * sine : sum * cosine + partner * sine;
            }
            if (at.which == 0) {
                model.q[uint64_t(place.m) * model.heads * dim + at.row] = sum;
            } else if (at.which == 1 && normed) {
                model.k[uint64_t(place.m) * model.kv_heads * dim + at.row] = sum;
            } else {
                A* cache = (at.which == 1 ? work.keys : work.values)[l];
                cache[uint64_t(s.first + s.length) * model.kv_heads * dim + at.row] = from_float<A>(sum);
            }
        });
}

// Normalises and rotates the heads of queries, and those of keys into the cache. A warp takes one head at a time.
template <class A, uint32_t M>
__device__ __noinline__ void norm_heads(Work<A, M>& work, uint32_t l) {
    const Model<A>& model = work.model;
    const Layer<A>& layer = work.layers[l];
    const uint32_t dim = model.head_dim, half = dim / 2, heads = model.heads + model.kv_heads, lane = threadIdx.x % 32;
    for (uint32_t unit = grid_warp(); unit < work.count * heads; unit += grid_warps()) {
        const uint32_t m = unit / heads, head = unit % heads;
        if (!work.open(m)) continue;
        const Sequence& s = work.sequences[m];
        const bool query = head < model.heads;
        const uint64_t row = uint64_t(m) * (query ? model.heads : model.kv_heads) + head - (query ? 0 : model.heads);
        float* x = Global<float>{query ? model.q.at : model.k.at} + row * dim;
        const float* w = query ? layer.q_norm : layer.k_norm;
        float squares = 0.0f;
        for (uint32_t c = lane; c < dim; c += 32) squares += x[c] * x[c];
        const float r = 1.0f / sqrtf(warp_sum(squares) / float(dim) + model.eps);
        // Another lane may write what this one has read; the sum's shuffles do not order that.
        __syncwarp();
        A* cached = work.keys[l] + uint64_t(s.first + s.length) * model.kv_heads * dim;
        for (uint32_t j = lane; j < half; j += 32) {
            const float left = x[j] * r * w[j], right = x[j + half] * r * w[j + half];
            float sine, cosine;
            rotation(float(s.length) * model.inv_freq[j], &sine, &cosine);
            const float turned[2] = {left * cosine - right * sine, right * cosine + left * sine};
            if (query) {
                x[j] = turned[0], x[j + half] = turned[1];
            } else {
                A* to = cached + (head - model.heads) * dim;
                to[j] = from_float<A>(turned[0]), to[j + half] = from_float<A>(turned[1]);
            }
        }
    }
}

// The cut of the keys of all sequences, the one that this step appends among them.
template <class A, uint32_t M>
__device__ __forceinline__ KeyParts key_parts(const Work<A, M>& work) {
    uint32_t longest = 0;
    for (uint32_t m = 0; m < work.count; m++) {
        if (work.open(m)) longest = max(longest, work.sequences[m].length + 1);
    }
    return KeyParts(longest);
}

template <class A, uint32_t M>
__device__ __noinline__ void attend(Work<A, M>& work, uint32_t l) {
    const Model<A>& model = work.model;
    const uint32_t dim = model.head_dim, group = model.heads / model.kv_heads;
    const KeyParts parts = key_parts(work);
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
    const KeyParts parts = key_parts(work);
    const auto merged = [&](uint32_t m, uint32_t c) {
        const float* from = model.partials + (uint64_t(m) * model.heads + c / dim) * PARTS * (dim + 2);
        const uint32_t count = (work.sequences[m].length + parts.keys) / parts.keys;
        return merge_parts(from, count, dim, c % dim);
    };
    product<M, A>(
        x, model.hidden / J, k, Successive<A>{work.layers[l].o, k, model.hidden},
        // A merge has loads enough of its own.
        [&](uint32_t from, uint32_t len) { stage_rows<M, 1>(work, x, from, len, merged); },
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

// The final hidden states, which stay staged and go to `hidden`. The grid has waited before.
template <class A, uint32_t M>
__device__ __noinline__ void final_norm(Work<A, M>& work, uint32_t step) {
    const Model<A>& model = work.model;
    const uint32_t k = model.hidden;
    const Rows x = work.rows(k);
    stage_rms_norm<M>(work, x, model.norm);
    __syncthreads();
    A* to = work.hidden + uint64_t(step) * work.count * k;
    for (uint64_t i = grid_thread(); i < uint64_t(work.count) * k; i += grid_threads()) {
        if (work.open(i / k)) to[i] = from_float<A>(x.at()[i / k * x.stride + staged_at<A>(i % k)]);
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
        if (layer.q_norm != nullptr) {
            norm_heads(work, l);
            GRID_SYNC(work.grid);
        }
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
