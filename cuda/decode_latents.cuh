// Latents as phases of the decoding kernel (decode.cu): the latent head with its draw, and the event that
// ends them.
#pragma once

#include "decode_layers.cuh"
#include "sampling.cuh"

// Draws a latent from each sequence's hidden state, into `latents` and, times the deviation of embeddings, into
// the stream.
template <class A, uint32_t M>
__device__ __noinline__ void draw_latents(Work<A, M>& work, uint32_t step) {
    const Model<A>& model = work.model;
    const Head<A>& head = model.head;
    const uint32_t k = model.hidden, inner = model.head_inner;
    const uint64_t before = uint64_t(step) * work.count * k;
    const Rows x = work.rows(k), wide = work.rows(inner);
    const Successive<A> fc0{head.fc0, k, inner}, fc2{head.fc2, inner, inner};
    // A head without log_sigma draws its mean with a deviation that is next to nothing.
    const Paired<A> both{head.mean, head.log_std == nullptr ? head.mean : head.log_std, inner};
    product<M, A>(
        x, inner / J, k, fc0,
        [&](uint32_t from, uint32_t len) {
            stage_rows<M>(work, x, from, len,
                          [&](uint32_t m, uint32_t c) { return to_float(work.hidden[before + uint64_t(m) * k + c]); });
        },
        [&](uint32_t unit, const Place<M>& place, float sum, float) {
            const uint32_t row = unit * J + place.j;
            if (!place.leads || !work.open(place.m)) return;
            model.act[uint64_t(place.m) * inner + row] = exact_gelu(sum + head.fc0_bias[row]);
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
            model.outer[uint64_t(place.m) * inner + row] = sum + head.fc2_bias[row];
        });
    prefetch_units(k, inner * sizeof(A), both);
    GRID_SYNC(work.grid);
    product<M, A>(
        wide, k, inner, both, [&](uint32_t, uint32_t) { stage_layer_norm<M>(work, wide); },
        [&](uint32_t unit, const Place<M>& place, float mean, float log_sigma) {
            if (!place.leads || place.j != 0 || !work.open(place.m)) return;
            const Sequence& s = work.sequences[place.m];
            float z = mean + head.mean_bias[unit];
            if (s.latent_temperature != 0.0f) {
                float noise[4], sigma = DETERMINISTIC_SIGMA;
                normals(philox(s.key[0], s.key[1], unit / 4, work.latent_purpose, s.drawn, 0), noise);
                bool hit;
                if (head.log_std != nullptr) sigma = expf(bounded(log_sigma + head.log_std_bias[unit], &hit));
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

// ---- the end of latents -------------------------------------------------------------------------

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

// Decides which sequences stop drawing latents, the same in every block, and updates their state. The grid waits before and
// after it.
template <class A, uint32_t M>
__device__ __noinline__ void decide_event(Work<A, M>& work) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, shares = 2 * grid_warps();
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
}
