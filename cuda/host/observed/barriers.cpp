// Every access of a kernel to global and shared memory, held against the barriers that order it.
//
// ThreadSanitizer itself knows threads of the operating system, not the warps and blocks of a GPU. Where two threads access
// the same bytes, one of them writing and not both by atomics, a barrier of the right scope has to lie between: __syncwarp
// within a warp, __syncthreads within a block, the grid's barrier between blocks. Shuffles, votes, ldmatrix and mma are no
// barriers, although the host's threads wait for each other there.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "accesses.h"

namespace observed {

using namespace shim;

namespace {

const char* const NAMES[KINDS] = {"a write", "a read", "an atomic", "a volatile read"};

// Who did it: the last thread, and whether threads that no barrier parts from it did it as well.
enum Company : uint8_t { ALONE, LANES, WARPS, BLOCKS };

// The last accesses of one kind to a place.
struct Access {
    // Launches count from 1, so that no launch is 0.
    uint32_t launch, block;
    uint16_t warp;
    uint8_t lane;
    Company company;
    // Whether a read went past the caches that see writes (ld.global.nc).
    bool constant;
    uint32_t block_epoch, warp_epoch, rounds;
    // Place in the library's code.
    uint32_t code;
};

// Bytes that share a record.
constexpr uint32_t GRAIN = 2;
constexpr uint32_t PAGE = 4096;

struct Cell {
    Access of[KINDS];
};

struct Page {
    Cell cells[PAGE / GRAIN];
};

struct LaneState {
    // Barriers passed: of the block, and of warp and block together.
    uint32_t block_epoch = 0, warp_epoch = 0;
    // Rounds of the grid's barrier whose writes the thread sees.
    uint32_t rounds = 0;
};

struct BlockState {
    std::vector<LaneState> lanes;
    // Of each round of the grid's barrier, the first thread's barriers of the block when it arrived.
    std::vector<uint32_t> arrivals;
    // The rounds that the threads waiting at a barrier see together, by the barrier's parity: of the block, and of each warp.
    uint32_t seen[2] = {0, 0};
    std::vector<uint32_t> warps_seen[2];
};

uint32_t launch;
std::vector<BlockState> blocks;
std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
uintptr_t last_number;
Page* last_page;
std::set<std::pair<uint32_t, uint32_t>> told;
std::string report;

BlockState& block_state() { return blocks[block_number()]; }

Cell& cell(uintptr_t at) {
    const uintptr_t number = at / PAGE;
    if (number != last_number || last_page == nullptr) {
        std::unique_ptr<Page>& page = pages[number];
        if (!page) page.reset(new Page());
        last_number = number;
        last_page = page.get();
    }
    return last_page->cells[at % PAGE / GRAIN];
}

// The first round of the grid's barrier that releases an access, or the last number if none has yet.
uint32_t released(const Access& a) {
    const std::vector<uint32_t>& arrivals = blocks[a.block].arrivals;
    // The first thread arrives itself: its next round releases all that it did.
    if (a.warp == 0 && a.lane == 0 && a.company < LANES) return a.rounds < arrivals.size() ? a.rounds : UINT32_MAX;
    for (uint32_t round = a.rounds; round < arrivals.size(); round++) {
        if (arrivals[round] > a.block_epoch) return round;
    }
    return UINT32_MAX;
}

// Whether a barrier lies between the accesses of `a` and one of the running thread, or of its whole warp; if not, `scope`
// is that of the one missing.
bool ordered(const Access& a, const LaneState& mine, bool whole_warp, Company& scope) {
    const bool same_block = a.block == block_number();
    const bool same_warp = same_block && a.warp == lane->warp;
    const bool same_lane = same_warp && a.lane == lane->lane;
    if (!same_block || a.company == BLOCKS) {
        scope = BLOCKS;
        const uint32_t round = released(a);
        return round != UINT32_MAX && mine.rounds > round;
    }
    if (!same_warp || a.company == WARPS) {
        scope = WARPS;
        return mine.block_epoch > a.block_epoch;
    }
    if (!same_lane || whole_warp || a.company == LANES) {
        scope = LANES;
        return mine.warp_epoch > a.warp_epoch;
    }
    return true;
}

void tell(const Access& before, Kind earlier, Kind kind, uint32_t code, bool shared, const char* why) {
    if (!told.insert({before.code, code}).second) return;
    char line[512];
    snprintf(line, sizeof line, "%s%s of %s memory at [+0x%x] by thread %u of block %u, after %s at [+0x%x] by thread %u of block %u: %s",
             report.empty() ? "" : "; ", NAMES[kind], shared ? "shared" : "global", code, lane->thread.x, block_number(),
             NAMES[earlier], before.code, before.warp * 32 + before.lane, before.block, why);
    report += line;
}

// The kinds that an access of a kind must be ordered after.
constexpr bool CONFLICTS[KINDS][KINDS] = {
    // a write, a read, an atomic, a volatile read came before
    {true, true, true, true},
    {true, false, true, false},
    {true, true, false, false},
    {true, false, false, false},
};

const char* missing(Company scope) {
    switch (scope) {
        case BLOCKS: return "no barrier of the grid between";
        case WARPS: return "no barrier of the block between";
        default: return "no barrier of the warp between";
    }
}

}  // namespace

void note(const void* address, uintptr_t bytes, Kind kind, const void* from, Manner manner) {
    if (blocks.empty()) return;
    const auto start = reinterpret_cast<uintptr_t>(address);
    const bool shared = is_shared(start), whole_warp = manner.whole_warp, constant = manner.constant;
    if (!shared && range_of(start) == nullptr) return;
    const uint32_t code = code_of(from);
    const LaneState& mine = block_state().lanes[lane->thread.x];
    const uint32_t number = block_number();
    for (uintptr_t at = start / GRAIN * GRAIN; at < start + bytes; at += GRAIN) {
        Cell& c = cell(at);
        for (uint32_t k = 0; k < KINDS; k++) {
            Access& before = c.of[k];
            if (before.launch != launch || (shared && before.block != number)) continue;
            Company scope = ALONE;
            if (CONFLICTS[kind][k] && !ordered(before, mine, whole_warp, scope)) {
                tell(before, Kind(k), kind, code, shared, missing(scope));
            }
            if (constant && k == WRITE) {
                tell(before, WRITE, kind, code, shared, "read as a constant, which does not see writes of its launch");
            }
            if (kind == WRITE && k == READ && before.constant) {
                tell(before, READ, kind, code, shared, "was read as a constant in the same launch");
            }
        }
        Access& last = c.of[kind];
        Company company = whole_warp ? LANES : ALONE, scope = ALONE;
        bool was_constant = constant;
        if (last.launch == launch && (!shared || last.block == number)) {
            was_constant |= last.constant;
            if (!ordered(last, mine, whole_warp, scope)) company = std::max({company, scope, last.company});
        }
        last = Access{launch,           number,          uint16_t(lane->warp), uint8_t(lane->lane), company, was_constant,
                      mine.block_epoch, mine.warp_epoch, mine.rounds,          code};
    }
}

void arrive(uint32_t kind) {
    BlockState& b = block_state();
    const LaneState& mine = b.lanes[lane->thread.x];
    if (kind == BARRIER) {
        uint32_t& seen = b.seen[mine.block_epoch & 1];
        seen = std::max(seen, mine.rounds);
    } else if (kind == WARP_BARRIER) {
        uint32_t& seen = b.warps_seen[mine.warp_epoch & 1][lane->warp];
        seen = std::max(seen, mine.rounds);
    } else if (kind == GRID && lane->thread.x == 0) {
        b.arrivals.push_back(mine.block_epoch);
    }
}

void pass(uint32_t kind) {
    BlockState& b = block_state();
    LaneState& mine = b.lanes[lane->thread.x];
    if (kind == BARRIER) {
        mine.rounds = std::max(mine.rounds, b.seen[mine.block_epoch & 1]);
        mine.block_epoch++;
        mine.warp_epoch++;
    } else if (kind == WARP_BARRIER) {
        mine.rounds = std::max(mine.rounds, b.warps_seen[mine.warp_epoch & 1][lane->warp]);
        mine.warp_epoch++;
    } else if (kind == GRID && lane->thread.x == 0) {
        mine.rounds = uint32_t(b.arrivals.size());
    }
}

void product() {}

// ---- for the driver ------------------------------------------------------------------------------

// A launch of blocks of so many threads begins; `count` buffers are global memory, in order of their addresses.
extern "C" void colar_accesses_begin(const Range* buffers, uintptr_t count, uint32_t grid_blocks, uint32_t threads) {
    launch++;
    set_ranges(buffers, count);
    BlockState fresh;
    fresh.lanes.resize(threads);
    for (auto& seen : fresh.warps_seen) seen.resize((threads + 31) / 32);
    blocks.assign(grid_blocks, fresh);
    told.clear();
    report.clear();
}

// The launch is over: its faults, or nothing.
extern "C" const char* colar_accesses_end() {
    blocks.clear();
    // Pages of buffers that are gone would pile up over a test.
    if (pages.size() > 4096) {
        pages.clear();
        last_page = nullptr;
    }
    return report.empty() ? nullptr : report.c_str();
}

}  // namespace observed
