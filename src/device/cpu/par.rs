//! The one way in which loops of the CPU device spread over threads.
//!
//! Decoding one sequence is a few hundred matrix–vector products of 10 to 70 µs each, one after the other.
//! A general work-stealing pool spends several microseconds on every fork and join and puts its threads to
//! sleep between them; here that would be a fifth of the time. So a [`Pool`] is a team of threads that spin
//! for a moment after each loop, waiting for the next, and only then sleep: an idle engine costs nothing,
//! and a busy one pays well under a microsecond a loop.
//!
//! A loop is cut into numbered tasks, and threads (the calling one among them) take the next number until
//! none is left. A thread that the operating system has taken off its core therefore delays at most the task
//! it holds: the others finish the rest, and nobody waits for a thread that has not yet woken.
//!
//! *Determinism.* Which thread runs a task depends on timing, so a task must write only memory of its own and
//! must not depend on the writes of other tasks; then the bits cannot depend on timing. Every loop of this
//! module has that form, and where the cut depends on the number of threads ([`for_blocks`],
//! [`split_rows`]) each item must be computed alike in whatever block it falls. Reductions go over blocks of
//! a fixed size, summed in order ([`sum_blocks`]): their bits depend on no thread count.
//!
//! The pool in force is the one [`Pool::install`]ed on the calling thread, or else one for the whole process
//! with a thread per core. Loops inside a task run on the thread that met them, as do loops that meet a pool
//! busy with another thread's loop; there is nothing to deadlock on.

use std::any::Any;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::device::choice::THREADS;
use crate::{Error, Result};

/// How long a thread looks for work, or for the end of a loop, before it sleeps. It bridges the serial
/// stretches between the loops of one decoding step.
const SPIN: Duration = Duration::from_micros(100);

/// Blocks per thread in [`for_blocks`]: some slack for a thread that comes late, at little cost.
const BLOCKS_PER_THREAD: usize = 4;

/// The body of a loop, given the task's number.
type LoopBody<'a> = dyn Fn(usize) + Sync + 'a;

