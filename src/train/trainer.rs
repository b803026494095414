//! The training run: steps, validation, checkpoints, and going on after a kill.

use std::time::Instant;

use super::batch::{ChunkLabels, Labels};
use super::batches::{Batches, Losses};
use super::checkpoint::{self, KeptCheckpoint, RunDir, TrainState};
use super::defaults::MOST_HEAD_SIZE;
use super::feed::{Feed, Step};
use super::lengths;
use super::long;
use super::metrics::Metrics;
use super::needs;
use super::optimizer::{Optimizer, finite_norm};
use super::options::{LatentNoise, Monitor, TrainFlags, TrainOptions};
use super::progress::{Progress, StartReport, StepReport, Validation};
use super::recipe::Recipe;
use super::resume;
use super::status::Begun;
use super::stop::Stop;
use crate::data::{Sample, load};
use crate::device::{AdamW, Device};
use crate::eval::accuracy::{EvalOptions, evaluate};
use crate::files::weights::Access;
use crate::infer::{Loaded, Sampling};
use crate::model::config::ModelConfig;
use crate::model::dropout::StepDropout;
use crate::model::latent_head::LatentHeadConfig;
use crate::model::open::{Additions, open};
use crate::model::params::Grads;
use crate::model::prompt::{AUTO, Method};
use crate::{Error, Result};

/// How a run ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Summary {
    /// Steps done.
    pub steps: u64,
    /// The total loss of the last step, if one was run.
    pub last_loss: Option<f64>,
    /// The best validation, if there was one.
    pub best: Option<KeptCheckpoint>,
    /// log_sigma values that met their bound over the run (since the start or the last resume).
    pub bounded: u64,
    /// Steps in a row, up to the last, whose loss was far above its running mean.
    pub far: u64,
    /// Validations since the best one; where patience was at its end, as many as it allows.
    pub stale: u64,
}

/// A supervised run (spec section 3).
///
/// ```no_run
/// use colar_engine::device::cpu::CpuDevice;
/// use colar_engine::train::{TrainFlags, Trainer};
///
/// # fn main() -> colar_engine::Result<()> {
/// let options = TrainFlags {
///     model: Some("models/SmolLM2-135M".into()),
///     data: Some("train.jsonl".into()),
///     out: Some("runs/sft".into()),
///     ..TrainFlags::default()
/// };
/// let mut trainer = Trainer::new(CpuDevice::new(0)?, options.resolve()?, false)?;
/// trainer.run(&mut |_| ())?;
/// # Ok(())
/// # }
/// ```
pub struct Trainer<D: Device> {
    pub(super) options: TrainOptions,
    pub(super) dir: RunDir,
    pub(super) loaded: Loaded<D>,
    grads: Grads<D>,
    optimizer: Optimizer<D>,
    pub(super) samples: Vec<Sample>,
    /// Samples that were too long.
    left_out: usize,
    pub(super) val: Vec<Sample>,
    state: TrainState,
    stop: Stop,
}

