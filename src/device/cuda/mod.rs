//! The CUDA device: hand-written kernels and their launches, over any [`Driver`].
//!
//! One implementation of [`Device`] serves the GPU and `host`, which runs the same kernels on the CPU. Each
//! file of operations here stands beside a file of `cuda/` and does the work that a kernel cannot: it checks shapes and
//! dtypes, chooses the form of the kernel and cuts the work into blocks. The cut depends on shapes alone, so
//! equal inputs give equal bits.

mod activation;
#[cfg_attr(not(cuda_kernels), allow(dead_code, reason = "memory on the host is guarded, buffer by buffer"))]
mod arena;
mod attention;
mod attention_backward;
mod cross_entropy;
mod decoder;
mod draw;
pub mod driver;
mod dropout;
mod flash;
mod flash_backward;
#[cfg(cuda_kernels)]
pub mod gpu;
#[cfg(cuda_host)]
pub mod host;
#[cfg(cuda_host)]
pub mod kernel_list;
pub mod kernels;
mod latent;
mod matmul;
mod memory;
mod norm;
mod optimizer;
mod policy;
mod rotary;
mod rows;
mod sampling;
mod tensor;
mod tiles;

pub use decoder::CudaDecoder;
pub use tensor::{CudaIndex, CudaTensor};

use driver::{Arg, Driver, Launch};
use kernels::Kernel;

use std::time::Duration;

use super::{Description, Device, Dtype, RowForm};
use crate::{Error, Result};

/// Most threads of a block that takes one row.
const ROW_THREADS: usize = 256;

/// Floats of logits that are alive at once, unless a single row has more: 64 MiB.
const LOGITS_FLOATS: usize = 16 << 20;

/// Floats of logits that a chunk of the cross-entropy may take where gradients are wanted: 512 MiB, a thousand rows of
/// the largest vocabularies. Their gradient takes as much again, or half of it in bf16.
const LOSS_FLOATS: usize = 128 << 20;

/// Most blocks of an elementwise loop: some for every multiprocessor, which then go round.
const ELEMENT_BLOCKS: usize = 2048;

/// A device that runs the kernels of `cuda/` by way of a driver.
#[derive(Debug, Clone)]
pub struct CudaDevice<R: Driver> {
    driver: R,
    compute: Dtype,
    /// Floats of logits that a chunk of the cross-entropy may take.
    loss_floats: usize,
    form: RowForm,
}

/// The kernels on the CPU.
#[cfg(cuda_host)]
pub type CudaHostDevice = CudaDevice<host::HostDriver>;

#[cfg(cuda_host)]
impl CudaHostDevice {
    /// `cuda-host` with activations of float32, `threads` threads of the operating system (0: one a core), and
    /// `seed` for the order in which the threads of a block run.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn on_host(threads: usize, seed: u64) -> Result<Self> {
        Ok(CudaDevice::new(host::HostDriver::new(threads, seed)?, Dtype::F32))
    }
}

/// The kernels on a GPU.
#[cfg(cuda_kernels)]
pub type GpuDevice = CudaDevice<gpu::GpuDriver>;

#[cfg(cuda_kernels)]
impl GpuDevice {
    /// The first GPU, with activations of bf16.
    ///
    /// # Errors
    /// As [`GpuDriver::new`](gpu::GpuDriver::new).
    pub fn on_gpu() -> Result<Self> {
        Ok(CudaDevice::new(gpu::GpuDriver::new()?, Dtype::Bf16))
    }
}

/// How many blocks or rows, as launches count them.
fn count32(op: &'static str, n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| Error::Shape { op, what: format!("{n} is more than a launch can count") })
}

/// Threads of a block that takes a row of logits: with some columns for each, so that a small vocabulary does not
/// wait at barriers in vain.
fn row_threads(vocab: usize) -> u32 {
    (vocab / 8).next_multiple_of(32).clamp(32, 1024) as u32
}

impl<R: Driver> CudaDevice<R> {
    /// A device over a driver, with activations of `compute`: float32, or bf16 with float32 accumulation.
    pub fn new(driver: R, compute: Dtype) -> Self {
        let compute = if compute == Dtype::Bf16 { Dtype::Bf16 } else { Dtype::F32 };
        CudaDevice { driver, compute, loss_floats: LOSS_FLOATS, form: RowForm::ByCount }
    }

    /// The device with other chunks of the cross-entropy: as many rows of logits at once as fit `floats` float32
    /// numbers, or one.
    pub fn with_loss_chunks(self, floats: usize) -> Self {
        CudaDevice { loss_floats: floats, ..self }
    }

    /// Launches a kernel unless there is nothing to do.
    ///
    /// # Safety
    /// As [`Driver::launch`].
    unsafe fn launch(
        &self,
        kernel: &'static Kernel,
        grid: [u32; 2],
        block: u32,
        shared: u32,
        args: &[Arg],
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        let most = self.driver.limits().shared;
        if shared > most {
            let what = format!("a block would need {shared} bytes of shared memory, the device gives {most}");
            return Err(Error::Shape { op: kernel.name, what });
        }
        // SAFETY: the caller's promise is the same.
        unsafe { self.driver.launch(&Launch { kernel, grid, block, shared, args, together: false }) }
    }

    /// Launches a kernel of which each block takes one of `rows` rows of `cols` columns.
    ///
    /// # Safety
    /// As [`Driver::launch`].
    unsafe fn launch_rows(
        &self,
        op: &'static str,
        kernel: &'static Kernel,
        rows: usize,
        cols: usize,
        args: &[Arg],
    ) -> Result<()> {
        let threads = cols.next_multiple_of(32).clamp(32, ROW_THREADS);
        // SAFETY: the caller's promise is the same.
        unsafe { self.launch(kernel, [count32(op, rows)?, 1], threads as u32, 0, args) }
    }

    /// Launches a kernel whose threads go round over `n` elements.
    ///
    /// # Safety
    /// As [`Driver::launch`].
    unsafe fn launch_elements(&self, kernel: &'static Kernel, n: usize, args: &[Arg]) -> Result<()> {
        let blocks = n.div_ceil(ROW_THREADS).min(ELEMENT_BLOCKS) as u32;
        // SAFETY: the caller's promise is the same.
        unsafe { self.launch(kernel, [blocks, 1], ROW_THREADS as u32, 0, args) }
    }
}

impl<R: Driver> Device for CudaDevice<R> {
    fn name(&self) -> &'static str {
        self.driver.name()
    }

    fn description(&self) -> Description {
        self.driver.description()
    }

    fn time(&self, lead: impl FnOnce() -> Result<()>, f: impl FnOnce() -> Result<()>) -> Result<Duration> {
        self.driver.time(lead, f)
    }

    fn scope<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.driver.scope(f)
    }

    fn in_form(&self, form: RowForm) -> Self {
        CudaDevice { form, ..self.clone() }
    }

    fn compute_dtype(&self) -> Dtype {
        self.compute
    }
}
