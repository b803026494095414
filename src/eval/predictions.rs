//! Every answer of an evaluation, a JSON object a line: what one reads to see why a figure is as it is, and what two
//! models are compared by, question by question.

use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::accuracy::{EvalOptions, Outcome};
use super::table::serialize_compression_factor;
use crate::files::atomic::write_atomic;
use crate::model::prompt::Method;
use crate::{Error, Result};

/// An answer to a question of a data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The data set's name, where several were given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// The question's place in the data set, counted from 0.
    pub index: usize,
    /// The method of reasoning.
    pub method: Method,
    /// The compression factor as text; in JSON a number, where it is one.
    #[serde(
        rename = "cf",
        serialize_with = "serialize_compression_factor",
        deserialize_with = "compression_factor"
    )]
    pub compression_factor: String,
    /// The seed of the run over the data set.
    pub seed: u64,
    /// The question.
    pub question: String,
    /// The gold answer.
    pub gold: String,
    /// The answer in the text, if it has one.
    pub prediction: Option<String>,
    /// Whether it is the gold one.
    pub right: bool,
    /// The text as it was generated.
    pub text: String,
    /// Whether the answer ended by itself and not by a limit.
    pub finished: bool,
    /// Latents, thoughts and tokens of reasoning text: #L.
    pub n_latents: usize,
    /// Tokens of the answer, the end of sequence included.
    pub answer_tokens: usize,
    /// Milliseconds until the prompts of its batch were in the cache.
    pub prefill_ms: f64,
    /// Milliseconds of the reasoning.
    pub latents_ms: f64,
    /// Milliseconds of the answer.
    pub answer_ms: f64,
}

/// A compression factor that stands as a number or as text.
fn compression_factor<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(serde::de::Error::custom("cf must be a number or a text")),
    }
}

impl Prediction {
    /// The prediction of an outcome, whose question has the place `index` in the data set `set`.
    pub fn of(outcome: &Outcome, set: Option<&str>, index: usize, options: &EvalOptions) -> Self {
        let g = &outcome.generation;
        Prediction {
            set: set.map(str::to_owned),
            index,
            method: options.method,
            compression_factor: options.compression_factor.clone(),
            seed: options.sampling.seed,
            question: outcome.question.clone(),
            gold: outcome.gold.clone(),
            prediction: g.answer.clone(),
            right: outcome.correct,
            text: g.text.clone(),
            finished: g.finished,
            n_latents: g.n_latents,
            answer_tokens: g.answer_tokens,
            prefill_ms: g.prefill_ms,
            latents_ms: g.latents_ms,
            answer_ms: g.answer_ms,
        }
    }
}

/// Writes predictions to `path`, a JSON object a line, whole or not at all.
///
/// # Errors
/// [`Error::Io`] naming `path`.
pub fn write(path: &Path, predictions: &[Prediction]) -> Result<()> {
    write_atomic(path, |out| {
        predictions.iter().try_for_each(|p| {
            serde_json::to_writer(&mut *out, p)?;
            out.write_all(b"\n")
        })
    })
}

/// Reads what [`write`] wrote.
///
/// # Errors
/// [`Error::Io`], or [`Error::Line`] naming the line that is no prediction.
pub fn read(path: &Path) -> Result<Vec<Prediction>> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(i, line)| {
            serde_json::from_str(line).map_err(|e| Error::Line {
                path: path.to_owned(),
                line: i + 1,
                what: format!("is no prediction of `eval`: {}", crate::files::json::one_line(&e.to_string())),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::Generation;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.jsonl");
        let outcome = Outcome {
            question: "1+1?\n".into(),
            gold: "2".into(),
            generation: Generation::saying("Answer: 2", 3, 2),
            correct: true,
        };
        let options = EvalOptions::default().compression_factor("1.5");
        let mut all = vec![Prediction::of(&outcome, None, 0, &options)];
        all.push(Prediction { set: Some("gsm".into()), prediction: None, index: 1, ..all[0].clone() });
        all.push(Prediction { compression_factor: "auto".into(), ..all[0].clone() });
        write(&path, &all).unwrap();
        assert_eq!(read(&path).unwrap(), all);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"cf\":1.5") && text.contains("\"cf\":\"auto\""), "{text}");
        std::fs::write(&path, format!("{text}{{\"question\": 1}}\n")).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("line 4: is no prediction of `eval`: "), "{error}");
    }
}
