//! `eval`: accuracy and reasoning length.

use std::path::PathBuf;

use clap::Args;

use super::common::{self, ModelArgs, SamplingArgs};
use super::terminal;
use crate::data::{VerifierKind, load_questions};
use crate::eval::accuracy::EvalOptions;
use crate::eval::{COMPRESSION_FACTORS, TableRow, plot, table};
use crate::infer::Sampling;
use crate::model::prompt::Method;
use crate::{Error, Result};

/// Runs of an evaluation that draws.
const SEEDS: usize = 5;

/// Measure how often a model is right and how long it thinks
///
/// Prints accuracy, mean reasoning length #L (latents, thoughts and tokens of a written chain), #L of correct
/// answers and answer length for every compression factor, each with its 95 % confidence interval over
/// seeds: as the paper's table 1.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  colar-engine eval --data test.jsonl
  colar-engine eval --model Llama-3.2-1B --adapter runs/gsm/best --data test.jsonl --cf 2,5 --plot gsm.svg
  colar-engine eval --model Llama-3.2-1B --adapter runs/cot/best --data test.jsonl --method cot --greedy
  colar-engine eval --model Llama-3.2-1B --adapter runs/math/best --data math.jsonl --verifier math")]
pub struct EvalArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Data set, in any form that `data convert` reads; it needs no steps
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Compression factors: numbers above 0 or `auto`
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = crate::model::prompt::parse_compression_factor,
          allow_hyphen_values = true, help = format!(
              "Compression factors: numbers above 0 or `auto` [default: {}; under cot 1, under icot, coconut and \
               distill auto, and nothing else]",
              COMPRESSION_FACTORS.join(",")
          ))]
    cf: Vec<String>,
    /// How to reason [default: what the checkpoint was trained for; cot for a bare model]
    #[arg(long, value_enum)]
    method: Option<Method>,
    /// Runs that differ in their seed: SEED, SEED + 1, …; one under --greedy
    #[arg(long, value_name = "N", value_parser = common::count, help = format!(
        "Runs that differ in their seed: SEED, SEED + 1, …; one under --greedy [default: {SEEDS}]"
    ))]
    seeds: Option<usize>,
    /// Only the first N samples
    #[arg(long, value_name = "N", value_parser = common::count)]
    limit: Option<usize>,
    /// Questions that run together
    #[arg(long, value_name = "N", default_value_t = EvalOptions::default().batch_size, value_parser = common::batch_size)]
    batch_size: usize,
    /// How an answer is compared with the gold one
    #[arg(long, value_enum, default_value_t)]
    verifier: VerifierKind,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Print a JSON list, an object a row, instead of the table
    #[arg(long)]
    json: bool,
    /// Draw accuracy against reasoning length
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// Runs `eval`; the table goes to standard output, progress to standard error.
///
/// # Errors
/// Errors of reading the model and the data; [`Error::Usage`] for values out of range, several seeds of
/// a deterministic run or a compression factor where nothing is compressed; a method that the model has no head
/// or thoughts for.
pub fn run(args: &EvalArgs) -> Result<()> {
    let sampling = args.sampling.sampling()?;
    let seeds = match (args.seeds, args.sampling.greedy) {
        (Some(n), true) if n > 1 => {
            return Err(Error::usage(format!("--seeds {n}: a greedy run has no seed")));
        }
        (_, true) => 1,
        (n, false) => n.unwrap_or(SEEDS),
    };
    let mut samples = load_questions(&args.data)?;
    samples.truncate(args.limit.unwrap_or(usize::MAX));
    let engine = args.model.open()?;
    let method = args.method.or(common::method_of(&engine)).unwrap_or(Method::Cot);
    let mut rows = Vec::new();
    for compression_factor in compression_factors(method, &args.cf)? {
        let mut runs = Vec::with_capacity(seeds.min(1024));
        for run in 0..seeds {
            let sampling = Sampling { seed: sampling.seed.wrapping_add(run as u64), ..sampling };
            let options = EvalOptions {
                method,
                compression_factor: compression_factor.clone(),
                sampling,
                batch_size: args.batch_size,
                verifier: args.verifier,
            };
            let bar =
                common::progress(samples.len(), &format!("c = {compression_factor}, {}/{seeds}", run + 1));
            let mut evaluation = engine.evaluate(&samples, &options, &mut |done| {
                bar.set_position(done as u64);
                Ok(())
            })?;
            bar.finish_and_clear();
            // The figures are all that is printed; many seeds of a large set would fill the memory.
            evaluation.outcomes = Vec::new();
            runs.push(evaluation);
        }
        rows.extend(TableRow::from_runs(method, &compression_factor, &runs));
    }
    if let Some(path) = &args.plot {
        plot::write(path, "Accuracy against reasoning length", &rows)?;
    }
    terminal::print(&if args.json { table::json(&rows)? } else { table::text(&rows) })
}

/// The compression factors to evaluate at.
fn compression_factors(method: Method, given: &[String]) -> Result<Vec<String>> {
    match method.fixed_compression_factor() {
        None if given.is_empty() => Ok(COMPRESSION_FACTORS.map(str::to_owned).to_vec()),
        None => Ok(given.to_vec()),
        Some(own) if given.is_empty() || given == [own] => Ok(vec![own.to_owned()]),
        Some(own) => Err(common::no_factor(method, own, &given.join(","))),
    }
}
