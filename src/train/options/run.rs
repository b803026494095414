//! Options of every stage: model and data, weights, optimiser, and how the run is kept.

use std::path::{Path, PathBuf};

use super::flags::{TrainFlags, check};
use crate::Result;
use crate::device::{ComputeDtype, DeviceKind};
use crate::model::adapter::{ADAPTER_CONFIG_FILE, AdapterConfig, LoraTarget, NamedTargets};
use crate::model::weight_spec::{Group, Groups};
use crate::train::schedule::Schedule;

/// The options that the stages share: model and data, weights, optimiser, and how the run is kept.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RunOptions {
    /// The model directory.
    pub model: PathBuf,
    /// Training data, in any form that [`data::load`](crate::data::load) reads.
    pub data: PathBuf,
    /// Validation data; without it no checkpoint is better than the last.
    pub val: Option<PathBuf>,
    /// Whether a blank is put into texts of the data that mean something in the prompt (`###`, `Answer:`, the end of
    /// sequence); samples that hold them are refused else.
    pub escape_marks: bool,
    /// The run directory.
    pub out: PathBuf,
    /// Whether all weights are trained, and not an adapter.
    pub full: bool,
    /// With `full`: whether the input embeddings, and a tied output head, stay as they are.
    pub freeze_embedding: bool,
    /// Rank of the adapter, in 1..=65536.
    pub lora_r: usize,
    /// Numerator of the adapter's scale, above 0: `lora_alpha / lora_r`.
    pub lora_alpha: f64,
    /// The projections that have an adapter.
    pub lora_targets: Vec<LoraTarget>,
    /// Peak learning rate, above 0.
    pub lr: f32,
    /// Samples of a batch, or questions of a step of reinforcement learning.
    pub batch_size: usize,
    /// Whether a layer keeps its input alone and runs again for its gradients: less memory, more time, the same
    /// numbers.
    pub recompute: bool,
    /// Passes over the data.
    pub epochs: u64,
    /// Steps, in place of the number that the epochs give.
    pub max_steps: Option<u64>,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// The learning rate after the warm-up.
    pub schedule: Schedule,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Largest norm of the gradients; 0 never clips.
    pub clip: f32,
    /// Seed of new weights, order and draws.
    pub seed: u64,
    /// Steps between training states.
    pub save_every: u64,
    /// Steps between validations; `None`: an epoch.
    pub val_every: Option<u64>,
    /// Validation samples used, from the start of the file.
    pub val_samples: usize,
    /// Validations in a row without a better one after which the run ends; `None` goes on.
    pub patience: Option<u64>,
    /// How many of the best checkpoints are kept.
    pub save_top_k: usize,
    /// CPU threads; 0 means one a core.
    pub threads: usize,
    /// Where to run.
    pub device: DeviceKind,
    /// Arithmetic of a CUDA device; `None`: bf16 on a GPU, float32 elsewhere.
    pub dtype: Option<ComputeDtype>,
    /// Whether the weights are read into memory, and not mapped: the run then no longer needs the model's files.
    pub no_mmap: bool,
}

setters!(RunOptions {
    escape_marks: bool,
    full: bool,
    freeze_embedding: bool,
    lora_r: usize,
    lora_alpha: f64,
    lora_targets: Vec<LoraTarget>,
    lr: f32,
    batch_size: usize,
    recompute: bool,
    epochs: u64,
    warmup: u64,
    schedule: Schedule,
    weight_decay: f32,
    clip: f32,
    seed: u64,
    save_every: u64,
    val_samples: usize,
    save_top_k: usize,
    threads: usize,
    device: DeviceKind,
    no_mmap: bool,
});
setters!(RunOptions into {
    model: PathBuf,
    data: PathBuf,
    val: Option<PathBuf>,
    out: PathBuf,
    max_steps: Option<u64>,
    val_every: Option<u64>,
    patience: Option<u64>,
    dtype: Option<ComputeDtype>,
});

impl Default for RunOptions {
    /// The defaults of a supervised run; its paths are empty.
    fn default() -> Self {
        let lora = AdapterConfig::default();
        RunOptions {
            model: PathBuf::new(),
            data: PathBuf::new(),
            val: None,
            escape_marks: false,
            out: PathBuf::new(),
            full: false,
            freeze_embedding: false,
            lora_r: lora.r,
            lora_alpha: lora.lora_alpha,
            lora_targets: lora.target_modules,
            lr: 1e-4,
            batch_size: 8,
            recompute: false,
            epochs: 1,
            max_steps: None,
            warmup: 0,
            schedule: Schedule::Constant,
            weight_decay: 0.01,
            clip: 1.0,
            seed: 0,
            save_every: 200,
            val_every: None,
            patience: None,
            val_samples: 200,
            save_top_k: 3,
            threads: 0,
            device: DeviceKind::default(),
            dtype: None,
            no_mmap: false,
        }
    }
}

