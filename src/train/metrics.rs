//! The records of a run: one JSON object a step in `metrics.jsonl`, and TensorBoard scalars.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::checkpoint::RunDir;
use super::tensorboard::EventWriter;
use crate::files::atomic::append_to;
use crate::{Error, Result};

/// The records of a run, read again.
#[derive(Debug, Clone, Default)]
pub struct Records(Vec<Map<String, Value>>);

impl Records {
    /// Reads the file `path` as far as it is written: a last line that is cut off counts for nothing.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        Ok(Records(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()))
    }

    /// The records of a kind, `train` or `val`, in their order.
    pub fn of_kind(&self, kind: &str) -> impl DoubleEndedIterator<Item = &Map<String, Value>> {
        self.0.iter().filter(move |line| line.get("kind").is_some_and(|k| k == kind))
    }

    /// The finite values of a metric by step.
    pub fn series(&self, kind: &str, name: &str) -> Vec<(f64, f64)> {
        let points = self
            .of_kind(kind)
            .filter_map(|line| Some((line.get("step")?.as_f64()?, line.get(name)?.as_f64()?)));
        points.filter(|(_, y)| y.is_finite()).collect()
    }
}

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
        // Those of the step itself are in earlier files; a run that starts over begins with its validation, at 0.
        let events = EventWriter::start(&run.root, if step == 0 { 0 } else { step + 1 })?;
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