impl<D: Device> Trainer<D> {
    /// Loads model and data. With `resume`, goes on from the run's last training state, if it has one.
    ///
    /// # Errors
    /// Options out of range, bad data or model files, and a run directory that is in use while `resume` is false.
    pub fn new(device: D, options: TrainOptions, resume: bool) -> Result<Self> {
        options.validate()?;
        let (dir, last) = RunDir::prepare(&options.run.out, resume)?;
        let fingerprints = resume::check(&dir, last.as_deref(), &TrainFlags::from(&options))?;
        let config = ModelConfig::load(&options.run.model)?;
        let additions = Additions {
            lora: options.run.adapter(),
            latent_head: (options.method == Method::Colar).then(|| LatentHeadConfig {
                intermediate_size: options
                    .latent_head_size
                    .unwrap_or(config.intermediate_size.min(MOST_HEAD_SIZE)),
                deterministic: options.deterministic_head,
            }),
            thoughts: options.thinking.config(options.method, 1),
            embeds_std: options.embeds_std,
            merge: options.merge,
            template: options.template,
            access: Access::unless(options.run.no_mmap),
            seed: options.run.seed,
        };
        let checkpoint = last.as_deref().or(options.init.as_deref());
        if let Some(checkpoint) = checkpoint {
            checkpoint::check_base(&options.run.model, checkpoint, options.run.full)?;
        }
        let trained = options.run.trained();
        let mut opened = open(&device, &options.run.model, checkpoint, &additions, trained)?;
        opened.check_own_prompts()?;
        if let (Some(given), Some(stored)) = (options.latent_head_size, opened.latent_head)
            && given != stored.intermediate_size
        {
            return Err(Error::usage(format!(
                "the latent head of the checkpoint is {} wide within, and `latent_head_size` is {given}",
                stored.intermediate_size
            )));
        }
        if let Some(adapter) = &mut opened.adapter {
            adapter.lora_dropout = options.lora_dropout;
        }
        opened.model.transformer.recompute = options.run.recompute;
        device.reserve(&needs::state(&device, &opened.model, trained, options.run.full))?;
        let grads = Grads::new(&device, &opened.model.params, trained)?;
        let mut optimizer = Optimizer::new(&device, &opened.model.params, &grads)?;
        let mut state = TrainState::default();
        if let Some(last) = &last {
            checkpoint::load_moments(&device, &opened, &mut optimizer, last)?;
            state = checkpoint::load_state(last)?;
        }
        let escape = options.run.escape_marks;
        let mut samples = opened.marks.guard(load(&options.run.data, None)?, &options.run.data, escape)?;
        let left_out = lengths::leave_out(&mut samples, &opened, options.max_length)?;
        if samples.is_empty() && left_out > 0 {
            return Err(Error::usage(format!("all {left_out} samples are longer than `max_length`")));
        }
        let mut val = match &options.run.val {
            Some(path) => opened.marks.guard(load(path, None)?, path, escape)?,
            None => Vec::new(),
        };
        val.truncate(options.run.val_samples);
        let least = options.drawn_compression_factors().iter().copied().min().unwrap_or(1);
        // Implicit CoT begins with the whole chain; its recipe is that of the last stage.
        let method = if options.method == Method::Icot { Method::Cot } else { options.method };
        let recipe = Recipe::new(&opened, method, least, AUTO);
        for (path, samples) in [(Some(&options.run.data), &samples), (options.run.val.as_ref(), &val)] {
            if let Some(path) = path {
                long::warn(path, &config, samples, opened.tokenizer.template_bytes(), |sample| {
                    recipe.positions(sample)
                })?;
            }
        }
        fingerprints.note(&dir)?;
        TrainFlags::from(&options).save(&dir.config())?;
        let loaded = Loaded::from_opened(device, opened);
        let stop = Stop::default();
        Ok(Trainer { options, dir, loaded, grads, optimizer, samples, left_out, val, state, stop })
    }

    /// Lets the run be stopped: once `stop` is requested, it ends with [`Error::Interrupted`] after the step it is
    /// in, its training state saved.
    pub fn stop_on(&mut self, stop: &Stop) {
        self.stop = stop.clone();
    }

    /// The model as it stands.
    pub fn loaded(&self) -> &Loaded<D> {
        &self.loaded
    }

    /// Gives up training and keeps the model as it stands.
    pub fn into_loaded(self) -> Loaded<D> {
        self.loaded
    }

