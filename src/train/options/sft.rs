//! Options of a supervised run.

use std::path::{Path, PathBuf};

use super::choices::{LatentLossName, LatentNoise, Monitor};
use super::conditions;
use super::defaults::C_MAX;
use super::flags::{TrainFlags, check};
use super::run::RunOptions;
use super::thinking::ThinkingOptions;
use crate::Result;
use crate::device::LatentLoss;
use crate::model::chat_template::Template;
use crate::model::merge::Merge;
use crate::model::prompt::Method;
use crate::train::batch::ChunkLabels;
use crate::train::batches::Objectives;
use crate::train::sft::Objective;
use crate::train::stages::Stages;
use crate::train::thoughts::ThoughtObjective;

/// The options of a supervised run.
///
/// ```
/// use colar_engine::model::prompt::Method;
/// use colar_engine::train::TrainOptions;
///
/// let mut options = TrainOptions::new("models/SmolLM2-135M", "train.jsonl", "runs/cot");
/// options.method = Method::Cot;
/// options.run.batch_size = 16;
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TrainOptions {
    /// Options common to all runs.
    pub run: RunOptions,
    /// How the model is to reason.
    pub method: Method,
    /// The checkpoint to start from.
    pub init: Option<PathBuf>,
    /// Inner width of a new latent head; `None`: the model's intermediate size, at most 2048.
    pub latent_head_size: Option<usize>,
    /// Whether a new latent head has no variance of its own (ablation DL).
    pub deterministic_head: bool,
    /// The compression factors that steps draw from (CoLaR).
    pub compression_factors: Vec<usize>,
    /// The latent loss (CoLaR).
    pub latent_loss: LatentLossName,
    /// The label of a compressed position (CoLaR).
    pub chunk_labels: ChunkLabels,
    /// Noise of the squared distance (CoLaR).
    pub latent_noise: LatentNoise,
    /// Denominator of the merge; `None`: that of the checkpoint, or [`Merge::default`].
    pub merge: Option<Merge>,
    /// Weight of the cross-entropy; under distillation [`ThinkingOptions`] has it.
    pub ce_weight: f32,
    /// Weight of the latent loss (CoLaR).
    pub latent_weight: f32,
    /// Weight of the latent entropy (CoLaR).
    pub entropy_weight: f32,
    /// Weight of the second forward, on predicted embeddings (CoLaR).
    pub pred_embed_forward_weight: f32,
    /// Probability that a step's prompts say `auto` in place of the compression factor (CoLaR).
    pub auto_prob: f64,
    /// Standard deviation of the embeddings; `None`: stored with the checkpoint, or computed from the weights.
    pub embeds_std: Option<f32>,
    /// Probability in [0, 1) with which an adapter does not see an element of its input in training; without `full`. That
    /// of a checkpoint to start from is not taken over.
    pub lora_dropout: f64,
    /// Batches summed into one step.
    pub accumulate: usize,
    /// The measure by which checkpoints are best.
    pub monitor: Monitor,
    /// Most tokens of a training sample, prompt and answer included; longer ones are left out. `None` leaves none out.
    pub max_length: Option<usize>,
    /// The layout around questions; `None`: that of the checkpoint to start from, or the paper's.
    pub template: Option<Template>,
    /// Steps in a row whose loss may lie far above its running mean before the run stops; 0 never stops it.
    pub watchdog: u64,
    /// How steps give way to thoughts (icot, coconut, distill).
    pub thinking: ThinkingOptions,
}

setters!(TrainOptions {
    run: RunOptions,
    method: Method,
    deterministic_head: bool,
    compression_factors: Vec<usize>,
    latent_loss: LatentLossName,
    chunk_labels: ChunkLabels,
    latent_noise: LatentNoise,
    ce_weight: f32,
    latent_weight: f32,
    entropy_weight: f32,
    pred_embed_forward_weight: f32,
    auto_prob: f64,
    lora_dropout: f64,
    accumulate: usize,
    monitor: Monitor,
    watchdog: u64,
    thinking: ThinkingOptions,
});
setters!(TrainOptions into {
    init: Option<PathBuf>,
    latent_head_size: Option<usize>,
    merge: Option<Merge>,
    embeds_std: Option<f32>,
    template: Option<Template>,
    max_length: Option<usize>,
});

impl Default for TrainOptions {
    /// CoLaR as the paper trains it, without paths.
    fn default() -> Self {
        let objective = Objective::default();
        TrainOptions {
            run: RunOptions::default(),
            method: Method::Colar,
            init: None,
            latent_head_size: None,
            deterministic_head: false,
            compression_factors: (1..=C_MAX).collect(),
            latent_loss: LatentLossName::Mse,
            chunk_labels: ChunkLabels::Sample,
            latent_noise: LatentNoise::Sample,
            merge: None,
            ce_weight: objective.ce_weight,
            latent_weight: objective.latent_weight,
            entropy_weight: objective.entropy_weight,
            pred_embed_forward_weight: objective.pred_embed_forward_weight,
            auto_prob: 0.0,
            embeds_std: None,
            lora_dropout: 0.0,
            accumulate: 1,
            monitor: Monitor::Accuracy,
            max_length: None,
            template: None,
            watchdog: 20,
            thinking: ThinkingOptions::default(),
        }
    }
}

