//! `colar-engine data`: make, convert, measure and show data sets.

mod show;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::terminal::{self, print};
use crate::Result;
use crate::data::lengths::{Lengths, Spread, Whole};
use crate::data::synth::{self, SynthConfig};
use crate::data::{Format, Sample, load, write_jsonl};
use crate::model::config::ModelConfig;
use crate::model::prompt::{AUTO, Method, training};
use crate::model::tokenizer::Tokenizer;

/// Make, convert, measure and show data sets.
#[derive(Debug, Args)]
pub struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Debug, Subcommand)]
enum DataCommand {
    Synth(SynthArgs),
    Convert(ConvertArgs),
    Stats(StatsArgs),
    Show(show::ShowArgs),
}

/// Make the embedded set of arithmetic word problems and its tokenizer
///
/// Writes train.jsonl, val.jsonl, test.jsonl, tokenizer.json and tokenizer_config.json. The same
/// arguments give the same files; no chain of operations occurs in two of the splits.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  colar-engine data synth --out synth --seed 1 --train 40000")]
struct SynthArgs {
    /// Directory to write to; made if absent
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Seed of all draws
    #[arg(long, default_value_t = SynthConfig::default().seed)]
    seed: u64,
    /// Training problems
    #[arg(long, value_name = "N", default_value_t = SynthConfig::default().train)]
    train: usize,
    /// Validation problems
    #[arg(long, value_name = "N", default_value_t = SynthConfig::default().val)]
    val: usize,
    /// Test problems
    #[arg(long, value_name = "N", default_value_t = SynthConfig::default().test)]
    test: usize,
    /// Fewest steps of a problem
    #[arg(long, value_name = "N", default_value_t = SynthConfig::default().min_steps)]
    min_steps: u32,
    /// Most steps of a problem
    #[arg(long, value_name = "N", default_value_t = SynthConfig::default().max_steps)]
    max_steps: u32,
    /// Largest number, results included; up to 59 each is one token
    #[arg(long, value_name = "N", default_value_t = SynthConfig::default().max_value)]
    max_value: u32,
    /// Percentage of chains that check their last step by its inverse
    #[arg(long, value_name = "P", default_value_t = SynthConfig::default().check_percent)]
    check_percent: u32,
}

/// Convert a published data set to the engine's own form
///
/// Reads GSM8K, GSM8k-Aug, GSM-Hard, SVAMP, MultiArith, MATH (a file, or the directory tree as published)
/// or the engine's own form, and writes {"question", "steps", "answer"}, a JSON object a line.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  colar-engine data convert gsm8k_train.jsonl train.jsonl\n  \
                        colar-engine data convert --format math MATH/test math_test.jsonl")]
struct ConvertArgs {
    /// Form of the input; found out from its first record when not given
    #[arg(long, value_enum, value_name = "FORM")]
    format: Option<Format>,
    /// File to read, or a directory in the MATH form; - is standard input
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// File to write; - is standard output
    #[arg(value_name = "OUT")]
    output: PathBuf,
}

