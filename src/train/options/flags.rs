//! The flags of `train`, and the TOML file with the same keys.
//!
//! [`TrainFlags`] has an `Option` for everything, so that the same type reads a file, takes flags over
//! it ([`TrainFlags::over`]) and is resolved into the options of a stage, which are stored with the run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::choices::{LatentLossName, LatentNoise, Monitor, Stage};
use super::nearest::nearest;
use super::ranges;
use crate::data::AnswerRule;
use crate::data::verify::VerifierKind;
use crate::device::{ComputeDtype, DeviceKind};
use crate::files::atomic::write_atomic;
use crate::model::adapter::NamedTargets;
use crate::model::chat_template::Template;
use crate::model::merge::Merge;
use crate::model::prompt::Method;
use crate::range::no_numbers;
use crate::train::batch::ChunkLabels;
use crate::train::schedule::Schedule;
use crate::{Error, Result};

/// Flags by heading of the help: the doc comment is the help, `arg` has what clap needs to know beyond that.
macro_rules! flags {
    ($($heading:literal => { $(
        $(#[doc $($doc:tt)+])+
        $(#[arg($($arg:tt)+)])?
        $name:ident: $kind:ty,
    )* })*) => {
        /// All options of a run; an absent one has a default.
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(feature = "cli", derive(clap::Args))]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
        pub struct TrainFlags {
            $($(
                $(#[doc $($doc)+])+
                #[serde(skip_serializing_if = "Option::is_none")]
                #[cfg_attr(feature = "cli", arg(long, help_heading = $heading $(, $($arg)+)?))]
                pub $name: Option<$kind>,
            )*)*
        }

        impl TrainFlags {
            /// These flags, and where one is absent, that of `file`.
            pub(super) fn or(self, file: TrainFlags) -> TrainFlags {
                TrainFlags { $($($name: self.$name.or(file.$name),)*)* }
            }

            /// Fails on a number outside the range that its flag takes.
            ///
            /// # Errors
            /// [`Error::Usage`] naming flag, range and number.
            pub(super) fn check_ranges(&self) -> Result<()> {
                $($(
                    if let Some(range) = ranges::range(stringify!($name)) {
                        range.check(stringify!($name), &self.$name)?;
                    }
                )*)*
                Ok(())
            }

            /// These flags without those that `named` names (as the fields are).
            pub(super) fn without(self, named: &[&str]) -> TrainFlags {
                TrainFlags { $($($name: if named.contains(&stringify!($name)) { None } else { self.$name },)*)* }
            }

            /// The first of these flags that `named` names (as the fields are), in backticks.
            pub(crate) fn first_of(&self, named: &[&str]) -> Option<&'static str> {
                $($(
                    if self.$name.is_some() && named.contains(&stringify!($name)) {
                        return Some(concat!("`", stringify!($name), "`"));
                    }
                )*)*
                None
            }
        }
    };
}

flags! {
    "What to train" => {
        /// Supervised training, or reinforcement learning from a checkpoint of it
        stage: Stage,
        /// How the model is to reason
        method: Method,
        /// Model directory
        #[arg(value_name = "DIR")]
        model: PathBuf,
        /// Training data: a JSON array or JSON lines of {question, steps, answer}, or a public form
        #[arg(value_name = "FILE")]
        data: PathBuf,
        /// Validation data
        #[arg(value_name = "FILE")]
        val: PathBuf,
        /// The layout around questions; stored with the checkpoint, which keeps it [default: that of --init, or paper]
        template: Template,
        /// Put a blank into texts of the data that mean something in the prompt (### and Answer:), which are refused
        /// else
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        escape_marks: bool,
        /// Leave out training samples of more than N tokens, prompt and answer included; the start says how many. Without
        /// it none is cut or left out
        #[arg(value_name = "N")]
        max_length: usize,
        /// Run directory [default: a new directory under runs/]
        #[arg(value_name = "DIR")]
        out: PathBuf,
        /// Checkpoint to start from, for instance a CoT run's
        #[arg(value_name = "CHECKPOINT")]
        init: PathBuf,
        /// Checkpoint to start from, for instance a CoLaR run's
        #[arg(value_name = "CHECKPOINT")]
        adapter: PathBuf,
    }
    "Weights" => {
        /// Train all weights instead of an adapter
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        full: bool,
        /// Leave the input embeddings (and a tied output head) as they are
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        freeze_embedding: bool,
        /// Rank of the adapter
        #[arg(value_name = "R")]
        lora_r: usize,
        /// Numerator of the adapter's scale
        #[arg(value_name = "ALPHA")]
        lora_alpha: f64,
        /// Probability with which an adapter does not see an element of its input in training
        #[arg(value_name = "P", allow_hyphen_values = true)]
        lora_dropout: f64,
        /// Adapted projections; all-linear means all seven
        #[arg(value_delimiter = ',', value_name = "NAMES")]
        lora_targets: Vec<NamedTargets>,
        /// Inner width of a new latent head
        #[arg(value_name = "I", help = format!(
            "Inner width of a new latent head [default: the model's intermediate size, at most {}]",
            crate::train::defaults::MOST_HEAD_SIZE
        ))]
        latent_head_size: usize,
        /// Latent head without a variance of its own (ablation DL)
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        deterministic_head: bool,
    }
    "Objective" => {
        /// Compression factors are drawn from 1..=N
        #[arg(value_name = "N")]
        c_max: usize,
        /// Compression factors are drawn from this list
        #[arg(value_delimiter = ',', value_name = "LIST")]
        cf_list: Vec<usize>,
        /// Latent loss
        latent_loss: LatentLossName,
        /// Label of a compressed position: one of its tokens, drawn, their mean, or none (ablation OC)
        chunk_labels: ChunkLabels,
        /// Noise of the mse loss: drawn, or its expectation
        latent_noise: LatentNoise,
        /// Denominator of the merge: root of the chunk's length, or the length (ablation MP)
        merge: Merge,
        /// Weight of the cross-entropy
        #[arg(value_name = "W", allow_hyphen_values = true)]
        ce_weight: f32,
        /// Weight of the latent loss
        #[arg(value_name = "W", allow_hyphen_values = true)]
        latent_weight: f32,
        /// Weight of the latent entropy; the paper's regularised form has -1e-6
        #[arg(value_name = "W", allow_hyphen_values = true)]
        entropy_weight: f32,
        /// Weight of the second forward, on predicted embeddings
        #[arg(value_name = "W", allow_hyphen_values = true)]
        pred_embed_forward_weight: f32,
        /// Probability that a step's prompts say `auto` instead of the factor
        #[arg(value_name = "P")]
        auto_prob: f64,
        /// Standard deviation of the embeddings [default: stored, or computed from the weights]
        #[arg(value_name = "STD")]
        embeds_std: f32,
    }
    "Implicit and continuous thoughts (--method icot, coconut, distill)" => {
        /// Stages over which training takes steps away from the front
        #[arg(value_name = "S")]
        stages: u64,
        /// Steps of training of every stage but the last [default: the run in equal parts]
        #[arg(value_name = "STEPS")]
        stage_steps: u64,
        /// Thoughts that each stage puts in the place of steps
        #[arg(value_name = "N")]
        thoughts_per_step: usize,
        /// Thoughts before the answer
        #[arg(value_name = "N")]
        thoughts: usize,
        /// Weight of the cross-entropy of the written chain
        #[arg(value_name = "W", allow_hyphen_values = true)]
        teacher_weight: f32,
        /// Weight of the cross-entropy after the thoughts
        #[arg(value_name = "W", allow_hyphen_values = true)]
        student_weight: f32,
        /// Weight of the distance between the hidden states of both before the answer
        #[arg(value_name = "W", allow_hyphen_values = true)]
        distill_weight: f32,
    }
    "Optimiser" => {
        /// Peak learning rate
        lr: f32,
        /// Samples of a batch, or questions of a step of --stage rl
        #[arg(value_name = "N")]
        batch_size: usize,
        /// Batches summed into one step
        #[arg(value_name = "N")]
        accumulate: usize,
        /// Keep of each layer its input alone and run it again for its gradients: less memory, more time
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        recompute: bool,
        /// Passes over the data, or over --samples-per-epoch of it
        #[arg(value_name = "N")]
        epochs: u64,
        /// Steps, in place of epochs
        #[arg(value_name = "N")]
        max_steps: u64,
        /// Steps of linear warm-up
        #[arg(value_name = "STEPS")]
        warmup: u64,
        /// Learning rate after the warm-up
        schedule: Schedule,
        /// Decoupled weight decay
        #[arg(value_name = "W")]
        weight_decay: f32,
        /// Largest gradient norm; 0 never clips
        #[arg(value_name = "NORM")]
        clip: f32,
        /// Seed of new weights, order and draws
        seed: u64,
    }
    "Reinforcement learning (--stage rl)" => {
        /// Compression factor in the prompts: a number or `auto`
        #[arg(value_name = "C", value_parser = crate::model::prompt::parse_compression_factor, help = format!(
            "Compression factor in the prompts: `auto`, or {}", crate::model::prompt::FACTORS
        ))]
        cf: String,
        /// Rollouts of a question, whose rewards are compared
        #[arg(value_name = "G")]
        group_size: usize,
        /// How far the ratio of probabilities may move and still count
        #[arg(value_name = "EPS")]
        clip_eps: f32,
        /// Mean over a rollout's latents and tokens, or their sum over a constant
        #[arg(num_args = 0..=1, default_missing_value = "true", help = format!(
            "Mean over a rollout's latents and tokens, or their sum over {}",
            crate::train::rl::SUM_DIVISOR
        ))]
        average_per_token_loss: bool,
        /// Whether the objective counts the latents
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        use_latent_loss: bool,
        /// Whether it counts the answer's tokens and the separator before them
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        use_answer_loss: bool,
        /// Divide the reward by the number of latents
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        punish_latent_length: bool,
        /// Weight of the divergence from the starting checkpoint
        #[arg(value_name = "W")]
        kl_weight: f32,
        /// Rollouts of one update
        #[arg(value_name = "N")]
        exp_batch_size: usize,
        /// Questions of an epoch, drawn afresh for each
        #[arg(value_name = "N")]
        samples_per_epoch: usize,
        /// Leave out the questions that the checkpoint already solves in all rollouts of a group
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        filter_solved: bool,
        /// How an answer is compared with the gold one
        verifier: VerifierKind,
        /// Which part of a generated text is its answer
        answer_rule: AnswerRule,
        /// Most latents of a rollout
        #[arg(value_name = "N")]
        max_latents: usize,
        /// Most tokens of a rollout's answer
        #[arg(value_name = "N")]
        max_new_tokens: usize,
        /// Factor on the standard deviation of a rollout's latents
        #[arg(value_name = "T")]
        latent_temperature: f32,
        /// Temperature of the draw that ends a rollout's latents
        #[arg(value_name = "T")]
        eol_temperature: f32,
        /// Temperature of a rollout's answer
        #[arg(value_name = "T")]
        temperature: f32,
        /// Nucleus of a rollout's answer
        #[arg(value_name = "P")]
        top_p: f32,
    }
    "Run" => {
        /// Steps between training states, from which --resume goes on
        #[arg(value_name = "STEPS")]
        save_every: u64,
        /// Steps between validations [default: an epoch]
        #[arg(value_name = "STEPS")]
        val_every: u64,
        /// Validation samples used, from the start of the file
        #[arg(value_name = "N")]
        val_samples: usize,
        /// Stop where the loss stays far above its running mean for so many steps; 0 never does
        #[arg(value_name = "STEPS")]
        watchdog: u64,
        /// Measure of the best checkpoints; for --stage rl always the reward
        monitor: Monitor,
        /// End the run after K validations in a row without a better one
        #[arg(value_name = "K")]
        patience: u64,
        /// How many best checkpoints to keep
        #[arg(value_name = "K")]
        save_top_k: usize,
        /// CPU threads; 0 means one a core
        #[arg(value_name = "N")]
        threads: usize,
        /// Where to run [default: auto, which is the CPU]
        device: DeviceKind,
        /// Dtype of activations [default: bf16 on a GPU, f32 elsewhere]
        dtype: ComputeDtype,
        /// Read the weights into memory and do not map their files, which may then be replaced or cut short under the run
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        no_mmap: bool,
    }
}

no_numbers!(
    Stage,
    Method,
    NamedTargets,
    Template,
    LatentLossName,
    ChunkLabels,
    LatentNoise,
    Merge,
    Schedule,
    VerifierKind,
    AnswerRule,
    Monitor,
    DeviceKind,
    ComputeDtype,
);

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
        Error::Line { path: path.to_owned(), line, what: toml_fault(e.message()) }
    })
}

/// A fault of a TOML file in a few words. serde lists all keys that there are, of which one is of use.
fn toml_fault(message: &str) -> String {
    let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match names.as_slice() {
        [given, known @ ..] if message.starts_with("unknown field") => {
            match nearest(given, known.iter().copied()) {
                Some(name) => format!("unknown key `{given}`; a similar one is `{name}`"),
                None => format!("unknown key `{given}`; the keys are the flags of `train`"),
            }
        }
        _ => crate::files::json::one_line(message),
    }
}

/// Fails with the message `what` unless `good`.
pub(super) fn check(good: bool, what: &str) -> Result<()> {
    if good { Ok(()) } else { Err(Error::usage(what)) }
}
