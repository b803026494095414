// The latent draw, the latent losses and the latents' log-probabilities (spec sections 3, 4 and 6).
//
//   normal           standard normal noise, row r under its own key and counter (philox.cuh)
//   reparameterise   out = mu + exp(log_sigma) * temperature * eps; without log_sigma, sigma is 1e-9
//   latent_loss      a position's mean loss, mean entropy, and number of bounded log_sigma
//   latent_logprob   a latent's mean log-density under N(mu, sigma), and the same two
//
// log_sigma is bounded to [-20, 10] wherever sigma is formed; beyond the bounds its gradient is 0.
//
// Backward of the draw needs log_sigma and eps:
//
//   reparameterise_backward   dmu += dz,  dlog_sigma += dz * sigma * eps
//
// Losses and log-probabilities have theirs in the same pass, in dmu and dlog_sigma, where those are given. With
// z = (latent - mu) / sigma and u = (gradient of the policy objective at the mean) / D,
//
//   latent_logprob:  dmu = u * z / sigma,  dlog_sigma = u * (z^2 - 1) + entropy_scale
#include "philox.cuh"
#include "pointwise.cuh"
#include "policy.cuh"

constexpr float HALF_LOG_TAU = 0.91893853320467274178f;

// The latent losses; the numbers are those of src/device/cuda/latent.rs.
constexpr uint32_t NLL = 0, MSE = 1;  // 2 is MSE in expectation

// draws[r] is the key, low word first, and the counter's words 1 and 2; word 0 counts fours of columns.
template <class A>
__device__ void normal(const uint32_t* draws, uint32_t cols, A* out) {
    const uint32_t* draw = draws + 4 * uint64_t(blockIdx.x);
    A* row = out + uint64_t(blockIdx.x) * cols;
    for (uint32_t four = threadIdx.x; four < (cols + 3) / 4; four += blockDim.x) {
        float z[4];
        normals(philox(draw[0], draw[1], four, draw[2], draw[3], 0), z);
#pragma unroll
        for (uint32_t k = 0; k < 4; k++) {
            if (4 * four + k < cols) row[4 * four + k] = from_float<A>(z[k]);
        }
    }
}

template <class A>
__device__ void reparameterise(const A* mu, const A* log_sigma, const A* eps, float temperature, uint64_t count,
                               A* out) {
    for (uint64_t i = grid_thread(); i < count; i += grid_threads()) {
        bool hit;
        const float sigma = log_sigma == nullptr ? DETERMINISTIC_SIGMA : expf(bounded(to_float(log_sigma[i]), &hit));
        out[i] = from_float<A>(to_float(mu[i]) + sigma * temperature * to_float(eps[i]));
    }
}

// Without log_sigma there is no dlog_sigma.
template <class A>
__device__ void reparameterise_backward(const A* dz, const A* log_sigma, const A* eps, uint64_t count, A* dmu,
                                        A* dlog_sigma) {
    for (uint64_t i = grid_thread(); i < count; i += grid_threads()) {
        const float d = to_float(dz[i]);
        dmu[i] = from_float<A>(to_float(dmu[i]) + d);
        if (dlog_sigma == nullptr) continue;
        bool hit;
        const float sigma = expf(bounded(to_float(log_sigma[i]), &hit));
        if (!hit) dlog_sigma[i] = from_float<A>(to_float(dlog_sigma[i]) + d * sigma * to_float(eps[i]));
    }
}

// A block takes one position.
template <class A>
__device__ void latent_loss(uint32_t kind, float loss_scale, float entropy_scale, const A* mu, const A* log_sigma,
                            const A* eps, const A* target, uint32_t cols, float* per_row, A* dmu, A* dlog_sigma) {
    const uint64_t at = uint64_t(blockIdx.x) * cols;
    float loss = 0.0f, entropy = 0.0f, hits = 0.0f;
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
        bool hit = true;
        const float ls =
            log_sigma == nullptr ? logf(DETERMINISTIC_SIGMA) : bounded(to_float(log_sigma[at + c]), &hit);
        const float sigma = expf(ls), gap = to_float(mu[at + c]) - to_float(target[at + c]);
        float l, dm, ds;
        if (kind == NLL) {
            const float z = gap / sigma;
            l = 0.5f * z * z + ls + HALF_LOG_TAU;
            dm = z / sigma;
            ds = 1.0f - z * z;
        } else if (kind == MSE) {
            const float noise = sigma * (eps == nullptr ? 0.0f : to_float(eps[at + c]));
            const float r = gap + noise;
            l = r * r;
            dm = 2.0f * r;
            ds = 2.0f * r * noise;
        } else {
            l = gap * gap + sigma * sigma;
            dm = 2.0f * gap;
            ds = 2.0f * sigma * sigma;
        }
        loss += l;
        entropy += 0.5f + HALF_LOG_TAU + ls;
        hits += hit && log_sigma != nullptr ? 1.0f : 0.0f;
        if (dmu != nullptr) dmu[at + c] = from_float<A>(loss_scale * dm);
        if (dlog_sigma != nullptr) {
            dlog_sigma[at + c] = from_float<A>(hit ? 0.0f : loss_scale * ds + entropy_scale);
        }
    }
    loss = block_sum(loss) / float(cols);
    entropy = block_sum(entropy) / float(cols);
    hits = block_sum(hits);
    if (threadIdx.x == 0) {
        per_row[3 * uint64_t(blockIdx.x)] = loss;
        per_row[3 * uint64_t(blockIdx.x) + 1] = entropy;
        per_row[3 * uint64_t(blockIdx.x) + 2] = hits;
    }
}

