//! `score`: teacher-forced losses.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::common::{self, ModelArgs};
use super::terminal;
use crate::data::load;
use crate::model::prompt::Method;
use crate::train::score::{Losses, SampleScore, Score, ScoreOptions};
use crate::{Error, Result};

/// Measure how well a model predicts a data set: its losses when the steps are given
///
/// Cross-entropy in nats a labelled position, the labels of a compressed chunk in the mean form; the
/// latent losses and the entropy as means over the latent dimension. Nothing is sampled: the losses are
/// the expectations over labels and noise, so the same files give the same figures. Under icot, coconut and
/// distill all steps are taken away; distill has its two other terms too.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  colar-engine score --data test.jsonl --cf 2
  colar-engine score --model Llama-3.2-1B --adapter runs/gsm/best --data test.jsonl --cf 5 --json")]
pub struct ScoreArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Data set, in any form that `data convert` reads
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Compression factor: tokens of a chunk; 1 where nothing is compressed, under any method but colar
    #[arg(long, value_name = "N", default_value_t = ScoreOptions::default().compression_factor)]
    cf: usize,
    /// How to reason [default: what the checkpoint was trained for; cot for a bare model]
    #[arg(long, value_enum)]
    method: Option<Method>,
    /// Most positions of a forward pass
    #[arg(long, value_name = "N", default_value_t = ScoreOptions::default().batch_tokens)]
    batch_tokens: usize,
    /// Print a JSON object a sample, then one with "total": true
    #[arg(long)]
    json: bool,
}

/// Runs `score`.
///
/// # Errors
/// Errors of reading the model and the data; [`Error::Usage`] for a compression factor where nothing is
/// compressed; a loss that is not finite.
pub fn run(args: &ScoreArgs) -> Result<()> {
    let samples = load(&args.data, None)?;
    let engine = args.model.open()?;
    let method = args.method.or(engine.default_method()).unwrap_or(Method::Cot);
    if let Some(own) = method.fixed_compression_factor().filter(|_| args.cf != 1) {
        return Err(method.no_factor(own, &args.cf.to_string()));
    }
    let options = ScoreOptions { method, compression_factor: args.cf, batch_tokens: args.batch_tokens };
    let bar = common::progress(samples.len(), "scoring");
    let scores = engine.score(&samples, &options, &mut |done| {
        bar.set_position(done as u64);
        Ok(())
    })?;
    bar.finish_and_clear();
    terminal::print(&if args.json { lines(&scores)? } else { table(&scores) })
}

/// A JSON object a sample, then the total.
fn lines(score: &Score) -> Result<String> {
    let mut out = String::new();
    for sample in &score.samples {
        out += &format!("{}\n", value(sample)?);
    }
    let mut total = json!({ "total": true, "samples": score.samples.len() });
    if let (Some(total), Value::Object(losses)) = (total.as_object_mut(), value(&score.total)?) {
        total.extend(losses);
    }
    Ok(out + &format!("{total}\n"))
}

fn value(of: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(of).map_err(|e| Error::other(format!("a score: {e}")))
}

/// A line a sample and one for the total.
fn table(score: &Score) -> String {
    let distilled = score.total.distill.is_some();
    let mut out = if distilled {
        format!("{:<40}{:>10}{:>10}{:>12}{:>12}\n", "", "positions", "ce", "teacher ce", "distill")
    } else {
        format!(
            "{:<40}{:>10}{:>10}{:>12}{:>12}{:>10}{:>9}\n",
            "", "positions", "ce", "latent mse", "latent nll", "entropy", "latents"
        )
    };
    for SampleScore { question, losses } in &score.samples {
        out += &row(question, losses, distilled);
    }
    let (plural, n) = (if score.samples.len() == 1 { "" } else { "s" }, score.samples.len());
    out + &row(&format!("all of {n} sample{plural}"), &score.total, distilled)
}

fn row(name: &str, l: &Losses, distilled: bool) -> String {
    let name: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).take(38).collect();
    let figure = |x: Option<f64>| x.map_or("–".to_owned(), |x| format!("{x:.4}"));
    let ce = format!("{name:<40}{:>10}{:>10.4}", l.ce_positions, l.ce);
    if distilled {
        return format!("{ce}{:>12}{:>12}\n", figure(l.teacher_ce), figure(l.distill));
    }
    format!(
        "{ce}{:>12}{:>12}{:>10}{:>9}\n",
        figure(l.latent_mse),
        figure(l.latent_nll),
        figure(l.entropy),
        l.latent_positions
    )
}
