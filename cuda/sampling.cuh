// The parts common to the draws of tokens and of the end-of-latent event.
#pragma once

#include "philox.cuh"

// The uniform number of a draw: key and counter words 1 and 2; word 3 tells it from normal numbers.
__device__ __forceinline__ float draw_uniform(uint32_t k0, uint32_t k1, uint32_t c1, uint32_t c2) {
    return unit_float(philox(k0, k1, 0, c1, c2, 1).at[0]);
}

// 1 / temperature, such that the smallest temperatures do not make it infinite.
__device__ __forceinline__ float inverse_temperature(float temperature) {
    return fminf(1.0f / temperature, 3.40282346638528859812e38f);
}

// Whether a running sum that may lag behind Z, and be summed in any order, shows that u < 1 / Z is not so: with a
// margin over the roundings of either order of addition.
__device__ __forceinline__ bool certainly_lost(double u, double running) { return u * running >= 1.000001; }
