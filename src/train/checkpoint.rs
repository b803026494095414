//! Checkpoints and training states (spec section 8).
//!
//! A checkpoint has all that generation needs, in files that PEFT can load: the adapter, or all weights after
//! full fine-tuning; the latent head or the projector of thoughts; `colar.json`. A training state is a checkpoint
//! plus the optimiser's moments and the step, so a run that is killed goes on with the same numbers. Both are
//! directories that appear whole or not at all.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::optimizer::Optimizer;
use super::watchdog::Watch;
use crate::device::Device;
use crate::files::atomic::write_atomic;
use crate::files::hidden::clean;
use crate::files::lock::DirLock;
use crate::files::safetensors::{Dtype, TensorSpec, write_safetensors};
use crate::files::staged::{StagedDir, recover_dir, remove_dir};
use crate::files::weights::{WEIGHTS_FILE, Weights};
use crate::model::adapter::{ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, PEFT_PREFIX};
use crate::model::colar_config::{ColarConfig, LATENT_HEAD_FILE};
use crate::model::open::{Opened, embeds_std};
use crate::model::params::ParamId;
use crate::model::prompt::{Method, SEPARATOR};
use crate::model::thoughts::{PROJECTOR_FILE, Thoughts};
use crate::model::weight_spec::{Group, Groups};
use crate::{Error, Result};

const MOMENTS_FILE: &str = "optimizer.safetensors";
const STATE_FILE: &str = "train_state.json";

/// A kept checkpoint and the measure that it was kept for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptCheckpoint {
    /// Step after which it was written.
    pub step: u64,
    /// The monitored value: higher is better.
    pub monitor: f64,
}

/// Where a run stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainState {
    /// Steps done.
    pub step: u64,
    /// Updates of the weights, where a step makes several.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub updates: u64,
    /// Whether the last step's validation is still to come, since the run was asked to stop before or during it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unvalidated: bool,
    /// The level of the losses, of a supervised run.
    #[serde(default, skip_serializing_if = "is_unwatched")]
    pub watch: Watch,
    /// Validations since the best one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub stale: u64,
    /// The best checkpoints, best first.
    pub best: Vec<KeptCheckpoint>,
}

impl TrainState {
    /// Counts a validation of this measure, of which higher is better, before it is kept.
    pub fn count(&mut self, monitor: f64) {
        let better = self.best.first().is_none_or(|best| monitor > best.monitor);
        self.stale = if better { 0 } else { self.stale + 1 };
    }

    /// Whether `patience` is at its end.
    pub fn is_over(&self, patience: Option<u64>) -> bool {
        patience.is_some_and(|most| self.stale >= most)
    }
}

fn is_unwatched(watch: &Watch) -> bool {
    *watch == Watch::default()
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Writes named float32 tensors that are read off the device one at a time.
fn write_tensors<D: Device>(
    device: &D,
    path: &Path,
    tensors: &[(String, Vec<usize>, &D::Tensor)],
) -> Result<()> {
    let specs: Vec<TensorSpec> = tensors
        .iter()
        .map(|(name, shape, _)| TensorSpec { name: name.clone(), shape: shape.clone(), dtype: Dtype::F32 })
        .collect();
    write_safetensors(path, &specs, &[("format", "pt")], |i, out| {
        let values = device.read(tensors[i].2).map_err(std::io::Error::other)?;
        out.write_all(bytemuck::cast_slice(&values))
    })
}

/// Writes the files of a checkpoint into `dir`. `full` says that the base weights were trained.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub fn write_files<D: Device>(
    device: &D,
    opened: &Opened<D>,
    method: Method,
    full: bool,
    dir: &Path,
) -> Result<()> {
    let all = |groups: Groups, prefix: &str| -> Vec<(String, Vec<usize>, &D::Tensor)> {
        let params = opened.model.params.iter().filter(|(_, p)| groups.contains(p.group));
        params.map(|(_, p)| (format!("{prefix}{}", p.name), p.shape.clone(), &p.value)).collect()
    };
    if let Some(adapter) = &opened.adapter {
        write_tensors(
            device,
            &dir.join(ADAPTER_WEIGHTS_FILE),
            &all(Groups::of(&[Group::Adapter]), PEFT_PREFIX),
        )?;
        let mut adapter = adapter.clone();
        adapter.base_model_name_or_path = Some(opened.model_dir.display().to_string());
        let text = format!("{:#}\n", adapter.to_json());
        write_atomic(&dir.join(ADAPTER_CONFIG_FILE), |out| out.write_all(text.as_bytes()))?;
    }
    if full {
        write_tensors(device, &dir.join(WEIGHTS_FILE), &all(Groups::BASE, ""))?;
        // With these beside its weights the checkpoint is a model directory of its own.
        for file in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
            let from = opened.model_dir.join(file);
            if from.exists() {
                std::fs::copy(&from, dir.join(file)).map_err(Error::io(&from))?;
            }
        }
    }
    if opened.latent_head.is_some() {
        write_tensors(device, &dir.join(LATENT_HEAD_FILE), &all(Groups::of(&[Group::LatentHead]), ""))?;
    }
    if opened.model.thoughts.as_ref().is_some_and(|t| t.projector.is_some()) {
        write_tensors(device, &dir.join(PROJECTOR_FILE), &all(Groups::of(&[Group::Projector]), ""))?;
    }
    let model = &opened.model;
    ColarConfig {
        embeds_std: match opened.latent_head {
            Some(_) => model.embeds_std,
            None => embeds_std(device, &model.params, &model.transformer)?,
        },
        merge: model.merge,
        latent_head: opened.latent_head,
        thoughts: opened.model.thoughts.as_ref().map(Thoughts::config),
        thinking_separator: SEPARATOR.into(),
        method: Some(method),
        codi: None,
        chat_template: opened.tokenizer.template().map(|template| template.source().to_owned()),
        extra: Default::default(),
    }
    .save(dir)
}

