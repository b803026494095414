#include "shim.h"

namespace shim {

__thread Block* block;
__thread Lane* lane;

extern "C" void colar_host_set(Block* to_block, Lane* to_lane) {
    block = to_block;
    lane = to_lane;
}

// Rust mirrors the two structures; it compares sizes before the first launch.
extern "C" uint32_t colar_host_layout(uint32_t which) { return which == 0 ? sizeof(Block) : sizeof(Lane); }

float half_to_float(uint16_t bits) {
    const uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
    if (exponent == 31) return bit_cast<float>(sign | 0x7f800000u | fraction << 13);
    if (exponent != 0) return bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
    const float small = float(fraction) * 5.9604644775390625e-8f;  // 2^-24
    return sign ? -small : small;
}

uint16_t float_to_bf16(float x) {
    const uint32_t bits = bit_cast<uint32_t>(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;  // as cvt.rn.bf16.f32 gives for NaN
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void touch(const void* from, uint32_t bytes) {
    const auto at = static_cast<const volatile unsigned char*>(from);
    static_cast<void>(at[0]);
    static_cast<void>(at[bytes - 1]);
}

// Between arrays: bytes that stay NaN, and that the end of the block finds changed if an array overran.
static constexpr uint32_t GAP = 16;

void* shared_array(const void* key, uint32_t bytes) {
    for (uint32_t i = 0; i < block->array_count; i++) {
        if (block->arrays[i].key == key) return block->arrays[i].at;
    }
    const uint32_t rounded = (bytes + 15) / 16 * 16;
    if (block->array_count == 32 || block->arena_used + rounded + GAP > block->arena_len) {
        colar_host_fault(lane->yielder, "more shared memory than 48 KiB, or more than 32 arrays of it");
    }
    unsigned char* at = block->arena + block->arena_used;
    block->arena_used += rounded + GAP;
    block->arrays[block->array_count++] = SharedArray{key, at};
    return at;
}

}  // namespace shim
