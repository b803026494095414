#include "mma.h"

namespace shim {

// Fails unless 16 bytes at `at` lie in the block's shared memory and may be accessed together.
static void check_shared(const void* at) {
    const auto address = reinterpret_cast<uintptr_t>(at);
    const auto within = [address](const unsigned char* start, uint32_t len) {
        const auto from = reinterpret_cast<uintptr_t>(start);
        return address >= from && address + 16 <= from + len;
    };
    if (!within(block->arena, block->arena_used) && !within(block->dynamic, block->dynamic_len)) {
        colar_host_fault(lane->yielder, "an address outside of shared memory where it is needed");
    }
    if (address % 16 != 0) colar_host_fault(lane->yielder, "an address that is no multiple of 16");
}

void copy_async(void* to, const void* from, uint32_t valid) {
    check_shared(to);
    if (reinterpret_cast<uintptr_t>(from) % 16 != 0 || valid > 16) {
        colar_host_fault(lane->yielder, "a copy of other than 16 aligned bytes");
    }
    if (lane->async_count == sizeof lane->async / sizeof lane->async[0]) {
        colar_host_fault(lane->yielder, "more copies under way in a thread than the host keeps");
    }
    // The copy reads and writes at some time between here and the wait.
    saw_copy(to, from, valid, false, __builtin_return_address(0));
    memset(to, 0xff, 16);
    lane->async[lane->async_count++] = AsyncCopy{to, from, 16, valid, lane->async_groups};
}

void copy_commit() { lane->async_groups++; }

void copy_wait(uint32_t pending) {
    uint32_t left = 0;
    for (uint32_t i = 0; i < lane->async_count; i++) {
        const AsyncCopy copy = lane->async[i];
        if (copy.group + pending >= lane->async_groups) {
            lane->async[left++] = copy;
            continue;
        }
        saw_copy(copy.to, copy.from, copy.valid, true, __builtin_return_address(0));
        memset(copy.to, 0, copy.bytes);
        memcpy(copy.to, copy.from, copy.valid);
    }
    lane->async_count = left;
}

namespace {

struct Row {
    uint16_t at[8];
};

struct Operands {
    uint32_t a[4], b[2];
};

// Element `i` of two in a register.
float element(uint32_t packed, uint32_t i) { return bit_cast<float>(i == 0 ? packed << 16 : packed & 0xffff0000u); }

}  // namespace

void load_matrices(uint32_t out[4], const void* row, bool transposed, uint32_t place) {
    check_shared(row);
    // The row itself is exchanged, not its address: the instruction reads before any lane goes on.
    saw_read_of_warp(row, 16, __builtin_return_address(0));
    Row mine;
    memcpy(&mine, row, sizeof mine);
    const unsigned char* set = exchange(mine, place);
    const uint32_t g = lane->lane / 4, t = lane->lane % 4;
    for (uint32_t m = 0; m < 4; m++) {
        uint16_t two[2];
        for (uint32_t i = 0; i < 2; i++) {
            const uint32_t from = transposed ? 2 * t + i : g, column = transposed ? g : 2 * t + i;
            two[i] = operand<Row>(set, 8 * m + from).at[column];
        }
        out[m] = uint32_t(two[1]) << 16 | two[0];
    }
}

void mma(float d[4], const uint32_t a[4], const uint32_t b[2], uint32_t place) {
    saw_product();
    const Operands mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    const unsigned char* set = exchange(mine, place);
    const uint32_t g = lane->lane / 4, t = lane->lane % 4;
    // The rows g and g + 8 of A and the columns 2t and 2t+1 of B, each in the registers of four lanes.
    float rows[2][16], columns[2][16];
    for (uint32_t from = 0; from < 4; from++) {
        const auto left = operand<Operands>(set, 4 * g + from);
        for (uint32_t r = 0; r < 4; r++) {
            for (uint32_t i = 0; i < 2; i++) rows[r % 2][8 * (r / 2) + 2 * from + i] = element(left.a[r], i);
        }
        for (uint32_t column = 0; column < 2; column++) {
            const auto right = operand<Operands>(set, 4 * (2 * t + column) + from);
            for (uint32_t r = 0; r < 2; r++) {
                for (uint32_t i = 0; i < 2; i++) columns[column][8 * r + 2 * from + i] = element(right.b[r], i);
            }
        }
    }
    for (uint32_t i = 0; i < 4; i++) {
        float sum = d[i];
        for (uint32_t k = 0; k < 16; k++) sum += rows[i / 2][k] * columns[i % 2][k];
        d[i] = sum;
    }
}

}  // namespace shim
