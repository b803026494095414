// Kernels that are wrong on purpose: the tests of `cuda-host` launch them and expect a report of each fault.
#include "../grid.cuh"
#include "../mma.cuh"

// Writes one element past the end of a buffer of `count`.
KERNEL(fault_write_beyond, 32, uint32_t count, float* out) {
    if (threadIdx.x == 0) out[count] = 1.0f;
}

// Reads far past the end of a buffer.
KERNEL(fault_read_beyond, 32, const float* in, uint64_t count, float* out) { out[threadIdx.x] = in[count]; }

// Copies a buffer that nothing has written.
KERNEL(fault_copy, 32, const float* in, float* out) { out[threadIdx.x] = in[threadIdx.x]; }

// Reverses a block's numbers through shared memory; without `wait`, before they are all there.
KERNEL(fault_race, 256, uint32_t wait, float* out) {
    SHARED(float, numbers, 256);
    numbers[threadIdx.x] = float(threadIdx.x);
    if (wait) __syncthreads();
    out[threadIdx.x] = numbers[blockDim.x - 1 - threadIdx.x];
}

// Half of the block does not reach the barrier.
KERNEL(fault_barrier, 64, float* out) {
    if (threadIdx.x < 32) __syncthreads();
    out[threadIdx.x] = 1.0f;
}

// Half of a warp does not reach the exchange.
KERNEL(fault_exchange, 32, float* out) {
    float x = 1.0f;
    if (threadIdx.x < 16) x = __shfl_xor_sync(FULL_WARP, x, 1);
    out[threadIdx.x] = x;
}

// Writes past the end of an array in shared memory, of fixed size or of the size that the launch gave.
KERNEL(fault_shared, 32, uint32_t fixed, uint32_t count, float* out) {
    SHARED(float, numbers, 32);
    DYNAMIC_SHARED(float, more);
    numbers[threadIdx.x] = 1.0f;
    if (threadIdx.x == 0) (fixed ? numbers : more)[count] = 2.0f;
    out[threadIdx.x] = numbers[threadIdx.x];
}

// The blocks of a grid pass their numbers on: each takes that of the next block. With `wait` 0 before it is there;
// with 2 the first block does not come to the barrier, and with 3 it comes to another.
KERNEL(fault_grid, 64, uint32_t wait, float* numbers, float* out, uint32_t* arrived) {
    SHARED(Grid, grid, 1);
    if (threadIdx.x == 0) *grid = Grid{arrived, 0};
    __syncthreads();
    numbers[grid_thread()] = float(grid_thread());
    const bool first = blockIdx.x == 0;
    if (wait == 1 || (wait > 1 && !first)) GRID_SYNC(*grid);
    if (wait == 3 && first) GRID_SYNC(*grid);
    out[grid_thread()] = numbers[(grid_thread() + blockDim.x) % grid_threads()];
}

// Accesses that only a barrier orders, one kind each; without `wait` it is missing. No order of the threads need show it:
// the host's threads wait for each other at exchanges too.
KERNEL(fault_unordered, 64, uint32_t kind, uint32_t wait, uint32_t* values, uint32_t* out) {
    SHARED(uint32_t, numbers, 64);
    SHARED(uint16_t, rows, 64 * 8);
    const uint32_t mine = threadIdx.x, other = mine ^ 1;
    uint32_t found = 0;
    switch (kind) {
        case 0:  // a shuffle is no barrier of the warp
            numbers[mine] = mine;
            found = __shfl_xor_sync(FULL_WARP, mine, 1);
            if (wait) __syncwarp();
            found += numbers[other];
            break;
        case 1:  // a barrier of the warp is none of the block
            numbers[mine] = mine;
            if (wait) __syncthreads();
            else __syncwarp();
            found = numbers[63 - mine];
            break;
        case 2:  // a write after others' reads
            numbers[mine] = mine;
            __syncthreads();
            found = numbers[63 - mine];
            if (wait) __syncthreads();
            numbers[mine] = 2 * mine;
            break;
        case 3:  // a copy is waited for by its thread alone
            copy_async(rows + 8 * mine, values + 4 * (mine % 16), 16);
            copy_commit();
            copy_wait<0>();
            if (wait) __syncthreads();
            found = rows[8 * other];
            break;
        case 4:  // ldmatrix reads the rows of all lanes
            for (uint32_t i = 0; i < 8; i++) rows[8 * mine + i] = uint16_t(mine);
            if (wait) __syncwarp();
            uint32_t parts[4];
            load_matrices(parts, rows + 8 * mine);
            found = parts[0];
            break;
        case 5:  // an atomic beside a plain read
            if (mine == 0) numbers[0] = 0;
            __syncthreads();
            atomicAdd(numbers, 1u);
            if (wait) __syncthreads();
            found = numbers[0];
            break;
        case 6:  // a plain write of many threads to one place
            if (!wait || mine == 0) numbers[0] = 7;
            __syncthreads();
            found = numbers[0];
            break;
        default:  // a read that does not see what its launch wrote
            if (mine < 4) values[mine] = mine;
            __syncthreads();
            found = wait ? values[mine % 4] : load_stream(values).at[mine % 4];
    }
    out[mine] = found;
}

// Accesses whose requests are known, one kind each: of global memory side by side, far apart, by halves and through the
// other caches; of shared memory without and with conflicts of banks; and a product of fragments.
KERNEL(fault_traffic, 64, uint32_t kind, const uint32_t* values, uint32_t* out) {
    SHARED(Vec<uint32_t>, packs, 128);
    const uint32_t mine = threadIdx.x;
    uint32_t found = 0;
    if (kind >= 4 && kind < 7) {
        for (uint32_t i = mine; i < 128; i += blockDim.x) packs[i] = Vec<uint32_t>{};
        __syncthreads();
    }
    switch (kind) {
        case 0: found = values[mine]; break;
        case 1: found = values[8 * mine]; break;
        case 2: found = reinterpret_cast<const uint16_t*>(values)[mine]; break;
        case 3: found = load_stream(values + 4 * mine).at[0]; break;
        case 4: found = packs[mine].at[0]; break;
        case 5: {
            const Vec<uint32_t> whole = packs[mine];
            found = whole.at[0] + whole.at[3];
            break;
        }
        case 6: {
            const Vec<uint32_t> whole = packs[2 * mine];
            found = whole.at[0] + whole.at[3];
            break;
        }
        case 7: {
            float d[4] = {};
            const uint32_t a[4] = {}, b[2] = {};
            mma(d, a, b);
            found = uint32_t(d[0]);
            break;
        }
        default:
            // As often as the lane says, and again together.
            for (uint32_t i = 0; i <= mine % 32; i++) found += values[i];
            __syncwarp();
            found += values[mine % 32];
    }
    out[grid_thread()] = found;
}
