//! `experiment`: the paper's comparison, remade.

mod cost;
mod forecast;
mod shown;
mod units;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::sampling::SamplingArgs;
use super::terminal;
use crate::data::{AnswerRule, VerifierKind};
use crate::device::{ComputeDtype, DeviceKind};
use crate::eval::{COMPRESSION_FACTORS, EvalOptions};
use crate::experiment::{
    self, FactorsOptions, FactorsSource, Given, Machine, Plan, Table1Options, TestSet, variants,
};
use crate::files::new_run::NewDir;
use crate::model::prompt::FACTORS;
use crate::train::TrainFlags;
use crate::train::embedded::EVAL_BATCH;
use crate::{Error, Result};
use shown::Shown;

/// Remake the paper's comparison: train, test and draw it from one command
///
/// Finished parts are recognised and not done again: the same command goes on where it was cut off.
#[derive(Debug, Args)]
pub struct ExperimentArgs {
    #[command(subcommand)]
    command: ExperimentCommand,
}

#[derive(Debug, Subcommand)]
enum ExperimentCommand {
    Table1(Table1Args),
    Factors(FactorsArgs),
    Cost(cost::CostArgs),
}

/// The machine that performs the runs
#[derive(Debug, Args)]
#[command(next_help_heading = "Machine")]
struct MachineArgs {
    /// Where to run [default: auto, which is the CPU]
    #[arg(long, value_enum, default_value_t, hide_default_value = true)]
    device: DeviceKind,
    /// Arithmetic of a CUDA device [default: bf16 on cuda, f32 on cuda-host; the cpu has f32 alone]
    #[arg(long, value_enum, value_name = "DTYPE")]
    dtype: Option<ComputeDtype>,
    /// Runs side by side; results do not depend on it [default: one a core for the embedded model, else 1]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// CPU threads of a run [default: the cores, shared among the jobs]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Read weights into memory and do not map their files, which may then be replaced or cut short under the runs
    #[arg(long)]
    no_mmap: bool,
}

impl MachineArgs {
    fn machine(&self) -> Machine {
        Machine {
            device: self.device,
            dtype: self.dtype,
            jobs: self.jobs.unwrap_or(0),
            threads: self.threads.unwrap_or(0),
            no_mmap: self.no_mmap,
        }
    }
}

/// Accuracy and reasoning length of all methods, as the paper's table 1
///
/// Every method starts from the same CoT checkpoint of its seed and gets the same number of updates and the same
/// search for its learning rate, decided on the validation data. Writes table1.md, table1.json and table1.svg into
/// --out. With neither --model nor --data: word problems and a small model, made on the spot.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  colar-engine experiment table1 --out runs/table1
  colar-engine experiment table1 --out runs/table1 --methods all
  colar-engine experiment table1 --out runs/table1 --dry-run
  colar-engine experiment table1 --out runs/gsm --model models/Llama-3.2-1B --data train.jsonl --val val.jsonl \\
      --test gsm8k=test.jsonl --test svamp.json --device cuda")]
struct Table1Args {
    /// The experiment's directory [default: a new directory under runs/]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Methods and ablations, or `all` [default: those of the paper's table 1]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    methods: Vec<String>,
    /// Training seeds: --seed, the next, …
    #[arg(long, value_name = "N", default_value_t = Plan::SEEDS)]
    seeds: usize,
    /// Compression factors of the table
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = crate::model::prompt::parse_compression_factor,
          allow_hyphen_values = true,
          help = format!(
              "Compression factors of the table: `auto`, or {FACTORS} [default: {}]", COMPRESSION_FACTORS.join(",")
          ))]
    cf: Vec<String>,
    #[command(flatten)]
    given: GivenArgs,
    #[command(flatten)]
    budget: BudgetArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    machine: MachineArgs,
}

