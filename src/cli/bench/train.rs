//! `bench train`: a supervised step of LoRA and latent head.

use std::path::PathBuf;

use clap::Args;

use super::common::{TrainingArgs, adapter, as_json};
use crate::Result;
use crate::bench::{Sequences, StepBatch, StepOptions, StepTiming, train_step};
use crate::cli::{init, terminal};
use crate::device::{Device, DeviceTask};

/// Seconds for which the product is timed.
const PRODUCT_SECONDS: f64 = 0.3;

/// A supervised CoLaR step with a LoRA adapter on q_proj and v_proj
#[derive(Debug, Args)]
pub struct StepArgs {
    /// Model directory
    #[arg(long, value_name = "DIR", required_unless_present = "config", conflicts_with = "config")]
    model: Option<PathBuf>,
    /// Random weights of a known shape or a config.json, made in a temporary directory as `init` makes them
    #[arg(long, value_name = "NAME|FILE")]
    config: Option<String>,
    /// Training data, taken from its start [default: random tokens]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// With --data: samples of the step
    #[arg(long, value_name = "N", default_value_t = 8, requires = "data")]
    batch_size: usize,
    /// Packed positions of random tokens [default: 16384 on cuda, 1024 on cpu, 128 on cuda-host]
    #[arg(long, value_name = "N", conflicts_with = "data")]
    tokens: Option<usize>,
    /// Packed positions of one sequence of random tokens
    #[arg(long, value_name = "N", default_value_t = 512, conflicts_with = "data")]
    sequence: usize,
    /// Keep of each layer its input alone and run it again for its gradients
    #[arg(long)]
    recompute: bool,
    #[command(flatten)]
    training: TrainingArgs,
    /// Do not time a large product to compare with
    #[arg(long)]
    no_product: bool,
}

struct TrainTask<'a> {
    args: &'a StepArgs,
    model: PathBuf,
}

impl DeviceTask for TrainTask<'_> {
    type Output = StepTiming;

    fn run<D: Device>(self, device: D) -> Result<StepTiming> {
        let TrainTask { args, model } = self;
        let batch = match &args.data {
            Some(data) => StepBatch::Samples { data: data.clone(), count: args.batch_size },
            None => {
                let default = match device.name() {
                    "cuda" => 16_384,
                    "cuda-host" => 128,
                    _ => 1024,
                };
                let tokens = args.tokens.unwrap_or(default);
                let rows = args.sequence.min(tokens);
                StepBatch::Invented(Sequences { count: tokens / rows, rows })
            }
        };
        let t = &args.training;
        let options = StepOptions {
            model,
            batch,
            compression_factor: t.cf,
            head_size: t.head_size,
            lora: adapter(t.lora_r),
            recompute: args.recompute,
            steps: t.steps,
            product: (!args.no_product).then_some(PRODUCT_SECONDS),
        };
        train_step(&device, &options)
    }
}

/// Runs `bench train`.
///
/// # Errors
/// Bad model or data files, sequences too short, and errors of the device.
pub fn run(args: &StepArgs) -> Result<()> {
    // Holds the model that is made, if one is, until it is no longer needed.
    let made = tempfile::tempdir().map_err(crate::Error::io(&std::env::temp_dir()))?;
    let model = match (&args.model, &args.config) {
        (Some(model), _) => model.clone(),
        (None, config) => {
            let out = made.path().join("model");
            let config = config.clone().unwrap_or_default();
            init::run(&init::InitArgs { config, out: out.clone(), tokenizer: None, seed: 0, dtype: None })?;
            out
        }
    };
    let timing = args.training.on.run(TrainTask { args, model })?;
    if args.training.on.json {
        return terminal::print(&format!("{}\n", as_json(&timing)?));
    }
    let t = &timing;
    terminal::line(format!("device   {}", t.setting.hardware))?;
    terminal::line(format!(
        "step     {:.3} s: {} positions in {} sequences, {:.0} positions/s",
        t.step_s, t.positions, t.sequences, t.positions_per_s
    ))?;
    terminal::line(format!(
        "rate     {:.3} TFLOP/s in {} ({:.3} TFLOP counted)",
        t.tflop_per_s,
        t.dtype,
        1e-12 * t.operations.total() as f64
    ))?;
    if let (Some(product), Some(share)) = (&t.product, t.share_of_product) {
        let n = product.size;
        terminal::line(format!(
            "product  {:.3} TFLOP/s, {n}x{n}x{n}; the step has {:.1} %",
            product.tflop_per_s,
            100.0 * share
        ))?;
    }
    if let Some(bytes) = t.peak_bytes {
        terminal::line(format!("memory   {:.1} MiB at most", bytes as f64 / f64::from(1 << 20)))?;
    }
    Ok(())
}
