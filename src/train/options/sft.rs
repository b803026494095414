//! What a supervised run is told.

use std::path::PathBuf;

use super::defaults::C_MAX;
use super::flags::{LatentLossName, LatentNoise, Monitor, TrainFlags, check};
use super::methods;
use super::run::{self, RunOptions};
use super::thinking::ThinkingOptions;
use crate::Result;
use crate::device::LatentLoss;
use crate::model::merge::Merge;
use crate::model::prompt::Method;
use crate::train::batch::ChunkLabels;
use crate::train::plan::Objectives;
use crate::train::sft::Objective;
use crate::train::thoughts::ThoughtObjective;

/// The flags that mean something here alone, whatever the method.
const KNOWN: &[&str] = &["method", "init", "merge", "embeds_std", "accumulate", "monitor"];

/// A supervised run, fully specified.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct TrainOptions {
    pub run: RunOptions,
    pub method: Method,
    pub init: Option<PathBuf>,
    pub latent_head_size: Option<usize>,
    pub deterministic_head: bool,
    pub factors: Vec<usize>,
    pub latent_loss: LatentLossName,
    pub chunk_labels: ChunkLabels,
    pub latent_noise: LatentNoise,
    pub merge: Option<Merge>,
    pub ce_weight: f32,
    pub latent_weight: f32,
    pub entropy_weight: f32,
    pub pred_embed_forward_weight: f32,
    pub auto_prob: f64,
    pub embeds_std: Option<f32>,
    pub accumulate: usize,
    pub monitor: Monitor,
    pub thinking: ThinkingOptions,
}

impl TrainFlags {
    /// Fills in the defaults and checks every value.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) naming the flag that is missing, out of range, or without effect under
    /// the method.
    pub fn resolve(self) -> Result<TrainOptions> {
        self.only("sft", &[KNOWN, &methods::alone(), run::KNOWN].concat())?;
        let method = self.method.unwrap_or(Method::Colar);
        methods::check(&self, method)?;
        let factors = match (&self.cf_list, self.c_max) {
            _ if method != Method::Colar => vec![1],
            (Some(list), _) => list.clone(),
            (None, c_max) => (1..=c_max.unwrap_or(C_MAX)).collect(),
        };
        let o = TrainOptions {
            run: RunOptions::from_flags(&self, 1e-4, 200)?,
            thinking: ThinkingOptions::from_flags(&self, method)?,
            method,
            init: self.init,
            latent_head_size: self.latent_head_size,
            deterministic_head: self.deterministic_head.unwrap_or(false),
            factors,
            latent_loss: self.latent_loss.unwrap_or(LatentLossName::Mse),
            chunk_labels: self.chunk_labels.unwrap_or(ChunkLabels::Sample),
            latent_noise: self.latent_noise.unwrap_or(LatentNoise::Sample),
            merge: self.merge,
            ce_weight: self.ce_weight.unwrap_or(1.0),
            latent_weight: self.latent_weight.unwrap_or(1.0),
            entropy_weight: self.entropy_weight.unwrap_or(0.0),
            pred_embed_forward_weight: self.pred_embed_forward_weight.unwrap_or(0.0),
            auto_prob: self.auto_prob.unwrap_or(0.0),
            embeds_std: self.embeds_std,
            accumulate: self.accumulate.unwrap_or(1),
            monitor: self.monitor.unwrap_or(Monitor::Accuracy),
        };
        o.validate()?;
        Ok(o)
    }
}

impl From<&TrainOptions> for TrainFlags {
    /// The flags that say all that means something to the method, for storing with the run.
    fn from(o: &TrainOptions) -> Self {
        let flags = TrainFlags {
            method: Some(o.method),
            init: o.init.clone(),
            latent_head_size: o.latent_head_size,
            deterministic_head: Some(o.deterministic_head),
            c_max: None,
            cf_list: Some(o.factors.clone()),
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
            accumulate: Some(o.accumulate),
            monitor: Some(o.monitor),
            ..o.run.to_flags()
        };
        methods::own(o.thinking.to_flags(flags), o.method)
    }
}

impl TrainOptions {
    fn validate(&self) -> Result<()> {
        check(!self.factors.is_empty(), "`cf_list` is empty")?;
        check(
            self.factors.iter().all(|&c| (1..=1024).contains(&c)),
            "compression factors must lie in 1..=1024 (`c_max`, `cf_list`)",
        )?;
        check(self.accumulate > 0 && self.accumulate <= 1 << 16, "`accumulate` must lie in 1..=65536")?;
        check((0.0..=1.0).contains(&self.auto_prob), "`auto_prob` must lie in 0..=1")?;
        check(
            self.embeds_std.is_none_or(|s| s.is_finite() && s > 0.0),
            "`embeds_std` must be a number above 0",
        )?;
        let weights =
            [self.ce_weight, self.latent_weight, self.entropy_weight, self.pred_embed_forward_weight];
        check(weights.iter().all(|w| w.is_finite()), "the weights of the objective must be finite")?;
        check(
            !(self.deterministic_head && self.latent_loss == LatentLossName::Nll),
            "`deterministic_head` has no likelihood: use `latent_loss` mse",
        )?;
        check(
            self.latent_head_size.is_none_or(|i| (1..=1 << 20).contains(&i)),
            "`latent_head_size` must lie in 1..=1048576",
        )
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
    pub fn objective(&self) -> Objective {
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
