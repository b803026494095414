//! The CPU device: the oracle for kernels, and the engine on machines without a GPU.
//!
//! Arithmetic is float32 throughout; frozen weights stay in the dtype of their mapped file and are
//! widened on the way into the product. Loops are plain and vectorised by the compiler for the
//! instruction set found at run time ([`simd`], [`level`]); matrix products with many rows are
//! [`matmul`]'s, those with few rows [`gemv`]'s. All threads come from [`par`].

mod activation;
pub mod attention;
mod buffer;
mod cross_entropy;
mod decoder;
mod dropout;
pub mod gemv;
mod latent;
pub mod level;
pub mod mat;
pub mod math;
pub mod matmul;
mod memory;
mod norm;
mod optimizer;
mod panels;
pub mod par;
mod policy;
pub mod product;
mod rotary;
mod rows;
mod sampling;
pub mod simd;
#[cfg(test)]
mod testing;
pub mod transpose;

use std::sync::Arc;

pub use buffer::CpuTensor;

use buffer::Shelf;

use super::{Description, Device, Dtype, RowForm};
use crate::Result;

/// The CPU, with a team of threads and a store of reusable buffers. Clones share both.
#[derive(Debug, Clone)]
pub struct CpuDevice {
    pool: Arc<par::Pool>,
    shelf: Arc<Shelf>,
    form: RowForm,
}

/// Indices of the CPU device: a plain vector.
pub type CpuIndex = Vec<u32>;

impl CpuDevice {
    /// A device with `threads` threads; 0 means one for each core.
    ///
    /// # Errors
    /// More than [`THREADS`](super::THREADS) allows, a thread that the operating system refuses, or an instruction set in `COLAR_SIMD`
    /// that the processor lacks.
    pub fn new(threads: usize) -> Result<Self> {
        level::level()?;
        Ok(CpuDevice {
            pool: Arc::new(par::Pool::new(threads)?),
            shelf: Arc::default(),
            form: RowForm::ByCount,
        })
    }

    /// The number of threads in use.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }
}

/// The processor's name, where the operating system tells it.
pub(crate) fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name"));
    let name = name.map(|rest| rest.trim_start_matches([' ', '\t', ':']).trim());
    name.unwrap_or(std::env::consts::ARCH).to_owned()
}

impl Device for CpuDevice {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn description(&self) -> Description {
        // `CpuDevice::new` has seen that there is a level.
        let level = level::level().map_or("", |level| level.name());
        let threads = self.threads();
        Description { hardware: format!("{}, {level}, {threads} threads", processor()), driver: None }
    }

    fn scope<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.pool.install(f)
    }

    fn in_form(&self, form: RowForm) -> Self {
        CpuDevice { form, ..self.clone() }
    }

    fn compute_dtype(&self) -> Dtype {
        Dtype::F32
    }
}
