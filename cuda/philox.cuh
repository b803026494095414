// Counter-based random numbers, bit for bit those of src/random.rs: Philox4x32-10, and normal numbers by a
// Box-Muller whose every operation rounds on its own, so that a seed gives the same latents on every device.
#pragma once

#include "common.cuh"

struct Words {
    uint32_t at[4];
};

// The four random words of a counter under a key.
__device__ __forceinline__ Words philox(uint32_t k0, uint32_t k1, uint32_t c0, uint32_t c1, uint32_t c2,
                                        uint32_t c3) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint32_t hi0 = __umulhi(0xD2511F53u, c0), lo0 = 0xD2511F53u * c0;
        const uint32_t hi1 = __umulhi(0xCD9E8D57u, c2), lo1 = 0xCD9E8D57u * c2;
        c0 = hi1 ^ c1 ^ k0;
        c1 = lo1;
        c2 = hi0 ^ c3 ^ k1;
        c3 = lo0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return Words{{c0, c1, c2, c3}};
}

// ((word >> 9) + 0.5) * 2^-23: exact, and never 0 or 1.
__device__ __forceinline__ float unit_float(uint32_t word) {
    return __fmul_rn(__fadd_rn(float(word >> 9), 0.5f), 1.0f / 8388608.0f);
}

namespace exact {

__device__ __forceinline__ float mul(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }

// The series of src/random/normal.rs, innermost term first.
__device__ __forceinline__ float ln(float u) {
    const uint32_t sqrt_half = 0x3f3504f3u;
    const uint32_t shifted = float_to_bits(u) - sqrt_half;
    const int32_t exponent = int32_t(shifted) >> 23;
    const float m = bits_to_float((shifted & 0x007fffffu) + sqrt_half);
    const float s = __fdiv_rn(__fsub_rn(m, 1.0f), add(m, 1.0f));
    const float z = mul(s, s);
    float tail = mul(z, 1.0f / 9.0f);
    tail = mul(z, add(1.0f / 7.0f, tail));
    tail = mul(z, add(1.0f / 5.0f, tail));
    tail = mul(z, add(1.0f / 3.0f, tail));
    const float twice = add(s, s);
    return add(mul(float(exponent), 0.69314718055994530942f), add(twice, mul(twice, tail)));
}

__device__ __forceinline__ void sin_cos_turn(float u, float* sine, float* cosine) {
    const float quarters = mul(u, 4.0f);
    const uint32_t nearest = uint32_t(add(quarters, 0.5f));
    const float x = mul(__fsub_rn(quarters, float(nearest)), 1.57079632679489661923f);
    const float z = mul(x, x);
    float tail = mul(z, 1.0f / 362880.0f);
    tail = mul(z, add(-1.0f / 5040.0f, tail));
    tail = mul(z, add(1.0f / 120.0f, tail));
    tail = mul(z, add(-1.0f / 6.0f, tail));
    const float s = add(x, mul(x, tail));
    tail = mul(z, -1.0f / 3628800.0f);
    tail = mul(z, add(1.0f / 40320.0f, tail));
    tail = mul(z, add(-1.0f / 720.0f, tail));
    tail = add(1.0f / 24.0f, tail);
    const float c = add(1.0f, mul(z, add(-0.5f, mul(z, tail))));
    switch (nearest % 4) {
        case 0: *sine = s, *cosine = c; break;
        case 1: *sine = c, *cosine = -s; break;
        case 2: *sine = -s, *cosine = -c; break;
        default: *sine = -c, *cosine = s; break;
    }
}

}  // namespace exact

// Four standard normal numbers from one block of words.
__device__ __forceinline__ void normals(Words words, float out[4]) {
#pragma unroll
    for (int pair = 0; pair < 2; pair++) {
        const float u0 = unit_float(words.at[2 * pair]), u1 = unit_float(words.at[2 * pair + 1]);
        const float radius = __fsqrt_rn(exact::mul(-2.0f, exact::ln(u0)));
        float sine, cosine;
        exact::sin_cos_turn(u1, &sine, &cosine);
        out[2 * pair] = exact::mul(radius, cosine);
        out[2 * pair + 1] = exact::mul(radius, sine);
    }
}