impl TrainFlags {
    /// Fills in the defaults and checks every value.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) naming the flag that is missing, out of range, or without effect under
    /// the method.
    pub fn resolve(self) -> Result<TrainOptions> {
        // Before anything is made of a number.
        self.check_ranges()?;
        conditions::check(&self)?;
        let d = TrainOptions::default();
        let method = self.method.unwrap_or(d.method);
        let o = TrainOptions {
            run: RunOptions::from_flags(&self, d.run)?,
            thinking: ThinkingOptions::from_flags(&self, d.thinking),
            method,
            init: self.init,
            latent_head_size: self.latent_head_size,
            deterministic_head: self.deterministic_head.unwrap_or(d.deterministic_head),
            compression_factors: self
                .cf_list
                .or(self.c_max.map(|most| (1..=most).collect()))
                .unwrap_or(d.compression_factors),
            latent_loss: self.latent_loss.unwrap_or(d.latent_loss),
            chunk_labels: self.chunk_labels.unwrap_or(d.chunk_labels),
            latent_noise: self.latent_noise.unwrap_or(d.latent_noise),
            merge: self.merge,
            ce_weight: self.ce_weight.unwrap_or(d.ce_weight),
            latent_weight: self.latent_weight.unwrap_or(d.latent_weight),
            entropy_weight: self.entropy_weight.unwrap_or(d.entropy_weight),
            pred_embed_forward_weight: self.pred_embed_forward_weight.unwrap_or(d.pred_embed_forward_weight),
            auto_prob: self.auto_prob.unwrap_or(d.auto_prob),
            embeds_std: self.embeds_std,
            lora_dropout: self.lora_dropout.unwrap_or(d.lora_dropout),
            accumulate: self.accumulate.unwrap_or(d.accumulate),
            monitor: self.monitor.unwrap_or(d.monitor),
            max_length: self.max_length,
            template: self.template,
            watchdog: self.watchdog.unwrap_or(d.watchdog),
        };
        o.validate()?;
        Ok(o)
    }
}

impl From<&TrainOptions> for TrainFlags {
    /// The flags of all options that have an effect under the method, for storing with the run.
    fn from(o: &TrainOptions) -> Self {
        o.to_flags().effective()
    }
}

impl TrainOptions {
    /// The flags that state all of these options, whatever the method.
    pub(crate) fn to_flags(&self) -> TrainFlags {
        let o = self;
        let flags = TrainFlags {
            method: Some(o.method),
            init: o.init.clone(),
            latent_head_size: o.latent_head_size,
            deterministic_head: Some(o.deterministic_head),
            c_max: None,
            cf_list: Some(o.compression_factors.clone()),
            latent_loss: Some(o.latent_loss),
            chunk_labels: Some(o.chunk_labels),
            latent_noise: Some(o.latent_noise),
            merge: o.merge,
            ce_weight: Some(o.ce_weight),
            latent_weight: Some(o.latent_weight),
            entropy_weight: Some(o.entropy_weight),
            pred_embed_forward_weight: Some(o.pred_embed_forward_weight),
            auto_prob: Some(o.auto_prob),
            embeds_std: o.embeds_std,
            lora_dropout: Some(o.lora_dropout),
            accumulate: Some(o.accumulate),
            monitor: Some(o.monitor),
            max_length: o.max_length,
            template: o.template,
            watchdog: Some(o.watchdog),
            ..o.run.to_flags()
        };
        o.thinking.to_flags(flags)
    }

    /// Options of a run on this model and data, kept in the directory `out`.
    pub fn new(model: impl Into<PathBuf>, data: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Self {
        let run =
            RunOptions { model: model.into(), data: data.into(), out: out.into(), ..RunOptions::default() };
        TrainOptions { run, ..TrainOptions::default() }
    }

    /// Reads a TOML file with the names of `train`'s flags as keys, for instance the `config.toml` of a run.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) and [`Error::Line`](crate::Error::Line) naming the file or line that
    /// cannot be read; [`Error::Usage`](crate::Error::Usage) naming a value that is missing, out of range, or without
    /// effect.
    pub fn from_toml(path: impl AsRef<Path>) -> Result<Self> {
        TrainFlags::from_toml(path.as_ref())?.resolve()
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) naming the one that is out of range, as the flag that sets it.
    pub(crate) fn validate(&self) -> Result<()> {
        TrainFlags::from(self).check_ranges()?;
        self.run.validate()?;
        self.thinking.validate(self.stages())?;
        check(!self.drawn_compression_factors().is_empty(), "`cf_list` is empty")?;
        check(
            !(self.deterministic_head && self.latent_loss == LatentLossName::Nll),
            "`deterministic_head` has no likelihood: use `latent_loss` mse",
        )
    }

    /// The compression factors of the run's steps: one where nothing is compressed.
    pub(crate) fn drawn_compression_factors(&self) -> &[usize] {
        if self.method == Method::Colar { &self.compression_factors } else { &[1] }
    }

    /// The stages of the run: one where no steps are taken away.
    pub(crate) fn stages(&self) -> Stages {
        let staged = matches!(self.method, Method::Icot | Method::Coconut);
        if staged { self.thinking.stages } else { Stages::ONE }
    }

    /// The objectives that these options describe.
    pub(crate) fn objectives(&self) -> Objectives {
        let t = &self.thinking;
        let student_weight = if self.method == Method::Distill { t.student_weight } else { self.ce_weight };
        let (teacher_weight, distill_weight) = (t.teacher_weight, t.distill_weight);
        Objectives {
            sft: self.objective(),
            thoughts: ThoughtObjective { student_weight, teacher_weight, distill_weight },
        }
    }

    /// The objective of sequences of tokens and latents.
    pub(crate) fn objective(&self) -> Objective {
        Objective {
            ce_weight: self.ce_weight,
            latent_weight: self.latent_weight,
            entropy_weight: self.entropy_weight,
            pred_embed_forward_weight: self.pred_embed_forward_weight,
            latent_loss: match self.latent_loss {
                LatentLossName::Mse => LatentLoss::Mse,
                LatentLossName::Nll => LatentLoss::Nll,
            },
        }
    }
}