    /// The places of the run's files.
    pub fn dir(&self) -> &RunDir {
        &self.dir
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// [`Error::NonFinite`] naming the step when a loss or gradient stops being a number, [`Error::Diverged`] when
    /// the loss stays far too high (the last training state is kept), [`Error::Interrupted`] where it was asked to stop, and I/O errors.
    pub fn run(&mut self, on_progress: &mut (dyn FnMut(Progress) + Send)) -> Result<Summary> {
        let device = self.loaded.device.clone();
        let done = device.scope(|| self.run_in_scope(on_progress));
        done.map_err(|e| self.loaded.opened.model.params.explain(&device, &self.grads, e))
    }

    fn run_in_scope(&mut self, on_progress: &mut (dyn FnMut(Progress) + Send)) -> Result<Summary> {
        let samples = std::mem::take(&mut self.samples);
        let options = self.options.clone();
        let mut feed = Feed::new(&samples, &options)?;
        let total = feed.total();
        let val_every = options.run.val_every.unwrap_or(feed.steps_per_epoch());
        let stages = options.stages();
        let mut metrics = Metrics::open(&self.dir, self.state.step)?;
        Begun::here(total).save(&self.dir.root)?;
        if self.state.step < total {
            let first = feed.step(self.state.step, &self.loaded.opened)?;
            self.enter(first.stage);
            on_progress(Progress::Started(self.start_report(
                &first.batches,
                samples.len(),
                total,
                val_every,
            )));
        }
        if self.loaded.opened.folded {
            on_progress(Progress::Folded);
        }
        if self.state.step > 0 {
            let stage = stages.at(self.state.step, total);
            self.enter(stage);
            on_progress(Progress::Resumed(self.state.step));
            if self.state.unvalidated {
                self.validate_and_keep(stage, &mut metrics, on_progress)?;
                // Another stop before the next step must not make it come twice.
                metrics.flush()?;
                self.save_state()?;
            }
        }
        let mut summary = Summary {
            steps: self.state.step,
            last_loss: None,
            best: self.state.best.first().cloned(),
            bounded: 0,
            far: self.state.watch.far,
            stale: self.state.stale,
        };
        while self.state.step < total && !self.state.is_over(options.run.patience) {
            self.stop.check(self.state.step)?;
            let started = Instant::now();
            let step = self.state.step + 1;
            let Step { batches, compression_factor, stage } =
                feed.step(self.state.step, &self.loaded.opened)?;
            let thoughts = self.enter(stage);
            let lr = options.run.schedule.lr(options.run.lr, step, options.run.warmup, total);
            let (losses, norm) = self.step(&batches, step, lr)?;
            let (loss, rows) = (losses.total, batches.rows(thoughts));
            self.state.step = step;
            self.state.watch.take(loss, stage);
            let seconds = started.elapsed().as_secs_f64();
            let tokens_per_second = rows as f64 / seconds;
            let mut values = vec![
                ("loss", loss),
                ("lr", f64::from(lr)),
                ("grad_norm", norm),
                ("cf", compression_factor as f64),
                ("rows", rows as f64),
                ("tokens_per_second", tokens_per_second),
            ];
            values.extend(losses.terms);
            if stages.count > 1 {
                values.push(("stage", stage as f64));
            }
            metrics.record("train", step, &values)?;
            summary.bounded += losses.bounded;
            summary.last_loss = Some(loss);
            on_progress(Progress::Step(StepReport { step, total, loss, tokens_per_second, seconds }));
            let watch = self.state.watch;
            if options.watchdog > 0 && watch.far >= options.watchdog {
                metrics.flush()?;
                let what = format!(
                    "the loss is {loss:.4}, and was far above its running mean of {:.4} for {} steps",
                    watch.mean(),
                    watch.far
                );
                return Err(Error::Diverged { step, what });
            }
            let validated = if !self.val.is_empty() && (step.is_multiple_of(val_every) || step == total) {
                self.state.unvalidated = true;
                self.validate_and_keep(stage, &mut metrics, on_progress)
            } else {
                Ok(())
            };
            // A stop leaves the validation for later, and the state says so. After any other error the step counts as not
            // done, since its checkpoint may be missing.
            let sound = matches!(validated, Ok(()) | Err(Error::Interrupted { .. }));
            let over = step == total || self.state.is_over(options.run.patience);
            let due = step.is_multiple_of(options.run.save_every) || over || self.stop.requested();
            if sound && due {
                metrics.flush()?;
                self.save_state()?;
            }
            validated?;
        }
        // Also where a run goes on past its last step, and what it would have been chosen by is not done any more.
        if !self.dir.best().exists() {
            checkpoint::save_best(
                &self.loaded.device,
                &self.loaded.opened,
                options.method,
                options.run.full,
                &self.dir,
            )?;
        }
        summary.steps = self.state.step;
        summary.far = self.state.watch.far;
        summary.stale = self.state.stale;
        summary.best = self.state.best.first().cloned();
        Ok(summary)
    }

    /// Validates, and keeps the model as a checkpoint if it is among the best. Until that is done, the training state
    /// says that it is still to come.
    fn validate_and_keep(
        &mut self,
        stage: u64,
        metrics: &mut Metrics,
        on_progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<()> {
        self.stop.check(self.state.step)?;
        let validation = self.validate(stage, metrics, on_progress)?;
        self.state.unvalidated = false;
        // With less to do for itself, the model of an early stage would always seem the best.
        if self.options.stages().is_last(stage) {
            self.state.count(validation.monitor());
            self.keep(&validation)?;
        }
        on_progress(Progress::Validated(validation));
        Ok(())
    }

    /// The run's size and memory.
    pub(super) fn start_report(
        &self,
        first: &Batches,
        samples: usize,
        total: u64,
        val_every: u64,
    ) -> StartReport {
        let (o, device, model) = (&self.options, &self.loaded.device, &self.loaded.opened.model);
        let held = needs::state(device, model, o.run.trained(), o.run.full);
        // The weights come first in the needs of a step too.
        let step = first.needs(device, model, &self.grads, &o.objectives());
        let bytes = held.iter().chain(step.iter().skip(1)).map(|need| need.bytes).sum();
        let (weights, trained) = model.params.count(o.run.trained());
        let (left_out, val_samples) = (self.left_out, self.val.len());
        StartReport { total, samples, left_out, val_samples, val_every, weights, trained, bytes }
    }

    /// Gives the model the thoughts of a stage, and says how many these are.
    pub(super) fn enter(&mut self, stage: u64) -> usize {
        let config = self.options.thinking.config(self.options.method, stage);
        let count = config.map_or(0, |c| c.count);
        if let Some(thoughts) = &mut self.loaded.opened.model.thoughts {
            thoughts.count = count;
        }
        count
    }

    /// Forward, backward and update over the batches of one step; returns its losses and the gradient's norm.
    pub(super) fn step(&mut self, batches: &Batches, step: u64, lr: f32) -> Result<(Losses, f64)> {
        let o = &self.options;
        let (device, model) = (&self.loaded.device, &self.loaded.opened.model);
        let (p, key) = (o.lora_dropout as f32, o.run.seed);
        self.grads.set_dropout((p > 0.0).then_some(StepDropout { p, key, step: step as u32 }));
        device.reserve(&batches.needs(device, model, &self.grads, &o.objectives()))?;
        self.grads.clear(device)?;
        let noise = match o.latent_noise {
            LatentNoise::Sample => Some((o.run.seed, step as u32)),
            LatentNoise::Expected => None,
        };
        let pending = batches.begin(device, model, &o.objectives(), noise, Some(&mut self.grads))?;
        let hyper = AdamW::new(lr, o.run.weight_decay, step);
        let params = &mut self.loaded.opened.model.params;
        let norm =
            self.optimizer.begin(device, params, &self.grads, &hyper, o.run.clip, &pending.tensors())?;
        // All of the step is asked for, and only now waited for. Nothing was changed if any of it is not finite.
        let losses = pending.read(device)?;
        if !losses.total.is_finite() {
            return Err(Error::NonFinite { step, what: "the loss".into() });
        }
        Ok((losses, finite_norm(device, &norm, step)?))
    }

    fn save_state(&self) -> Result<()> {
        let (device, opened, o) = (&self.loaded.device, &self.loaded.opened, &self.options);
        checkpoint::save_state(device, opened, &self.optimizer, &self.state, o.method, o.run.full, &self.dir)
    }

    /// The compression factor that validation looks at: the largest below 3, else the smallest.
    fn validation_compression_factor(&self) -> usize {
        let f = self.options.drawn_compression_factors();
        f.iter().copied().filter(|&c| c < 3).max().or(f.iter().copied().min()).unwrap_or(1)
    }

    /// Losses in the expectation forms and greedy answers, as the stage has them.
    pub(super) fn validate(
        &self,
        stage: u64,
        metrics: &mut Metrics,
        on_progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Validation> {
        let started = Instant::now();
        let (step, total) = (self.state.step, self.val.len());
        on_progress(Progress::Validating { step, done: 0, total });
        let (o, opened) = (&self.options, &self.loaded.opened);
        let compression_factor = self.validation_compression_factor();
        let prompt_compression_factor = compression_factor.to_string();
        let recipe = Recipe {
            stage,
            stages: o.stages(),
            ..Recipe::new(opened, o.method, compression_factor, &prompt_compression_factor)
        };
        let mut labels = match o.chunk_labels {
            ChunkLabels::Sample | ChunkLabels::Mean => Labels::Mean,
            ChunkLabels::None => Labels::Absent,
        };
        let samples: Vec<&Sample> = self.val.iter().collect();
        let batches = recipe.batches(&samples, o.run.batch_size, &mut labels)?;
        let mut objectives = o.objectives();
        objectives.sft.pred_embed_forward_weight = 0.0;
        let losses = batches.run(&self.loaded.device, &opened.model, &objectives, None)?;
        let loss = losses.total;
        let mut values = vec![("loss", loss)];
        values.extend(losses.terms);
        if o.stages().count > 1 {
            values.push(("stage", stage as f64));
        }
        let accuracy = match o.monitor {
            Monitor::Loss => None,
            Monitor::Accuracy => {
                let options = EvalOptions {
                    method: o.method,
                    compression_factor: recipe.prompt_compression_factor.to_owned(),
                    sampling: Sampling::default().greedy(),
                    batch_size: o.run.batch_size.max(32),
                    ..EvalOptions::default()
                };
                let evaluation = {
                    let mut answered = |done| {
                        on_progress(Progress::Validating { step, done, total });
                        self.stop.check(step)
                    };
                    evaluate(&self.loaded, &self.val, &options, &mut answered)?
                };
                values.push(("accuracy", evaluation.accuracy));
                values.push(("mean_length", evaluation.mean_length));
                Some(evaluation.accuracy)
            }
        };
        metrics.record("val", step, &values)?;
        Ok(Validation { step, loss, accuracy, seconds: started.elapsed().as_secs_f64() })
    }

    /// Keeps the model as a checkpoint if it is among the best.
    fn keep(&mut self, validation: &Validation) -> Result<()> {
        let monitor = validation.monitor();
        let (device, opened, o) = (&self.loaded.device, &self.loaded.opened, &self.options);
        checkpoint::keep(
            device,
            opened,
            o.method,
            o.run.full,
            &self.dir,
            &mut self.state.best,
            KeptCheckpoint { step: validation.step, monitor },
            o.run.save_top_k,
        )
    }
}
