// Decoding as one kernel: the blocks of a grid stay for all layers of a step, and for all latents of a sequence, and
// wait for each other between phases. Nothing goes through the host meanwhile.
//
//   a latent step   latent head and draw -> input -> layers -> hidden state -> do the latents end here?
//   a token step    embedding -> layers -> hidden state -> logits
//
// The phases of layers are in decode_layers.cuh, those of latents in decode_latents.cuh.
//
// The end of latents: the event "the token is the separator", u < exp(l) / Z for its logit l (spec section 5, 2). Z
// only grows as tokens are added, so the scan stops as soon as u is not less than exp(l) / Z so far.
//
// Activations between phases are float32; buffers that outlive a step (cache, hidden states, latents) have the
// activations' dtype A, which the weights have too. There is no backward: training does not decode.
#include "decode_latents.cuh"

// Up to `steps` latents of each sequence, or with 0 of them one token: `hidden` has [steps + 1, count, hidden]
// elements, of which the first step's stand there before, or for a token [count, hidden].
template <class A, uint32_t M>
__device__ void decode(const Model<A>* model, const Layer<A>* layers, const Global<A>* keys,
                       const Global<A>* values, Sequence* sequences, uint32_t count, uint32_t steps, uint32_t separator,
                       float bias, uint32_t latent_purpose, uint32_t event_purpose, A* hidden, A* latents,
                       uint32_t* arrived) {
    using State = Work<A, M>;
    SHARED(State, only, 1);
    State& work = *only;
    if (threadIdx.x == 0) {
        work.model = *model, work.layers = {layers}, work.keys = {keys}, work.values = {values};
        work.hidden = {hidden}, work.latents = {latents};
        work.count = count, work.separator = separator, work.bias = bias;
        work.latent_purpose = latent_purpose, work.event_purpose = event_purpose;
        work.grid = Grid{{arrived}, 0};
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
        // No block may clear memory that another still reads.
        GRID_SYNC(work.grid);
    }
    if (blockIdx.x == 0 && threadIdx.x < count) sequences[threadIdx.x] = work.sequences[threadIdx.x];
}

#define DECODE(A, a, M)                                                                                              \
    KERNEL(decode_##a##_##M, 256, const Model<A>* model, const Layer<A>* layers, const Global<A>* keys,              \
           const Global<A>* values, Sequence* sequences, uint32_t count, uint32_t steps, uint32_t separator,         \
           float bias, uint32_t latent_purpose, uint32_t event_purpose, A* hidden, A* latents, uint32_t* arrived) {  \
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
