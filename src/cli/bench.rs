//! `bench`: timings of whole steps on a model, and of single operations.

mod decode;
mod kernels;

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, Subcommand};

use super::common;
use crate::bench::{RlStepOptions, StepOptions, rl_step, train_step};
use crate::device::cpu::CpuDevice;
use crate::infer::{ComputeDtype, DeviceKind, DeviceTask, run_on_device};
use crate::model::adapter::{AdapterConfig, LoraTarget};
use crate::{Error, Result};

/// Time single operations, decoding, a training step or a step of reinforcement learning
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  colar-engine bench kernels --device cuda --filter attention
  colar-engine bench decode --model models/SmolLM2-135M
  colar-engine bench train --model models/SmolLM2-135M --data benches/peers/samples.jsonl --cf 2 --json
  colar-engine bench rl --model models/SmolLM2-135M --data benches/peers/samples.jsonl")]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    Kernels(kernels::KernelsArgs),
    Decode(decode::DecodeArgs),
    Train(StepArgs),
    Rl(RlArgs),
}

/// Where something is timed, and how it is told
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

/// What every timed step of training is given
#[derive(Debug, Args)]
struct TrainingArgs {
    /// Model directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Training data, taken from its start
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
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
    /// CPU threads; 0 means one a core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// One line of JSON
    #[arg(long)]
    json: bool,
}

/// A supervised CoLaR step with a LoRA adapter on q_proj and v_proj
#[derive(Debug, Args)]
struct StepArgs {
    #[command(flatten)]
    training: TrainingArgs,
    /// Samples of the step
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = common::count)]
    batch_size: usize,
}

/// Rollouts of one question and an update on them, with a LoRA adapter on q_proj and v_proj
#[derive(Debug, Args)]
struct RlArgs {
    #[command(flatten)]
    training: TrainingArgs,
    /// Rollouts of the question
    #[arg(long, value_name = "G", default_value_t = 8, value_parser = common::count)]
    group_size: usize,
    /// Latents of every rollout
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = common::count)]
    latents: usize,
    /// Tokens of every answer
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = common::count)]
    answer_tokens: usize,
}

/// Runs `bench`; `started` is when the process began.
///
/// # Errors
/// Bad model or data files, and what the device says.
pub fn run(args: &BenchArgs, started: Instant) -> Result<()> {
    match &args.command {
        BenchCommand::Kernels(a) => kernels::run(a),
        BenchCommand::Decode(a) => decode::run(a, started),
        BenchCommand::Train(a) => run_train(a),
        BenchCommand::Rl(a) => run_rl(a),
    }
}

fn run_train(args: &StepArgs) -> Result<()> {
    let t = &args.training;
    let options = StepOptions {
        model: t.model.clone(),
        data: t.data.clone(),
        cf: t.cf,
        batch_size: args.batch_size,
        head_size: t.head_size,
        lora: adapter(t.lora_r),
        steps: t.steps,
    };
    let timing = train_step(&CpuDevice::new(t.threads)?, &options)?;
    if t.json {
        println!("{}", as_json(&timing)?);
    } else {
        println!(
            "step {:.3} s: {} positions, {:.0} positions/s",
            timing.step_s, timing.positions, timing.positions_per_s
        );
    }
    Ok(())
}

fn run_rl(args: &RlArgs) -> Result<()> {
    if args.group_size < 2 {
        return Err(Error::usage("--group-size must be at least 2"));
    }
    let t = &args.training;
    let options = RlStepOptions {
        model: t.model.clone(),
        data: t.data.clone(),
        cf: t.cf,
        group_size: args.group_size,
        n_latents: args.latents,
        answer_tokens: args.answer_tokens,
        head_size: t.head_size,
        lora: adapter(t.lora_r),
        steps: t.steps,
    };
    let timing = rl_step(&CpuDevice::new(t.threads)?, &options)?;
    if t.json {
        println!("{}", as_json(&timing)?);
    } else {
        println!(
            "{} rollouts of a prompt of {} tokens, {} latents and {} answer tokens: {:.3} s; update {:.3} s",
            timing.group_size,
            timing.question_tokens,
            timing.n_latents,
            timing.answer_tokens,
            timing.rollout_s,
            timing.update_s
        );
    }
    Ok(())
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

fn as_json(value: &impl serde::Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|e| Error::other(e.to_string()))
}
