//! The driver behind `cuda-host`: CUDA's kernels on the CPU.
//!
//! For tests of every kernel and of all launch code where no GPU is. A launch checks its arguments against the
//! kernel's own parameters, every pointer against the buffers alive; blocks spread over threads, a block's threads
//! are coroutines (`block`), buffers and shared memory are guarded and poisoned (`memory`). So a kernel that
//! reads or writes where it should not, reads memory that nothing wrote, or lacks a barrier fails here. It is no way to
//! run a model of any size.

mod block;
pub mod faults;
pub mod machine_code;
mod memory;
mod observed;
pub mod observed_library;
pub mod predict;
mod segv;
pub mod traffic;
pub mod twins;

use std::ffi::{CStr, c_void};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use half::bf16;

pub use memory::HostMemory;

use block::{Code, Dim, Job};
use memory::Registry;
use observed::Observed;
use traffic::Traffic;

use super::driver::{ALONE_THREADS, Arg, Driver, Launch, Limits, Memory, Product, ProductForm};
use crate::device::cpu::mat::Mat;
use crate::device::cpu::matmul::{matmul_nn, matmul_nt_in, matmul_tn};
use crate::device::cpu::par::{self, Pool};
use crate::device::cpu::processor;
use crate::device::{Description, Dtype, Room, RowForm};
use crate::{Error, Result};

/// Most bytes of shared memory of a block, as on sm_90.
const MAX_SHARED: u32 = 227 << 10;

/// The driver; clones share threads and memory.
#[derive(Debug, Clone)]
pub struct HostDriver {
    pool: Arc<Pool>,
    registry: Arc<Registry>,
    seed: u64,
    limits: Limits,
    launches: Arc<AtomicU64>,
    reserved: Arc<AtomicUsize>,
    /// Whether kernels run, or are only checked.
    runs: bool,
    /// Kernels whose accesses are seen, in place of those that are linked in.
    observed: Option<Arc<Observed>>,
    /// Where the traffic of launches is counted, and of how many of their blocks.
    counts: Option<(Arc<Mutex<Vec<Traffic>>>, u32)>,
}

