//! The device that the kernels are tested on: `cuda-host`, or with `COLAR_TEST_DEVICE=cuda` the GPU.
//!
//! It is chosen when the tests run, so that one binary tests both, and a run that asks for a GPU fails where none
//! is. Everything above [`Driver`] is the same code.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use colar_engine::device::cuda::CudaDevice;
use colar_engine::device::cuda::driver::{Driver, Launch, Limits, Memory, Operand, Product};
#[cfg(cuda_kernels)]
use colar_engine::device::cuda::gpu::{GpuDriver, GpuMemory};
use colar_engine::device::cuda::host::{HostDriver, HostMemory};
use colar_engine::device::{Description, Dtype, Room};
use colar_engine::{Error, Result};

use super::accesses;

/// A driver chosen at run time, perhaps with other limits than its own.
#[derive(Clone)]
pub struct TestDriver {
    chosen: Chosen,
    limits: Option<Limits>,
    asked: Arc<Asked>,
}

/// Counts of the calls to a driver, all its clones together.
#[derive(Default)]
pub struct Asked {
    /// Copies to the host, each of which waits for the device.
    pub downloads: AtomicU64,
    /// Roundings of float32 to bf16, matrix by matrix.
    pub conversions: AtomicU64,
    /// Floating-point operations of products.
    pub operations: AtomicU64,
}

impl Asked {
    /// Returns the count so far and resets it to 0.
    pub fn take(count: &AtomicU64) -> u64 {
        count.swap(0, Ordering::Relaxed)
    }
}

#[derive(Clone)]
enum Chosen {
    Host(HostDriver),
    #[cfg(cuda_kernels)]
    Gpu(GpuDriver),
}

/// Its memory.
pub enum TestMemory {
    Host(HostMemory),
    #[cfg(cuda_kernels)]
    Gpu(GpuMemory),
}

/// Whether the tests run on a GPU.
pub fn on_gpu() -> bool {
    match std::env::var("COLAR_TEST_DEVICE").as_deref() {
        Err(_) | Ok("cuda-host") => false,
        Ok("cuda") => true,
        Ok(other) => panic!("COLAR_TEST_DEVICE is {other}: neither cuda nor cuda-host"),
    }
}

/// The device with activations of `dtype`; on the CPU, `seed` decides the order of a block's threads.
pub fn kernels(dtype: Dtype, seed: u64) -> CudaDevice<TestDriver> {
    counted(dtype, seed).0
}

/// As [`kernels`], with the counts of the calls to the driver.
pub fn counted(dtype: Dtype, seed: u64) -> (CudaDevice<TestDriver>, Arc<Asked>) {
    let driver = TestDriver { chosen: choose(seed), limits: None, asked: Arc::default() };
    let asked = Arc::clone(&driver.asked);
    (CudaDevice::new(driver, dtype), asked)
}

/// As [`kernels`], with so many threads of the operating system where the CPU runs them.
pub fn threaded(dtype: Dtype, threads: usize, seed: u64) -> CudaDevice<TestDriver> {
    let chosen = if on_gpu() { gpu() } else { Chosen::Host(host(threads, seed)) };
    CudaDevice::new(TestDriver { chosen, limits: None, asked: Arc::default() }, dtype)
}

/// The device with less to offer a launch than it has.
pub fn limited(dtype: Dtype, seed: u64, limits: Limits) -> CudaDevice<TestDriver> {
    let chosen = match choose(seed) {
        Chosen::Host(driver) => Chosen::Host(driver.with_limits(limits)),
        #[cfg(cuda_kernels)]
        gpu => gpu,
    };
    let mut driver = TestDriver { chosen, limits: None, asked: Arc::default() };
    let most = driver.limits();
    driver.limits = Some(Limits {
        blocks: limits.blocks.min(most.blocks),
        shared: limits.shared.min(most.shared),
        threads: limits.threads.min(most.threads),
    });
    CudaDevice::new(driver, dtype)
}

fn choose(seed: u64) -> Chosen {
    if on_gpu() { gpu() } else { Chosen::Host(host(2, seed)) }
}

/// The CPU, which runs the kernels that are linked in or those whose accesses are seen.
fn host(threads: usize, seed: u64) -> HostDriver {
    if accesses::wanted() {
        // SAFETY: the library was compiled of the kernels of this tree, or of a copy of them.
        return unsafe { HostDriver::observing(seed, accesses::library()) }.unwrap();
    }
    HostDriver::new(threads, seed).unwrap()
}

#[cfg(cuda_kernels)]
fn gpu() -> Chosen {
    // One for all tests: each has scratch memory of its own.
    static GPU: std::sync::OnceLock<std::result::Result<GpuDriver, String>> = std::sync::OnceLock::new();
    match GPU.get_or_init(|| GpuDriver::new().map_err(|e| e.to_string())) {
        Ok(driver) => Chosen::Gpu(driver.clone()),
        Err(e) => panic!("{e}"),
    }
}

