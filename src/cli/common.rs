//! Shared by several subcommands: flags that mean the same everywhere, and the printing of results.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::terminal;
use crate::device::{ComputeDtype, DeviceKind};
use crate::files::runs::{self, RUNS, Run};
use crate::infer::Sampling;
use crate::model::chat_template::Template;
use crate::model::lora::LoraMode;
use crate::model::prompt::Method;
use crate::{Engine, EngineOptions};
use crate::{Error, Result};

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
}

impl ModelArgs {
    /// Loads the model, or that of the run that was named, or else the newest run's.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no run; errors of [`runs::at`]; errors of [`Engine::with_options`].
    pub fn open(&self) -> Result<Engine> {
        let of_run = |run: Run| (run.model, Some(run.checkpoint));
        let (model, adapter) = match (&self.model, &self.run) {
            (Some(model), _) => (model.clone(), self.adapter.clone()),
            (None, Some(dir)) => of_run(runs::at(dir)?),
            (None, None) => of_run(runs::newest(Path::new(RUNS))?),
        };
        let engine = Engine::with_options(&EngineOptions {
            model,
            adapter,
            device: self.device,
            threads: self.threads,
            dtype: self.dtype,
            lora: self.lora,
            allow_long: self.allow_long,
            template: self.template,
        })?;
        terminal::note(format!("loaded {}", engine.loaded()));
        Ok(engine)
    }
}

/// The default of `--method`: the method in the checkpoint's colar.json, or else colar if there is a latent head;
/// `None` for a bare model.
pub fn method_of(engine: &Engine) -> Option<Method> {
    engine.method().or(engine.has_latent_head().then_some(Method::Colar))
}

/// The error for `--cf given` under a method whose prompts all state the compression factor `own`.
pub fn no_factor(method: Method, own: &str, given: &str) -> Error {
    Error::usage(format!(
        "--cf {given}: method {} compresses nothing, and its prompts all say {own}",
        method.name()
    ))
}

/// The sampling flags (spec section 5).
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Factor on the latents' standard deviation; 0 takes the mean
    #[arg(long, value_name = "T", default_value_t = Sampling::default().latent_temperature,
          allow_hyphen_values = true)]
    pub latent_temperature: f32,
    /// Temperature of the draw that ends the latents; 0 takes the likeliest
    #[arg(long, value_name = "T", default_value_t = Sampling::default().eol_temperature,
          allow_hyphen_values = true)]
    pub eol_temperature: f32,
    /// Temperature of tokens; 0 takes the likeliest
    #[arg(long, value_name = "T", default_value_t = Sampling::default().temperature,
          allow_hyphen_values = true)]
    pub temperature: f32,
    /// Nucleus of tokens: the likeliest that make up this mass
    #[arg(long, value_name = "P", default_value_t = Sampling::default().top_p, allow_hyphen_values = true)]
    pub top_p: f32,
    /// Most latents of a chain
    #[arg(long, value_name = "N", default_value_t = Sampling::default().max_latents, value_parser = length)]
    pub max_latents: usize,
    /// Most tokens of a written chain (any method but colar)
    #[arg(long, value_name = "N", default_value_t = Sampling::default().max_cot_tokens, value_parser = length)]
    pub max_cot_tokens: usize,
    /// Most tokens of the answer
    #[arg(long, value_name = "N", default_value_t = Sampling::default().max_new_tokens, value_parser = length)]
    pub max_new_tokens: usize,
    /// Seed of all draws
    #[arg(long, default_value_t = Sampling::default().seed)]
    pub seed: u64,
    /// Deterministic: every temperature 0
    #[arg(long, conflicts_with_all = ["latent_temperature", "eol_temperature", "temperature", "top_p"])]
    pub greedy: bool,
}

impl SamplingArgs {
    /// The settings, checked.
    ///
    /// # Errors
    /// [`Error::Usage`] naming a value out of range.
    pub fn sampling(&self) -> Result<Sampling> {
        let sampling = Sampling {
            latent_temperature: self.latent_temperature,
            eol_temperature: self.eol_temperature,
            temperature: self.temperature,
            top_p: self.top_p,
            max_latents: self.max_latents,
            max_cot_tokens: self.max_cot_tokens,
            max_new_tokens: self.max_new_tokens,
            seed: self.seed,
            separator_bias: 0.0,
        };
        let sampling = if self.greedy { sampling.greedy() } else { sampling };
        sampling.validate()?;
        Ok(sampling)
    }
}

/// A length of generated text. Bounded, because room for it is set aside before the first token.
fn length(text: &str) -> Result<usize, String> {
    bounded(text, 1 << 20)
}

/// Sequences that run together; bounded for the same reason.
pub fn batch_size(text: &str) -> Result<usize, String> {
    bounded(text, 4096)
}

/// A whole number of at least 1.
pub fn count(text: &str) -> Result<usize, String> {
    bounded(text, usize::MAX)
}

fn bounded(text: &str, most: usize) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(n) if n > most => Err(format!("must be at most {most}")),
        Ok(n) => Ok(n),
        Err(e) => Err(e.to_string()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_bounded() {
        assert_eq!(bounded("4", 4), Ok(4));
        for text in ["0", "5", "-1", "", "x", "99999999999999999999999"] {
            assert!(bounded(text, 4).is_err(), "{text}");
        }
    }
}