/// Show how long a data set's questions, steps and answers are
///
/// Lengths are in tokens of the given tokenizer, or in characters when there is none.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  colar-engine data stats --data train.jsonl --model Llama-3.2-1B")]
struct StatsArgs {
    /// Data set, in any form that `data convert` reads
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Form of the data set; found out from its first record when not given
    #[arg(long, value_enum, value_name = "FORM")]
    format: Option<Format>,
    /// A tokenizer.json to count tokens with
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    tokenizer: Option<PathBuf>,
    /// A model directory whose tokenizer to count tokens with, and beside whose positions samples are held
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs `colar-engine data` with parsed arguments; results go to standard output, remarks to standard error.
///
/// # Errors
/// Errors of reading, converting or writing the files; see [`load`] and [`synth::generate`].
pub fn run(args: DataArgs) -> Result<()> {
    match args.command {
        DataCommand::Synth(args) => synth(&args),
        DataCommand::Convert(args) => convert(&args),
        DataCommand::Stats(args) => stats(&args),
        DataCommand::Show(args) => show::run(&args),
    }
}

fn synth(args: &SynthArgs) -> Result<()> {
    let config = SynthConfig {
        seed: args.seed,
        train: args.train,
        val: args.val,
        test: args.test,
        min_steps: args.min_steps,
        max_steps: args.max_steps,
        max_value: args.max_value,
        check_percent: args.check_percent,
    };
    let splits = synth::generate(&config)?;
    for (name, samples) in [("train", &splits.train), ("val", &splits.val), ("test", &splits.test)] {
        write_jsonl(args.out.join(name).with_extension("jsonl"), samples)?;
    }
    synth::write_tokenizer(&args.out)?;
    terminal::note(format!(
        "{}: {} training, {} validation and {} test problems, and their tokenizer",
        args.out.display(),
        args.train,
        args.val,
        args.test
    ));
    Ok(())
}

fn convert(args: &ConvertArgs) -> Result<()> {
    let [input, output] = [(&args.input, "/dev/stdin"), (&args.output, "/dev/stdout")].map(or_standard);
    let samples = load(input, args.format)?;
    write_jsonl(output, &samples)?;
    terminal::note(format!("{}: {}", output.display(), count(samples.len())));
    Ok(())
}

/// The path, or that of a standard stream where it is `-`.
fn or_standard<'a>((path, stream): (&'a PathBuf, &'static str)) -> &'a Path {
    if cfg!(unix) && path.as_os_str() == "-" { Path::new(stream) } else { path }
}

fn count(samples: usize) -> String {
    format!("{samples} sample{}", if samples == 1 { "" } else { "s" })
}

fn stats(args: &StatsArgs) -> Result<()> {
    let tokenizer = match (&args.tokenizer, &args.model) {
        (Some(file), _) => Some(Tokenizer::load_file(file)?),
        (None, Some(dir)) => Some(Tokenizer::load(dir)?),
        (None, None) => None,
    };
    let samples = load(&args.data, args.format)?;
    let (unit, mut lengths) = match &tokenizer {
        Some(tokenizer) => ("tokens", Lengths::measure(&samples, |text| Ok(tokenizer.encode(text)?.len()))?),
        None => ("characters", Lengths::measure(&samples, |text| Ok(text.chars().count()))?),
    };
    // A directory may hold a tokenizer alone, as those of `data synth` do.
    if let (Some(dir), Some(tokenizer)) = (&args.model, &tokenizer)
        && dir.join("config.json").exists()
    {
        let most = ModelConfig::load(dir)?.max_position_embeddings;
        // Which tokens the separators are does not matter to their number.
        let positions = |s: &Sample| Ok(training(tokenizer, 0, 0, Method::Cot, s, AUTO)?.positions(1));
        lengths.whole = Some(Whole::measure(&samples, most, positions)?);
    }
    print(&if args.json { json(unit, &lengths) } else { table(unit, &lengths) })
}

/// One line: the unit, then the fields of [`Lengths`].
fn json(unit: &str, lengths: &Lengths) -> String {
    let mut object = serde_json::json!({ "unit": unit });
    if let (Some(object), Ok(serde_json::Value::Object(fields))) =
        (object.as_object_mut(), serde_json::to_value(lengths))
    {
        object.extend(fields);
    }
    format!("{object}\n")
}

fn table(unit: &str, lengths: &Lengths) -> String {
    let row =
        |name: &str, s: &Spread| format!("{name:<20}{:>8.1}{:>8}{:>8}{:>8}\n", s.mean, s.p50, s.p95, s.max);
    let mut text = format!("{}\n\n{:<20}", count(lengths.samples), "");
    text += &format!("{:>8}{:>8}{:>8}{:>8}\n", "mean", "p50", "p95", "max");
    text += &row("steps a sample", &lengths.steps_per_sample);
    for (part, spread) in
        [("question", &lengths.question), ("steps", &lengths.steps), ("answer", &lengths.answer)]
    {
        text += &row(&format!("{part}, {unit}"), spread);
    }
    if let Some(Whole { positions, max_position_embeddings, longer }) = &lengths.whole {
        text += &row("whole, positions", positions);
        text += &format!(
            "\n{longer} of {} samples are longer than the {max_position_embeddings} positions of the model \
             (max_position_embeddings), uncompressed\n",
            lengths.samples
        );
    }
    text
}
