//! The inputs of a comparison: model, data, test sets, and the machine it may use.

use std::path::{Path, PathBuf};

use crate::device::{ComputeDtype, DeviceKind};
use crate::{Error, Result};

/// Model and data of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Given {
    /// The model directory.
    pub model: PathBuf,
    /// Training data.
    pub data: PathBuf,
    /// Validation data, by which learning rates are chosen.
    pub val: PathBuf,
}

/// A test set by name.
#[derive(Debug, Clone, PartialEq)]
pub struct TestSet {
    /// The heading of its columns.
    pub name: String,
    /// Its file.
    pub file: PathBuf,
}

impl TestSet {
    /// Reads `NAME=FILE`, or `FILE`, which is named like its file.
    ///
    /// # Errors
    /// A message naming the fault of the text.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let (name, file) = match text.split_once('=') {
            Some((name, file)) => (name.to_owned(), PathBuf::from(file)),
            None => {
                let file = PathBuf::from(text);
                (file.file_stem().unwrap_or_default().to_string_lossy().into_owned(), file)
            }
        };
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
            return Err(format!(
                "{name:?} is no name for a test set: letters, digits, `.`, `-` and `_`, as in NAME=FILE"
            ));
        }
        if name == AVERAGE {
            return Err(format!("{AVERAGE:?} is the name of the last column: give another as in NAME=FILE"));
        }
        Ok(TestSet { name, file })
    }
}

/// The name of the columns that are the mean over all test sets.
pub const AVERAGE: &str = "average";

impl Given {
    /// The same from every working directory, for the files of the experiment.
    pub(super) fn absolute(&self) -> Result<Self> {
        Ok(Given { model: absolute(&self.model)?, data: absolute(&self.data)?, val: absolute(&self.val)? })
    }
}

impl TestSet {
    /// As [`Given::absolute`].
    pub(super) fn absolute(&self) -> Result<Self> {
        Ok(TestSet { name: self.name.clone(), file: absolute(&self.file)? })
    }
}

/// A path that is the same from every working directory.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(Error::io(path))
}

/// The machine that performs the runs. Nothing of it changes a result but `dtype`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Machine {
    /// The device to run on.
    pub device: DeviceKind,
    /// Arithmetic of a CUDA device.
    pub dtype: Option<ComputeDtype>,
    /// Runs side by side; 0: a core each for the embedded model, else 1.
    pub jobs: usize,
    /// CPU threads of a run; 0: the cores shared among the jobs.
    pub threads: usize,
    /// Whether weights are read into memory, and not mapped.
    pub no_mmap: bool,
}

impl Machine {
    /// Runs side by side, and threads of each.
    pub(super) fn split(&self, small: bool) -> (usize, usize) {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let jobs = match self.jobs {
            0 if small && matches!(self.device, DeviceKind::Auto | DeviceKind::Cpu) => cores,
            0 => 1,
            n => n,
        };
        let threads = if self.threads == 0 { (cores / jobs).max(1) } else { self.threads };
        (jobs, threads)
    }
}
