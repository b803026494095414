//! What every stage is told: model and data, weights, optimiser, and how the run is kept.

use std::path::PathBuf;

use super::flags::{TrainFlags, check};
use crate::Result;
use crate::device::{ComputeDtype, DeviceKind};
use crate::model::adapter::{AdapterConfig, LoraTarget};
use crate::train::schedule::Schedule;

/// The options that the stages share.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct RunOptions {
    pub model: PathBuf,
    pub data: PathBuf,
    pub val: Option<PathBuf>,
    pub out: PathBuf,
    pub full: bool,
    pub freeze_embedding: bool,
    pub lora: AdapterConfig,
    pub lr: f32,
    pub batch_size: usize,
    pub recompute: bool,
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
    pub save_top_k: usize,
    pub threads: usize,
    pub device: DeviceKind,
    pub dtype: Option<ComputeDtype>,
}

/// The flags of these options.
pub(super) const KNOWN: &[&str] = &[
    "stage",
    "model",
    "data",
    "val",
    "out",
    "full",
    "freeze_embedding",
    "lora_r",
    "lora_alpha",
    "lora_targets",
    "lr",
    "batch_size",
    "recompute",
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
    "save_top_k",
    "threads",
    "device",
    "dtype",
];

impl RunOptions {
    /// Takes them from the flags and checks every value; `lr` and `save_every` are the stage's defaults.
    pub(super) fn from_flags(flags: &TrainFlags, lr: f32, save_every: u64) -> Result<Self> {
        let need = |value: &Option<PathBuf>, name: &str| TrainFlags::needed(value.clone(), name);
        let mut targets =
            flags.lora_targets.clone().unwrap_or_else(|| vec![LoraTarget::QProj, LoraTarget::VProj]);
        targets.sort();
        targets.dedup();
        let o = RunOptions {
            model: need(&flags.model, "model")?,
            data: need(&flags.data, "data")?,
            val: flags.val.clone(),
            out: need(&flags.out, "out")?,
            full: flags.full.unwrap_or(false),
            freeze_embedding: flags.freeze_embedding.unwrap_or(false),
            lora: AdapterConfig {
                r: flags.lora_r.unwrap_or(128),
                lora_alpha: flags.lora_alpha.unwrap_or(32.0),
                use_rslora: false,
                target_modules: targets,
                base_model_name_or_path: None,
            },
            lr: flags.lr.unwrap_or(lr),
            batch_size: flags.batch_size.unwrap_or(8),
            recompute: flags.recompute.unwrap_or(false),
            epochs: flags.epochs.unwrap_or(1),
            max_steps: flags.max_steps,
            warmup: flags.warmup.unwrap_or(0),
            schedule: flags.schedule.unwrap_or(Schedule::Constant),
            weight_decay: flags.weight_decay.unwrap_or(0.01),
            clip: flags.clip.unwrap_or(1.0),
            seed: flags.seed.unwrap_or(0),
            save_every: flags.save_every.unwrap_or(save_every),
            val_every: flags.val_every,
            val_samples: flags.val_samples.unwrap_or(200),
            save_top_k: flags.save_top_k.unwrap_or(3),
            threads: flags.threads.unwrap_or(0),
            device: flags.device.unwrap_or_default(),
            dtype: flags.dtype,
        };
        o.validate()?;
        Ok(o)
    }

    /// The flags that say all of it, for storing with the run.
    pub(super) fn to_flags(&self) -> TrainFlags {
        TrainFlags {
            model: Some(self.model.clone()),
            data: Some(self.data.clone()),
            val: self.val.clone(),
            out: Some(self.out.clone()),
            full: Some(self.full),
            freeze_embedding: Some(self.freeze_embedding),
            lora_r: Some(self.lora.r),
            lora_alpha: Some(self.lora.lora_alpha),
            lora_targets: Some(self.lora.target_modules.clone()),
            lr: Some(self.lr),
            batch_size: Some(self.batch_size),
            recompute: Some(self.recompute),
            epochs: Some(self.epochs),
            max_steps: self.max_steps,
            warmup: Some(self.warmup),
            schedule: Some(self.schedule),
            weight_decay: Some(self.weight_decay),
            clip: Some(self.clip),
            seed: Some(self.seed),
            save_every: Some(self.save_every),
            val_every: self.val_every,
            val_samples: Some(self.val_samples),
            save_top_k: Some(self.save_top_k),
            threads: Some(self.threads),
            device: Some(self.device),
            dtype: self.dtype,
            ..TrainFlags::default()
        }
    }

    fn validate(&self) -> Result<()> {
        check(self.batch_size > 0 && self.batch_size <= 1 << 20, "`batch_size` must lie in 1..=1048576")?;
        check(self.epochs > 0, "`epochs` must be at least 1")?;
        check(self.max_steps != Some(0), "`max_steps` must be at least 1")?;
        check(self.save_every > 0, "`save_every` must be at least 1")?;
        check(self.val_every != Some(0), "`val_every` must be at least 1")?;
        check(self.lr.is_finite() && self.lr > 0.0, "`lr` must be a number above 0")?;
        check(self.clip.is_finite() && self.clip >= 0.0, "`clip` must be a number of at least 0")?;
        check(
            self.weight_decay.is_finite() && self.weight_decay >= 0.0,
            "`weight_decay` must be a number of at least 0",
        )?;
        check(!self.lora.target_modules.is_empty(), "`lora_targets` is empty")?;
        check((1..=1 << 16).contains(&self.lora.r), "`lora_r` must lie in 1..=65536")?;
        check(
            self.lora.lora_alpha.is_finite() && self.lora.lora_alpha > 0.0,
            "`lora_alpha` must be a number above 0",
        )?;
        check(self.full || !self.freeze_embedding, "`freeze_embedding` goes with `full`")
    }

    /// Whether the weight of this name is trained: adapters, latent head and projector always, the others with
    /// `full`.
    pub fn trains(&self, name: &str) -> bool {
        let added = ["latent_policy.", "thought_projector."];
        if added.iter().any(|part| name.starts_with(part)) || name.contains(".lora_") {
            return true;
        }
        self.full && !(self.freeze_embedding && name == "model.embed_tokens.weight")
    }
}
