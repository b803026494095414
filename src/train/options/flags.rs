//! The flags of `train`, and the TOML file with the same keys.
//!
//! [`TrainFlags`] has an `Option` for everything, so that the same type reads a file, takes flags over
//! it ([`TrainFlags::over`]) and is resolved into the options of a stage, which are stored with the run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::data::verify::VerifierKind;
use crate::device::{ComputeDtype, DeviceKind};
use crate::files::atomic::write_atomic;
use crate::model::adapter::LoraTarget;
use crate::model::merge::Merge;
use crate::model::prompt::Method;
use crate::train::batch::ChunkLabels;
use crate::train::schedule::Schedule;
use crate::{Error, Result};

/// Where the flags of reinforcement learning stand in the help.
const RL: &str = "Reinforcement learning (--stage rl)";

/// Where those of the methods between CoT and CoLaR do.
const METHODS: &str = "Implicit and continuous thoughts (--method icot, coconut, distill)";

/// The stage of training.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Supervised, on given chains of reasoning.
    #[default]
    Sft,
    /// By the rewards of the model's own chains.
    Rl,
}

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
        /// Everything a run can be told; what is absent has a default.
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

            /// These flags without those that `named` names (as the fields are).
            pub(super) fn without(self, named: &[&str]) -> TrainFlags {
                TrainFlags { $($name: if named.contains(&stringify!($name)) { None } else { self.$name },)* }
            }

            /// The first of these flags that `named` names (as the fields are), in backticks.
            pub(crate) fn first_of(&self, named: &[&str]) -> Option<&'static str> {
                $(
                    if self.$name.is_some() && named.contains(&stringify!($name)) {
                        return Some(concat!("`", stringify!($name), "`"));
                    }
                )*
                None
            }

            /// The first of these flags that `known` does not name, in backticks.
            fn first_but(&self, known: &[&str]) -> Option<&'static str> {
                $(
                    if self.$name.is_some() && !known.contains(&stringify!($name)) {
                        return Some(concat!("`", stringify!($name), "`"));
                    }
                )*
                None
            }
        }
    };
}