/// Model and data
#[derive(Debug, Args)]
#[command(next_help_heading = "Model and data")]
struct GivenArgs {
    /// Model directory
    #[arg(long, value_name = "DIR", requires_all = ["data", "val"])]
    model: Option<PathBuf>,
    /// Training data, in any form that `data convert` reads
    #[arg(long, value_name = "FILE", requires = "model")]
    data: Option<PathBuf>,
    /// Validation data, by which learning rates are chosen
    #[arg(long, value_name = "FILE", requires = "model")]
    val: Option<PathBuf>,
    /// Test data, by name or by the name of the file; several times for several columns
    #[arg(long, value_name = "[NAME=]FILE", value_parser = TestSet::parse)]
    test: Vec<TestSet>,
    /// CoT checkpoint to start from, in place of the experiment's own
    #[arg(long, value_name = "CHECKPOINT")]
    init: Option<PathBuf>,
    /// How an answer is compared with the gold one
    #[arg(long, value_enum, default_value_t)]
    verifier: VerifierKind,
    /// Which part of a generated text is its answer
    #[arg(long, value_enum, value_name = "RULE", default_value_t = AnswerRule::Last)]
    answer_rule: AnswerRule,
}

/// The budget of every method
#[derive(Debug, Args)]
#[command(next_help_heading = "Budget")]
struct BudgetArgs {
    /// Updates of every method
    #[arg(long, value_name = "N", help = format!(
        "Updates of every method [default: {}, or with --data a pass over it]", Plan::EMBEDDED_UPDATES
    ))]
    updates: Option<u64>,
    /// Updates of CoT before them, shared by all methods of a seed
    #[arg(long, value_name = "N", help = format!(
        "Updates of CoT before them, shared by all methods of a seed [default: {}, or with --data a pass over it]",
        Plan::EMBEDDED_WARM_UPDATES
    ))]
    warm_updates: Option<u64>,
    /// Learning rates to search
    #[arg(long, value_name = "LIST", value_delimiter = ',', allow_hyphen_values = true, help = format!(
        "Learning rates to search [default: {}, or with --model {}]", rates(&Plan::EMBEDDED_LRS), rates(&Plan::LRS)
    ))]
    lrs: Vec<f32>,
    /// Learning rate of the CoT training before
    #[arg(long, value_name = "LR", allow_hyphen_values = true, help = format!(
        "Learning rate of the CoT training before [default: {}, or with --model {}]",
        rates(&[Plan::EMBEDDED_WARM_LR]), rates(&[Plan::WARM_LR])
    ))]
    warm_lr: Option<f32>,
    /// TOML file of `train`'s flags: tables [common], [warm-up], and a method's own objective, as [colar]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Divide updates and the embedded data by N, for a quick look
    #[arg(long, value_name = "N", default_value_t = 1)]
    shorten: u64,
    /// Say what is left to do, and the time and memory it would take, from a few steps of every method; write nothing
    #[arg(long)]
    dry_run: bool,
}

/// Accuracy and reasoning length over compression factors, unseen and fractional ones included
///
/// Asks the checkpoints of a finished `table1` in --out, or those given. Writes factors.md, factors.json and
/// factors.svg into --out.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  colar-engine experiment factors --out runs/table1
  colar-engine experiment factors --model models/Llama-3.2-1B --adapter runs/a/best --adapter runs/b/best \\
      --test gsm8k=test.jsonl")]
struct FactorsArgs {
    /// Directory of a `table1`, or where to report on --adapter [default there: a new directory under runs/]
    #[arg(long, value_name = "DIR", required_unless_present = "model")]
    out: Option<PathBuf>,
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = factor,
          default_value = "1,1.5,2,3,4,5,6,8", allow_hyphen_values = true,
          help = format!("Compression factors: {FACTORS}"))]
    cf: Vec<String>,
    /// Method of the `table1` whose checkpoints are asked
    #[arg(long, value_name = "NAME", default_value = "colar", conflicts_with = "model")]
    method: String,
    /// Model directory
    #[arg(long, value_name = "DIR", requires = "adapter")]
    model: Option<PathBuf>,
    /// Checkpoint; several times for several training seeds
    #[arg(long, value_name = "CHECKPOINT", requires = "model")]
    adapter: Vec<PathBuf>,
    /// Test data, by name or by the name of the file [default: that of the `table1`]
    #[arg(long, value_name = "[NAME=]FILE", value_parser = TestSet::parse)]
    test: Vec<TestSet>,
    /// How an answer is compared with the gold one
    #[arg(long, value_enum, default_value_t)]
    verifier: VerifierKind,
    /// Which part of a generated text is its answer
    #[arg(long, value_enum, value_name = "RULE", default_value_t = AnswerRule::Last)]
    answer_rule: AnswerRule,
    /// Questions that run together
    #[arg(long, value_name = "N", help = format!(
        "Questions that run together [default: {}; {EVAL_BATCH} on the embedded model]",
        EvalOptions::default().batch_size
    ))]
    batch_size: Option<usize>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    machine: MachineArgs,
}