impl RunOptions {
    /// Takes them from the flags; where one is absent, `d` has its value.
    pub(super) fn from_flags(flags: &TrainFlags, d: RunOptions) -> Result<Self> {
        let need = |value: &Option<PathBuf>, name: &str| TrainFlags::needed(value.clone(), name);
        let named = flags.lora_targets.as_deref();
        let mut lora_targets =
            named.map_or(d.lora_targets, |named| named.iter().flat_map(|n| n.targets()).collect());
        lora_targets.sort();
        lora_targets.dedup();
        Ok(RunOptions {
            model: need(&flags.model, "model")?,
            data: need(&flags.data, "data")?,
            val: flags.val.clone(),
            escape_marks: flags.escape_marks.unwrap_or(d.escape_marks),
            out: need(&flags.out, "out")?,
            full: flags.full.unwrap_or(d.full),
            freeze_embedding: flags.freeze_embedding.unwrap_or(d.freeze_embedding),
            lora_r: flags.lora_r.unwrap_or(d.lora_r),
            lora_alpha: flags.lora_alpha.unwrap_or(d.lora_alpha),
            lora_targets,
            lr: flags.lr.unwrap_or(d.lr),
            batch_size: flags.batch_size.unwrap_or(d.batch_size),
            recompute: flags.recompute.unwrap_or(d.recompute),
            epochs: flags.epochs.unwrap_or(d.epochs),
            max_steps: flags.max_steps,
            warmup: flags.warmup.unwrap_or(d.warmup),
            schedule: flags.schedule.unwrap_or(d.schedule),
            weight_decay: flags.weight_decay.unwrap_or(d.weight_decay),
            clip: flags.clip.unwrap_or(d.clip),
            seed: flags.seed.unwrap_or(d.seed),
            save_every: flags.save_every.unwrap_or(d.save_every),
            val_every: flags.val_every,
            patience: flags.patience,
            val_samples: flags.val_samples.unwrap_or(d.val_samples),
            save_top_k: flags.save_top_k.unwrap_or(d.save_top_k),
            threads: flags.threads.unwrap_or(d.threads),
            device: flags.device.unwrap_or(d.device),
            dtype: flags.dtype,
            no_mmap: flags.no_mmap.unwrap_or(d.no_mmap),
        })
    }

    /// The flags that say all of it, for storing with the run.
    pub(super) fn to_flags(&self) -> TrainFlags {
        TrainFlags {
            model: Some(self.model.clone()),
            data: Some(self.data.clone()),
            val: self.val.clone(),
            escape_marks: Some(self.escape_marks),
            out: Some(self.out.clone()),
            full: Some(self.full),
            freeze_embedding: Some(self.freeze_embedding),
            lora_r: Some(self.lora_r),
            lora_alpha: Some(self.lora_alpha),
            lora_targets: Some(self.lora_targets.iter().copied().map(NamedTargets::One).collect()),
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
            patience: self.patience,
            val_samples: Some(self.val_samples),
            save_top_k: Some(self.save_top_k),
            threads: Some(self.threads),
            device: Some(self.device),
            dtype: self.dtype,
            no_mmap: Some(self.no_mmap),
            ..TrainFlags::default()
        }
    }

    /// The adapter that is trained; `None` with `full`.
    pub(crate) fn adapter(&self) -> Option<AdapterConfig> {
        let mut target_modules = self.lora_targets.clone();
        target_modules.sort();
        target_modules.dedup();
        let (r, lora_alpha) = (self.lora_r, self.lora_alpha);
        (!self.full).then(|| AdapterConfig { r, lora_alpha, target_modules, ..AdapterConfig::default() })
    }

    /// Takes the form of the adapter that a checkpoint holds, where the options leave it at the default: then the run
    /// trains that one. Another form is refused when the checkpoint is opened.
    ///
    /// # Errors
    /// Errors of the checkpoint's files.
    pub(crate) fn follow_adapter(&mut self, checkpoint: &Path) -> Result<()> {
        let d = RunOptions::default();
        let chosen =
            (self.lora_r, self.lora_alpha, &self.lora_targets) != (d.lora_r, d.lora_alpha, &d.lora_targets);
        if self.full || chosen || !checkpoint.join(ADAPTER_CONFIG_FILE).exists() {
            return Ok(());
        }
        let stored = AdapterConfig::load(checkpoint)?;
        (self.lora_r, self.lora_alpha, self.lora_targets) =
            (stored.r, stored.lora_alpha, stored.target_modules);
        Ok(())
    }

    /// Checks what the ranges of numbers leave open.
    pub(super) fn validate(&self) -> Result<()> {
        check(!self.lora_targets.is_empty(), "`lora_targets` is empty")?;
        check(self.full || !self.freeze_embedding, "`freeze_embedding` goes with `full`")
    }

    /// The weights that are trained: adapters, latent head and projector always, the others with `full`.
    pub(crate) fn trained(&self) -> Groups {
        match (self.full, self.freeze_embedding) {
            (false, _) => Groups::ADDED,
            (true, false) => Groups::ALL,
            (true, true) => Groups::ALL.without(Group::Embedding),
        }
    }
}
