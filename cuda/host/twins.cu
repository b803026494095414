// Kernels of one instruction of mma.cuh each: tests compare its twin with what the PTX ISA documents.
#include "../mma.cuh"

// Registers in, registers out: those of lane i from 4 i (of b: 2 i).
KERNEL(twin_mma, 32, const uint32_t* a, const uint32_t* b, float* d) {
    mma(d + 4 * threadIdx.x, a + 4 * threadIdx.x, b + 2 * threadIdx.x);
}

// Lane i gives the row at byte offsets[i] of the 1024 bytes in shared memory; four registers a lane out.
KERNEL(twin_ldmatrix, 32, const uint32_t* offsets, const uint32_t* bytes, uint32_t transposed, uint32_t* out) {
    SHARED(uint32_t, shared, 256);
    for (uint32_t i = threadIdx.x; i < 256; i += 32) shared[i] = bytes[i];
    __syncthreads();
    const unsigned char* row = reinterpret_cast<unsigned char*>(shared) + offsets[threadIdx.x];
    uint32_t* to = out + 4 * threadIdx.x;
    if (transposed) {
        load_matrices_transposed(to, row);
    } else {
        load_matrices(to, row);
    }
}

// Copies 16 bytes a thread in each of two groups, the second of them from the other half of `in` and only valid[i]
// bytes of it, waits for all groups but the last `pending`, and gives the words that the other half of the block then
// holds.
KERNEL(twin_copy, 64, const uint32_t* in, const uint32_t* valid, uint32_t pending, uint32_t* out) {
    SHARED(uint32_t, shared, 2 * 64 * 4);
    const uint32_t i = threadIdx.x, other = (i + 32) % 64;
    copy_async(shared + 4 * i, in + 4 * i, 16);
    copy_commit();
    copy_async(shared + 4 * (64 + i), in + 4 * (64 + i), valid[i]);
    copy_commit();
    if (pending == 0) copy_wait<0>();
    if (pending == 1) copy_wait<1>();
    __syncthreads();
    for (uint32_t group = 0; group < 2; group++) {
        for (uint32_t e = 0; e < 4; e++) {
            out[4 * (64 * group + other) + e] = shared[4 * (64 * group + other) + e];
        }
    }
}

// Copies to an address that is not in shared memory.
KERNEL(twin_copy_astray, 32, const uint32_t* in, uint32_t* out) { copy_async(out, in, 16); }
