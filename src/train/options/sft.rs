//! What a supervised run is told.

use std::path::PathBuf;

use super::flags::{LatentLossName, LatentNoise, Monitor, TrainFlags, check};
use super::trains;
use crate::Result;
use crate::device::LatentLoss;
use crate::infer::DeviceKind;
use crate::model::adapter::{AdapterConfig, LoraTarget};
use crate::model::merge::Merge;
use crate::model::prompt::Method;
use crate::train::batch::ChunkLabels;
use crate::train::schedule::Schedule;

/// The flags that mean something here.
const KNOWN: &[&str] = &[
    "stage",
    "method",
    "model",
    "data",
    "val",
    "out",
    "init",
    "full",
    "freeze_embedding",
    "lora_r",
    "lora_alpha",
    "lora_targets",
    "latent_head_size",
    "deterministic_head",
    "c_max",
    "cf_list",
    "latent_loss",
    "chunk_labels",
    "latent_noise",
    "merge",
    "ce_weight",
    "latent_weight",
    "entropy_weight",
    "pred_embed_forward_weight",
    "auto_prob",
    "embeds_std",
    "lr",
    "batch_size",
    "accumulate",
    "epochs",
    "max_steps",
    "warmup",
    "schedule",
    "weight_decay",
    "clip",
    "seed",
    "save_every",
    "val_every",
    "val_samples",
    "monitor",
    "save_top_k",
    "threads",
    "device",
    "ce_weight",
    "latent_weight",
    "entropy_weight",
    "pred_embed_forward_weight",
    "latent_loss",
];

/// A supervised run, fully specified.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct TrainOptions {
    pub method: Method,
    pub model: PathBuf,
    pub data: PathBuf,
    pub val: Option<PathBuf>,
    pub out: PathBuf,
    pub init: Option<PathBuf>,
    pub full: bool,
    pub freeze_embedding: bool,
    pub lora: AdapterConfig,
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
    pub lr: f32,
    pub batch_size: usize,
    pub accumulate: usize,
    pub epochs: u64,
    pub max_steps: Option<u64>,
    pub warmup: u64,
    pub schedule: Schedule,
    pub weight_decay: f32,
    pub clip: f32,
    pub seed: u64,
    pub save_every: u64,
    pub val_every: Option<u64>,
    pub val_samples: usize,
    pub monitor: Monitor,
    pub save_top_k: usize,
    pub threads: usize,
    pub device: DeviceKind,
}

impl TrainFlags {
    /// Fills in the defaults and checks every value.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the flag that is missing or out of range.
    pub fn resolve(self) -> Result<TrainOptions> {
        self.only("sft", KNOWN)?;
        let need = TrainFlags::needed;
        let method = self.method.unwrap_or(Method::Colar);
        let factors = match (&self.cf_list, self.c_max) {
            _ if method == Method::Cot => vec![1],
            (Some(list), _) => list.clone(),
            (None, c_max) => (1..=c_max.unwrap_or(5)).collect(),
        };
        let o = TrainOptions {
            method,
            model: need(self.model, "--model")?,
            data: need(self.data, "--data")?,
            val: self.val,
            out: need(self.out, "--out")?,
            init: self.init,
            full: self.full.unwrap_or(false),
            freeze_embedding: self.freeze_embedding.unwrap_or(false),
            lora: AdapterConfig {
                r: self.lora_r.unwrap_or(128),
                lora_alpha: self.lora_alpha.unwrap_or(32.0),
                use_rslora: false,
                target_modules: {
                    let mut t =
                        self.lora_targets.unwrap_or_else(|| vec![LoraTarget::QProj, LoraTarget::VProj]);
                    t.sort();
                    t.dedup();
                    t
                },
                base_model_name_or_path: None,
            },
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
            lr: self.lr.unwrap_or(1e-4),
            batch_size: self.batch_size.unwrap_or(8),
            accumulate: self.accumulate.unwrap_or(1),
            epochs: self.epochs.unwrap_or(1),
            max_steps: self.max_steps,
            warmup: self.warmup.unwrap_or(0),
            schedule: self.schedule.unwrap_or(Schedule::Constant),
            weight_decay: self.weight_decay.unwrap_or(0.01),
            clip: self.clip.unwrap_or(1.0),
            seed: self.seed.unwrap_or(0),
            save_every: self.save_every.unwrap_or(200),
            val_every: self.val_every,
            val_samples: self.val_samples.unwrap_or(200),
            monitor: self.monitor.unwrap_or(Monitor::Accuracy),
            save_top_k: self.save_top_k.unwrap_or(3),
            threads: self.threads.unwrap_or(0),
            device: self.device.unwrap_or_default(),
        };
        o.validate()?;
        Ok(o)
    }
}

