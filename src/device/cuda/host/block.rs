//! Runs the threads of a block as coroutines.
//!
//! A thread runs until it waits: at a barrier of the block or of the grid, or at an exchange within its warp. A
//! warp goes on when all its lanes wait at the same exchange, the block when all its threads wait at the same
//! barrier, the grid when all its blocks do; anything else is a fault of the kernel, which CUDA would leave
//! undefined or hang on. Warps take turns in random order and lanes in a random one within, under a seed, so
//! that a kernel that lacks a barrier meets the orders that betray it. So do the blocks of a cooperative launch,
//! which are all there at once.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};
use std::ptr;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};

use super::memory::{Guarded, POISON};
use crate::device::cuda::kernels::Entry;

/// Lanes of a warp.
const WARP: usize = 32;

/// Bytes of stack of a thread; kernels keep little there.
const STACK: usize = 64 << 10;

/// Bytes of shared memory that arrays of fixed size can take in a block.
const ARENA: usize = 48 << 10;

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Dim {
    pub x: u32,
    pub y: u32,
    pub z: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct SharedArray {
    key: *const c_void,
    at: *mut u8,
}

/// One warp's operands: parity, lane, bytes.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
struct Slots([[[u8; 64]; WARP]; 2]);

/// `shim::Block`.
#[repr(C)]
struct Block {
    index: Dim,
    dim: Dim,
    grid: Dim,
    slots: *mut Slots,
    arena: *mut u8,
    arena_len: u32,
    arena_used: u32,
    arrays: [SharedArray; 32],
    array_count: u32,
    dynamic: *mut u8,
    dynamic_len: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct AsyncCopy {
    to: *mut c_void,
    from: *const c_void,
    bytes: u32,
    valid: u32,
    group: u32,
}

/// `shim::Lane`.
#[repr(C)]
struct Lane {
    thread: Dim,
    warp: u32,
    lane: u32,
    exchanges: u32,
    async_groups: u32,
    async_count: u32,
    asynchronous: [AsyncCopy; 64],
    yielder: *const c_void,
}

unsafe extern "C" {
    fn colar_host_set(block: *mut c_void, lane: *mut c_void);
    fn colar_host_layout(which: u32) -> u32;
}

/// The compiled form of a kernel.
#[derive(Clone, Copy)]
pub(super) struct Code {
    /// Runs a thread.
    pub entry: Entry,
    /// Tells it which thread runs: a [`Block`] and a [`Lane`].
    pub set: unsafe extern "C" fn(*mut c_void, *mut c_void),
}

impl Code {
    /// The form that is linked in.
    pub(super) fn linked(entry: Entry) -> Self {
        Code { entry, set: colar_host_set }
    }
}

/// Why a thread gave way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// At the barrier of this line.
    Barrier(u32),
    /// At an exchange of its warp on this line.
    Warp(u32),
    /// At the grid's barrier of this line.
    Grid(u32),
    /// It found a fault, and does not go on.
    Fault(&'static CStr),
}

type Thread = Coroutine<(), Wait, (), DefaultStack>;

/// Called by a kernel's thread to give way. It returns when the thread may go on.
#[unsafe(no_mangle)]
pub(super) extern "C" fn colar_host_wait(yielder: *const c_void, kind: u32, place: u32) {
    // SAFETY: the shim passes on the pointer that `run` put into the lane that runs: the yielder of this very
    // coroutine, which lives as long as the coroutine does.
    let yielder = unsafe { &*yielder.cast::<Yielder<(), Wait>>() };
    yielder.suspend(match kind {
        0 => Wait::Barrier(place),
        1 | 3 => Wait::Warp(place),
        _ => Wait::Grid(place),
    });
}

/// Called by a kernel's thread that cannot go on.
#[unsafe(no_mangle)]
pub(super) extern "C" fn colar_host_fault(yielder: *const c_void, what: *const c_char) {
    // SAFETY: as in `colar_host_wait`; the message is a literal of the shim's.
    let (yielder, what) = unsafe { (&*yielder.cast::<Yielder<(), Wait>>(), CStr::from_ptr::<'static>(what)) };
    loop {
        yielder.suspend(Wait::Fault(what));
    }
}

/// Where a thread stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    Waits(Wait),
    Done,
}

/// A small generator for the order of threads (xorshift64*).
struct Shuffle(u64);

impl Shuffle {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize) % n
    }
}

/// Stacks and shared memory that a thread of the operating system keeps to run blocks with.
struct Bench {
    stacks: Vec<DefaultStack>,
    /// Memory for arrays of fixed size in shared memory, poisoned; one a block that is running.
    arenas: Vec<Guarded>,
}

impl Bench {
    fn new() -> Self {
        // SAFETY: it only reports sizes.
        let sizes = unsafe { [colar_host_layout(0), colar_host_layout(1)] };
        assert_eq!(
            sizes,
            [size_of::<Block>() as u32, size_of::<Lane>() as u32],
            "layout of the shim's structures"
        );
        Bench { stacks: Vec::new(), arenas: Vec::new() }
    }
}

thread_local! {
    static BENCH: RefCell<Option<Bench>> = const { RefCell::new(None) };
}

/// One block to run.
pub(super) struct Job<'a> {
    pub code: Code,
    pub args: &'a [*mut c_void],
    pub grid: Dim,
    pub index: Dim,
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// Decides the order of threads.
    pub seed: u64,
}

