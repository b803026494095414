//! A run as it is read for a comparison.

use std::path::{Path, PathBuf};

use crate::eval::predictions::{self, Prediction};
use crate::train::metrics::Records;
use crate::{Error, Result};

/// The file of a run's directory in which its answers are looked for.
const PREDICTIONS: &str = "predictions.jsonl";

/// A run, or a file of answers alone.
#[derive(Debug, Clone)]
pub struct Side {
    /// The path as it was given.
    pub name: String,
    /// The options that it was begun with.
    pub config: Option<toml::Table>,
    /// Its metrics.
    pub records: Option<Records>,
    /// Its answers; none where they were not saved.
    pub predictions: Vec<Prediction>,
}

impl Side {
    /// Reads a run's directory, with the answers in its `predictions.jsonl` if they are there, or a file of answers.
    ///
    /// # Errors
    /// [`Error::File`] for a directory without a run's files; errors of reading them.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        if !path.is_dir() {
            let predictions = predictions::read(path)?;
            return Ok(Side { name, config: None, records: None, predictions });
        }
        let [config, metrics, answers] =
            ["config.toml", "metrics.jsonl", PREDICTIONS].map(|file| path.join(file));
        let read = |path: &PathBuf| {
            path.exists().then(|| std::fs::read_to_string(path).map_err(Error::io(path))).transpose()
        };
        let table = |text: String| {
            text.parse().map_err(|e: toml::de::Error| Error::file(&config, e.message().to_owned()))
        };
        let side = Side {
            name,
            config: read(&config)?.map(table).transpose()?,
            records: metrics.exists().then(|| Records::read(&metrics)).transpose()?,
            predictions: if answers.exists() { predictions::read(&answers)? } else { Vec::new() },
        };
        if side.config.is_none() && side.records.is_none() && side.predictions.is_empty() {
            return Err(Error::file(
                path,
                format!("no run: it has none of config.toml, metrics.jsonl, {PREDICTIONS}"),
            ));
        }
        Ok(side)
    }
}