impl From<&TrainOptions> for TrainFlags {
    /// The flags that say all of it, for storing with the run.
    fn from(o: &TrainOptions) -> Self {
        TrainFlags {
            method: Some(o.method),
            model: Some(o.model.clone()),
            data: Some(o.data.clone()),
            val: o.val.clone(),
            out: Some(o.out.clone()),
            init: o.init.clone(),
            full: Some(o.full),
            freeze_embedding: Some(o.freeze_embedding),
            lora_r: Some(o.lora.r),
            lora_alpha: Some(o.lora.lora_alpha),
            lora_targets: Some(o.lora.target_modules.clone()),
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
            lr: Some(o.lr),
            batch_size: Some(o.batch_size),
            accumulate: Some(o.accumulate),
            epochs: Some(o.epochs),
            max_steps: o.max_steps,
            warmup: Some(o.warmup),
            schedule: Some(o.schedule),
            weight_decay: Some(o.weight_decay),
            clip: Some(o.clip),
            seed: Some(o.seed),
            save_every: Some(o.save_every),
            val_every: o.val_every,
            val_samples: Some(o.val_samples),
            monitor: Some(o.monitor),
            save_top_k: Some(o.save_top_k),
            threads: Some(o.threads),
            device: Some(o.device),
            ..TrainFlags::default()
        }
    }
}

impl TrainOptions {
    fn validate(&self) -> Result<()> {
        check(!self.factors.is_empty(), "--cf-list is empty")?;
        check(
            self.factors.iter().all(|&c| (1..=1024).contains(&c)),
            "compression factors must lie in 1..=1024 (--c-max, --cf-list)",
        )?;
        check(self.batch_size > 0 && self.batch_size <= 1 << 20, "--batch-size must lie in 1..=1048576")?;
        check(self.accumulate > 0 && self.accumulate <= 1 << 16, "--accumulate must lie in 1..=65536")?;
        check(self.epochs > 0, "--epochs must be at least 1")?;
        check(self.max_steps != Some(0), "--max-steps must be at least 1")?;
        check(self.save_every > 0, "--save-every must be at least 1")?;
        check(self.val_every != Some(0), "--val-every must be at least 1")?;
        check(self.lr.is_finite() && self.lr > 0.0, "--lr must be a number above 0")?;
        check(self.clip.is_finite() && self.clip >= 0.0, "--clip must be a number of at least 0")?;
        check(
            self.weight_decay.is_finite() && self.weight_decay >= 0.0,
            "--weight-decay must be a number of at least 0",
        )?;
        check((0.0..=1.0).contains(&self.auto_prob), "--auto-prob must lie in 0..=1")?;
        check(
            self.embeds_std.is_none_or(|s| s.is_finite() && s > 0.0),
            "--embeds-std must be a number above 0",
        )?;
        let weights =
            [self.ce_weight, self.latent_weight, self.entropy_weight, self.pred_embed_forward_weight];
        check(weights.iter().all(|w| w.is_finite()), "the weights of the objective must be finite")?;
        check(!self.lora.target_modules.is_empty(), "--lora-targets is empty")?;
        check((1..=1 << 16).contains(&self.lora.r), "--lora-r must lie in 1..=65536")?;
        check(
            self.lora.lora_alpha.is_finite() && self.lora.lora_alpha > 0.0,
            "--lora-alpha must be a number above 0",
        )?;
        check(
            !(self.deterministic_head && self.latent_loss == LatentLossName::Nll),
            "--deterministic-head has no likelihood: use --latent-loss mse",
        )?;
        check(
            self.latent_head_size.is_none_or(|i| (1..=1 << 20).contains(&i)),
            "--latent-head-size must lie in 1..=1048576",
        )?;
        check(self.full || !self.freeze_embedding, "--freeze-embedding goes with --full")
    }

    /// The objective that these options describe.
    pub fn objective(&self) -> crate::train::sft::Objective {
        crate::train::sft::Objective {
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

    /// Whether the weight of this name is trained.
    pub fn trains(&self, name: &str) -> bool {
        trains(name, self.full, self.freeze_embedding)
    }
}
