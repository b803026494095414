//! `experiment cost`: the cost of the comparison at another scale.

use crate::cli::terminal;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::units;
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
/// Operations are counted, not timed; hours follow from them by the speed that --gpu (or --peak) and --share assume. Without
/// --data the samples are assumed: a question of 75 tokens with its prompt, three steps of 9, an answer of 4, about
/// what GSM8k-Aug has.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  colar-engine experiment cost --gpu h100
  colar-engine experiment cost --model models/SmolLM2-135M --data gsm-train.jsonl --gpu a100 --share 0.3")]
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
    #[arg(long, value_name = "N",
          help = format!("Samples of a pass [default: those of --data, else GSM8k-Aug's {GSM8K_AUG}]"))]
    samples: Option<usize>,
    /// Rank of the adapters on q_proj and v_proj
    #[arg(long, value_name = "R", default_value_t = AdapterConfig::default().r)]
    lora_r: usize,
    /// Inner width of the latent head
    #[arg(long, value_name = "I", default_value_t = MOST_HEAD_SIZE)]
    latent_head_size: usize,
    /// Samples in memory together
    #[arg(long, value_name = "N", default_value_t = 32)]
    batch_size: usize,
    /// Passes over the data, of CoT before the comparison and of every method in it
    #[arg(long, value_name = "N", default_value_t = 1)]
    passes: usize,
    /// Training seeds of the comparison
    #[arg(long, value_name = "N", default_value_t = Plan::SEEDS)]
    seeds: usize,
    /// Learning rates it searches
    #[arg(long, value_name = "N", default_value_t = Plan::LRS.len())]
    lrs: usize,
    /// The GPU that hours are given for, at its peak in bf16 by NVIDIA's data sheet, without sparsity; no hours without
    /// it or --peak
    #[arg(long, value_enum, value_name = "NAME", conflicts_with = "peak")]
    gpu: Option<Gpu>,
    /// Teraflops of another device at best
    #[arg(long, value_name = "TFLOPS")]
    peak: Option<f64>,
    /// Share of the peak that training is assumed to reach
    #[arg(long, value_name = "SHARE", default_value_t = 0.4)]
    share: f64,
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
}

/// GPUs whose peak is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Gpu {
    /// 312 TFLOPS
    A100,
    /// 362 TFLOPS
    L40s,
    /// 989 TFLOPS
    H100,
    /// 989 TFLOPS
    H200,
}

impl Gpu {
    /// Its peak in bf16, dense, in teraflops.
    fn peak(self) -> f64 {
        match self {
            Gpu::A100 => 312.0,
            Gpu::L40s => 362.0,
            Gpu::H100 | Gpu::H200 => 989.0,
        }
    }
}

/// A method's totals and its hours.
#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    totals: Totals,
    /// Of one pass over the data, where a device is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    hours: Option<f64>,
}

#[derive(Serialize)]
struct Report {
    samples: usize,
    methods: Vec<Line>,
    /// Teraflops of the device at best.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak: Option<f64>,
    /// Of the whole comparison.
    #[serde(skip_serializing_if = "Option::is_none")]
    hours: Option<f64>,
}

/// Runs `experiment cost`.
///
/// # Errors
/// [`Error::Usage`] for numbers out of range; bad files.
pub fn run(args: &CostArgs) -> Result<()> {
    let peak = args.peak.or(args.gpu.map(Gpu::peak));
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
        let hours = peak.map(|peak| totals.hours(samples as f64, 1e12 * peak, args.share));
        Ok::<_, Error>(Line { totals, hours })
    };
    let methods = variants::select(&[])?.iter().map(|v| line(v.method)).collect::<Result<Vec<_>>>()?;
    // A run a learning rate with the first seed and one with each other; the CoT training before, once a seed.
    let runs = (args.lrs + args.seeds - 1) as f64;
    let all: Option<Vec<f64>> = methods.iter().map(|m| m.hours).collect();
    let hours = all.and_then(|all| {
        let warm = all.first()? * args.seeds as f64;
        Some(args.passes as f64 * (warm + runs * all.iter().sum::<f64>()))
    });
    let report = Report { samples, methods, peak, hours };
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
    let n = report.samples as f64;
    let all = |of: &dyn Fn(&Line) -> f64| report.methods.iter().map(of).collect::<Vec<_>>();
    let percent = |x: f64, l: &Line| format!("{:.1}", 100.0 * x / l.totals.operations.total());
    let cells = |cell: &dyn Fn(&Line) -> String| report.methods.iter().map(cell).collect::<Vec<_>>();
    let mut columns: Vec<(String, Vec<String>)> = vec![
        ("a pass over the data".to_owned(), cells(&|l| l.totals.method.label().to_owned())),
        ("positions a sample".to_owned(), cells(&|l| format!("{:.1}", l.totals.positions))),
        units::COUNT.column("positions", 1, &all(&|l| n * l.totals.positions)),
        units::OPERATIONS.column("operations", 1, &all(&|l| n * l.totals.operations.total())),
        ("of these attention (%)".to_owned(), cells(&|l| percent(l.totals.operations.attention, l))),
        ("vocabulary (%)".to_owned(), cells(&|l| percent(l.totals.operations.vocabulary, l))),
        ("passes in sequence".to_owned(), cells(&|l| format!("{:.0}", l.totals.passes_in_sequence))),
        units::COUNT.column("trained weights", 1, &all(&|l| l.totals.trained as f64)),
        units::BYTES.column("memory", 1, &all(&|l| l.totals.bytes)),
    ];
    if report.hours.is_some() {
        columns.push(units::TIME.column("device time", 3, &all(&|l| 3600.0 * l.hours.unwrap_or(0.0))));
    }
    let heads: Vec<String> = columns.iter().map(|(head, _)| head.clone()).collect();
    let row = |i: usize| columns.iter().filter_map(|(_, cells)| cells.get(i).cloned()).collect::<Vec<_>>();
    let table = markdown(&heads, &(0..report.methods.len()).map(row).collect::<Vec<_>>());
    let counted = format!("{} samples; {} of them in memory together", report.samples, args.batch_size);
    let comparison = format!(
        "The whole comparison ({} seeds, {} learning rates, passes: {})",
        args.seeds, args.lrs, args.passes
    );
    match (report.hours, report.peak) {
        (Some(hours), Some(peak)) => format!(
            "{table}\n{counted}; time at {:.0} % of {peak} TFLOPS, assumed.\n{comparison}: {} of the device.\n",
            100.0 * args.share,
            units::TIME.text(1, 3600.0 * hours)
        ),
        _ => format!("{table}\n{counted}; --gpu or --peak says how long it takes on which device.\n"),
    }
}
