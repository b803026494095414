//! What a run of reinforcement learning is told.

use std::path::PathBuf;

use super::flags::{Stage, TrainFlags, check};
use super::trains;
use crate::Result;
use crate::data::verify::VerifierKind;
use crate::infer::{DeviceKind, Sampling};
use crate::model::adapter::{AdapterConfig, LoraTarget};
use crate::train::rl::PolicyLossOptions;
use crate::train::schedule::Schedule;

/// The flags that mean something here.
const KNOWN: &[&str] = &[
    "stage",
    "model",
    "data",
    "val",
    "out",
    "adapter",
    "full",
    "freeze_embedding",
    "lora_r",
    "lora_alpha",
    "lora_targets",
    "entropy_weight",
    "lr",
    "batch_size",
    "epochs",
    "max_steps",
    "warmup",
    "schedule",
    "weight_decay",
    "clip",
    "seed",
    "cf",
    "group_size",
    "clip_eps",
    "average_per_token_loss",
    "punish_latent_length",
    "kl_weight",
    "exp_batch_size",
    "samples_per_epoch",
    "filter_solved",
    "verifier",
    "max_latents",
    "max_new_tokens",
    "latent_temperature",
    "eol_temperature",
    "temperature",
    "top_p",
    "save_every",
    "val_every",
    "val_samples",
    "save_top_k",
    "threads",
    "device",
];

/// A run of reinforcement learning, fully specified.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct RlOptions {
    pub model: PathBuf,
    pub adapter: PathBuf,
    pub data: PathBuf,
    pub val: Option<PathBuf>,
    pub out: PathBuf,
    pub full: bool,
    pub freeze_embedding: bool,
    /// Used where the checkpoint has no adapter and not all weights are trained.
    pub lora: AdapterConfig,
    pub cf: String,
    pub group_size: usize,
    pub loss: PolicyLossOptions,
    pub punish_latent_length: bool,
    pub exp_batch_size: usize,
    pub samples_per_epoch: usize,
    pub filter_solved: bool,
    pub verifier: VerifierKind,
    /// How rollouts are drawn; the seed is that of the run.
    pub sampling: Sampling,
    pub lr: f32,
    pub batch_size: usize,
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
}

impl TrainFlags {
    /// Fills in the defaults of reinforcement learning and checks every value.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) naming the flag that is missing, out of range or of
    /// another stage.
    pub fn resolve_rl(self) -> Result<RlOptions> {
        self.only("rl", KNOWN)?;
        let seed = self.seed.unwrap_or(0);
        let d = Sampling::default();
        let mut targets = self.lora_targets.unwrap_or_else(|| vec![LoraTarget::QProj, LoraTarget::VProj]);
        targets.sort();
        targets.dedup();
        let o = RlOptions {
            model: TrainFlags::needed(self.model, "--model")?,
            adapter: TrainFlags::needed(self.adapter, "--adapter")?,
            data: TrainFlags::needed(self.data, "--data")?,
            val: self.val,
            out: TrainFlags::needed(self.out, "--out")?,
            full: self.full.unwrap_or(false),
            freeze_embedding: self.freeze_embedding.unwrap_or(false),
            lora: AdapterConfig {
                r: self.lora_r.unwrap_or(128),
                lora_alpha: self.lora_alpha.unwrap_or(32.0),
                use_rslora: false,
                target_modules: targets,
                base_model_name_or_path: None,
            },
            cf: self.cf.unwrap_or_else(|| "2".to_owned()),
            group_size: self.group_size.unwrap_or(8),
            loss: PolicyLossOptions {
                clip_eps: self.clip_eps.unwrap_or(0.2),
                average_per_token_loss: self.average_per_token_loss.unwrap_or(true),
                kl_weight: self.kl_weight.unwrap_or(0.0),
                entropy_weight: self.entropy_weight.unwrap_or(0.0),
            },
            punish_latent_length: self.punish_latent_length.unwrap_or(false),
            exp_batch_size: self.exp_batch_size.unwrap_or(8),
            samples_per_epoch: self.samples_per_epoch.unwrap_or(512),
            filter_solved: self.filter_solved.unwrap_or(false),
            verifier: self.verifier.unwrap_or_default(),
            sampling: Sampling {
                latent_temperature: self.latent_temperature.unwrap_or(d.latent_temperature),
                eol_temperature: self.eol_temperature.unwrap_or(d.eol_temperature),
                temperature: self.temperature.unwrap_or(d.temperature),
                top_p: self.top_p.unwrap_or(d.top_p),
                max_latents: self.max_latents.unwrap_or(d.max_latents),
                max_new_tokens: self.max_new_tokens.unwrap_or(d.max_new_tokens),
                seed,
                ..d
            },
            lr: self.lr.unwrap_or(1e-6),
            batch_size: self.batch_size.unwrap_or(8),
            epochs: self.epochs.unwrap_or(1),
            max_steps: self.max_steps,
            warmup: self.warmup.unwrap_or(0),
            schedule: self.schedule.unwrap_or(Schedule::Constant),
            weight_decay: self.weight_decay.unwrap_or(0.01),
            clip: self.clip.unwrap_or(1.0),
            seed,
            save_every: self.save_every.unwrap_or(50),
            val_every: self.val_every,
            val_samples: self.val_samples.unwrap_or(200),
            save_top_k: self.save_top_k.unwrap_or(3),
            threads: self.threads.unwrap_or(0),
            device: self.device.unwrap_or_default(),
        };
        o.validate()?;
        Ok(o)
    }
}