flags! {
    /// Supervised training, or reinforcement learning from a checkpoint of it [default: sft]
    #[arg(long, help_heading = "What to train")]
    stage: Stage,
    /// How the model is to reason [default: colar]
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
    /// Checkpoint to start from, for instance a CoLaR run's (--stage rl)
    #[arg(long, value_name = "CHECKPOINT", help_heading = "What to train")]
    adapter: PathBuf,

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
    /// Label of a compressed position: one of its tokens, drawn, their mean, or none (ablation OC) [default: sample]
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

    /// Stages over which training takes steps away from the front (icot, coconut) [default: 3]
    #[arg(long, value_name = "S", help_heading = METHODS)]
    stages: u64,
    /// Steps of training of every stage but the last [default: the run in equal parts]
    #[arg(long, value_name = "STEPS", help_heading = METHODS)]
    stage_steps: u64,
    /// Thoughts that each stage puts in the place of steps (coconut) [default: 2]
    #[arg(long, value_name = "N", help_heading = METHODS)]
    thoughts_per_step: usize,
    /// Thoughts before the answer (distill) [default: 6]
    #[arg(long, value_name = "N", help_heading = METHODS)]
    thoughts: usize,
    /// Weight of the cross-entropy of the written chain (distill) [default: 1]
    #[arg(long, value_name = "W", allow_negative_numbers = true, help_heading = METHODS)]
    teacher_weight: f32,
    /// Weight of the cross-entropy after the thoughts (distill) [default: 1]
    #[arg(long, value_name = "W", allow_negative_numbers = true, help_heading = METHODS)]
    student_weight: f32,
    /// Weight of the distance between the hidden states of both before the answer (distill) [default: 20]
    #[arg(long, value_name = "W", allow_negative_numbers = true, help_heading = METHODS)]
    distill_weight: f32,

    /// Peak learning rate [default: 1e-4, with --stage rl 1e-6]
    #[arg(long, help_heading = "Optimiser")]
    lr: f32,
    /// Samples of a batch, or questions of a step of --stage rl [default: 8]
    #[arg(long, value_name = "N", help_heading = "Optimiser")]
    batch_size: usize,
    /// Batches summed into one step [default: 1]
    #[arg(long, value_name = "N", help_heading = "Optimiser")]
    accumulate: usize,
    /// Keep of each layer its input alone and run it again for its gradients: less memory, more time
    #[arg(long, num_args = 0..=1, default_missing_value = "true", help_heading = "Optimiser")]
    recompute: bool,
    /// Passes over the data, or over --samples-per-epoch of it [default: 1]
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

    /// Compression factor in the prompts: a number or `auto` [default: 2]
    #[arg(long, value_name = "C", value_parser = crate::model::prompt::parse_speed, help_heading = RL)]
    cf: String,
    /// Rollouts of a question, whose rewards are compared [default: 8]
    #[arg(long, value_name = "G", help_heading = RL)]
    group_size: usize,
    /// How far the ratio of probabilities may move and still count [default: 0.2]
    #[arg(long, value_name = "EPS", help_heading = RL)]
    clip_eps: f32,
    /// Mean over a rollout's latents and tokens, or their sum over 32 [default: true]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", help_heading = RL)]
    average_per_token_loss: bool,
    /// Whether the objective counts the latents [default: true]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", help_heading = RL)]
    use_latent_loss: bool,
    /// Whether it counts the answer's tokens and the separator before them [default: true]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", help_heading = RL)]
    use_answer_loss: bool,
    /// Divide the reward by the number of latents
    #[arg(long, num_args = 0..=1, default_missing_value = "true", help_heading = RL)]
    punish_latent_length: bool,
    /// Weight of the divergence from the starting checkpoint [default: 0]
    #[arg(long, value_name = "W", help_heading = RL)]
    kl_weight: f32,
    /// Rollouts of one update [default: 8]
    #[arg(long, value_name = "N", help_heading = RL)]
    exp_batch_size: usize,
    /// Questions of an epoch, drawn afresh for each [default: 512]
    #[arg(long, value_name = "N", help_heading = RL)]
    samples_per_epoch: usize,
    /// Leave out the questions that the checkpoint already solves in all rollouts of a group
    #[arg(long, num_args = 0..=1, default_missing_value = "true", help_heading = RL)]
    filter_solved: bool,
    /// How an answer is compared with the gold one [default: exact]
    #[arg(long, help_heading = RL)]
    verifier: VerifierKind,
    /// Most latents of a rollout [default: 64]
    #[arg(long, value_name = "N", help_heading = RL)]
    max_latents: usize,
    /// Most tokens of a rollout's answer [default: 16]
    #[arg(long, value_name = "N", help_heading = RL)]
    max_new_tokens: usize,
    /// Factor on the standard deviation of a rollout's latents [default: 1]
    #[arg(long, value_name = "T", help_heading = RL)]
    latent_temperature: f32,
    /// Temperature of the draw that ends a rollout's latents [default: 1]
    #[arg(long, value_name = "T", help_heading = RL)]
    eol_temperature: f32,
    /// Temperature of a rollout's answer [default: 1]
    #[arg(long, value_name = "T", help_heading = RL)]
    temperature: f32,
    /// Nucleus of a rollout's answer [default: 0.9]
    #[arg(long, value_name = "P", help_heading = RL)]
    top_p: f32,

    /// Steps between training states, from which --resume goes on [default: 200]
    #[arg(long, value_name = "STEPS", help_heading = "Run")]
    save_every: u64,
    /// Steps between validations [default: an epoch]
    #[arg(long, value_name = "STEPS", help_heading = "Run")]
    val_every: u64,
    /// Validation samples used, from the start of the file [default: 200]
    #[arg(long, value_name = "N", help_heading = "Run")]
    val_samples: usize,
    /// What the best checkpoints are best at; of --stage rl always the reward [default: accuracy]
    #[arg(long, help_heading = "Run")]
    monitor: Monitor,
    /// How many best checkpoints to keep [default: 3]
    #[arg(long, value_name = "K", help_heading = "Run")]
    save_top_k: usize,
    /// CPU threads; 0 means one a core [default: 0]
    #[arg(long, value_name = "N", help_heading = "Run")]
    threads: usize,
    /// Where to run [default: auto, which is the CPU]
    #[arg(long, help_heading = "Run")]
    device: DeviceKind,
    /// What activations are stored in [default: bf16 on a GPU, f32 elsewhere]
    #[arg(long, help_heading = "Run")]
    dtype: ComputeDtype,
}

impl TrainFlags {
    /// Reads a TOML file with the flags' names as keys.
    ///
    /// # Errors
    /// [`Error::File`] naming the file and the key at fault.
    pub fn from_toml(path: &Path) -> Result<Self> {
        read_toml(path)
    }

    /// Reads a TOML file of several tables with the flags' names as keys.
    ///
    /// # Errors
    /// As [`from_toml`](Self::from_toml).
    pub fn tables_from_toml(path: &Path) -> Result<BTreeMap<String, Self>> {
        read_toml(path)
    }

    /// Stores the flags as the TOML file that `--config` reads.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = toml::to_string(self).map_err(|e| Error::file(path, e.to_string()))?;
        write_atomic(path, |out| out.write_all(text.as_bytes()))
    }

    /// Fails on a flag that a stage does not know.
    pub(super) fn only(&self, stage: &str, known: &[&str]) -> Result<()> {
        match self.first_but(known) {
            Some(flag) => Err(Error::usage(format!("{flag} does not go with `stage` {stage}"))),
            None => Ok(()),
        }
    }

    /// A path that must be given.
    pub(super) fn needed(value: Option<PathBuf>, name: &str) -> Result<PathBuf> {
        value.ok_or_else(|| Error::usage(format!("`{name}` is needed to train on your own model and data")))
    }
}

/// Reads a TOML file; an error names its line.
fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    toml::from_str(&text).map_err(|e: toml::de::Error| {
        let line = e.span().map_or(1, |s| 1 + text[..s.start.min(text.len())].matches('\n').count());
        Error::Line { path: path.to_owned(), line, what: crate::files::json::one_line(e.message()) }
    })
}

/// Fails with `what` unless `good`.
pub(super) fn check(good: bool, what: &str) -> Result<()> {
    if good { Ok(()) } else { Err(Error::usage(what)) }
}
