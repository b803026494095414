//! The engine's own form: {"question", "steps", "answer"}.

use std::path::Path;

use serde::Deserialize;

use super::scalar::Scalar;
use crate::Result;
use crate::data::Sample;
use crate::files::atomic::write_atomic;

/// A record as written by hand or by other tools: steps as one text or as a list.
#[derive(Debug, Deserialize)]
#[serde(expecting = "an object with question, steps and answer")]
pub struct Record {
    question: String,
    steps: Steps,
    answer: Scalar,
}

/// The same of a question that is only asked, whose steps nobody looks at and the record may lack.
#[derive(Debug, Deserialize)]
#[serde(expecting = "an object with question and answer")]
pub struct Question {
    question: String,
    steps: Option<Steps>,
    answer: Scalar,
}

/// Steps as a list, or as one text with a step a line.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "the steps must be text or a list of texts")]
enum Steps {
    Text(String),
    List(Vec<String>),
}

impl TryFrom<Record> for Sample {
    type Error = String;

    fn try_from(record: Record) -> Result<Sample, String> {
        let steps = record.steps.into_list();
        Ok(Sample { question: record.question, steps, answer: record.answer.into() })
    }
}

impl TryFrom<Question> for Sample {
    type Error = String;

    fn try_from(record: Question) -> Result<Sample, String> {
        let steps = record.steps.map(Steps::into_list).unwrap_or_default();
        Ok(Sample { question: record.question, steps, answer: record.answer.into() })
    }
}

impl Steps {
    fn into_list(self) -> Vec<String> {
        match self {
            Steps::Text(text) => {
                text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
            }
            Steps::List(steps) => steps,
        }
    }
}

/// Writes `samples` to `path` as JSON lines in the engine's own form, whole or not at all.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) naming `path`; a file that stood there is then untouched.
pub fn write_jsonl(path: impl AsRef<Path>, samples: &[Sample]) -> Result<()> {
    write_atomic(path.as_ref(), |out| {
        for sample in samples {
            serde_json::to_writer(&mut *out, sample)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    })
}
