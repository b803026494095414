//! A prediction of a launch's time on an H100, from what it moves and from its machine code.
//!
//! No launch of this repository has been timed there, so this is arithmetic and no measurement: the time that each part of
//! the GPU needs for the counted work at its full rate, and the time that the longest chain of loads takes. The longest of
//! these, the launch itself and the barriers of the grid make the prediction. The rates are those of an H100 SXM as its data
//! sheet and public measurements give them.

use serde::Serialize;

use super::machine_code::{self, Code};
use super::traffic::{SECTOR, Traffic};
use crate::device::cuda::driver::ALONE_THREADS;

/// Multiprocessors.
pub const MULTIPROCESSORS: u32 = 132;
/// Cycles a second under load.
const CLOCK: f64 = 1.755e9;
/// Bytes a second from memory: nine tenths of 3.35e12, which a copy reaches.
const MEMORY: f64 = 3.0e12;
/// Bytes a second from the second-level cache.
const CACHE: f64 = 5.5e12;
/// Seconds until a load from memory, or from the second-level cache, is there.
const MEMORY_LATENCY: f64 = 0.6e-6;
const CACHE_LATENCY: f64 = 0.17e-6;
/// Seconds from the end of a launch to the work of the next in its stream.
const LAUNCH: f64 = 2.5e-6;
/// Seconds of a barrier of the grid, and of the block.
const GRID_BARRIER: f64 = 1.1e-6;
const BLOCK_BARRIER: f64 = 20e-9;
/// Sectors that the first-level cache gives a cycle.
const SECTORS_A_CYCLE: f64 = 4.0;
/// Instructions of warps that a multiprocessor issues a cycle.
const ISSUED_A_CYCLE: f64 = 4.0;
/// Products mma.m16n8k16 a cycle and multiprocessor: of 4096 multiply-adds, which only wgmma reaches, two thirds.
const PRODUCTS_A_CYCLE: f64 = 1.3;
/// Instructions of a warp for a request to memory, where no loop of the machine code says how many.
const INSTRUCTIONS_A_REQUEST: f64 = 12.0;
/// Limits of a multiprocessor.
const MOST_THREADS: u32 = 2048;
const MOST_BLOCKS: u32 = 32;
const SHARED: u32 = 228 << 10;
/// Shared memory that the system takes of a block's.
const SHARED_OF_SYSTEM: u32 = 1 << 10;

/// The part of the GPU that a launch waits for most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// The launch itself.
    Launch,
    /// Memory.
    Memory,
    /// The second-level cache.
    Cache,
    /// Shared memory and the first-level cache, which have one path.
    Shared,
    /// The issue of instructions.
    Issue,
    /// Tensor cores.
    Products,
    /// Loads and barriers that wait for each other.
    Latency,
}

impl Limit {
    /// Its name in a table.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Launch => "launch",
            Limit::Memory => "memory",
            Limit::Cache => "cache",
            Limit::Shared => "shared",
            Limit::Issue => "issue",
            Limit::Products => "products",
            Limit::Latency => "latency",
        }
    }
}

/// A predicted time, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Prediction {
    /// The launch, the barriers of the grid and the longest part.
    pub predicted_us: f64,
    /// The longest part.
    pub bound: Limit,
    /// Each part alone.
    pub memory_us: f64,
    /// The second-level cache's.
    pub cache_us: f64,
    /// Shared memory's and the first-level cache's.
    pub shared_us: f64,
    /// That of issuing instructions.
    pub issue_us: f64,
    /// The tensor cores'.
    pub products_us: f64,
    /// That of the longest chain.
    pub latency_us: f64,
    /// That of the barriers of the grid, which is added to the longest part.
    pub barriers_us: f64,
}

/// The predicted time of a launch.
pub fn predict(traffic: &Traffic) -> Prediction {
    let code = machine_code::on_hopper(traffic.kernel);
    of_parts(traffic, code)
}