impl HostDriver {
    /// A driver with `threads` threads of the operating system, 0 for one a core; `seed` decides the order in
    /// which the threads of each block run.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn new(threads: usize, seed: u64) -> Result<Self> {
        segv::install();
        let pool = Arc::new(Pool::new(threads)?);
        // Few blocks of few threads: each thread is a coroutine.
        let limits = Limits { blocks: 3, shared: MAX_SHARED, threads: 64 };
        Ok(HostDriver {
            pool,
            registry: Arc::default(),
            seed,
            limits,
            launches: Arc::default(),
            reserved: Arc::default(),
            runs: true,
            observed: None,
            counts: None,
        })
    }

    /// As [`new`](HostDriver::new), with no more than `bytes` bytes of memory, as a GPU has its own.
    ///
    /// # Errors
    /// As [`new`](HostDriver::new).
    pub fn limited(threads: usize, seed: u64, bytes: usize) -> Result<Self> {
        Ok(HostDriver { registry: Arc::new(Registry::limited(bytes)), ..Self::new(threads, seed)? })
    }

    /// The most bytes that buffers ever had together.
    pub fn most_bytes(&self) -> usize {
        self.registry.most()
    }

    /// The most bytes that were asked to be set aside for a run.
    pub fn reserved_bytes(&self) -> usize {
        self.reserved.load(Ordering::Relaxed)
    }

    /// The driver with other limits, for tests of code that depends on them.
    pub fn with_limits(self, limits: Limits) -> Self {
        HostDriver { limits, ..self }
    }

    /// The driver with launches that are checked and not run, which leaves their results as they were: so launches
    /// of any size can be held against the limits of a GPU.
    pub fn checking_only(self) -> Self {
        HostDriver { runs: false, ..self }
    }

    /// A driver of one thread that runs the kernels of a library which sees their accesses, and reports those that no
    /// barrier orders as faults of the launch.
    ///
    /// # Safety
    /// The file is a library that [`compile`](observed_library::compile) made of these kernels, for
    /// [`Barriers`](observed_library::Instrument::Barriers).
    ///
    /// # Errors
    /// [`Error::File`] for a file that cannot be loaded.
    pub unsafe fn observing(seed: u64, library: &Path) -> Result<Self> {
        // SAFETY: the caller's promise is the same.
        let observed = unsafe { Observed::load(library) }?;
        Ok(HostDriver { observed: Some(Arc::new(observed)), ..Self::new(1, seed)? })
    }

    /// A driver with the multiprocessors of an H100 that counts what launches move, on a library that sees their accesses. Where
    /// all blocks wait for each other, each has half the threads that it would have on a GPU: a process may not map as many
    /// stacks. Of
    /// blocks that do not wait for each other it sees `blocks` of each launch, spread over the grid; the others run as the
    /// kernels that are linked in.
    ///
    /// # Safety
    /// As [`observing`](HostDriver::observing), for [`Traffic`](observed_library::Instrument::Traffic).
    ///
    /// # Errors
    /// As [`observing`](HostDriver::observing).
    pub unsafe fn counting(threads: usize, library: &Path, blocks: u32) -> Result<Self> {
        // SAFETY: the caller's promise is the same.
        let observed = unsafe { Observed::load(library) }?;
        let counts = Some((Arc::default(), blocks.max(1)));
        let limits =
            Limits { blocks: predict::MULTIPROCESSORS, shared: MAX_SHARED, threads: ALONE_THREADS / 2 };
        Ok(HostDriver { observed: Some(Arc::new(observed)), counts, limits, ..Self::new(threads, 0)? })
    }

    /// The traffic of the launches since the last call, in their order; none if they are not counted.
    pub fn take_traffic(&self) -> Vec<Traffic> {
        let Some((counts, _)) = &self.counts else { return Vec::new() };
        std::mem::take(&mut *counts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a block of a launch of so many is one of those whose accesses are seen.
    fn sees(&self, block: usize, blocks: usize) -> bool {
        match &self.counts {
            // As many in every part of the grid: the i-th is the first block of the i-th of equal parts.
            Some((_, wanted)) => {
                let wanted = (*wanted as usize).min(blocks);
                block * wanted % blocks < wanted
            }
            None => self.observed.is_some(),
        }
    }

    /// Checks a launch against the kernel's declaration, its machine code, and the buffers alive.
    fn check(&self, launch: &Launch<'_>) -> std::result::Result<(), String> {
        // SAFETY: without arguments the entry point returns a static of the library.
        let signature = unsafe { &*(launch.kernel.entry)(std::ptr::null()) };
        // SAFETY: a string literal of the library.
        let wanted = unsafe { CStr::from_ptr(signature.codes) }.to_bytes();
        let given: Vec<u8> = launch.args.iter().map(|a| a.code()).collect();
        if wanted != given {
            let show = |codes: &[u8]| String::from_utf8_lossy(codes).into_owned();
            return Err(format!("takes parameters {}, was given {}", show(wanted), show(&given)));
        }
        if launch.block == 0 || !launch.block.is_multiple_of(32) || launch.block > signature.threads {
            return Err(format!(
                "{} threads a block, at most {} in whole warps",
                launch.block, signature.threads
            ));
        }
        if launch.shared > MAX_SHARED {
            return Err(format!("{} bytes of shared memory, at most {MAX_SHARED}", launch.shared));
        }
        machine_code::fits(launch, self.limits)?;
        if launch.grid[0] > i32::MAX as u32 || launch.grid[1] > 65_535 {
            return Err(format!("a grid of {:?} blocks", launch.grid));
        }
        for (i, arg) in launch.args.iter().enumerate() {
            if let Arg::Pointer(at) = *arg
                && at != 0
                && !self.registry.holds(at as usize)
            {
                return Err(format!("parameter {i} is no buffer's address"));
            }
        }
        Ok(())
    }

    fn run(&self, launch: &Launch<'_>) -> std::result::Result<(), String> {
        if launch.together && launch.grid[0] * launch.grid[1] > self.limits.blocks {
            return Err(format!("{:?} blocks together, at most {}", launch.grid, self.limits.blocks));
        }
        let values: Vec<u64> = launch.args.iter().map(|a| a.bits()).collect();
        let args: Vec<*mut c_void> = values.iter().map(|v| std::ptr::from_ref(v).cast_mut().cast()).collect();
        let args = Args(&args);
        let [x, y] = launch.grid;
        let grid = Dim { x, y, z: 1 };
        let number = self.launches.fetch_add(1, Ordering::Relaxed);
        let fault = Mutex::new(None);
        let args = &args;
        let linked = Code::linked(launch.kernel.entry);
        let observed = self.observed.as_ref().map(|observed| observed.code(launch.kernel)).transpose()?;
        let blocks = x as usize * y as usize;
        let observation = self.observed.as_ref().map(|o| o.begin(launch, &self.registry.ranges()));
        let job = |i: usize| {
            let index = Dim { x: i as u32 % x, y: i as u32 / x, z: 0 };
            // Odd multipliers keep neighbouring seeds apart.
            let seed = self.seed
                ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
                ^ (i as u64).wrapping_mul(0xD1B5_4A32_D192_ED03);
            let (threads, shared) = (launch.block, launch.shared);
            let seen = launch.together || self.sees(i, blocks);
            let code = observed.filter(|_| seen).unwrap_or(linked);
            Job { code, args: args.get(), grid, index, threads, shared, seed }
        };
        let note = |outcome: std::result::Result<(), String>| {
            if let Err(what) = outcome {
                fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
            }
        };
        if launch.together {
            let jobs: Vec<Job<'_>> = (0..blocks).map(job).collect();
            segv::naming(launch.kernel, || note(block::run_together(&jobs, self.seed ^ number)));
        } else {
            let run = |i| segv::naming(launch.kernel, || note(block::run(&job(i))));
            // The library of observed kernels takes one block at a time.
            (0..blocks).filter(|&i| self.sees(i, blocks)).for_each(run);
            par::for_tasks(blocks, |i| {
                if !self.sees(i, blocks) {
                    run(i);
                }
            });
        }
        let report = observation.and_then(observed::Observation::end);
        if let Some(what) = fault.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(what);
        }
        match (report, &self.counts) {
            (Some(unordered), None) => return Err(unordered),
            (Some(report), Some((counts, _))) => {
                let traffic = Traffic::read_report(launch, &report)?;
                counts.lock().unwrap_or_else(PoisonError::into_inner).push(traffic);
            }
            (None, _) => {}
        }
        for (i, arg) in launch.args.iter().enumerate() {
            if let Arg::Pointer(at) = *arg
                && !self.registry.intact(at as usize)
            {
                return Err(format!("wrote past the end of the buffer of parameter {i}"));
            }
        }
        Ok(())
    }
}

