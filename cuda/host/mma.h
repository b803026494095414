// The twins of mma.cuh: its instructions in C++, for `cuda-host`.
//
// A copy by cp.async arrives when its thread waits for its group. Until then the destination is NaN, so a test
// notices a kernel that reads too early, and one that starts a copy over bytes that are still to be read. ldmatrix
// and mma are exchanges within the warp.
#pragma once

#include "shim.h"

namespace shim {

void copy_async(void* to, const void* from, uint32_t valid);
void copy_commit();
void copy_wait(uint32_t pending);
void load_matrices(uint32_t out[4], const void* row, bool transposed, uint32_t place);
void mma(float d[4], const uint32_t a[4], const uint32_t b[2], uint32_t place);

}  // namespace shim