/// Learning rates as a flag has them.
fn rates(rates: &[f32]) -> String {
    rates.iter().map(|lr| format!("{lr:e}")).collect::<Vec<_>>().join(",")
}

/// A factor that has a place on an axis.
fn factor(text: &str) -> Result<String, String> {
    match crate::model::prompt::parse_compression_factor(text)? {
        auto if auto == "auto" => Err(format!("it takes {FACTORS}")),
        number => Ok(number),
    }
}

/// Runs `experiment`.
///
/// # Errors
/// As [`experiment::table1`] and [`experiment::factors`].
pub fn run(args: ExperimentArgs) -> Result<()> {
    match args.command {
        ExperimentCommand::Table1(args) => table1(args),
        ExperimentCommand::Factors(args) => factors(args),
        ExperimentCommand::Cost(args) => cost::run(&args),
    }
}

fn table1(args: Table1Args) -> Result<()> {
    let given = match (args.given.model, args.given.data, args.given.val) {
        (Some(model), Some(data), Some(val)) => Some(Given { model, data, val }),
        (None, None, None) => None,
        _ => return Err(Error::usage("--model, --data and --val go together")),
    };
    let settings =
        args.budget.config.as_deref().map(TrainFlags::tables_from_toml).transpose()?.unwrap_or_default();
    let (out, _new) = NewDir::unless(args.out)?;
    let options = Table1Options {
        out,
        given,
        tests: args.given.test,
        variants: variants::select(&args.methods)?,
        seeds: args.seeds,
        updates: args.budget.updates,
        warm_updates: args.budget.warm_updates,
        lrs: args.budget.lrs,
        warm_lr: args.budget.warm_lr,
        init: args.given.init,
        compression_factors: args.cf,
        settings,
        sampling: args.sampling.sampling()?,
        verifier: args.given.verifier,
        answer_rule: args.given.answer_rule,
        shorten: args.budget.shorten,
        machine: args.machine.machine(),
    };
    args.sampling.check(&options.variants.iter().map(|v| v.method.name()).collect::<Vec<_>>(), false)?;
    terminal::note(format!("experiment directory: {}", options.out.display()));
    let shown = Shown::new();
    if args.budget.dry_run {
        let forecast = experiment::forecast(options, &|event| shown.on(event))?;
        shown.clear();
        return terminal::print(&forecast::report(&forecast));
    }
    let table = experiment::table1(options, &|event| shown.on(event))?;
    shown.finish();
    terminal::print(&format!("{}\n{}", table.results(), table.searched()))
}

fn factors(args: FactorsArgs) -> Result<()> {
    let source = match args.model {
        Some(model) => FactorsSource::Checkpoints { model, adapters: args.adapter },
        None => FactorsSource::Table1(variants::named(&args.method)?),
    };
    let (out, _new) = NewDir::unless(args.out)?;
    let options = FactorsOptions {
        out,
        source,
        tests: args.test,
        compression_factors: args.cf,
        sampling: args.sampling.sampling()?,
        verifier: args.verifier,
        answer_rule: args.answer_rule,
        batch_size: args.batch_size,
        machine: args.machine.machine(),
    };
    args.sampling.check(&["colar"], false)?;
    let shown = Shown::new();
    let report = experiment::factors(options, &|event| shown.on(event))?;
    shown.finish();
    terminal::print(&report.markdown())
}
