//! `bench`: timings of whole steps on a model.

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, Subcommand};

use crate::bench::{DecodeOptions, StepOptions, decode, train_step};
use crate::device::cpu::CpuDevice;
use crate::infer::Loaded;
use crate::model::adapter::{AdapterConfig, LoraTarget};
use crate::{Error, Result};

/// Time decoding or a training step on a model
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  colar-engine bench decode --model models/SmolLM2-135M
  colar-engine bench train --model models/SmolLM2-135M --data benches/peers/samples.jsonl --cf 2 --json")]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    Decode(DecodeArgs),
    Train(StepArgs),
}

/// One sequence, greedy, the end of sequence ignored
#[derive(Debug, Args)]
struct DecodeArgs {
    /// Model directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Prompt, continued without a template
    #[arg(
        long,
        default_value = "Question: Tom has 3 boxes with 24 pens each. How many pens? Let's think step by step:"
    )]
    prompt: String,
    /// Tokens to produce
    #[arg(long, value_name = "N", default_value_t = 128)]
    new_tokens: usize,
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
    /// Model directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Training data
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Compression factor
    #[arg(long, value_name = "C", default_value_t = 2)]
    cf: usize,
    /// Samples of the step
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch_size: usize,
    /// Rank of the adapter
    #[arg(long, value_name = "R", default_value_t = 128)]
    lora_r: usize,
    /// Inner width of the latent head [default: the hidden size]
    #[arg(long, value_name = "I")]
    head_size: Option<usize>,
    /// Timed steps
    #[arg(long, value_name = "N", default_value_t = 5)]
    steps: usize,
    /// CPU threads; 0 means one a core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// One line of JSON
    #[arg(long)]
    json: bool,
}

/// Runs `bench`; `started` is when the process began.
///
/// # Errors
/// Bad model or data files, and what the device says.
pub fn run(args: &BenchArgs, started: Instant) -> Result<()> {
    match &args.command {
        BenchCommand::Decode(a) => run_decode(a, started),
        BenchCommand::Train(a) => run_train(a),
    }
}

fn run_decode(args: &DecodeArgs, started: Instant) -> Result<()> {
    let loaded = Loaded::new(CpuDevice::new(args.threads)?, &args.model, None)?;
    let options = DecodeOptions { prompt: args.prompt.clone(), new_tokens: args.new_tokens };
    let mut first = 0.0;
    let t = decode(&loaded, &options, &mut || first = started.elapsed().as_secs_f64())?;
    if args.json {
        let mut line = as_json(&t)?;
        line["start_to_first_token_s"] = first.into();
        println!("{line}");
        return Ok(());
    }
    println!("prefill  {:8.1} tokens/s over {} tokens", t.prefill_tokens_per_s, t.prompt_tokens);
    println!(
        "decode   {:8.1} tokens/s over {} tokens; {:.1} GB/s of weights ({:.0} MB a token)",
        t.decode_tokens_per_s,
        t.new_tokens,
        t.weight_gb_per_s,
        t.weight_bytes as f64 / 1e6
    );
    println!("first token {:.3} s after the start", first);
    Ok(())
}

fn run_train(args: &StepArgs) -> Result<()> {
    if args.cf == 0 || args.batch_size == 0 || args.steps == 0 || args.lora_r == 0 {
        return Err(Error::usage("--cf, --batch-size, --lora-r and --steps must be at least 1"));
    }
    let options = StepOptions {
        model: args.model.clone(),
        data: args.data.clone(),
        cf: args.cf,
        batch_size: args.batch_size,
        head_size: args.head_size,
        lora: AdapterConfig {
            r: args.lora_r,
            lora_alpha: 32.0,
            use_rslora: false,
            target_modules: vec![LoraTarget::QProj, LoraTarget::VProj],
            base_model_name_or_path: None,
        },
        steps: args.steps,
    };
    let t = train_step(&CpuDevice::new(args.threads)?, &options)?;
    if args.json {
        println!("{}", as_json(&t)?);
    } else {
        println!("step {:.3} s: {} positions, {:.0} positions/s", t.step_s, t.positions, t.positions_per_s);
    }
    Ok(())
}

fn as_json(value: &impl serde::Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|e| Error::other(e.to_string()))
}
