//! `eval`: accuracy and reasoning length.

use std::path::{Path, PathBuf};

use clap::Args;

use super::common::{self, ModelArgs};
use super::sampling::SamplingArgs;
use super::terminal;
use crate::Engine;
use crate::data::{AnswerRule, Sample, VerifierKind, load_questions};
use crate::eval::accuracy::EvalOptions;
use crate::eval::predictions::{self, Prediction};
use crate::eval::samples::Samples;
use crate::eval::{COMPRESSION_FACTORS, TableRow, plot, table};
use crate::infer::Sampling;
use crate::model::prompt::{FACTORS, Method};
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
  colar-engine eval --run runs/gsm --data gsm8k=gsm8k.jsonl --data svamp=svamp.json --seeds 8 --pass-at 1,8 --majority
  colar-engine eval --run runs/gsm --data test.jsonl --save-predictions runs/gsm/predictions.jsonl
  colar-engine eval --model Llama-3.2-1B --adapter runs/math/best --data math.jsonl --verifier math")]
pub struct EvalArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Data set, in any form that `data convert` reads; it needs no steps. Of several, repeated, each has a name
    #[arg(long, value_name = "[NAME=]FILE", required = true, value_parser = DataSet::parse)]
    data: Vec<DataSet>,
    /// Compression factors: numbers above 0 or `auto`
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = crate::model::prompt::parse_compression_factor,
          allow_hyphen_values = true, help = format!(
              "Compression factors: `auto`, or {FACTORS} [default: {}; under cot 1, under icot, coconut and \
               distill auto, and nothing else]",
              COMPRESSION_FACTORS.join(",")
          ))]
    cf: Vec<String>,
    /// How to reason [default: what the checkpoint was trained for; cot for a bare model]
    #[arg(long, value_enum)]
    method: Option<Method>,
    /// Runs that differ in their seed: SEED, SEED + 1, …; one under --greedy
    #[arg(long, value_name = "N", help = format!(
        "Runs that differ in their seed: SEED, SEED + 1, …; one under --greedy [default: {SEEDS}]"
    ))]
    seeds: Option<usize>,
    /// Probability that one of K of a question's runs is right (pass@K), unbiased; K at most --seeds
    #[arg(long, value_name = "K,…", value_delimiter = ',')]
    pass_at: Vec<usize>,
    /// Accuracy of the answer that most of a question's runs agree in
    #[arg(long)]
    majority: bool,
    /// Accuracy by reasoning length, in N ranges of about as many answers each
    #[arg(long, value_name = "N")]
    by_length: Option<usize>,
    /// Only the first N samples of each data set
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Questions that run together
    #[arg(long, value_name = "N", default_value_t = EvalOptions::default().batch_size)]
    batch_size: usize,
    /// How an answer is compared with the gold one
    #[arg(long, value_enum, default_value_t)]
    verifier: VerifierKind,
    /// Which part of a generated text is its answer
    #[arg(long, value_enum, value_name = "RULE", default_value_t = AnswerRule::Last)]
    answer_rule: AnswerRule,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Print a JSON list, an object a row, instead of the table
    #[arg(long)]
    json: bool,
    /// Write every answer, a JSON object a line: question, gold answer, text, whether it is right, length, seed, times
    #[arg(long, value_name = "FILE.jsonl")]
    save_predictions: Option<PathBuf>,
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
    if let Some(k) = args.pass_at.iter().find(|&&k| k > seeds) {
        return Err(Error::usage(format!("--pass-at {k}: there are {seeds} runs of a question (--seeds)")));
    }
    if args.majority && seeds < 2 {
        return Err(Error::usage("--majority takes several --seeds"));
    }
    if args.plot.is_some() && args.data.len() > 1 {
        return Err(Error::usage("--plot draws one data set: give one --data"));
    }
    let sets = load_all(args)?;
    if let Some(path) = &args.save_predictions {
        check_place(path)?;
    }
    let engine = args.model.open()?;
    let method = args.method.or(engine.default_method()).unwrap_or(Method::Cot);
    args.sampling.check(&[method.name()], false)?;
    let (mut rows, mut predictions) = (Vec::new(), Vec::new());
    let (factors, batch_size) = (compression_factors(method, &args.cf)?, args.batch_size);
    let (verifier, answer_rule) = (args.verifier, args.answer_rule);
    let options = |compression_factor| EvalOptions {
        method,
        compression_factor,
        sampling,
        batch_size,
        verifier,
        answer_rule,
    };
    // A question that cannot be asked is found before those of other sets are answered for hours.
    for (set, (_, questions)) in args.data.iter().zip(&sets) {
        for factor in &factors {
            engine.check_questions(questions, &options(factor.clone())).map_err(|e| set.at_fault(e))?;
        }
    }
    for (name, questions) in &sets {
        for compression_factor in factors.iter().cloned() {
            let options = options(compression_factor);
            let (row, of_row) = evaluate(args, &engine, name.as_deref(), questions, &options, seeds)?;
            rows.extend(row);
            predictions.extend(of_row);
        }
    }
    if let Some(path) = &args.save_predictions {
        predictions::write(path, &predictions)?;
    }
    if let Some(path) = &args.plot {
        plot::write(path, "Accuracy against reasoning length", &rows)?;
    }
    terminal::print(&if args.json { table::json(&rows)? } else { table::text(&rows) })
}

