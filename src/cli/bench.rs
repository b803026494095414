//! `bench`: timings of whole steps on a model.

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, Subcommand};

use crate::bench::{DecodeOptions, RlStepOptions, StepOptions, decode, rl_step, train_step};
use crate::device::cpu::CpuDevice;
use crate::infer::Loaded;
use crate::model::adapter::{AdapterConfig, LoraTarget};
use crate::{Error, Result};

/// Time decoding, a training step or a step of reinforcement learning on a model
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  colar-engine bench decode --model models/SmolLM2-135M
  colar-engine bench train --model models/SmolLM2-135M --data benches/peers/samples.jsonl --cf 2 --json
  colar-engine bench rl --model models/SmolLM2-135M --data benches/peers/samples.jsonl")]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    Decode(DecodeArgs),
    Train(StepArgs),
    Rl(RlArgs),
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

/// Rollouts of one question and an update on them, with a LoRA adapter on q_proj and v_proj
#[derive(Debug, Args)]
struct RlArgs {
    /// Model directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Data; its first question is asked
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Compression factor
    #[arg(long, value_name = "C", default_value_t = 2)]
    cf: usize,
    /// Rollouts of the question
    #[arg(long, value_name = "G", default_value_t = 8)]
    group_size: usize,
    /// Latents of every rollout
    #[arg(long, value_name = "N", default_value_t = 16)]
    latents: usize,
    /// Tokens of every answer
    #[arg(long, value_name = "N", default_value_t = 16)]
    answer_tokens: usize,
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
        BenchCommand::Rl(a) => run_rl(a),
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
        lora: adapter(args.lora_r),
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

fn run_rl(args: &RlArgs) -> Result<()> {
    if [args.cf, args.latents, args.answer_tokens, args.steps, args.lora_r].contains(&0)
        || args.group_size < 2
    {
        return Err(Error::usage(
            "--cf, --latents, --answer-tokens, --steps and --lora-r must be at least 1, --group-size at least 2",
        ));
    }
    let options = RlStepOptions {
        model: args.model.clone(),
        data: args.data.clone(),
        cf: args.cf,
        group_size: args.group_size,
        n_latents: args.latents,
        answer_tokens: args.answer_tokens,
        head_size: args.head_size,
        lora: adapter(args.lora_r),
        steps: args.steps,
    };
    let t = rl_step(&CpuDevice::new(args.threads)?, &options)?;
    if args.json {
        println!("{}", as_json(&t)?);
    } else {
        println!(
            "{} rollouts of a prompt of {} tokens, {} latents and {} answer tokens: {:.3} s; update {:.3} s",
            t.group_size, t.question_tokens, t.n_latents, t.answer_tokens, t.rollout_s, t.update_s
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
