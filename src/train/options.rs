//! What a supervised run is told: flags, a TOML file, and the defaults behind both.
//!
//! [`TrainFlags`] has an `Option` for everything, so that the same type reads a file, takes flags over
//! it ([`TrainFlags::over`]) and is resolved into [`TrainOptions`], which is stored with the run.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::batch::ChunkLabels;
use super::schedule::Schedule;
use crate::device::LatentLoss;
use crate::files::atomic::write_atomic;
use crate::infer::DeviceKind;
use crate::model::adapter::{AdapterConfig, LoraTarget};
use crate::model::merge::Merge;
use crate::model::prompt::Method;
use crate::{Error, Result};

/// The latent loss, as on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LatentLossName {
    /// Squared distance of a reparameterised sample.
    Mse,
    /// Negative log-likelihood.
    Nll,
}

/// Whether latent draws in training use noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LatentNoise {
    /// A fresh draw for every element.
    Sample,
    /// The expectation over the draw.
    Expected,
}

/// What decides which checkpoints are best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Monitor {
    /// Accuracy of greedy generation on validation questions, as in the authors' code.
    Accuracy,
    /// Validation loss, in the expectation forms.
    Loss,
}

macro_rules! flags {
    ($($(#[$meta:meta])* $name:ident: $kind:ty,)*) => {
        /// Everything a supervised run can be told; what is absent has a default.
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
        #[allow(missing_docs)]
        pub struct TrainFlags {
            $($(#[$meta])* #[serde(skip_serializing_if = "Option::is_none")] pub $name: Option<$kind>,)*
        }

        impl TrainFlags {
            /// These flags, and where one is absent, that of `file`.
            pub fn over(self, file: TrainFlags) -> TrainFlags {
                TrainFlags { $($name: self.$name.or(file.$name),)* }
            }
        }
    };
}

flags! {
    /// What to train: latent reasoning, or an explicit chain of thought [default: colar]
    #[arg(long, help_heading = "What to train")]
    method: Method,
    /// Model directory
    #[arg(long, value_name = "DIR", help_heading = "What to train")]
    model: PathBuf,
    /// Training data: a JSON array or JSON lines of {question, steps, answer}, or a public form
    #[arg(long, value_name = "FILE", help_heading = "What to train")]
    data: PathBuf,
    /// Validation data
    #[arg(long, value_name = "FILE", help_heading = "What to train")]
    val: PathBuf,
    /// Run directory [default: a new directory under runs/]
    #[arg(long, value_name = "DIR", help_heading = "What to train")]
    out: PathBuf,
    /// Checkpoint to start from, for instance a CoT run's
    #[arg(long, value_name = "CHECKPOINT", help_heading = "What to train")]
    init: PathBuf,

    /// Train all weights instead of an adapter
    #[arg(long, num_args = 0..=1, default_missing_value = "true", help_heading = "Weights")]
    full: bool,
    /// With --full: leave the input embeddings (and a tied output head) as they are
    #[arg(long, num_args = 0..=1, default_missing_value = "true", help_heading = "Weights")]
    freeze_embedding: bool,
    /// Rank of the adapter [default: 128]
    #[arg(long, value_name = "R", help_heading = "Weights")]
    lora_r: usize,
    /// Numerator of the adapter's scale [default: 32]
    #[arg(long, value_name = "ALPHA", help_heading = "Weights")]
    lora_alpha: f64,
    /// Adapted projections [default: q_proj,v_proj]
    #[arg(long, value_delimiter = ',', value_name = "NAMES", help_heading = "Weights")]
    lora_targets: Vec<LoraTarget>,
    /// Inner width of a new latent head [default: the model's intermediate size, at most 2048]
    #[arg(long, value_name = "I", help_heading = "Weights")]
    latent_head_size: usize,
    /// Latent head without a variance of its own (ablation DL)
    #[arg(long, num_args = 0..=1, default_missing_value = "true", help_heading = "Weights")]
    deterministic_head: bool,

    /// Compression factors are drawn from 1..=N [default: 5]
    #[arg(long, value_name = "N", conflicts_with = "cf_list", help_heading = "Objective")]
    c_max: usize,
    /// Compression factors are drawn from this list
    #[arg(long, value_delimiter = ',', value_name = "LIST", help_heading = "Objective")]
    cf_list: Vec<usize>,
    /// Latent loss [default: mse]
    #[arg(long, help_heading = "Objective")]
    latent_loss: LatentLossName,
    /// Label of a compressed position: one of its tokens, drawn, or their mean [default: sample]
    #[arg(long, help_heading = "Objective")]
    chunk_labels: ChunkLabels,
    /// Noise of the mse loss: drawn, or its expectation [default: sample]
    #[arg(long, help_heading = "Objective")]
    latent_noise: LatentNoise,
    /// Denominator of the merge: root of the chunk's length, or the length (ablation MP) [default: sqrt]
    #[arg(long, help_heading = "Objective")]
    merge: Merge,
    /// Weight of the cross-entropy [default: 1]
    #[arg(long, value_name = "W", allow_negative_numbers = true, help_heading = "Objective")]
    ce_weight: f32,
    /// Weight of the latent loss [default: 1]
    #[arg(long, value_name = "W", allow_negative_numbers = true, help_heading = "Objective")]
    latent_weight: f32,
    /// Weight of the latent entropy; the paper's regularised form has -1e-6 [default: 0]
    #[arg(long, value_name = "W", allow_negative_numbers = true, help_heading = "Objective")]
    entropy_weight: f32,
    /// Weight of the second forward, on predicted embeddings [default: 0]
    #[arg(long, value_name = "W", allow_negative_numbers = true, help_heading = "Objective")]
    pred_embed_forward_weight: f32,
    /// Probability that a step's prompts say `auto` instead of the factor [default: 0]
    #[arg(long, value_name = "P", help_heading = "Objective")]
    auto_prob: f64,
    /// Standard deviation of the embeddings [default: stored, or computed from the weights]
    #[arg(long, value_name = "STD", help_heading = "Objective")]
    embeds_std: f32,

    /// Peak learning rate [default: 1e-4]
    #[arg(long, help_heading = "Optimiser")]
    lr: f32,
    /// Samples of a batch [default: 8]
    #[arg(long, value_name = "N", help_heading = "Optimiser")]
    batch_size: usize,
    /// Batches summed into one step [default: 1]
    #[arg(long, value_name = "N", help_heading = "Optimiser")]
    accumulate: usize,
    /// Passes over the data [default: 1]
    #[arg(long, value_name = "N", help_heading = "Optimiser")]
    epochs: u64,
    /// Steps, whatever the epochs say
    #[arg(long, value_name = "N", help_heading = "Optimiser")]
    max_steps: u64,
    /// Steps of linear warm-up [default: 0]
    #[arg(long, value_name = "STEPS", help_heading = "Optimiser")]
    warmup: u64,
    /// Learning rate after the warm-up [default: constant]
    #[arg(long, help_heading = "Optimiser")]
    schedule: Schedule,
    /// Decoupled weight decay [default: 0.01]
    #[arg(long, value_name = "W", help_heading = "Optimiser")]
    weight_decay: f32,
    /// Largest gradient norm; 0 never clips [default: 1]
    #[arg(long, value_name = "NORM", help_heading = "Optimiser")]
    clip: f32,
    /// Seed of new weights, order and draws [default: 0]
    #[arg(long, help_heading = "Optimiser")]
    seed: u64,

    /// Steps between training states, from which --resume goes on [default: 200]
    #[arg(long, value_name = "STEPS", help_heading = "Run")]
    save_every: u64,
    /// Steps between validations [default: an epoch]
    #[arg(long, value_name = "STEPS", help_heading = "Run")]
    val_every: u64,
    /// Validation samples used, from the start of the file [default: 200]
    #[arg(long, value_name = "N", help_heading = "Run")]
    val_samples: usize,
    /// What the best checkpoints are best at [default: accuracy]
    #[arg(long, help_heading = "Run")]
    monitor: Monitor,
    /// How many best checkpoints to keep [default: 3]
    #[arg(long, value_name = "K", help_heading = "Run")]
    save_top_k: usize,
    /// CPU threads; 0 means one a core [default: 0]
    #[arg(long, value_name = "N", help_heading = "Run")]
    threads: usize,
    /// Where to run [default: auto]
    #[arg(long, help_heading = "Run")]
    device: DeviceKind,
}

/// A run, fully specified.
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
    /// Reads a TOML file with the flags' names as keys.
    ///
    /// # Errors
    /// [`Error::File`] naming the file and the key at fault.
    pub fn from_toml(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        toml::from_str(&text).map_err(|e: toml::de::Error| {
            let line = e.span().map_or(1, |s| 1 + text[..s.start.min(text.len())].matches('\n').count());
            Error::Line { path: path.to_owned(), line, what: crate::files::json::one_line(e.message()) }
        })
    }

    /// Fills in the defaults and checks every value.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the flag that is missing or out of range.
    pub fn resolve(self) -> Result<TrainOptions> {
        let need = |value: Option<PathBuf>, flag: &str| {
            value.ok_or_else(|| Error::usage(format!("{flag} is needed to train on your own model and data")))
        };
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
        }
    }
}

impl TrainOptions {
    /// Stores the options as the TOML file that `--config` reads.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = toml::to_string(&TrainFlags::from(self)).map_err(|e| Error::file(path, e.to_string()))?;
        write_atomic(path, |out| out.write_all(text.as_bytes()))
    }

    fn validate(&self) -> Result<()> {
        let check = |good: bool, what: &str| if good { Ok(()) } else { Err(Error::usage(what)) };
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
    pub fn objective(&self) -> super::sft::Objective {
        super::sft::Objective {
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
        if name.starts_with("latent_policy.") || name.contains(".lora_") {
            return true;
        }
        self.full && !(self.freeze_embedding && name == "model.embed_tokens.weight")
    }
}