// A block takes one latent. Its columns are read twice where the gradient is wanted, which depends on their mean.
template <class A>
__device__ void latent_logprob(const A* mu, const A* log_sigma, const A* latents, uint32_t cols, float* per_row,
                               const float* terms, Objective objective, float entropy_scale, A* dmu,
                               A* dlog_sigma) {
    const uint64_t at = uint64_t(blockIdx.x) * cols;
    float logprob = 0.0f, entropy = 0.0f, hits = 0.0f;
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
        bool hit;
        const float ls = bounded(to_float(log_sigma[at + c]), &hit);
        const float z = (to_float(latents[at + c]) - to_float(mu[at + c])) * expf(-ls);
        logprob -= 0.5f * z * z + ls + HALF_LOG_TAU;
        entropy += 0.5f + HALF_LOG_TAU + ls;
        hits += hit ? 1.0f : 0.0f;
    }
    logprob = block_sum(logprob) / float(cols);
    entropy = block_sum(entropy) / float(cols);
    hits = block_sum(hits);
    if (threadIdx.x == 0) {
        per_row[3 * uint64_t(blockIdx.x)] = logprob;
        per_row[3 * uint64_t(blockIdx.x) + 1] = entropy;
        per_row[3 * uint64_t(blockIdx.x) + 2] = hits;
    }
    if (terms == nullptr) return;
    const float u = policy_gradient(terms + 4 * uint64_t(blockIdx.x), logprob, objective) / float(cols);
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
        bool hit;
        const float inverse = expf(-bounded(to_float(log_sigma[at + c]), &hit));
        const float z = (to_float(latents[at + c]) - to_float(mu[at + c])) * inverse;
        dmu[at + c] = from_float<A>(u * z * inverse);
        dlog_sigma[at + c] = from_float<A>(hit ? 0.0f : u * (z * z - 1.0f) + entropy_scale);
    }
}

#define LATENT(A, a)                                                                                            \
    KERNEL(normal_##a, 256, const uint32_t* draws, uint32_t cols, A* out) { normal(draws, cols, out); }         \
    KERNEL(reparameterise_##a, 256, const A* mu, const A* log_sigma, const A* eps, float temperature,           \
           uint64_t count, A* out) {                                                                            \
        reparameterise(mu, log_sigma, eps, temperature, count, out);                                            \
    }                                                                                                           \
    KERNEL(latent_loss_##a, 256, uint32_t kind, float loss_scale, float entropy_scale, const A* mu,             \
           const A* log_sigma, const A* eps, const A* target, uint32_t cols, float* per_row, A* dmu,            \
           A* dlog_sigma) {                                                                                     \
        latent_loss(kind, loss_scale, entropy_scale, mu, log_sigma, eps, target, cols, per_row, dmu, dlog_sigma); \
    }                                                                                                           \
    KERNEL(reparameterise_backward_##a, 256, const A* dz, const A* log_sigma, const A* eps, uint64_t count,     \
           A* dmu, A* dlog_sigma) {                                                                             \
        reparameterise_backward(dz, log_sigma, eps, count, dmu, dlog_sigma);                                    \
    }                                                                                                           \
    KERNEL(latent_logprob_##a, 256, const A* mu, const A* log_sigma, const A* latents, uint32_t cols,           \
           float* per_row, const float* terms, float clip_eps, float kl_weight, float entropy_scale, A* dmu,    \
           A* dlog_sigma) {                                                                                     \
        latent_logprob(mu, log_sigma, latents, cols, per_row, terms, Objective{clip_eps, kl_weight},            \
                       entropy_scale, dmu, dlog_sigma);                                                         \
    }

LATENT(float, f32)
LATENT(bf16, bf16)