fn of_parts(t: &Traffic, code: Option<Code>) -> Prediction {
    let blocks = f64::from(t.grid[0]) * f64::from(t.grid[1]);
    // The share of the work that the multiprocessor with most blocks has.
    let share = (blocks / f64::from(MULTIPROCESSORS)).ceil() / blocks;
    let on_one = |cycles: f64| share * cycles / CLOCK;
    let reads = t.sum(false, |site| if site.is_read() { site.requests } else { 0.0 });
    let requests = t.sum(false, |site| site.requests) + t.sum(true, |site| site.requests);
    let hot = code.and_then(|code| code.hot);
    let instructions = match hot {
        Some(hot) if reads > 0.0 => reads / f64::from(hot.loads) * f64::from(hot.instructions),
        _ => INSTRUCTIONS_A_REQUEST * requests,
    };
    // A request of few sectors takes a cycle all the same.
    let of_cache = t.sum(false, |site| (site.sectors / SECTORS_A_CYCLE).max(site.requests));
    let from_memory = if t.block_read > 0.0 { (t.read / t.block_read).min(1.0) } else { 0.0 };
    let latency = CACHE_LATENCY + from_memory * (MEMORY_LATENCY - CACHE_LATENCY);
    let ahead = hot.map_or(1.0, |hot| f64::from(hot.ahead.max(1)));
    // Blocks that wait for each other have fewer threads here than there, each with as much more to do.
    let fewer = if t.together { f64::from(t.threads) / f64::from(ALONE_THREADS) } else { 1.0 };
    let rounds: f64 = t.phases.iter().map(|[reads, times]| times * (reads * fewer / ahead).ceil()).sum();
    let waves = (blocks / f64::from(MULTIPROCESSORS * resident(t, code))).ceil();
    let chain = rounds * latency + t.barriers * BLOCK_BARRIER;
    // A barrier of the grid lets all run dry: after it activations are staged from the cache, and then the first weights come.
    let barriers = t.grid_barriers * (GRID_BARRIER + CACHE_LATENCY + MEMORY_LATENCY);
    let parts = [
        (Limit::Memory, SECTOR * (t.read + t.written) / MEMORY),
        (Limit::Cache, SECTOR * (t.block_read + t.block_written) / CACHE),
        (Limit::Shared, on_one(t.sum(true, |site| site.wavefronts) + of_cache)),
        (Limit::Issue, on_one(instructions / ISSUED_A_CYCLE)),
        (Limit::Products, on_one(t.products / PRODUCTS_A_CYCLE)),
        (Limit::Latency, waves * chain),
    ];
    let us = parts.map(|(_, seconds)| 1e6 * seconds);
    let start = (Limit::Launch, LAUNCH);
    let (bound, longest) =
        parts.into_iter().fold(start, |most, part| if part.1 > most.1 { part } else { most });
    let [memory_us, cache_us, shared_us, issue_us, products_us, latency_us] = us;
    let work = if bound == Limit::Launch { us.into_iter().fold(0.0, f64::max) } else { 1e6 * longest };
    Prediction {
        predicted_us: 1e6 * (LAUNCH + barriers) + work,
        bound,
        memory_us,
        cache_us,
        shared_us,
        issue_us,
        products_us,
        latency_us,
        barriers_us: 1e6 * barriers,
    }
}

