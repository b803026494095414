//! `bench kernels`: every operation beside the ceilings of the device.

use std::path::PathBuf;

use clap::Args;

use super::common::{DeviceArgs, as_json};
#[cfg(cuda_host)]
use crate::bench::counts::CountOptions;
use crate::bench::{self, Bound, Ceilings, KernelOptions, KernelReport, KernelRow, Setting};
use crate::cli::terminal;
#[cfg(cuda_host)]
use crate::device::{ComputeDtype, DeviceKind};
use crate::device::{Device, DeviceTask};
use crate::model::presets::Preset;
use crate::{Error, Result};

/// Every operation that inference uses, at a model's shapes, beside a large copy and a large product
#[derive(Debug, Args)]
pub struct KernelsArgs {
    /// The shapes: those of a known model, as `init --config` names them
    #[arg(long, value_name = "NAME", default_value = Preset::Llama32_1b.name())]
    config: String,
    /// Only operations with this in their name or shape
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Seconds for each row; 0 takes a single batch of calls
    #[arg(long, value_name = "S", default_value_t = 0.2)]
    seconds: f64,
    /// Count what the kernels move, line by line of their source, and predict their times on an H100; with `--device
    /// cuda-host`, and a C++ compiler
    #[arg(long, conflicts_with = "seconds")]
    count: bool,
    /// The kernels' sources, for --count
    #[arg(long, value_name = "DIR", default_value = "cuda", requires = "count")]
    sources: PathBuf,
    #[command(flatten)]
    on: DeviceArgs,
}

struct KernelsTask {
    options: KernelOptions,
    json: bool,
}

impl DeviceTask for KernelsTask {
    type Output = KernelReport;

    fn run<D: Device>(self, device: D) -> Result<KernelReport> {
        if self.json {
            return bench::kernels(&device, &self.options, &mut |_, _| (), &mut |_| ());
        }
        // A row is shown when it is there. Who no longer reads is told nothing.
        let show = |text: String| terminal::print(&text).unwrap_or_default();
        bench::kernels(&device, &self.options, &mut |s, c| show(head(s, c)), &mut |row| show(line(row)))
    }
}

fn head(setting: &Setting, ceilings: &Ceilings) -> String {
    let Setting { device, hardware, driver, .. } = setting;
    let driver = driver.as_ref().map_or_else(String::new, |d| format!(", driver {d}"));
    let n = ceilings.product_size;
    format!(
        "{device}: {hardware}{driver}\ncopy of {} MiB: {:.1} GB/s read and written; product {n}x{n}x{n} {}: {:.2} TFLOP/s\n\n\
         {:>10}  {:>8}  {:>8}  {:>6}  operation\n",
        ceilings.copy_bytes >> 20,
        ceilings.copy_gb_per_s,
        ceilings.product_dtype,
        ceilings.product_tflop_per_s,
        "median, us",
        "GB/s",
        "TFLOP/s",
        "share",
    )
}

fn line(row: &KernelRow) -> String {
    let bound = match row.bound {
        Bound::Memory => 'm',
        Bound::Arithmetic => 'a',
    };
    format!(
        "{:10.1}  {:8.1}  {:8.2}  {:4.0}%{bound}  {} {}\n",
        row.timing.median_us,
        row.gb_per_s,
        row.tflop_per_s,
        100.0 * row.share,
        row.operation,
        row.shape
    )
}

/// Runs `bench kernels`.
///
/// # Errors
/// [`Error::Usage`] for an unknown model or a filter that no row matches; errors of the device.
pub fn run(args: &KernelsArgs) -> Result<()> {
    let preset = Preset::from_name(&args.config).ok_or_else(|| {
        let known = Preset::ALL.map(Preset::name).join(", ");
        Error::usage(format!("--config {}: not one of {known}", args.config))
    })?;
    if args.count {
        return count(args, preset);
    }
    let options =
        KernelOptions { config: preset.config(), filter: args.filter.clone(), seconds: args.seconds };
    let report = args.on.run(KernelsTask { options, json: args.on.json })?;
    if args.on.json {
        terminal::print(&format!("{}\n", as_json(&report)?))?;
    }
    Ok(())
}

#[cfg(cuda_host)]
fn count(args: &KernelsArgs, preset: Preset) -> Result<()> {
    if args.on.device != DeviceKind::CudaHost {
        return Err(Error::usage("--count goes with --device cuda-host"));
    }
    let options = CountOptions {
        config: preset.config(),
        filter: args.filter.clone(),
        sources: args.sources.clone(),
        dtype: args.on.dtype.unwrap_or(ComputeDtype::Bf16).into(),
        threads: args.on.threads,
    };
    super::counts::run(&options, args.on.json)
}

#[cfg(not(cuda_host))]
fn count(_: &KernelsArgs, _: Preset) -> Result<()> {
    Err(Error::other("--count runs the kernels on the CPU (cuda-host), which this build is without"))
}