impl From<&RlOptions> for TrainFlags {
    /// The flags that say all of it, for storing with the run.
    fn from(o: &RlOptions) -> Self {
        TrainFlags {
            stage: Some(Stage::Rl),
            model: Some(o.model.clone()),
            adapter: Some(o.adapter.clone()),
            data: Some(o.data.clone()),
            val: o.val.clone(),
            out: Some(o.out.clone()),
            full: Some(o.full),
            freeze_embedding: Some(o.freeze_embedding),
            lora_r: Some(o.lora.r),
            lora_alpha: Some(o.lora.lora_alpha),
            lora_targets: Some(o.lora.target_modules.clone()),
            cf: Some(o.cf.clone()),
            group_size: Some(o.group_size),
            clip_eps: Some(o.loss.clip_eps),
            average_per_token_loss: Some(o.loss.average_per_token_loss),
            kl_weight: Some(o.loss.kl_weight),
            entropy_weight: Some(o.loss.entropy_weight),
            punish_latent_length: Some(o.punish_latent_length),
            exp_batch_size: Some(o.exp_batch_size),
            samples_per_epoch: Some(o.samples_per_epoch),
            filter_solved: Some(o.filter_solved),
            verifier: Some(o.verifier),
            max_latents: Some(o.sampling.max_latents),
            max_new_tokens: Some(o.sampling.max_new_tokens),
            latent_temperature: Some(o.sampling.latent_temperature),
            eol_temperature: Some(o.sampling.eol_temperature),
            temperature: Some(o.sampling.temperature),
            top_p: Some(o.sampling.top_p),
            lr: Some(o.lr),
            batch_size: Some(o.batch_size),
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
            save_top_k: Some(o.save_top_k),
            threads: Some(o.threads),
            device: Some(o.device),
            ..TrainFlags::default()
        }
    }
}

impl RlOptions {
    fn validate(&self) -> Result<()> {
        self.sampling.validate()?;
        let most = 1 << 16;
        check(
            (2..=most).contains(&self.group_size),
            "--group-size must lie in 2..=65536: rewards are compared",
        )?;
        check((1..=most).contains(&self.batch_size), "--batch-size must lie in 1..=65536")?;
        check((1..=1 << 20).contains(&self.exp_batch_size), "--exp-batch-size must lie in 1..=1048576")?;
        check(self.samples_per_epoch > 0, "--samples-per-epoch must be at least 1")?;
        check(self.epochs > 0, "--epochs must be at least 1")?;
        check(self.max_steps != Some(0), "--max-steps must be at least 1")?;
        check(self.save_every > 0, "--save-every must be at least 1")?;
        check(self.val_every != Some(0), "--val-every must be at least 1")?;
        check(self.sampling.max_latents <= 1 << 20, "--max-latents must be at most 1048576")?;
        check(self.sampling.max_new_tokens <= 1 << 20, "--max-new-tokens must be at most 1048576")?;
        let loss = &self.loss;
        check((0.0..1.0).contains(&loss.clip_eps), "--clip-eps must lie in 0..1")?;
        check(
            loss.kl_weight.is_finite() && loss.kl_weight >= 0.0,
            "--kl-weight must be a number of at least 0",
        )?;
        check(loss.entropy_weight.is_finite(), "--entropy-weight must be finite")?;
        check(self.lr.is_finite() && self.lr > 0.0, "--lr must be a number above 0")?;
        check(self.clip.is_finite() && self.clip >= 0.0, "--clip must be a number of at least 0")?;
        check(
            self.weight_decay.is_finite() && self.weight_decay >= 0.0,
            "--weight-decay must be a number of at least 0",
        )?;
        check(!self.lora.target_modules.is_empty(), "--lora-targets is empty")?;
        check((1..=1 << 16).contains(&self.lora.r), "--lora-r must lie in 1..=65536")?;
        check(
            self.lora.lora_alpha.is_finite() && self.lora.lora_alpha > 0.0,
            "--lora-alpha must be a number above 0",
        )?;
        check(self.full || !self.freeze_embedding, "--freeze-embedding goes with --full")
    }

    /// Whether the weight of this name is trained.
    pub fn trains(&self, name: &str) -> bool {
        trains(name, self.full, self.freeze_embedding)
    }
}
