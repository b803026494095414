//! `experiment cost`: the cost of the comparison at another scale.

use crate::cli::terminal;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::cli::common;
use crate::data::load;
use crate::eval::table::markdown;
use crate::experiment::cost::{Lengths, Scale, Totals, check_separator};
use crate::experiment::{Plan, variants};
use crate::model::adapter::AdapterConfig;
use crate::model::config::ModelConfig;
use crate::model::presets::Preset;
use crate::model::tokenizer::Tokenizer;
use crate::train::defaults::MOST_HEAD_SIZE;
use crate::{Error, Result};

/// Training samples of GSM8k-Aug.
const GSM8K_AUG: usize = 385_000;

/// Count what the comparison takes at another scale: positions, operations, memory, hours
///
/// Operations are counted, not timed; hours follow from them by the speed that --peak and --share assume. Without
/// --data the samples are assumed: a question of 75 tokens with its prompt, three steps of 9, an answer of 4, about
/// what GSM8k-Aug has.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  colar-engine experiment cost
  colar-engine experiment cost --model models/SmolLM2-135M --data gsm-train.jsonl --peak 312 --share 0.3")]
pub struct CostArgs {
    /// A shape that `init --config` knows, or a file of config.json's form [default: llama-3.2-1b]
    #[arg(long, value_name = "NAME|FILE", conflicts_with = "model")]
    config: Option<String>,
    /// Model directory, for its shape and tokenizer
    #[arg(long, value_name = "DIR", requires = "data")]
    model: Option<PathBuf>,
    /// Data whose samples are counted
    #[arg(long, value_name = "FILE", requires = "model")]
    data: Option<PathBuf>,
    /// Samples of a pass
    #[arg(long, value_name = "N", value_parser = common::count,
          help = format!("Samples of a pass [default: those of --data, else GSM8k-Aug's {GSM8K_AUG}]"))]
    samples: Option<usize>,
    /// Rank of the adapters on q_proj and v_proj
    #[arg(long, value_name = "R", default_value_t = AdapterConfig::default().r, value_parser = common::count)]
    lora_r: usize,
    /// Inner width of the latent head
    #[arg(long, value_name = "I", default_value_t = MOST_HEAD_SIZE, value_parser = common::count)]
    latent_head_size: usize,
    /// Samples in memory together
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = common::count)]
    batch_size: usize,
    /// Passes over the data, of CoT before the comparison and of every method in it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = common::count)]
    passes: usize,
    /// Training seeds of the comparison
    #[arg(long, value_name = "N", default_value_t = Plan::SEEDS, value_parser = common::count)]
    seeds: usize,
    /// Learning rates it searches
    #[arg(long, value_name = "N", default_value_t = Plan::LRS.len(), value_parser = common::count)]
    lrs: usize,
    /// Teraflops of the device at best [default: bf16 on an H100, dense]
    #[arg(long, value_name = "TFLOPS", default_value_t = 989.0)]
    peak: f64,
    /// Share of them that training is assumed to reach
    #[arg(long, value_name = "SHARE", default_value_t = 0.4)]
    share: f64,
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
}

/// A method's totals and its hours.
#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    totals: Totals,
    /// Of one pass over the data.
    hours: f64,
}

#[derive(Serialize)]
struct Report {
    samples: usize,
    methods: Vec<Line>,
    /// Of the whole comparison.
    hours: f64,
}

/// Runs `experiment cost`.
///
/// # Errors
/// [`Error::Usage`] for numbers out of range; bad files.
pub fn run(args: &CostArgs) -> Result<()> {
    let positive = |x: f64| x.is_finite() && x > 0.0;
    if !positive(args.peak) || !positive(args.share) || args.share > 1.0 {
        return Err(Error::usage("--peak must be above 0, and --share above 0 and at most 1"));
    }
    let (model, lengths) = match (&args.model, &args.data) {
        (Some(model), Some(data)) => {
            let tokenizer = Tokenizer::load(model)?;
            check_separator(&tokenizer)?;
            let samples = load(data, None)?;
            let lengths = samples.iter().map(|s| Lengths::of(s, &tokenizer)).collect::<Result<Vec<_>>>()?;
            (ModelConfig::load(model)?, lengths)
        }
        _ => (shape(args.config.as_deref())?, vec![Lengths::assumed()]),
    };
    let samples = args.samples.unwrap_or(if args.data.is_some() { lengths.len() } else { GSM8K_AUG });
    let scale = Scale {
        model,
        lora_r: args.lora_r,
        lora_targets: AdapterConfig::default().target_modules,
        head_size: args.latent_head_size,
        batch_size: args.batch_size,
    };
    let line = |kind| {
        let totals = scale.totals(kind, &lengths)?;
        let hours = totals.hours(samples as f64, 1e12 * args.peak, args.share);
        Ok::<_, Error>(Line { totals, hours })
    };
    let methods = variants::select(&[])?.iter().map(|v| line(v.method)).collect::<Result<Vec<_>>>()?;
    // A run a learning rate with the first seed and one with each other; the CoT training before, once a seed.
    let runs = (args.lrs + args.seeds - 1) as f64;
    let warm = methods.first().map_or(0.0, |cot| cot.hours) * args.seeds as f64;
    let hours = args.passes as f64 * (warm + runs * methods.iter().map(|m| m.hours).sum::<f64>());
    let report = Report { samples, methods, hours };
    if args.json {
        let text = serde_json::to_string_pretty(&report).map_err(|e| Error::other(e.to_string()))?;
        return terminal::print(&(text + "\n"));
    }
    terminal::print(&text(&report, args))
}

/// The shape of this name, or in this file.
fn shape(name: Option<&str>) -> Result<ModelConfig> {
    match name {
        None => Ok(Preset::Llama32_1b.config()),
        Some(name) => match Preset::from_name(name) {
            Some(preset) => Ok(preset.config()),
            None => ModelConfig::load_file(Path::new(name)),
        },
    }
}

fn text(report: &Report, args: &CostArgs) -> String {
    let heads = [
        "a pass over the data",
        "positions a sample",
        "positions (M)",
        "operations (PFLOP)",
        "of these attention (%)",
        "vocabulary (%)",
        "passes in sequence",
        "trained weights (M)",
        "memory (GiB)",
        "device hours",
    ];
    let n = report.samples as f64;
    let row = |line: &Line| {
        let t = &line.totals;
        let percent = |x: f64| format!("{:.1}", 100.0 * x / t.operations.total());
        vec![
            t.method.label().to_owned(),
            format!("{:.1}", t.positions),
            format!("{:.1}", n * t.positions / 1e6),
            format!("{:.1}", n * t.operations.total() / 1e15),
            percent(t.operations.attention),
            percent(t.operations.vocabulary),
            format!("{:.0}", t.passes_in_sequence),
            format!("{:.1}", t.trained as f64 / 1e6),
            format!("{:.1}", t.bytes / f64::from(1u32 << 30)),
            format!("{:.3}", line.hours),
        ]
    };
    let table = markdown(&heads.map(str::to_owned), &report.methods.iter().map(row).collect::<Vec<_>>());
    format!(
        "{table}\n{} samples; {} of them in memory together; hours at {:.0} % of {} TFLOPS, assumed.\n\
         The whole comparison ({} seeds, {} learning rates, passes: {}): {:.1} device hours.\n",
        report.samples,
        args.batch_size,
        100.0 * args.share,
        args.peak,
        args.seeds,
        args.lrs,
        args.passes,
        report.hours
    )
}
