// The traffic of a kernel, counted: what its warps ask of global and of shared memory, a request at a time.
//
// A request is what the lanes of a warp access by one instruction at once. The lanes run one after the other here, so a
// request is put together again: the n-th access of each lane at one place of the code, between two waits of the warp,
// belongs to one. Lanes that went through a loop another number of times are then told apart less than on a GPU, where
// they would be together again only at the next wait.
//
// Of global memory a request takes the 32-byte sectors that hold its bytes. Of shared memory it takes a wavefront for each
// set of words that lie in different banks; an access of 8 bytes a lane goes by half warps, one of 16 by quarters.
#include <algorithm>
#include <cstdio>
#include <deque>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "accesses.h"

namespace observed {

using namespace shim;

namespace {

constexpr uint32_t LANES = 32;
constexpr uintptr_t SECTOR = 32;
constexpr uintptr_t PAGE = 4096;
constexpr uintptr_t BANKS = 32;
constexpr uintptr_t WORD = 4;
constexpr uint32_t SECTORS = PAGE / SECTOR;

// The requests of one place of the code, in a launch.
struct Counter {
    Kind kind;
    bool shared;
    uint32_t bytes;
    uint64_t requests, lanes, sectors, least_sectors, wavefronts, least_wavefronts;
};

struct Request {
    uint32_t lanes = 0;
    bool settled = false;
    uintptr_t at[LANES];
};

// The requests of a warp at one place of the code, since its last wait.
struct Open {
    Counter* counter;
    // Accesses of each lane, and requests that are settled and gone from the front.
    uint32_t met[LANES] = {};
    uint32_t gone = 0;
    std::deque<Request> requests;
};

struct Warp {
    std::unordered_map<uint64_t, Open> open;
    // Waits that each lane passed, and those after which requests were settled.
    uint64_t passed[LANES] = {}, settled = 0;
    // Requests to read global memory since the last wait, and how often there were so many between two.
    uint32_t reads = 0;
    uint64_t all_reads = 0;
    std::map<uint32_t, uint64_t> phases;
};

// Sectors of a page that were read and that were written.
struct Touched {
    uint64_t read[SECTORS / 64] = {}, written[SECTORS / 64] = {};
};

using Footprint = std::unordered_map<uintptr_t, Touched>;

struct BlockState {
    std::vector<Warp> warps;
    Footprint footprint;
    uint64_t barriers = 0, grid_barriers = 0;
};

uint32_t blocks_in_grid, threads_in_block;
std::unordered_map<uint32_t, BlockState> blocks;
BlockState* last_block;
uint32_t last_number;
// Nodes of a map stay where they are.
std::unordered_map<uint64_t, Counter> counters;
uint64_t products, exchanges;
std::string report;

BlockState& block_state() {
    const uint32_t number = block_number();
    if (last_block == nullptr || last_number != number) {
        BlockState& found = blocks[number];
        if (found.warps.empty()) found.warps.resize((threads_in_block + LANES - 1) / LANES);
        last_block = &found;
        last_number = number;
    }
    return *last_block;
}

// The addresses of a request's lanes from `first` on, `count` of them, each once.
uint32_t distinct(const Request& request, uint32_t first, uint32_t count, uintptr_t out[LANES]) {
    uint32_t n = 0;
    for (uint32_t i = first; i < first + count; i++) {
        if (request.lanes >> i & 1) out[n++] = request.at[i];
    }
    std::sort(out, out + n);
    return uint32_t(std::unique(out, out + n) - out);
}

void settle_global(const Request& request, Counter& c, Footprint& footprint) {
    uintptr_t at[LANES];
    const uint32_t n = distinct(request, 0, LANES, at);
    uintptr_t last = 0;
    for (uint32_t i = 0; i < n; i++) {
        for (uintptr_t sector = at[i] / SECTOR; sector <= (at[i] + c.bytes - 1) / SECTOR; sector++) {
            // The addresses are in order, and so are their sectors.
            if (sector <= last) continue;
            last = sector;
            c.sectors++;
            Touched& page = footprint[sector / SECTORS];
            const uint32_t place = sector % SECTORS;
            uint64_t* const bits = c.kind == WRITE ? page.written : page.read;
            bits[place / 64] |= uint64_t(1) << place % 64;
            if (c.kind == ATOMIC) page.written[place / 64] |= uint64_t(1) << place % 64;
        }
    }
    c.least_sectors += (uintptr_t(n) * c.bytes + SECTOR - 1) / SECTOR;
}

void settle_shared(const Request& request, Counter& c) {
    const uint32_t together = c.bytes >= 16 ? 8 : c.bytes == 8 ? 16 : 32;
    for (uint32_t first = 0; first < LANES; first += together) {
        uintptr_t at[LANES];
        const uint32_t n = distinct(request, first, together, at);
        if (n == 0) continue;
        uint32_t words[BANKS] = {};
        uintptr_t last = 0;
        for (uint32_t i = 0; i < n; i++) {
            for (uintptr_t word = at[i] / WORD; word <= (at[i] + c.bytes - 1) / WORD; word++) {
                if (word <= last) continue;
                last = word;
                words[word % BANKS]++;
            }
        }
        c.wavefronts += *std::max_element(words, words + BANKS);
        c.least_wavefronts += (uintptr_t(n) * c.bytes + BANKS * WORD - 1) / (BANKS * WORD);
    }
}

void settle(Request& request, Counter& c, Footprint& footprint) {
    request.settled = true;
    c.requests++;
    c.lanes += __builtin_popcount(request.lanes);
    if (c.shared) settle_shared(request, c);
    else settle_global(request, c, footprint);
}

// All that a warp asked for since its last wait.
void settle_all(Warp& warp, Footprint& footprint) {
    for (auto& [place, open] : warp.open) {
        for (Request& request : open.requests) {
            if (!request.settled) settle(request, *open.counter, footprint);
        }
    }
    warp.open.clear();
    if (warp.reads > 0) warp.phases[warp.reads]++;
    warp.reads = 0;
}

// Sectors of a buffer that all blocks seen touched, and that only some of them did.
struct Union {
    uint64_t common = 0, others = 0;
    // As many as all blocks of the grid touch, where those seen are like the others.
    double of_grid(double sectors, double scale) const { return std::min(sectors, double(common) + double(others) * scale); }
};

void say(const char* name, double value) {
    char line[96];
    snprintf(line, sizeof line, "%s %.17g\n", name, value);
    report += line;
}

// Sectors that the blocks took of the caches between them, and that the launch took of memory at least.
void count_sectors(double scale) {
    uint64_t taken[2] = {0, 0};
    // Of every sector of a page, the blocks that touched it.
    struct Blocks {
        uint16_t read[SECTORS] = {}, written[SECTORS] = {};
    };
    std::map<uintptr_t, Blocks> all;
    for (const auto& [number, block] : blocks) {
        for (const auto& [page, touched] : block.footprint) {
            Blocks& counts = all[page];
            for (uint32_t i = 0; i < SECTORS; i++) {
                const bool read = touched.read[i / 64] >> i % 64 & 1, written = touched.written[i / 64] >> i % 64 & 1;
                taken[0] += read;
                taken[1] += written;
                counts.read[i] += read;
                counts.written[i] += written;
            }
        }
    }
    say("block_read", double(taken[0]) * scale);
    say("block_written", double(taken[1]) * scale);
    std::map<const Range*, std::pair<Union, Union>> buffers;
    const auto count = [](uint16_t touched, Union& sectors) {
        if (touched == 0) return;
        (blocks.size() > 1 && touched == blocks.size() ? sectors.common : sectors.others)++;
    };
    for (const auto& [page, counts] : all) {
        // A page that holds the end of a buffer holds nothing of another: guards lie between.
        const Range* buffer = nullptr;
        for (uintptr_t at = page * PAGE; buffer == nullptr && at < (page + 1) * PAGE; at += SECTOR) buffer = range_of(at);
        auto& [read, written] = buffers[buffer];
        for (uint32_t i = 0; i < SECTORS; i++) {
            count(counts.read[i], read);
            count(counts.written[i], written);
        }
    }
    double read = 0, written = 0;
    for (const auto& [buffer, unions] : buffers) {
        const double sectors = buffer == nullptr ? 0 : double((buffer->length + SECTOR - 1) / SECTOR);
        read += unions.first.of_grid(sectors, scale);
        written += unions.second.of_grid(sectors, scale);
    }
    say("read", read);
    say("written", written);
}

}  // namespace

void note(const void* address, uintptr_t bytes, Kind kind, const void* from, Manner manner) {
    // A read of a constant is seen once more, as the plain read that it is on the host.
    if (threads_in_block == 0 || manner.arrives || manner.constant || bytes == 0) return;
    const auto at = reinterpret_cast<uintptr_t>(address);
    const bool shared = is_shared(at);
    if (!shared && range_of(at) == nullptr) return;
    if (kind == WATCH) kind = READ;
    Warp& warp = block_state().warps[lane->warp];
    const uint64_t place = uint64_t(code_of(from)) << 3 | uint64_t(shared) << 2 | kind;
    auto found = warp.open.find(place);
    if (found == warp.open.end()) {
        Counter& counter = counters[place];
        if (counter.requests == 0) {
            counter.kind = kind;
            counter.shared = shared;
            counter.bytes = uint32_t(bytes);
        }
        found = warp.open.emplace(place, Open()).first;
        found->second.counter = &counter;
    }
    Open& open = found->second;
    const uint32_t number = open.met[lane->lane]++ - open.gone;
    while (open.requests.size() <= number) {
        open.requests.emplace_back();
        if (kind == READ && !shared) {
            warp.reads++;
            warp.all_reads++;
        }
    }
    Request& request = open.requests[number];
    request.at[lane->lane] = at;
    request.lanes |= 1u << lane->lane;
    if (request.lanes != 0xffffffffu) return;
    settle(request, *open.counter, block_state().footprint);
    while (!open.requests.empty() && open.requests.front().settled) {
        open.requests.pop_front();
        open.gone++;
    }
}

void arrive(uint32_t kind) {
    if (threads_in_block == 0) return;
    BlockState& b = block_state();
    if (lane->thread.x == 0) {
        b.barriers += kind == BARRIER;
        b.grid_barriers += kind == GRID;
    }
    if (lane->lane == 0) exchanges += kind == WARP;
}

// Whoever goes on first knows that all lanes of its warp have come this far.
void pass(uint32_t) {
    if (threads_in_block == 0) return;
    BlockState& b = block_state();
    Warp& warp = b.warps[lane->warp];
    if (++warp.passed[lane->lane] <= warp.settled) return;
    warp.settled = warp.passed[lane->lane];
    settle_all(warp, b.footprint);
}

void product() { products += lane->lane == 0; }

// ---- for the driver ------------------------------------------------------------------------------

// A launch of so many blocks begins, of which some or all run here; `count` buffers are global memory, in order of their
// addresses.
extern "C" void colar_accesses_begin(const Range* buffers, uintptr_t count, uint32_t grid_blocks, uint32_t threads) {
    set_ranges(buffers, count);
    blocks_in_grid = grid_blocks;
    threads_in_block = threads;
    blocks.clear();
    last_block = nullptr;
    counters.clear();
    products = exchanges = 0;
    report.clear();
}

// The launch is over: what it asked for, a line each, or nothing if no block ran here.
extern "C" const char* colar_accesses_end() {
    const Warp* most = nullptr;
    uint64_t barriers = 0, grid_barriers = 0;
    for (auto& [number, block] : blocks) {
        for (Warp& warp : block.warps) {
            settle_all(warp, block.footprint);
            if (most == nullptr || warp.all_reads > most->all_reads) most = &warp;
        }
        barriers = std::max(barriers, block.barriers);
        grid_barriers = std::max(grid_barriers, block.grid_barriers);
    }
    threads_in_block = 0;
    if (blocks.empty()) return nullptr;
    const double scale = double(blocks_in_grid) / double(blocks.size());
    say("blocks", double(blocks.size()));
    say("barriers", double(barriers));
    say("grid_barriers", double(grid_barriers));
    say("exchanges", double(exchanges) * scale);
    say("products", double(products) * scale);
    count_sectors(scale);
    char line[256];
    for (const auto& [reads, times] : most->phases) {
        snprintf(line, sizeof line, "phase %u %llu\n", reads, static_cast<unsigned long long>(times));
        report += line;
    }
    for (const auto& [place, c] : counters) {
        snprintf(line, sizeof line, "site %u %u %u %u %.17g %.17g %.17g %.17g %.17g %.17g\n", uint32_t(place >> 3), c.kind,
                 c.shared, c.bytes, double(c.requests) * scale, double(c.lanes) * scale, double(c.sectors) * scale,
                 double(c.least_sectors) * scale, double(c.wavefronts) * scale, double(c.least_wavefronts) * scale);
        report += line;
    }
    blocks.clear();
    last_block = nullptr;
    return report.c_str();
}

}  // namespace observed