thread_local! {
    static CURRENT: RefCell<Option<Arc<Inner>>> = const { RefCell::new(None) };
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

/// A team of threads that runs the loops of this module.
pub struct Pool {
    inner: Arc<Inner>,
    workers: Vec<JoinHandle<()>>,
}

/// State that the threads of a pool share.
struct Inner {
    threads: usize,
    /// Whether waiting threads may spin: not when there are more of them than cores.
    spin: Duration,
    /// Number of tasks in the high half, the next one to take in the low half. Only a successful exchange
    /// here entitles a thread to read `task`.
    tickets: AtomicU64,
    /// Tasks of the current loop that have not returned.
    unfinished: AtomicUsize,
    /// Written by the owner of `owner` while no task is unfinished.
    task: UnsafeCell<Option<&'static LoopBody<'static>>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Held by the thread whose loop runs.
    owner: Mutex<()>,
    sleep: Mutex<()>,
    work: Condvar,
    done: Condvar,
    sleepers: AtomicUsize,
    owner_sleeps: AtomicBool,
    stop: AtomicBool,
}

// SAFETY: the only field that is not Sync by itself is `task`. It is written by the thread that holds
// `owner` while `unfinished` is 0, hence while no thread holds a ticket, and read only by holders of a
// ticket of the loop it belongs to; the exchange on `tickets` orders the write before the read, and the
// decrement of `unfinished` orders the read before the next write.
unsafe impl Sync for Inner {}
// SAFETY: as above; the reference in `task` is to a Sync closure.
unsafe impl Send for Inner {}

impl Pool {
    /// A pool of `threads` threads, the calling one included; 0 means one per core.
    ///
    /// # Errors
    /// [`Error::Usage`] for more threads than [`THREADS`] allows; [`Error::Other`] when the operating system refuses
    /// one.
    pub fn new(threads: usize) -> Result<Self> {
        THREADS.check("threads", &threads)?;
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = if threads == 0 { cores } else { threads };
        let inner = Arc::new(Inner {
            threads,
            spin: if threads <= cores { SPIN } else { Duration::ZERO },
            tickets: AtomicU64::new(0),
            unfinished: AtomicUsize::new(0),
            task: UnsafeCell::new(None),
            panic: Mutex::new(None),
            owner: Mutex::new(()),
            sleep: Mutex::new(()),
            work: Condvar::new(),
            done: Condvar::new(),
            sleepers: AtomicUsize::new(0),
            owner_sleeps: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let mut pool = Pool { inner, workers: Vec::new() };
        for i in 1..threads {
            let inner = Arc::clone(&pool.inner);
            let worker = std::thread::Builder::new()
                .name(format!("colar-cpu-{i}"))
                .spawn(move || inner.serve())
                .map_err(|e| Error::other(format!("cannot start thread {i} of {threads}: {e}")))?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// The number of threads that share a loop, the calling one included.
    pub fn threads(&self) -> usize {
        self.inner.threads
    }

    /// Runs `f` with this pool in force for the loops it meets on this thread.
    pub fn install<R>(&self, f: impl FnOnce() -> R) -> R {
        struct Restore(Option<Arc<Inner>>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        let _restore = Restore(CURRENT.replace(Some(Arc::clone(&self.inner))));
        f()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.inner.stop.store(true, Ordering::SeqCst);
        drop(lock(&self.inner.sleep));
        self.inner.work.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches its tasks' panics, so there is no failure to pass on.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.inner.threads).finish()
    }
}

/// Locks that guard no data, or data that is whole at every moment, stay good after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// The life of a worker thread.
    fn serve(&self) {
        IN_TASK.set(true);
        while !self.stop.load(Ordering::SeqCst) {
            self.take_tasks();
            if !self.spin_until(|| self.has_work()) {
                let mut guard = lock(&self.sleep);
                self.sleepers.fetch_add(1, Ordering::SeqCst);
                while !self.has_work() {
                    guard = self.work.wait(guard).unwrap_or_else(PoisonError::into_inner);
                }
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    fn has_work(&self) -> bool {
        let word = self.tickets.load(Ordering::SeqCst);
        (word & 0xffff_ffff) < (word >> 32) || self.stop.load(Ordering::SeqCst)
    }

    /// Spins until `ready` or until it is time to sleep; says which.
    fn spin_until(&self, ready: impl Fn() -> bool) -> bool {
        if ready() {
            return true;
        }
        if self.spin.is_zero() {
            return false;
        }
        let start = Instant::now();
        loop {
            for _ in 0..16 {
                std::hint::spin_loop();
                if ready() {
                    return true;
                }
            }
            if start.elapsed() > self.spin {
                return false;
            }
        }
    }

    /// Takes and runs tasks of whatever loop is current until none is left to take.
    fn take_tasks(&self) {
        let mut word = self.tickets.load(Ordering::Acquire);
        while (word & 0xffff_ffff) < (word >> 32) {
            match self.tickets.compare_exchange_weak(word, word + 1, Ordering::AcqRel, Ordering::Acquire) {
                Err(now) => word = now,
                Ok(_) => {
                    // SAFETY: the exchange gave this thread a ticket of the loop now current. Its owner
                    // neither returns nor writes `task` before `unfinished` counts this ticket as done.
                    let task = unsafe { *self.task.get() };
                    let run = AssertUnwindSafe(|| task.map(|task| task((word & 0xffff_ffff) as usize)));
                    if let Err(payload) = catch_unwind(run) {
                        lock(&self.panic).get_or_insert(payload);
                    }
                    if self.unfinished.fetch_sub(1, Ordering::SeqCst) == 1
                        && self.owner_sleeps.load(Ordering::SeqCst)
                    {
                        drop(lock(&self.sleep));
                        self.done.notify_all();
                    }
                    word = self.tickets.load(Ordering::Acquire);
                }
            }
        }
    }

    /// Runs `task` for 0..n as the owner of the loop.
    fn run(&self, n: u32, task: &LoopBody<'_>) {
        let _owner = match self.owner.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(guard)) => guard.into_inner(),
            Err(TryLockError::WouldBlock) => return (0..n as usize).for_each(task),
        };
        // SAFETY: only the lifetime changes. No thread uses the reference once `unfinished` is 0, and this
        // function does not return, nor unwind, before that.
        let task = unsafe { std::mem::transmute::<&LoopBody<'_>, &'static LoopBody<'static>>(task) };
        // SAFETY: this thread holds `owner` and no loop is under way, so no thread holds a ticket.
        unsafe { *self.task.get() = Some(task) };
        self.unfinished.store(n as usize, Ordering::SeqCst);
        self.tickets.store(u64::from(n) << 32, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.sleep));
            self.work.notify_all();
        }
        IN_TASK.set(true);
        self.take_tasks();
        IN_TASK.set(false);
        if !self.spin_until(|| self.unfinished.load(Ordering::SeqCst) == 0) {
            self.owner_sleeps.store(true, Ordering::SeqCst);
            let mut guard = lock(&self.sleep);
            while self.unfinished.load(Ordering::SeqCst) != 0 {
                guard = self.done.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            drop(guard);
            self.owner_sleeps.store(false, Ordering::SeqCst);
        }
        let payload = lock(&self.panic).take();
        if let Some(payload) = payload {
            resume_unwind(payload);
        }
    }
}

fn current() -> Arc<Inner> {
    static GLOBAL: OnceLock<Pool> = OnceLock::new();
    CURRENT.with_borrow(|current| match current {
        Some(inner) => Arc::clone(inner),
        None => {
            let global = GLOBAL.get_or_init(|| {
                // Without threads to be had, the calling one does the work alone.
                Pool::new(0)
                    .or_else(|_| Pool::new(1))
                    .unwrap_or_else(|_| unreachable!("one thread needs none"))
            });
            Arc::clone(&global.inner)
        }
    })
}

/// The number of threads that a loop met here would use: 1 inside a task.
pub fn threads() -> usize {
    if IN_TASK.get() { 1 } else { current().threads }
}

/// Runs `task(i)` once for every `i` in `0..n`, in parallel. Best for few, large and uneven tasks.
///
/// # Panics
/// With the panic of a task, after all others have ended.
pub fn for_tasks(n: usize, task: impl Fn(usize) + Sync) {
    if n <= 1 || IN_TASK.get() {
        return (0..n).for_each(task);
    }
    let pool = current();
    match u32::try_from(n) {
        Ok(tickets) if pool.threads > 1 => pool.run(tickets, &task),
        _ => (0..n).for_each(task),
    }
}

/// Cuts `0..n` into blocks of at least `grain` items (but for a shorter whole) and runs `body` on each.
///
/// The cut depends on the number of threads, so an item's result must not depend on its block.
pub fn for_blocks(n: usize, grain: usize, body: impl Fn(Range<usize>) + Sync) {
    if n == 0 {
        return;
    }
    let threads = threads();
    let most = if threads == 1 { 1 } else { threads * BLOCKS_PER_THREAD };
    let blocks = (n / grain.max(1)).clamp(1, most);
    let (each, longer) = (n / blocks, n % blocks);
    for_tasks(blocks, |i| {
        let start = i * each + i.min(longer);
        body(start..start + each + usize::from(i < longer));
    });
}

/// Cuts the rows of `data` (each `row_len` long) into blocks of at least `grain` rows and runs
/// `body(first_row, rows)` on each. The last row may be short; nothing runs when `row_len` is 0.
pub fn split_rows<T: Send>(
    data: &mut [T],
    row_len: usize,
    grain: usize,
    body: impl Fn(usize, &mut [T]) + Sync,
) {
    if row_len == 0 {
        return;
    }
    let len = data.len();
    let shared = SharedMut::new(data);
    for_blocks(len.div_ceil(row_len), grain, |rows| {
        let span = rows.start * row_len..(rows.end * row_len).min(len);
        // SAFETY: the blocks of one loop are disjoint, so are these spans.
        body(rows.start, unsafe { shared.slice(span) });
    });
}

/// Rows that a task should at least have, for rows of `cols` floats.
pub fn row_grain(cols: usize) -> usize {
    (8192 / cols.max(1)).max(1)
}

/// Divides the columns of one row among the threads, in cache lines.
pub fn split_columns(row: &mut [f32], body: impl Fn(usize, &mut [f32]) + Sync) {
    const LINE: usize = 16;
    split_rows(row, LINE, 2, |first, part| body(first * LINE, part));
}

/// The sum of `term` over blocks of `block` consecutive items of `0..n`, added in order. The bits do not
/// depend on the number of threads.
pub fn sum_blocks(n: usize, block: usize, term: impl Fn(Range<usize>) -> f64 + Sync) -> f64 {
    let block = block.max(1);
    let mut terms = vec![0.0; n.div_ceil(block)];
    split_rows(&mut terms, 1, 1, |first, terms| {
        for (i, t) in (first..).zip(terms) {
            *t = term(i * block..((i + 1) * block).min(n));
        }
    });
    terms.iter().sum()
}

/// A slice of which tasks write disjoint parts that no `chunks_mut` describes, such as one head's columns.
pub struct SharedMut<'a, T> {
    data: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out `&mut T` to other threads, never two to one element (the contract of `slice`).
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    /// Borrows `data` until the loop is over.
    pub fn new(data: &'a mut [T]) -> Self {
        SharedMut { data: data.as_mut_ptr(), len: data.len(), borrow: PhantomData }
    }

    /// A pointer to the first element of `range`, good for all of it, to reach a part with strides of its own.
    /// Two tasks must not reach one element through such pointers at the same time.
    ///
    /// # Panics
    /// When `range` does not lie in the slice.
    pub fn as_ptr_at(&self, range: Range<usize>) -> *mut T {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: in bounds as just checked.
        unsafe { self.data.add(range.start) }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// No two slices that live at the same time may share an element.
    ///
    /// # Panics
    /// When `range` does not lie in the slice.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: in bounds as just checked; unshared by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests;
