// Functions of one element that more than one kernel computes.
#pragma once

#include "common.cuh"

constexpr float LOG_SIGMA_LOW = -20.0f, LOG_SIGMA_HIGH = 10.0f;
constexpr float DETERMINISTIC_SIGMA = 1e-9f;

__device__ __forceinline__ float silu(float g) {
    // Below -88 e^-g overflows to infinity and the quotient is -0, as it should be.
    return g / (1.0f + expf(-g));
}

// x * Phi(x), by erf and not its tanh approximation.
__device__ __forceinline__ float exact_gelu(float x) {
    return x * (0.5f * (1.0f + erff(x * 0.70710678118654752440f)));
}

// log_sigma within its bounds. NaN stays NaN, so that the step that made it is reported.
__device__ __forceinline__ float bounded(float log_sigma, bool* hit) {
    *hit = log_sigma < LOG_SIGMA_LOW || log_sigma > LOG_SIGMA_HIGH;
    return log_sigma < LOG_SIGMA_LOW ? LOG_SIGMA_LOW : log_sigma > LOG_SIGMA_HIGH ? LOG_SIGMA_HIGH : log_sigma;
}

// Sine and cosine of an angle given in radians by a float32 product, which can be tens of thousands. The float32
// functions reduce such an angle through local memory; here it becomes turns in float64, by two multiplications
// and a rounding.
__device__ __forceinline__ void rotation(float angle, float* sine, float* cosine) {
    double turns = double(angle) * 0.15915494309189533577;  // 1 / 2 pi
    turns -= rint(turns);
    sincospif(float(2.0 * turns), sine, cosine);
}