/// The name of a weight's moments.
fn moment_name<D: Device>(opened: &Opened<D>, id: ParamId, which: &str) -> String {
    format!("{which}.{}", opened.model.params.name(id))
}

/// Writes the whole training state as the run's last.
///
/// # Errors
/// [`Error::Io`] naming the file, and those of [`RunDir::check`]; the last state is then as it was.
pub fn save_state<D: Device>(
    device: &D,
    opened: &Opened<D>,
    optimizer: &Optimizer<D>,
    state: &TrainState,
    method: Method,
    full: bool,
    run: &RunDir,
) -> Result<()> {
    run.write(&run.last(), |dir| {
        write_files(device, opened, method, full, dir)?;
        let mut moments = Vec::new();
        for (id, m, v) in optimizer.moments() {
            let shape = opened.model.params.shape(id).to_vec();
            moments.push((moment_name(opened, id, "m"), shape.clone(), m));
            moments.push((moment_name(opened, id, "v"), shape, v));
        }
        write_tensors(device, &dir.join(MOMENTS_FILE), &moments)?;
        let text = serde_json::to_string(state).map_err(|e| Error::other(e.to_string()))?;
        write_atomic(&dir.join(STATE_FILE), |out| out.write_all(text.as_bytes()))
    })
}

/// Writes a checkpoint as the run's best.
///
/// # Errors
/// [`Error::Io`] naming the file, and those of [`RunDir::check`]; the best is then as it was.
pub fn save_best<D: Device>(
    device: &D,
    opened: &Opened<D>,
    method: Method,
    full: bool,
    run: &RunDir,
) -> Result<()> {
    run.write(&run.best(), |dir| write_files(device, opened, method, full, dir))
}

/// Fails where an adapter would be trained on weights that it would be stored without: those of a
/// checkpoint of full fine-tuning over another model directory.
///
/// # Errors
/// [`Error::Usage`] that names the option to give instead.
pub fn check_base(model: &Path, checkpoint: &Path, full: bool) -> Result<()> {
    let own_weights = checkpoint.join(WEIGHTS_FILE).exists() && checkpoint != model;
    if own_weights && !full {
        return Err(Error::usage(format!(
            "{} holds all weights of its model: train them with `full`, or give it as `model` too",
            checkpoint.display()
        )));
    }
    Ok(())
}