/// Runs a block to its end, or to a fault, which is described.
pub(super) fn run(job: &Job<'_>) -> std::result::Result<(), String> {
    BENCH.with_borrow_mut(|bench| {
        let bench = bench.get_or_insert_with(Bench::new);
        let mut block = Running::start(bench, job)?;
        let outcome = match block.go_on() {
            Ok(Pause::Done) => Ok(()),
            Ok(Pause::Grid(line)) => {
                Err(format!("waits at the grid's barrier of line {line}, but was not launched together"))
            }
            Err(what) => Err(what),
        };
        block.end(bench, outcome)
    })
}

/// Runs all blocks of a grid, which may wait for each other, to their end or to a fault.
pub(super) fn run_together(jobs: &[Job<'_>], seed: u64) -> std::result::Result<(), String> {
    BENCH.with_borrow_mut(|bench| {
        let bench = bench.get_or_insert_with(Bench::new);
        let mut blocks = jobs.iter().map(|job| Running::start(bench, job)).collect::<Result<Vec<_>, _>>()?;
        let outcome = take_turns(&mut blocks, Shuffle(seed | 1));
        let ends: Vec<_> = blocks.into_iter().map(|block| block.end(bench, outcome.clone())).collect();
        ends.into_iter().collect()
    })
}

/// Lets the blocks of a grid run from barrier to barrier, in another order each time.
fn take_turns(blocks: &mut [Running], mut shuffle: Shuffle) -> std::result::Result<(), String> {
    loop {
        let mut waiting: Vec<usize> = (0..blocks.len()).collect();
        let mut pauses = Vec::with_capacity(blocks.len());
        while !waiting.is_empty() {
            let block = waiting.swap_remove(shuffle.below(waiting.len()));
            pauses.push(blocks[block].go_on()?);
        }
        match pauses.first() {
            Some(Pause::Grid(line)) if pauses.iter().any(|p| p != &pauses[0]) => {
                return Err(format!("some blocks wait at the grid's barrier of line {line}, others do not"));
            }
            Some(Pause::Done) if pauses.iter().any(|p| p != &Pause::Done) => {
                return Err("some blocks are done, others wait at the grid's barrier".into());
            }
            Some(Pause::Grid(_)) => {}
            Some(Pause::Done) | None => return Ok(()),
        }
    }
}

/// Where a block stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// All its threads are done.
    Done,
    /// All its threads wait at the grid's barrier of this line.
    Grid(u32),
}

/// A block that runs.
struct Running {
    set: unsafe extern "C" fn(*mut c_void, *mut c_void),
    block: Box<Block>,
    /// The threads' coroutines point to these: neither vector is touched before they have ended.
    lanes: Vec<Lane>,
    _slots: Vec<Slots>,
    arena: Guarded,
    dynamic: Guarded,
    threads: Vec<Thread>,
    states: Vec<State>,
    shuffle: Shuffle,
}

