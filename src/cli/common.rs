//! Shared by several subcommands: flags that mean the same everywhere, and the printing of results.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::terminal;
use crate::device::{ComputeDtype, DeviceKind};
use crate::files::runs::RUNS;
use crate::model::chat_template::Template;
use crate::model::lora::LoraMode;
use crate::{Engine, EngineOptions, Result};

/// The model, and the device that runs it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Model directory: config.json, weights, tokenizer.json [default: that of the newest run in runs/]
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Checkpoint over it, as `train` writes them, or a .ckpt of the authors' code
    #[arg(long, value_name = "DIR|FILE", requires = "model")]
    pub adapter: Option<PathBuf>,
    /// A run of `train`: its model, and its best checkpoint
    #[arg(long, value_name = "DIR", conflicts_with_all = ["model", "adapter"])]
    pub run: Option<PathBuf>,
    #[command(flatten)]
    pub load: LoadArgs,
}

/// How a model is loaded, and the device that runs it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub struct LoadArgs {
    /// Where to run
    #[arg(long, value_enum, default_value_t = DeviceKind::Auto)]
    pub device: DeviceKind,
    /// Arithmetic of a CUDA device [default: bf16 on cuda, f32 on cuda-host; the cpu has f32 alone]
    #[arg(long, value_enum, value_name = "DTYPE")]
    pub dtype: Option<ComputeDtype>,
    /// The checkpoint's LoRA adapter: into the weights or beside them [default: merge on CUDA devices, apart on
    /// the cpu]
    #[arg(long, value_enum, value_name = "MODE")]
    pub lora: Option<LoraMode>,
    /// The layout around questions [default: the checkpoint's, and of a bare model the paper's]
    #[arg(long, value_enum)]
    pub template: Option<Template>,
    /// CPU threads; 0 means one a core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// Run prompts and samples that take more positions than the model was made for (max_position_embeddings), which
    /// are refused else
    #[arg(long)]
    pub allow_long: bool,
    /// Put a blank into texts of questions and data that mean something in the prompt (###, special tokens, in reasoning and
    /// answers also Answer:), which are refused else
    #[arg(long)]
    pub escape_marks: bool,
    /// Read the weights into memory and do not map their files, which may then be replaced or cut short under it
    #[arg(long)]
    pub no_mmap: bool,
}

impl ModelArgs {
    /// Loads the model, or that of the run that was named, or else the newest run's.
    ///
    /// # Errors
    /// As [`place`]; errors of [`Engine::with_options`].
    pub fn open(&self) -> Result<Engine> {
        let (model, of_run) = place(self.model.as_deref(), self.run.as_deref())?;
        self.load.open(model, of_run.or_else(|| self.adapter.clone()), Vec::new())
    }
}

/// The model's directory and the checkpoint that a run has over it: of the model that was named, or the run, or else the newest
/// run.
///
/// # Errors
/// Those of [`EngineOptions::of_run`] and [`EngineOptions::of_newest_run`].
pub fn place(model: Option<&Path>, run: Option<&Path>) -> Result<(PathBuf, Option<PathBuf>)> {
    let options = match (model, run) {
        (Some(model), _) => EngineOptions::new(model),
        (None, Some(dir)) => EngineOptions::of_run(dir)?,
        (None, None) => EngineOptions::of_newest_run(RUNS)?,
    };
    Ok((options.model, options.adapter))
}

impl LoadArgs {
    /// Loads a model with a checkpoint over it, or with several that have names, and says what was loaded.
    ///
    /// # Errors
    /// As [`Engine::with_options`].
    pub fn open(
        &self,
        model: PathBuf,
        adapter: Option<PathBuf>,
        adapters: Vec<(String, PathBuf)>,
    ) -> Result<Engine> {
        let engine = Engine::with_options(&EngineOptions {
            model,
            adapter,
            adapters,
            device: self.device,
            threads: self.threads,
            dtype: self.dtype,
            lora: self.lora,
            allow_long: self.allow_long,
            escape_marks: self.escape_marks,
            template: self.template,
            no_mmap: self.no_mmap,
        })?;
        terminal::note(format!("loaded {}", engine.loaded()));
        for name in engine.adapters() {
            terminal::note(format!("loaded {name}: {}", engine.with_adapter(name)?.loaded()));
        }
        Ok(engine)
    }
}

/// A bar on standard error that counts to `len`; hidden where that is not a terminal.
pub fn progress(len: usize, what: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg:<14} {wide_bar} {pos}/{len} {eta}");
    ProgressBar::new(len as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_message(what.to_owned())
}