/// Keeps the model as a checkpoint if it is among the `top_k` best, of which `best` is the list.
///
/// # Errors
/// [`Error::Io`] naming the file, and those of [`RunDir::check`].
#[allow(clippy::too_many_arguments)]
pub fn keep<D: Device>(
    device: &D,
    opened: &Opened<D>,
    method: Method,
    full: bool,
    dir: &RunDir,
    best: &mut Vec<KeptCheckpoint>,
    kept: KeptCheckpoint,
    top_k: usize,
) -> Result<()> {
    // A resumed run meets steps again that it had validated before it was killed.
    let mut next: Vec<KeptCheckpoint> = best.iter().filter(|k| k.step != kept.step).cloned().collect();
    // Of equals the later is better trained.
    let place = next.partition_point(|k| k.monitor > kept.monitor);
    if place < top_k {
        let step = kept.step;
        next.insert(place, kept);
        let dropped = next.split_off(next.len().min(top_k));
        let write =
            |target: &Path| dir.write(target, |staged| write_files(device, opened, method, full, staged));
        write(&dir.kept(step))?;
        if place == 0 {
            write(&dir.best())?;
        }
        for old in dropped {
            remove_dir(&dir.kept(old.step))?;
        }
    }
    // Only now do those of the list stand there.
    *best = next;
    Ok(())
}

/// Reads where the run stood whose state is in `dir`.
///
/// # Errors
/// [`Error::Io`] or [`Error::File`] naming the file.
pub fn load_state(dir: &Path) -> Result<TrainState> {
    let path = dir.join(STATE_FILE);
    let text = std::fs::read(&path).map_err(Error::io(&path))?;
    serde_json::from_slice(&text).map_err(|e| Error::file(&path, e.to_string()))
}

/// Restores the optimiser's moments from the state in `dir`.
///
/// # Errors
/// A missing tensor, a wrong shape, or an error of the device.
pub fn load_moments<D: Device>(
    device: &D,
    opened: &Opened<D>,
    optimizer: &mut Optimizer<D>,
    dir: &Path,
) -> Result<()> {
    let weights = Weights::open_file(&dir.join(MOMENTS_FILE))?;
    for (id, m, v) in optimizer.moments_mut() {
        let shape = opened.model.params.shape(id);
        for (which, t) in [("m", m), ("v", v)] {
            let values = weights.get(&moment_name(opened, id, which), shape)?.to_f32_vec();
            device.write(t, &values)?;
        }
    }
    Ok(())
}

/// The places of a run's files.
#[derive(Debug)]
pub struct RunDir {
    /// The run directory.
    pub root: PathBuf,
    lock: DirLock,
}

impl RunDir {
    /// Makes or takes up the run directory `root`. With `resume`, says where its last training state
    /// is, if it has one.
    ///
    /// # Errors
    /// [`Error::Usage`] for a directory that another process trains in, or that holds a run while `resume` is false;
    /// [`Error::Io`].
    pub fn prepare(root: &Path, resume: bool) -> Result<(Self, Option<PathBuf>)> {
        let dir = RunDir { root: root.to_owned(), lock: DirLock::take(root)? };
        clean(&dir.root)?;
        if dir.checkpoints().exists() {
            clean(&dir.checkpoints())?;
        }
        recover_dir(&dir.last())?;
        let last = dir.last();
        if !resume && (last.exists() || dir.metrics().exists()) {
            return Err(Error::usage(format!(
                "{} holds a run already; `resume` goes on with it, another `out` starts afresh",
                dir.root.display()
            )));
        }
        let state = (resume && last.exists()).then_some(last);
        Ok((dir, state))
    }

    /// Fails where the directory is not the run's any more; to be asked before anything is written there.
    ///
    /// # Errors
    /// [`Error::Other`] naming the directory.
    pub fn check(&self) -> Result<()> {
        self.lock.check()
    }

    /// Fills a directory of the run by `fill` and puts it at `target`, whole; if the run's own directory goes meanwhile,
    /// the error says so.
    fn write(&self, target: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let write = || {
            let staged = StagedDir::create(target)?;
            fill(staged.path())?;
            self.check()?;
            staged.commit()
        };
        self.check()?;
        write().map_err(|e| self.check().err().unwrap_or(e))
    }

    /// The resolved configuration.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// The newest training state.
    pub fn last(&self) -> PathBuf {
        self.root.join("last")
    }

    /// The best checkpoint; the last one where there is no validation.
    pub fn best(&self) -> PathBuf {
        self.root.join("best")
    }

    /// The best checkpoints.
    fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// A checkpoint among the best.
    pub fn kept(&self, step: u64) -> PathBuf {
        self.checkpoints().join(format!("step-{step:06}"))
    }

    /// One JSON object a step.
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }
}
