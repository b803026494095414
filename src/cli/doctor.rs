//! `doctor`: what the engine finds on this machine, and whether it computes as it should.

mod libraries;
mod report;
mod text;

use clap::Args;

use self::libraries::gpu_libraries;
use self::report::{Found, Report, State, Works};
use super::terminal;
use crate::bench::{Timer, copy_ceiling, product_ceiling, self_test};
use crate::device::cpu::level;
use crate::device::{Device, DeviceKind, DeviceTask, run_on_device};
use crate::model::presets::Preset;
use crate::{Error, Result};

/// Bytes of the copy that is timed, far more than caches hold.
const COPY: u64 = 128 << 20;

/// Seconds of each measurement of speed.
const SECONDS: f64 = 0.3;

/// Look at this machine: processor, devices, what is missing and how to get it, and a self-test of the arithmetic
///
/// The report is the text to paste into a bug report. The self-test trains a tiny model for three steps on every device
/// and compares losses and an answer with those that they must be; it takes seconds. A device that computes something else
/// makes the exit code 1; one that is not there does not.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  colar-engine doctor")]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `doctor`.
///
/// # Errors
/// [`Error::Other`] if a device computes other values than it should; a device that is not there is no error.
pub fn run(args: &DoctorArgs) -> Result<()> {
    let devices = [("cpu", DeviceKind::Cpu), ("cuda", DeviceKind::Cuda), ("cuda-host", DeviceKind::CudaHost)];
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        commit: option_env!("COLAR_COMMIT"),
        target: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        instruction_sets: level::available().into_iter().map(level::Level::name).collect(),
        instruction_set: level::level()?.name(),
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        memory_bytes: memory(),
        gpu_kernels: crate::device::gpu_targets(),
        gpu_libraries: gpu_libraries(),
        devices: devices.map(|(device, kind)| Found { device, state: state(kind) }).into(),
    };
    let text = if args.json {
        serde_json::to_string_pretty(&report).map_err(|e| Error::other(e.to_string()))? + "\n"
    } else {
        text::text(&report)
    };
    terminal::print(&text)?;
    let wrong = report.devices.iter().find(|found| match &found.state {
        State::Works(works) => !works.self_test.passed,
        State::Missing { .. } => false,
    });
    match wrong {
        Some(found) => Err(Error::other(format!(
            "{} computes other values than it should; please report the lines above",
            found.device
        ))),
        None => Ok(()),
    }
}

fn state(kind: DeviceKind) -> State {
    match run_on_device(kind, None, 0, Examine) {
        Ok(works) => State::Works(Box::new(works)),
        Err(e) => State::Missing { missing: e.to_string() },
    }
}

/// Looks at a device.
struct Examine;

impl DeviceTask for Examine {
    type Output = Works;

    fn run<D: Device>(self, device: D) -> Result<Works> {
        let description = device.description();
        let dtype = device.compute_dtype().to_string();
        let speeds = if device.name() == "cuda-host" { None } else { Some(speeds(&device)?) };
        Ok(Works {
            hardware: description.hardware,
            driver: description.driver,
            dtype,
            copy_gb_per_s: speeds.map(|(copy, _)| copy),
            product_tflop_per_s: speeds.map(|(_, product)| product),
            self_test: self_test(device)?,
        })
    }
}

/// The rates of a large copy and of a large product, in 1e9 bytes and 1e12 operations a second.
fn speeds<D: Device>(device: &D) -> Result<(f64, f64)> {
    device.scope(|| {
        let mut timer = Timer::new(device)?;
        let copy = copy_ceiling(&mut timer, COPY, SECONDS)?;
        let product = product_ceiling(&mut timer, &Preset::SmolLm2_135m.config(), SECONDS)?;
        Ok((copy, product.tflop_per_s))
    })
}

/// The machine's memory in bytes, where the system tells it.
fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
