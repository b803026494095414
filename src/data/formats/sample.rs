//! From records to samples, whatever the form.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::records::{self, Record};
use crate::data::Sample;
use crate::{Error, Result};

/// Reads every JSON record of `text` as an `R` and turns it into a sample.
pub(super) fn read_json<R>(path: &Path, text: &str) -> Result<Vec<Sample>>
where
    R: DeserializeOwned + TryInto<Sample, Error = String>,
{
    records::split(path, text)?
        .iter()
        .map(|record| finish(path, record, records::parse::<R>(path, record)?.try_into()))
        .collect()
}

/// Checks the rules that hold in every format and gives an error its place.
pub(super) fn finish(path: &Path, record: &Record, sample: Result<Sample, String>) -> Result<Sample> {
    let sample = sample.and_then(|sample| {
        if sample.question.trim().is_empty() {
            Err("the question is empty".to_owned())
        } else if sample.answer.trim().is_empty() {
            Err("the answer is empty".to_owned())
        } else {
            Ok(sample)
        }
    });
    sample.map_err(|what| Error::Line { path: path.to_owned(), line: record.line, what })
}
