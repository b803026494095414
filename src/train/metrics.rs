//! The records of a run: one JSON object a step in `metrics.jsonl`, and TensorBoard scalars.

use std::io::Write;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::checkpoint::RunDir;
use super::tensorboard::EventWriter;
use crate::files::atomic::append_to;
use crate::{Error, Result};

/// Writes both records of a run.
pub struct Metrics {
    path: PathBuf,
    file: std::fs::File,
    events: EventWriter,
}

impl Metrics {
    /// Opens the records of `run`, for a run that has done `step` steps: records of an interrupted run
    /// beyond them are dropped, so that no step appears twice.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn open(run: &RunDir, step: u64) -> Result<Self> {
        let path = run.metrics();
        let file = append_to(&path, |line| {
            // A run that starts over records its validation before the first step again, so the old one goes too.
            serde_json::from_str::<Map<String, Value>>(line)
                .is_ok_and(|m| m.get("step").and_then(Value::as_u64).is_some_and(|s| s <= step && step > 0))
        })?;
        let events =
            if step == 0 { EventWriter::create(&run.root)? } else { EventWriter::resume(&run.root, step)? };
        Ok(Metrics { path, file, events })
    }

    /// Records the numbers of a step; `prefix` groups them in TensorBoard.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn record(&mut self, prefix: &str, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let mut line = Map::new();
        line.insert("kind".into(), prefix.into());
        line.insert("step".into(), step.into());
        for (name, value) in values {
            line.insert((*name).into(), Value::from(*value));
            self.events.scalar(step, &format!("{prefix}/{name}"), *value as f32)?;
        }
        let line = format!("{}\n", Value::Object(line));
        self.file.write_all(line.as_bytes()).map_err(Error::io(&self.path))
    }

    /// Brings the records to the disk.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn flush(&mut self) -> Result<()> {
        self.events.flush()
    }
}