/// Pointers to parameters, which threads only read.
struct Args<'a>(&'a [*mut c_void]);

impl<'a> Args<'a> {
    fn get(&self) -> &'a [*mut c_void] {
        self.0
    }
}

// SAFETY: the parameters behind the pointers are not written while a launch runs.
unsafe impl Sync for Args<'_> {}

impl Driver for HostDriver {
    type Memory = HostMemory;

    fn name(&self) -> &'static str {
        "cuda-host"
    }

    fn description(&self) -> Description {
        let threads = self.pool.threads();
        Description { hardware: format!("{}, {threads} threads", processor()), driver: None }
    }

    fn time(&self, lead: impl FnOnce() -> Result<()>, f: impl FnOnce() -> Result<()>) -> Result<Duration> {
        lead()?;
        let start = Instant::now();
        f()?;
        Ok(start.elapsed())
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn scope<R>(&self, f: impl FnOnce() -> R) -> R {
        self.pool.install(f)
    }

    fn alloc(&self, bytes: usize) -> Result<HostMemory> {
        HostMemory::new(bytes, &self.registry)
    }

    fn keep(&self, bytes: usize) -> Result<HostMemory> {
        self.alloc(bytes)
    }

    fn room(&self) -> Result<Option<Room>> {
        Ok(self.registry.room())
    }

    fn peak_bytes(&self) -> Result<usize> {
        Ok(self.most_bytes())
    }

    /// Sets nothing aside: within one block a stray access would meet another buffer instead of a guard.
    fn reserve(&self, bytes: usize) -> Result<()> {
        self.reserved.fetch_max(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn upload(&self, to: &HostMemory, bytes: &[u8]) -> Result<()> {
        // SAFETY: launches are over when they return, so nothing uses the buffer; the slice checks its length.
        unsafe { to.slice_mut::<u8>(bytes.len()) }.copy_from_slice(bytes);
        Ok(())
    }

    fn download(&self, from: &HostMemory, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: as above.
        bytes.copy_from_slice(unsafe { from.slice::<u8>(bytes.len()) });
        Ok(())
    }

    fn copy(&self, from: &HostMemory, to: &HostMemory, bytes: usize) -> Result<()> {
        // SAFETY: as above; a tensor owns its buffer, so the one that is written is not the other.
        unsafe { to.slice_mut::<u8>(bytes) }.copy_from_slice(unsafe { from.slice::<u8>(bytes) });
        Ok(())
    }

    fn zero(&self, memory: &HostMemory) -> Result<()> {
        // SAFETY: as above.
        unsafe { memory.slice_mut::<u8>(memory.len()) }.fill(0);
        Ok(())
    }

    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        self.check(launch)
            .and_then(|()| if self.runs { self.run(launch) } else { Ok(()) })
            .map_err(|what| Error::other(format!("cuda-host: kernel {}: {what}", launch.kernel.name)))
    }

    fn product(&self, p: &Product<'_, HostMemory>) -> Result<()> {
        let Product { m, n, k, .. } = *p;
        let (a_len, b_len, y_len) = (p.a.from + m * k, p.b.from + n * k, p.y.from + m * n);
        if p.dtype == Dtype::F32 {
            // SAFETY: as in `upload`; `y` is the one that is written, and no other operand is the same buffer.
            let (a, b, y) =
                unsafe { (p.a.memory.slice(a_len), p.b.memory.slice(b_len), p.y.memory.slice_mut(y_len)) };
            multiply(p, &a[p.a.from..], Mat::F32(&b[p.b.from..]), &mut y[p.y.from..]);
            return Ok(());
        }
        // SAFETY: as above.
        let (a, b) = unsafe { (p.a.memory.slice::<bf16>(a_len), p.b.memory.slice::<bf16>(b_len)) };
        let a: Vec<f32> = a[p.a.from..].iter().map(|x| x.to_f32()).collect();
        let b = Mat::Bf16(&b[p.b.from..]);
        if p.out == Dtype::F32 {
            // SAFETY: as above.
            let y = unsafe { p.y.memory.slice_mut(y_len) };
            multiply(p, &a, b, &mut y[p.y.from..]);
            return Ok(());
        }
        // SAFETY: as above.
        let y = &mut unsafe { p.y.memory.slice_mut::<bf16>(y_len) }[p.y.from..];
        let mut wide: Vec<f32> = y.iter().map(|y| if p.beta == 0.0 { 0.0 } else { y.to_f32() }).collect();
        multiply(p, &a, b, &mut wide);
        y.iter_mut().zip(wide).for_each(|(y, wide)| *y = bf16::from_f32(wide));
        Ok(())
    }
}

/// The product's arithmetic, by that of the CPU, which counts rows and columns from the layer's point of view. Rows that
/// the device gives to its library are many, however few.
fn multiply(p: &Product<'_, HostMemory>, a: &[f32], b: Mat<'_>, y: &mut [f32]) {
    let Product { m, n, k, alpha, beta, .. } = *p;
    match p.form {
        ProductForm::Nt => matmul_nt_in(RowForm::Many, m, n, k, alpha, a, b, beta, y),
        ProductForm::Nn => matmul_nn(m, k, n, alpha, a, b, beta, y),
        ProductForm::Tn => {
            let wide: Vec<f32>;
            let b = match b {
                Mat::F32(b) => b,
                Mat::Bf16(b) => {
                    wide = b.iter().map(|x| x.to_f32()).collect();
                    &wide
                }
                Mat::F16(b) => {
                    wide = b.iter().map(|x| x.to_f32()).collect();
                    &wide
                }
            };
            matmul_tn(k, m, n, alpha, a, b, beta, y);
        }
    }
}