impl Running {
    /// A block whose threads have not begun.
    fn start(bench: &mut Bench, job: &Job<'_>) -> std::result::Result<Self, String> {
        let count = job.threads as usize;
        while bench.stacks.len() < count {
            bench.stacks.push(DefaultStack::new(STACK).map_err(|e| format!("no stack for a thread: {e}"))?);
        }
        let arena = match bench.arenas.pop() {
            Some(arena) => arena,
            None => Guarded::new(ARENA).map_err(|e| e.to_string())?,
        };
        let dynamic = Guarded::new(job.shared as usize).map_err(|e| e.to_string())?;
        let mut slots = vec![Slots([[[POISON; 64]; WARP]; 2]); count / WARP];
        let block = Box::new(Block {
            index: job.index,
            dim: Dim { x: job.threads, y: 1, z: 1 },
            grid: job.grid,
            slots: slots.as_mut_ptr(),
            arena: arena.start(),
            arena_len: ARENA as u32,
            arena_used: 0,
            arrays: [SharedArray { key: ptr::null(), at: ptr::null_mut() }; 32],
            array_count: 0,
            dynamic: dynamic.start(),
            dynamic_len: job.shared,
        });
        let none = AsyncCopy { to: ptr::null_mut(), from: ptr::null(), bytes: 0, valid: 0, group: 0 };
        let mut lanes: Vec<Lane> = (0..count)
            .map(|t| Lane {
                thread: Dim { x: t as u32, y: 0, z: 0 },
                warp: (t / WARP) as u32,
                lane: (t % WARP) as u32,
                exchanges: 0,
                async_groups: 0,
                async_count: 0,
                asynchronous: [none; 64],
                yielder: ptr::null(),
            })
            .collect();
        let lanes_at = lanes.as_mut_ptr();
        let (entry, args) = (job.code.entry, job.args.as_ptr());
        let stacks = bench.stacks.drain(bench.stacks.len() - count..);
        let threads = stacks.enumerate().map(|(t, stack)| {
            // SAFETY: one of the `count` lanes.
            let lane = unsafe { lanes_at.add(t) };
            Coroutine::with_stack(stack, move |yielder: &Yielder<(), Wait>, ()| {
                // SAFETY: the lanes outlive their coroutines, and nothing else uses this one's while it runs.
                // The arguments are of the kernel's own kinds, as the launch has checked; the launch's caller
                // promised that they name memory which the kernel may use.
                unsafe {
                    (*lane).yielder = ptr::from_ref(yielder).cast();
                    entry(args);
                }
            })
        });
        let threads = threads.collect();
        let states = vec![State::Ready; count];
        let shuffle = Shuffle(job.seed | 1);
        Ok(Running {
            set: job.code.set,
            block,
            lanes,
            _slots: slots,
            arena,
            dynamic,
            threads,
            states,
            shuffle,
        })
    }

    /// Lets the threads run until all are done, or wait for other blocks.
    fn go_on(&mut self) -> std::result::Result<Pause, String> {
        let (set, block, lanes) = (self.set, &raw mut *self.block, self.lanes.as_mut_ptr());
        schedule(&mut self.threads, &mut self.states, &mut self.shuffle, |t, thread| {
            // SAFETY: both live as long as `self`; the shim reads them on this thread only.
            unsafe { set(block.cast(), lanes.add(t).cast()) };
            match thread.resume(()) {
                CoroutineResult::Yield(wait) => State::Waits(wait),
                CoroutineResult::Return(()) => State::Done,
            }
        })
    }

    /// Gives back the stacks and the arena that `start` took; a block without a fault must have kept to its shared
    /// memory.
    fn end(
        self,
        bench: &mut Bench,
        outcome: std::result::Result<(), String>,
    ) -> std::result::Result<(), String> {
        for mut thread in self.threads {
            if !thread.done() {
                // SAFETY: a kernel's frames hold nothing that needs dropping.
                unsafe { thread.force_reset() };
            }
            bench.stacks.push(thread.into_stack());
        }
        let intact = shared_intact(&self.block, &self.dynamic);
        // SAFETY: the arena is this block's own and at least that long; its threads have ended.
        unsafe { ptr::write_bytes(self.arena.start(), POISON, self.block.arena_used as usize) };
        bench.arenas.push(self.arena);
        outcome?;
        if intact { Ok(()) } else { Err("wrote past the end of an array in shared memory".into()) }
    }
}

