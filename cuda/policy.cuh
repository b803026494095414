// The clipped policy objective of one element (spec section 6), as src/device/policy.rs has it.
//
// Of a log-probability l under the new policy, with ratio r = exp(l - old), advantage A and reference R:
//
// where an exponent counts up to MOST_EXPONENT, and beyond it the exponential goes on as its tangent:
//
//   loss = weight * (-min(r A, clip(r, 1 - clip_eps, 1 + clip_eps) A) + kl_weight * (exp(R - l) - (R - l) - 1))
//   d loss / d l = weight * (-r A, or 0 where the clip decides, + kl_weight * (1 - exp(R - l)))
#pragma once

#include "common.cuh"

// Constants that all elements share. Parameters of kernels are scalars, so it is put together there.
struct Objective {
    float clip_eps, kl_weight;
};

// src/device/policy.rs has the same.
constexpr float MOST_EXPONENT = 20.0f;

// The slope of the bounded exponential. A comparison and not a minimum, which would make a number of what is none.
__device__ __forceinline__ float bounded_exp_slope(float x) {
    return expf(x > MOST_EXPONENT ? MOST_EXPONENT : x);
}

// The derivative at `logprob`; `element` is [old, reference, advantage, weight].
__device__ __forceinline__ float policy_gradient(const float* element, float logprob, Objective objective) {
    const float advantage = element[2], ratio = bounded_exp_slope(logprob - element[0]);
    const float held = fminf(fmaxf(ratio, 1.0f - objective.clip_eps), 1.0f + objective.clip_eps) * advantage;
    float gradient = held < ratio * advantage ? 0.0f : -ratio * advantage;
    // Without a weight there may be no reference.
    if (objective.kl_weight != 0.0f) gradient += objective.kl_weight * (1.0f - bounded_exp_slope(element[1] - logprob));
    return element[3] * gradient;
}
