#include "accesses.h"

#include <algorithm>
#include <vector>

extern "C" const char __ehdr_start __attribute__((visibility("hidden")));

namespace observed {

using namespace shim;

namespace {

void (*host_wait)(void*, uint32_t, uint32_t);
void (*host_fault)(void*, const char*);

std::vector<Range> ranges;
const Range* last_range;

bool within(uintptr_t at, const void* start, uintptr_t length) {
    return at - reinterpret_cast<uintptr_t>(start) < length;
}

// Accesses outside of a launch, by the constructors of the library for one, are nobody's.
void seen(const void* at, uintptr_t bytes, Kind kind, const void* from, Manner manner = Manner()) {
    if (lane != nullptr && block != nullptr) note(at, bytes, kind, from, manner);
}

}  // namespace

void set_ranges(const Range* buffers, uintptr_t count) {
    ranges.assign(buffers, buffers + count);
    last_range = nullptr;
}

const Range* range_of(uintptr_t at) {
    if (last_range != nullptr && at - last_range->start < last_range->length) return last_range;
    auto after = std::upper_bound(ranges.begin(), ranges.end(), at,
                                  [](uintptr_t a, const Range& range) { return a < range.start; });
    if (after == ranges.begin()) return nullptr;
    --after;
    if (at - after->start >= after->length) return nullptr;
    return last_range = &*after;
}

bool is_shared(uintptr_t at) {
    return within(at, block->arena, block->arena_len) || within(at, block->dynamic, block->dynamic_len);
}

uint32_t code_of(const void* at) {
    return uint32_t(reinterpret_cast<uintptr_t>(at) - reinterpret_cast<uintptr_t>(&__ehdr_start));
}

uint32_t block_number() { return block->index.y * block->grid.x + block->index.x; }

// ---- for the driver ------------------------------------------------------------------------------

extern "C" void colar_accesses_connect(void (*wait)(void*, uint32_t, uint32_t), void (*fault)(void*, const char*)) {
    host_wait = wait;
    host_fault = fault;
}

}  // namespace observed

// ---- for the kernels ----------------------------------------------------------------------------

namespace shim {

using namespace observed;

extern "C" void colar_host_wait(void* yielder, uint32_t kind, uint32_t place) {
    arrive(kind);
    host_wait(yielder, kind, place);
    pass(kind);
}

extern "C" void colar_host_fault(void* yielder, const char* what) { host_fault(yielder, what); }

void saw_copy(void* to, const void* from, uint32_t valid, bool arrives, const void* code) {
    Manner manner;
    manner.arrives = arrives;
    seen(from, valid, READ, code, manner);
    seen(to, 16, WRITE, code, manner);
}

void saw_read_of_warp(const void* at, uint32_t bytes, const void* from) {
    Manner manner;
    manner.whole_warp = true;
    seen(at, bytes, READ, from, manner);
}

void saw_read_of_constant(const void* at, uint32_t bytes) {
    Manner manner;
    manner.constant = true;
    seen(at, bytes, READ, __builtin_return_address(0), manner);
}

void saw_product() { product(); }

}  // namespace shim

using namespace observed;

#define FROM __builtin_return_address(0)

#define ACCESSES(size)                                                                            \
    extern "C" void __tsan_read##size(void* at) { seen(at, size, READ, FROM); }                   \
    extern "C" void __tsan_write##size(void* at) { seen(at, size, WRITE, FROM); }                 \
    extern "C" void __tsan_unaligned_read##size(void* at) { seen(at, size, READ, FROM); }         \
    extern "C" void __tsan_unaligned_write##size(void* at) { seen(at, size, WRITE, FROM); }       \
    extern "C" void __tsan_volatile_read##size(void* at) { seen(at, size, WATCH, FROM); }         \
    extern "C" void __tsan_volatile_write##size(void* at) { seen(at, size, WRITE, FROM); }

ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

extern "C" void __tsan_read_range(void* at, uintptr_t bytes) { seen(at, bytes, READ, FROM); }
extern "C" void __tsan_write_range(void* at, uintptr_t bytes) { seen(at, bytes, WRITE, FROM); }
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}

// The orders are relaxed in all kernels.
#define ATOMICS(bits)                                                                                             \
    extern "C" uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t* at, int) {                \
        seen(const_cast<const uint##bits##_t*>(at), bits / 8, ATOMIC, FROM);                                      \
        return __atomic_load_n(at, __ATOMIC_RELAXED);                                                             \
    }                                                                                                             \
    extern "C" uint##bits##_t __tsan_atomic##bits##_fetch_add(volatile uint##bits##_t* at, uint##bits##_t x, int) { \
        seen(const_cast<const uint##bits##_t*>(at), bits / 8, ATOMIC, FROM);                                      \
        return __atomic_fetch_add(at, x, __ATOMIC_RELAXED);                                                       \
    }                                                                                                             \
    extern "C" uint##bits##_t __tsan_atomic##bits##_exchange(volatile uint##bits##_t* at, uint##bits##_t x, int) { \
        seen(const_cast<const uint##bits##_t*>(at), bits / 8, ATOMIC, FROM);                                      \
        return __atomic_exchange_n(at, x, __ATOMIC_RELAXED);                                                      \
    }                                                                                                             \
    extern "C" int __tsan_atomic##bits##_compare_exchange_strong(volatile uint##bits##_t* at, uint##bits##_t* old, \
                                                                 uint##bits##_t x, int, int) {                    \
        seen(const_cast<const uint##bits##_t*>(at), bits / 8, ATOMIC, FROM);                                      \
        return __atomic_compare_exchange_n(at, old, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);                \
    }

ATOMICS(32)
ATOMICS(64)
