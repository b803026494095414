//! Timings of a device's single operations, each beside the ceilings of the same device.
//!
//! Two ceilings are measured first: a large copy (memory) and a large product of the device's compute dtype
//! (arithmetic). The share of a row is the time that its bytes and operations would take at these ceilings,
//! whichever is longer, over the time it took.

#[cfg(cuda_host)]
pub mod counts;
mod operands;
mod table;

use serde::Serialize;

use super::setting::Setting;
use super::timer::{Timer, Timing, Work};
use crate::device::Device;
use crate::model::config::ModelConfig;
use crate::{Error, Result};
use operands::activations;
pub use table::{Case, table};

/// Bytes of the buffer whose copy is timed, for a large model.
const COPY: u64 = 512 << 20;

/// Rows, columns and inner width of the product that is timed, for a large model.
const PRODUCT: usize = 8192;

/// Seconds after which a product is large enough.
const LONG_PRODUCT: f64 = 0.05;

/// Least seconds for a ceiling, of whose batches the fastest counts.
const CEILING_SECONDS: f64 = 0.05;

/// Settings of the measurement.
#[derive(Debug, Clone)]
pub struct KernelOptions {
    /// The model whose shapes are taken.
    pub config: ModelConfig,
    /// Part of the names of the operations wanted.
    pub filter: Option<String>,
    /// Seconds a row; 0 takes one batch of calls.
    pub seconds: f64,
}

/// The ceilings of a device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ceilings {
    /// A large copy: bytes read and written, 1e9 a second.
    pub copy_gb_per_s: f64,
    /// Bytes that were copied.
    pub copy_bytes: u64,
    /// A large product: operations, a multiply-add counting as two, 1e12 a second.
    pub product_tflop_per_s: f64,
    /// Its rows, columns and inner width.
    pub product_size: usize,
    /// Its dtype, that of all activations.
    pub product_dtype: String,
}

/// The ceiling that limits an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Its bytes, at the speed of a copy.
    Memory,
    /// Its operations, at the speed of a product.
    Arithmetic,
}

/// A measured row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KernelRow {
    /// The operation.
    pub operation: &'static str,
    /// Shapes.
    pub shape: String,
    /// Time of a call.
    #[serde(flatten)]
    pub timing: Timing,
    /// Bytes read and written at least.
    pub bytes: u64,
    /// Operations, a multiply-add counting as two; 0 where they do not matter.
    pub operations: u64,
    /// Bytes over time, 1e9 a second. Above the ceiling where operands stay in a cache or, for the event of a
    /// token, were not needed.
    pub gb_per_s: f64,
    /// Operations over time, 1e12 a second.
    pub tflop_per_s: f64,
    /// The ceiling that is nearer.
    pub bound: Bound,
    /// The time at that ceiling over the time it took.
    pub share: f64,
}

/// The whole measurement.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KernelReport {
    /// Device, date and build.
    #[serde(flatten)]
    pub setting: Setting,
    /// The ceilings of the device.
    pub ceilings: Ceilings,
    /// The rows.
    pub rows: Vec<KernelRow>,
}

/// The best speed of a copy of `bytes` bytes, read and written bytes counted, in 1e9 a second.
///
/// # Errors
/// Errors of the device.
pub fn copy_ceiling<D: Device>(timer: &mut Timer<D>, bytes: u64, seconds: f64) -> Result<f64> {
    const COLS: usize = 1024;
    let rows = usize::try_from(bytes).unwrap_or(usize::MAX).div_ceil(COLS * size_of::<f32>());
    let from = timer.device().zeros(rows, COLS)?;
    let mut to = timer.device().zeros(rows, COLS)?;
    let mut work: Work<D> = Box::new(move |device, _| device.copy(&from, &mut to));
    let timing = timer.measure(seconds.max(CEILING_SECONDS), &mut work)?;
    Ok(2e-3 * (rows * COLS * size_of::<f32>()) as f64 / timing.min_us)
}

/// The best rate of a large product.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Product {
    /// Operations, a multiply-add counting as two, 1e12 a second.
    pub tflop_per_s: f64,
    /// Its rows, columns and inner width.
    pub size: usize,
    /// Its dtype, that of all activations.
    pub dtype: String,
}

