//! The model to load, and where it runs.

#[cfg(feature = "train")]
use std::path::Path;
use std::path::PathBuf;

use crate::device::{ComputeDtype, DeviceKind};
#[cfg(feature = "train")]
use crate::files::runs::{self, Run};
use crate::model::chat_template::Template;
use crate::model::lora::LoraMode;
use crate::{Error, Result};

/// The model to load, and where it runs.
///
/// ```
/// use colar_engine::{DeviceKind, EngineOptions};
///
/// let options = EngineOptions::new("models/SmolLM2-135M").adapter("runs/colar/best").device(DeviceKind::Cpu).threads(2);
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct EngineOptions {
    /// The model directory (spec section 8).
    pub model: PathBuf,
    /// A checkpoint over it.
    pub adapter: Option<PathBuf>,
    /// In its place, checkpoints over it each with a name by which [requests](crate::Request::adapter) choose it, in one batch too.
    /// Their adapters stay beside the weights, which all share.
    pub adapters: Vec<(String, PathBuf)>,
    /// Where to run.
    pub device: DeviceKind,
    /// CPU threads; 0 means one a core.
    pub threads: usize,
    /// Arithmetic of a CUDA device; `None` is bf16 on a GPU and float32 on `cuda-host`. The CPU has float32
    /// alone.
    pub dtype: Option<ComputeDtype>,
    /// Whether the checkpoint's adapter is merged into the weights; `None` chooses as [`LoraMode::best_for`] does.
    pub lora: Option<LoraMode>,
    /// Whether requests and samples may take more positions than the model was made for (`max_position_embeddings`).
    /// Without it such are refused, and reasoning and answers end where the positions do.
    pub allow_long: bool,
    /// Whether a blank is put into texts of questions and samples that mean something in the prompt (`###`, special tokens,
    /// and in reasoning and answers `Answer:`). Without it such are refused.
    pub escape_marks: bool,
    /// The layout around questions of a model without a checkpoint; a checkpoint has its own.
    pub template: Option<Template>,
    /// Whether the weights are read into memory, and not mapped: the model then no longer needs its files, which may be
    /// replaced or cut short under it, but shares no memory with other processes that run it.
    pub no_mmap: bool,
}

setters!(EngineOptions {
    device: DeviceKind,
    threads: usize,
    allow_long: bool,
    escape_marks: bool,
    no_mmap: bool
});
setters!(EngineOptions into { dtype: Option<ComputeDtype>, lora: Option<LoraMode>, template: Option<Template> });

impl EngineOptions {
    /// A model directory on the default device.
    pub fn new(model: impl Into<PathBuf>) -> Self {
        EngineOptions { model: model.into(), ..EngineOptions::default() }
    }

    /// The same with a checkpoint over the model.
    #[must_use]
    pub fn adapter(self, checkpoint: impl Into<PathBuf>) -> Self {
        EngineOptions { adapter: Some(checkpoint.into()), ..self }
    }

    /// The same with one more checkpoint over the model, which requests choose by its name.
    #[must_use]
    pub fn named_adapter(mut self, name: impl Into<String>, checkpoint: impl Into<PathBuf>) -> Self {
        self.adapters.push((name.into(), checkpoint.into()));
        self
    }

    /// The model of a run of training with its best checkpoint; of the embedded default, what its last finished stage made.
    ///
    /// # Errors
    /// A directory that holds no run, or one without a checkpoint yet.
    #[cfg(feature = "train")]
    pub fn of_run(dir: impl AsRef<Path>) -> Result<Self> {
        runs::at(dir.as_ref()).map(Self::of)
    }

    /// As [`of_run`](EngineOptions::of_run), of the run in this directory of runs whose checkpoint was written last. The command
    /// line takes that of `runs`.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is none; a directory that cannot be read.
    #[cfg(feature = "train")]
    pub fn of_newest_run(dir: impl AsRef<Path>) -> Result<Self> {
        runs::newest(dir.as_ref()).map(Self::of)
    }

    #[cfg(feature = "train")]
    fn of(run: Run) -> Self {
        EngineOptions::new(run.model).adapter(run.checkpoint)
    }

    /// Fails where named adapters do not go with the rest.
    pub(super) fn check_adapters(&self) -> Result<()> {
        if self.adapters.is_empty() {
            return Ok(());
        }
        if self.adapter.is_some() {
            return Err(Error::usage("`adapter` is the model's only one: it does not go with `adapters`"));
        }
        if self.lora == Some(LoraMode::Merge) {
            return Err(Error::usage("`lora` merge: adapters that requests choose by name stay apart"));
        }
        Ok(())
    }
}
