//! `bench`: timings of whole steps on a model, and of single operations.

mod common;
#[cfg(cuda_host)]
mod counts;
mod decode;
mod kernels;
mod rl;
mod serve;
mod train;

use std::time::Instant;

use clap::{Args, Subcommand};

use crate::Result;

/// Time single operations, decoding, a training step, a step of reinforcement learning or requests in the scheduler
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  colar-engine bench kernels --device cuda --filter attention
  colar-engine bench kernels --device cuda-host --count --filter decoder
  colar-engine bench decode --model models/SmolLM2-135M
  colar-engine bench train --model models/SmolLM2-135M --data benches/peers/samples.jsonl --cf 2 --json
  colar-engine bench train --config llama-3.2-1b --device cuda --tokens 16384
  colar-engine bench rl --model models/SmolLM2-135M --data benches/peers/samples.jsonl
  colar-engine bench serve --model models/SmolLM2-135M --threads 2")]
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
    Serve(serve::ServeArgs),
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
        BenchCommand::Serve(a) => serve::run(a),
    }
}