/// The best rate of a product, as large as a short measurement allows.
///
/// # Errors
/// Errors of the device.
pub fn product_ceiling<D: Device>(
    timer: &mut Timer<D>,
    config: &ModelConfig,
    seconds: f64,
) -> Result<Product> {
    let most = (4 * config.hidden_size).next_power_of_two().min(PRODUCT);
    let mut n = 256.min(most);
    loop {
        let device = timer.device();
        let [x, w] = [activations(device, n, n, 0)?, activations(device, n, n, 1)?];
        let (mut y, dtype) = (device.empty(n, n)?, device.compute_dtype());
        let mut work: Work<D> = Box::new(move |device, _| device.matmul_nt(1.0, &x, &w, 0.0, &mut y));
        let timing = timer.measure(seconds.max(CEILING_SECONDS), &mut work)?;
        if n >= most || timing.min_us > 1e6 * LONG_PRODUCT {
            let tflop_per_s = 2e-6 * (n as f64).powi(3) / timing.min_us;
            return Ok(Product { tflop_per_s, size: n, dtype: dtype.to_string() });
        }
        n *= 2;
    }
}

/// Bytes of the copy that is timed for a model of this many weights: as many as it has, within reason.
pub fn copy_bytes(config: &ModelConfig) -> u64 {
    (2 * config.num_parameters()).clamp(COPY / 32, COPY)
}

impl Ceilings {
    /// Measures both.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn measure<D: Device>(timer: &mut Timer<D>, config: &ModelConfig, seconds: f64) -> Result<Self> {
        let copy_bytes = copy_bytes(config);
        let copy_gb_per_s = copy_ceiling(timer, copy_bytes, seconds)?;
        let Product { tflop_per_s, size, dtype } = product_ceiling(timer, config, seconds)?;
        Ok(Ceilings {
            copy_gb_per_s,
            copy_bytes,
            product_tflop_per_s: tflop_per_s,
            product_size: size,
            product_dtype: dtype,
        })
    }

    fn row<D: Device>(&self, case: &Case<D>, timing: Timing) -> KernelRow {
        let (bytes, operations) = (case.bytes as f64, case.operations as f64);
        // 1e9 bytes a second are 1e3 a microsecond.
        let in_memory = bytes / (1e3 * self.copy_gb_per_s);
        let in_arithmetic = operations / (1e6 * self.product_tflop_per_s);
        let (bound, floor) = if in_arithmetic > in_memory {
            (Bound::Arithmetic, in_arithmetic)
        } else {
            (Bound::Memory, in_memory)
        };
        KernelRow {
            operation: case.operation,
            shape: case.shape.clone(),
            timing,
            bytes: case.bytes,
            operations: case.operations,
            gb_per_s: 1e-3 * bytes / timing.median_us,
            tflop_per_s: 1e-6 * operations / timing.median_us,
            bound,
            share: floor / timing.median_us,
        }
    }
}

/// Measures the ceilings and each row whose name has the filter in it; calls `started` with the ceilings and
/// `measured` with each row once it is measured.
///
/// # Errors
/// [`Error::Usage`] if no row has the filter in its name; errors of the device.
pub fn kernels<D: Device>(
    device: &D,
    options: &KernelOptions,
    started: &mut (dyn FnMut(&Setting, &Ceilings) + Send),
    measured: &mut (dyn FnMut(&KernelRow) + Send),
) -> Result<KernelReport> {
    device.scope(|| {
        let filter = options.filter.as_deref().unwrap_or_default();
        let mut cases = table(device, &options.config);
        cases.retain(|case| case.name().contains(filter));
        if cases.is_empty() {
            return Err(Error::usage(format!("`filter` {filter}: no operation has this in its name")));
        }
        let mut timer = Timer::new(device)?;
        let setting = Setting::of(device);
        let ceilings = Ceilings::measure(&mut timer, &options.config, options.seconds)?;
        started(&setting, &ceilings);
        let mut rows = Vec::with_capacity(cases.len());
        for case in &cases {
            let timing = timer.measure(options.seconds, &mut case.work(device)?)?;
            let row = ceilings.row(case, timing);
            measured(&row);
            rows.push(row);
        }
        Ok(KernelReport { setting, ceilings, rows })
    })
}