/// Lets the threads run until all are done, or wait at the grid's barrier, from which they go on when called again.
fn schedule(
    running: &mut [Thread],
    states: &mut [State],
    shuffle: &mut Shuffle,
    mut resume: impl FnMut(usize, &mut Thread) -> State,
) -> std::result::Result<Pause, String> {
    let warps = states.len() / WARP;
    if let State::Waits(Wait::Grid(_)) = states[0] {
        states.fill(State::Ready);
    }
    loop {
        let mut ready: Vec<usize> = (0..warps).filter(|&w| states[w * WARP] == State::Ready).collect();
        if ready.is_empty() {
            return Ok(Pause::Done);
        }
        while !ready.is_empty() {
            let pick = shuffle.below(ready.len());
            let first = ready[pick] * WARP;
            // An odd step meets every lane once.
            let (start, step) = (shuffle.below(WARP), 2 * shuffle.below(WARP / 2) + 1);
            for i in 0..WARP {
                let t = first + (start + i * step) % WARP;
                states[t] = resume(t, &mut running[t]);
            }
            let lanes = &mut states[first..first + WARP];
            match settle(lanes)? {
                Settled::Exchange => lanes.fill(State::Ready),
                Settled::Stays => {
                    ready.swap_remove(pick);
                }
            }
        }
        // Every warp is done or at a barrier.
        if states.iter().all(|&s| s == states[0]) {
            match states[0] {
                State::Done => {}
                State::Waits(Wait::Grid(line)) => return Ok(Pause::Grid(line)),
                _ => states.fill(State::Ready),
            }
            continue;
        }
        let at = states.iter().filter(|&&s| s == states[0]).count();
        return Err(format!(
            "{at} of {} threads are {}, others elsewhere: a barrier needs all",
            states.len(),
            describe(states[0])
        ));
    }
}

enum Settled {
    /// All lanes wait at one exchange, which can take place.
    Exchange,
    /// All lanes are done, or at a barrier.
    Stays,
}

/// How a warp goes on, given the states of its lanes, none of them ready.
fn settle(lanes: &[State]) -> std::result::Result<Settled, String> {
    for state in lanes {
        if let State::Waits(Wait::Fault(what)) = state {
            return Err(what.to_string_lossy().into_owned());
        }
    }
    if lanes.iter().any(|&s| s != lanes[0]) {
        let at = lanes.iter().filter(|&&s| s == lanes[0]).count();
        return Err(format!(
            "{at} of {WARP} lanes of a warp are {}, others elsewhere: an exchange or barrier needs all",
            describe(lanes[0])
        ));
    }
    Ok(match lanes[0] {
        State::Waits(Wait::Warp(_)) => Settled::Exchange,
        _ => Settled::Stays,
    })
}

fn describe(state: State) -> String {
    match state {
        State::Ready => "ready".into(),
        State::Done => "done".into(),
        State::Waits(Wait::Barrier(line)) => format!("at the barrier of line {line}"),
        State::Waits(Wait::Warp(line)) => format!("at the exchange of line {line}"),
        State::Waits(Wait::Grid(line)) => format!("at the grid's barrier of line {line}"),
        State::Waits(Wait::Fault(what)) => what.to_string_lossy().into_owned(),
    }
}

/// Whether the bytes behind every shared array are still as they were.
fn shared_intact(block: &Block, dynamic: &Guarded) -> bool {
    let poisoned = |from: *const u8, len: usize| {
        // SAFETY: callers name bytes of the arena or of the dynamic memory's last page, which are mapped.
        unsafe { std::slice::from_raw_parts(from, len) }.iter().all(|&b| b == POISON)
    };
    let ends = block.arrays[1..].iter().take((block.array_count as usize).saturating_sub(1)).map(|a| a.at);
    let last = block.arena.wrapping_add(block.arena_used as usize);
    let arrays = block.array_count > 0;
    ends.chain(arrays.then_some(last)).all(|end| poisoned(end.wrapping_sub(16), 16))
        && poisoned(
            dynamic.start().wrapping_add(dynamic.len()),
            dynamic.len().next_multiple_of(16) - dynamic.len(),
        )
}