/// Blocks of a launch that a multiprocessor holds at once.
fn resident(t: &Traffic, code: Option<Code>) -> u32 {
    let by_threads = MOST_THREADS / t.threads.max(1);
    let by_registers = code.map_or(MOST_BLOCKS, |code| code.blocks_by_registers(t.threads));
    let of_block = t.shared + code.map_or(0, |code| code.shared) + SHARED_OF_SYSTEM;
    by_threads.min(by_registers).min(SHARED / of_block).clamp(1, MOST_BLOCKS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::host::machine_code::HotLoop;
    use crate::device::cuda::host::traffic::{Access, Site};

    fn site(shared: bool, requests: f64, sectors: f64, wavefronts: f64) -> Site {
        Site {
            place: 0,
            access: Access::Read,
            shared,
            bytes: 16,
            requests,
            lanes: 32.0 * requests,
            sectors,
            least_sectors: sectors,
            wavefronts,
            least_wavefronts: wavefronts,
        }
    }

    /// A launch of 132 blocks that reads 30 MB, each byte once, by requests of 16 sectors.
    fn copy() -> Traffic {
        let sectors = 3e7 / SECTOR;
        Traffic {
            kernel: "none",
            grid: [132, 1],
            threads: 256,
            shared: 0,
            together: false,
            blocks_seen: 132.0,
            block_read: sectors,
            block_written: 0.0,
            read: sectors,
            written: 0.0,
            barriers: 0.0,
            grid_barriers: 0.0,
            exchanges: 0.0,
            products: 0.0,
            phases: vec![[56.0, 1.0]],
            sites: vec![site(false, sectors / 16.0, sectors, 0.0)],
        }
    }

    fn code(ahead: u32) -> Option<Code> {
        let hot = Some(HotLoop { loads: 8, bytes: 128, ahead, instructions: 200 });
        Some(Code { registers: 64, shared: 0, hot })
    }

    #[test]
    fn what_takes_longest_is_the_bound() {
        // Ten microseconds of memory; seven rounds of eight loads take four.
        let p = of_parts(&copy(), code(8));
        assert_eq!(p.bound, Limit::Memory);
        assert!((p.memory_us - 10.0).abs() < 1e-9 && (p.latency_us - 4.2).abs() < 1e-9, "{p:?}");
        assert!((p.predicted_us - 12.5).abs() < 1e-9, "{p:?}");
        // One load after the other: 56 times the latency of memory.
        let p = of_parts(&copy(), code(1));
        assert!(p.bound == Limit::Latency && (p.latency_us - 33.6).abs() < 1e-9, "{p:?}");
        // A wavefront a cycle on each multiprocessor: 1e7 of them take 43 microseconds.
        let mut conflicts = copy();
        conflicts.sites.push(site(true, 1e6, 0.0, 1e7));
        let p = of_parts(&conflicts, code(8));
        assert!(p.bound == Limit::Shared && (p.shared_us - 43.4).abs() < 1.0, "{p:?}");
        let p = of_parts(&Traffic { products: 1e7, ..copy() }, code(8));
        assert!(p.bound == Limit::Products && (p.products_us - 33.2).abs() < 0.1, "{p:?}");
        let p = of_parts(&Traffic { grid_barriers: 100.0, ..copy() }, code(8));
        // Nothing goes on across a barrier of the grid.
        assert!(p.bound == Limit::Memory && (p.barriers_us - 187.0).abs() < 0.1, "{p:?}");
        assert!((p.predicted_us - 199.5).abs() < 0.1, "{p:?}");
        // Half the threads, half the rounds of each.
        let together = Traffic { together: true, threads: 128, ..copy() };
        assert!((of_parts(&together, code(1)).latency_us - 16.8).abs() < 1e-9, "{together:?}");
        let small =
            Traffic { read: 10.0, block_read: 10.0, phases: vec![[1.0, 1.0]], sites: vec![], ..copy() };
        let p = of_parts(&small, code(8));
        assert!(p.bound == Limit::Launch && p.predicted_us < 3.2, "{p:?}");
    }

    /// One block has one multiprocessor, and many blocks come in waves.
    #[test]
    fn blocks_share_the_multiprocessors() {
        let one = of_parts(&Traffic { grid: [1, 1], ..copy() }, code(8));
        let all = of_parts(&copy(), code(8));
        assert!((one.issue_us / all.issue_us - 132.0).abs() < 1e-6, "{one:?} {all:?}");
        // 64 registers of 256 threads: four blocks on a multiprocessor.
        assert_eq!(resident(&copy(), code(8)), 4);
        assert_eq!(resident(&Traffic { shared: 100 << 10, ..copy() }, code(8)), 2);
        let waves = of_parts(&Traffic { grid: [132 * 9, 1], ..copy() }, code(8));
        assert!((waves.latency_us / all.latency_us - 3.0).abs() < 1e-9, "{waves:?}");
    }

    /// Every kernel that has a loop over global memory is predicted by it.
    #[test]
    fn the_table_has_loops() {
        let decode = machine_code::on_hopper("decode_bf16_1").unwrap();
        let hot = decode.hot.unwrap();
        assert!(hot.loads >= 8 && hot.bytes >= 128 && hot.instructions > hot.loads, "{hot:?}");
        assert!(machine_code::on_hopper("fault_copy").is_none());
    }
}
