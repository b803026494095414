// Every access of a kernel to memory, seen: by the calls of -fsanitize=thread, which are answered here instead of by
// ThreadSanitizer's library, and by the shim's own where an instruction has a twin that accesses memory.
//
// The kernels are compiled once more with those calls, into a library with accesses.cpp and one instrument beside it:
// barriers.cpp holds each access against the barriers that order it, traffic.cpp counts what they move. An instrument
// defines the functions below, and colar_accesses_begin and colar_accesses_end, between which a launch runs.
//
// src/device/cuda/host/observed_library.rs compiles a library; nothing of this is in the engine. Blocks run one after the
// other, or take turns at the grid's barrier, on one thread of the operating system: nothing here is locked.
#pragma once

#include "host/shim.h"

namespace observed {

// The kinds of access that are told apart. A volatile read is one that expects to race with an atomic.
enum Kind : uint32_t { WRITE, READ, ATOMIC, WATCH, KINDS };

// Bytes of a buffer.
struct Range {
    uintptr_t start, length;
};

// How an access differs from a plain one of the running thread.
struct Manner {
    // All lanes of the warp access the bytes, each by an instruction that this lane named them for.
    bool whole_warp = false;
    // A read past the caches that see writes (ld.global.nc).
    bool constant = false;
    // The second time that a copy by cp.async is seen, when it is waited for.
    bool arrives = false;
};

// ---- defined by the instrument -----------------------------------------------------------------------

// An access of the running thread; `from` is the place in the code that it returns to.
void note(const void* at, uintptr_t bytes, Kind kind, const void* from, Manner manner = Manner());
// The running thread begins to wait, or goes on after it.
void arrive(uint32_t kind);
void pass(uint32_t kind);
// The running thread takes part in a product of fragments.
void product();

// ---- defined in accesses.cpp -------------------------------------------------------------------------

// The buffers that are global memory, in the order of their addresses.
void set_ranges(const Range* buffers, uintptr_t count);
// The buffer that holds an address, or null.
const Range* range_of(uintptr_t at);
// Whether these are bytes of the running block's shared memory.
bool is_shared(uintptr_t at);
// A place in the library's code, as its symbols count it.
uint32_t code_of(const void* at);
// The running block's number.
uint32_t block_number();

}  // namespace observed
