//! `bench`: timings of whole steps on a model, and of single operations.

mod decode;
mod kernels;
mod rl;
mod train;

use std::time::Instant;

use clap::{Args, Subcommand};

use super::common;
use crate::bench::Setting;
use crate::device::{ComputeDtype, DeviceKind, DeviceTask, run_on_device};
use crate::model::adapter::{AdapterConfig, LoraTarget};
use crate::{Error, Result};

/// Time single operations, decoding, a training step or a step of reinforcement learning
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  colar-engine bench kernels --device cuda --filter attention
  colar-engine bench decode --model models/SmolLM2-135M
  colar-engine bench train --model models/SmolLM2-135M --data benches/peers/samples.jsonl --cf 2 --json
  colar-engine bench train --config llama-3.2-1b --device cuda --tokens 16384
  colar-engine bench rl --model models/SmolLM2-135M --data benches/peers/samples.jsonl")]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    Kernels(kernels::KernelsArgs),
    Decode(decode::DecodeArgs),
    Train(train::StepArgs),
    Rl(rl::RlArgs),
}

/// The device to time, and the form of the output
#[derive(Debug, Args)]
struct DeviceArgs {
    /// Where to run
    #[arg(long, value_enum, default_value_t = DeviceKind::Cpu)]
    device: DeviceKind,
    /// Arithmetic of a CUDA device [default: bf16 on cuda, f32 on cuda-host; the cpu has f32 alone]
    #[arg(long, value_enum, value_name = "DTYPE")]
    dtype: Option<ComputeDtype>,
    /// CPU threads; 0 means one a core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// One line of JSON
    #[arg(long)]
    json: bool,
}

impl DeviceArgs {
    fn run<T: DeviceTask>(&self, task: T) -> Result<T::Output> {
        run_on_device(self.device, self.dtype, self.threads, task)
    }
}

/// The adapter and the latent head that a timed step trains, and how often it is timed
#[derive(Debug, Args)]
struct TrainingArgs {
    /// Compression factor
    #[arg(long, value_name = "C", default_value_t = 2, value_parser = common::count)]
    cf: usize,
    /// Rank of the adapter
    #[arg(long, value_name = "R", default_value_t = 128, value_parser = common::count)]
    lora_r: usize,
    /// Inner width of the latent head [default: the hidden size]
    #[arg(long, value_name = "I")]
    head_size: Option<usize>,
    /// Timed steps
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = common::count)]
    steps: usize,
    #[command(flatten)]
    on: DeviceArgs,
}

/// Runs `bench`; `started` is when the process began.
///
/// # Errors
/// Bad model or data files, and errors of the device.
pub fn run(args: &BenchArgs, started: Instant) -> Result<()> {
    match &args.command {
        BenchCommand::Kernels(a) => kernels::run(a),
        BenchCommand::Decode(a) => decode::run(a, started),
        BenchCommand::Train(a) => train::run(a),
        BenchCommand::Rl(a) => rl::run(a),
    }
}

/// The adapter of the paper, at another rank.
fn adapter(r: usize) -> AdapterConfig {
    AdapterConfig {
        r,
        lora_alpha: 32.0,
        use_rslora: false,
        target_modules: vec![LoraTarget::QProj, LoraTarget::VProj],
        base_model_name_or_path: None,
    }
}

/// A timing as JSON, with the setting it was taken in.
fn with_setting(setting: &Setting, timing: &impl serde::Serialize) -> Result<serde_json::Value> {
    let mut line = as_json(setting)?;
    for (key, value) in as_json(timing)?.as_object().into_iter().flatten() {
        line[key] = value.clone();
    }
    Ok(line)
}

fn as_json(value: &impl serde::Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|e| Error::other(e.to_string()))
}