/// The data sets, each with its name where there are several.
fn load_all(args: &EvalArgs) -> Result<Vec<(Option<String>, Vec<Sample>)>> {
    let mut sets: Vec<(Option<String>, Vec<Sample>)> = Vec::new();
    for set in &args.data {
        if args.data.len() > 1 && set.name.is_none() {
            return Err(Error::usage(format!(
                "--data {}: of several data sets each has a name, NAME=FILE",
                set.file.display()
            )));
        }
        if sets.iter().any(|(name, _)| *name == set.name) {
            return Err(Error::usage(format!(
                "--data {}: a second data set of this name",
                set.name.as_deref().unwrap_or_default()
            )));
        }
        let mut samples = load_questions(&set.file)?;
        samples.truncate(args.limit.unwrap_or(usize::MAX));
        sets.push((set.name.clone(), samples));
    }
    Ok(sets)
}

/// Fails before an evaluation where its file could not be written after it.
fn check_place(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Err(Error::file(path, "is a directory, where a file is to be written"));
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.map_or(Ok(()), |parent| std::fs::create_dir_all(parent).map_err(Error::io(parent)))
}

/// The row of a data set and compression factor over all seeds, and the answers if they are asked for.
fn evaluate(
    args: &EvalArgs,
    engine: &Engine,
    set: Option<&str>,
    questions: &[Sample],
    options: &EvalOptions,
    seeds: usize,
) -> Result<(Option<TableRow>, Vec<Prediction>)> {
    let EvalOptions { method, compression_factor, sampling, .. } = options;
    let (mut runs, mut samples) = (Vec::with_capacity(seeds.min(1024)), Samples::default());
    let mut predictions = Vec::new();
    for run in 0..seeds {
        let sampling = Sampling { seed: sampling.seed.wrapping_add(run as u64), ..*sampling };
        let options = EvalOptions { sampling, ..options.clone() };
        let of_set = set.map_or(String::new(), |set| format!("{set}, "));
        let bar = common::progress(
            questions.len(),
            &format!("{of_set}c = {compression_factor}, {}/{seeds}", run + 1),
        );
        let mut evaluation = engine.evaluate(questions, &options, &mut |done| {
            bar.set_position(done as u64);
            Ok(())
        })?;
        bar.finish_and_clear();
        samples.add(&evaluation);
        if args.save_predictions.is_some() {
            let outcomes = evaluation.outcomes.iter().enumerate();
            predictions
                .extend(outcomes.map(|(index, outcome)| Prediction::of(outcome, set, index, &options)));
        }
        // The figures are taken; keeping the texts of many seeds of a large set would fill the memory.
        evaluation.outcomes = Vec::new();
        runs.push(evaluation);
    }
    let row = TableRow::from_runs(*method, compression_factor, &runs).map(|row| TableRow {
        set: set.map(str::to_owned),
        pass_at: args.pass_at.iter().filter_map(|&k| samples.pass_at(k)).collect(),
        majority: args.majority.then(|| samples.majority(options.verifier.verifier().as_ref())).flatten(),
        by_length: args.by_length.map(|bins| samples.by_length(bins)).unwrap_or_default(),
        ..row
    });
    Ok((row, predictions))
}

/// A data set, by its name if it has one.
#[derive(Debug, Clone)]
struct DataSet {
    name: Option<String>,
    file: PathBuf,
}

impl DataSet {
    /// An error of one of its samples, with the file.
    fn at_fault(&self, error: Error) -> Error {
        match error {
            Error::Usage(what) => Error::usage(format!("{}: {what}", self.file.display())),
            other => other,
        }
    }

    /// Reads `NAME=FILE`, or `FILE`; a file of that whole name counts as one.
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("", _)) => Err("the name is empty".to_owned()),
            Some((name, file)) if !Path::new(text).exists() && !name.contains('/') => {
                Ok(DataSet { name: Some(name.to_owned()), file: file.into() })
            }
            _ => Ok(DataSet { name: None, file: text.into() }),
        }
    }
}

/// The compression factors to evaluate at.
fn compression_factors(method: Method, given: &[String]) -> Result<Vec<String>> {
    match method.fixed_compression_factor() {
        None if given.is_empty() => Ok(COMPRESSION_FACTORS.map(str::to_owned).to_vec()),
        None => Ok(given.to_vec()),
        Some(own) if given.is_empty() || given == [own] => Ok(vec![own.to_owned()]),
        Some(own) => Err(method.no_factor(own, &given.join(","))),
    }
}