#[cfg(not(cuda_kernels))]
fn gpu() -> Chosen {
    panic!("COLAR_TEST_DEVICE is cuda, but there was no nvcc when these tests were built")
}

/// Evaluates an expression of whichever driver and memories there are.
macro_rules! each {
    ($driver:expr, $d:ident $(, $memory:expr, $m:ident)* => $e:expr) => {
        match (&$driver.chosen, $($memory),*) {
            (Chosen::Host($d), $(TestMemory::Host($m)),*) => $e,
            #[cfg(cuda_kernels)]
            (Chosen::Gpu($d), $(TestMemory::Gpu($m)),*) => $e,
            #[cfg(cuda_kernels)]
            #[allow(unreachable_patterns)]
            _ => panic!("a buffer of another driver"),
        }
    };
}

impl Memory for TestMemory {
    fn address(&self) -> u64 {
        match self {
            TestMemory::Host(m) => m.address(),
            #[cfg(cuda_kernels)]
            TestMemory::Gpu(m) => m.address(),
        }
    }

    fn len(&self) -> usize {
        match self {
            TestMemory::Host(m) => m.len(),
            #[cfg(cuda_kernels)]
            TestMemory::Gpu(m) => m.len(),
        }
    }
}

impl Driver for TestDriver {
    type Memory = TestMemory;

    fn name(&self) -> &'static str {
        each!(self, d => d.name())
    }

    fn limits(&self) -> Limits {
        self.limits.unwrap_or_else(|| each!(self, d => d.limits()))
    }

    fn description(&self) -> Description {
        each!(self, d => d.description())
    }

    fn time(&self, lead: impl FnOnce() -> Result<()>, f: impl FnOnce() -> Result<()>) -> Result<Duration> {
        each!(self, d => d.time(lead, f))
    }

    fn scope<R>(&self, f: impl FnOnce() -> R) -> R {
        each!(self, d => d.scope(f))
    }

    fn alloc(&self, bytes: usize) -> Result<TestMemory> {
        match &self.chosen {
            Chosen::Host(d) => d.alloc(bytes).map(TestMemory::Host),
            #[cfg(cuda_kernels)]
            Chosen::Gpu(d) => d.alloc(bytes).map(TestMemory::Gpu),
        }
    }

    fn keep(&self, bytes: usize) -> Result<TestMemory> {
        match &self.chosen {
            Chosen::Host(d) => d.keep(bytes).map(TestMemory::Host),
            #[cfg(cuda_kernels)]
            Chosen::Gpu(d) => d.keep(bytes).map(TestMemory::Gpu),
        }
    }

    fn room(&self) -> Result<Option<Room>> {
        each!(self, d => d.room())
    }

    fn peak_bytes(&self) -> Result<usize> {
        each!(self, d => d.peak_bytes())
    }

    fn reserve(&self, bytes: usize) -> Result<()> {
        each!(self, d => d.reserve(bytes))
    }

    fn upload(&self, to: &TestMemory, bytes: &[u8]) -> Result<()> {
        each!(self, d, to, to => d.upload(to, bytes))
    }

    fn download(&self, from: &TestMemory, bytes: &mut [u8]) -> Result<()> {
        self.asked.downloads.fetch_add(1, Ordering::Relaxed);
        each!(self, d, from, from => d.download(from, bytes))
    }

    fn copy(&self, from: &TestMemory, to: &TestMemory, bytes: usize) -> Result<()> {
        each!(self, d, from, from, to, to => d.copy(from, to, bytes))
    }

    fn zero(&self, memory: &TestMemory) -> Result<()> {
        each!(self, d, memory, m => d.zero(m))
    }

    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        if launch.kernel.name == "convert_f32_bf16" {
            self.asked.conversions.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is the same.
        let launched = each!(self, d => unsafe { d.launch(launch) });
        launched.map_err(|e| {
            if accesses::wanted() { Error::other(accesses::with_lines(&e.to_string())) } else { e }
        })
    }

    fn product(&self, p: &Product<'_, TestMemory>) -> Result<()> {
        self.asked.operations.fetch_add(2 * (p.m * p.n * p.k) as u64, Ordering::Relaxed);
        each!(self, d, p.a.memory, a, p.b.memory, b, p.y.memory, y => d.product(&Product {
            form: p.form,
            m: p.m,
            n: p.n,
            k: p.k,
            alpha: p.alpha,
            beta: p.beta,
            a: Operand { memory: a, from: p.a.from },
            b: Operand { memory: b, from: p.b.from },
            y: Operand { memory: y, from: p.y.from },
            dtype: p.dtype,
            out: p.out,
        }))
    }
}
