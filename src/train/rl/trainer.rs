//! The run: rollouts, updates, validation, checkpoints, and going on after a kill.

use std::time::Instant;

#[cfg(feature = "plots")]
use super::curves;
use super::experience::{Episode, Experience};
use super::objective::{begin, run, size};
use super::questions::Questions;
use super::reward::{Correctness, Reward};
use super::samples::RolloutLog;
use super::stats::{PolicyStats, RolloutStats};
use crate::data::{Sample, load_questions};
use crate::device::{AdamW, Device};
use crate::eval::accuracy::{EvalOptions, evaluate};
use crate::files::atomic::write_atomic;
use crate::files::weights::Access;
use crate::infer::{Loaded, Sampling, no_density};
use crate::model::checkpoint_dir;
use crate::model::open::{Additions, open};
use crate::model::params::Grads;
use crate::model::prompt::{AUTO, Method, inference};
use crate::random::Stream;
use crate::train::checkpoint::{self, KeptCheckpoint, RunDir, TrainState};
use crate::train::long;
use crate::train::metrics::Metrics;
use crate::train::needs;
use crate::train::optimizer::{Optimizer, finite_norm};
use crate::train::options::{RlOptions, TrainFlags};
use crate::train::progress::{PolicyReport, Progress, StartReport};
use crate::train::resume;
use crate::train::status::Begun;
use crate::train::stop::Stop;
use crate::{Error, Result};

/// A spread below this (in units of `embeds_std`) leaves nothing to explore: rollouts of a group would
/// differ by rounding alone, and the likelihood's gradient grows as 1 / sigma.
const LEAST_SIGMA: f64 = 1e-3;

/// Seed under which the questions are tried that `--filter-solved` may leave out.
const FILTER_STREAM: u64 = 11 << 32;

/// How a run ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RlSummary {
    /// Steps done.
    pub steps: u64,
    /// The best validation, if there was one.
    pub best: Option<KeptCheckpoint>,
    /// Validations since the best one; where patience was at its end, as many as it allows.
    pub stale: u64,
    /// Steps since the start or the last resume, and in how many of them the rewards of some group differed. Without
    /// any, no reward taught anything.
    pub informative: (u64, u64),
    /// Elements of the objective on which the bound of exponentials acted (since the start or the last resume).
    pub bounded_exponents: u64,
}

/// A run of reinforcement learning (spec section 6).
///
/// ```no_run
/// use colar_engine::device::cpu::CpuDevice;
/// use colar_engine::train::{RlTrainer, TrainFlags};
///
/// # fn main() -> colar_engine::Result<()> {
/// let options = TrainFlags {
///     model: Some("models/SmolLM2-135M".into()),
///     adapter: Some("runs/sft/best".into()),
///     data: Some("train.jsonl".into()),
///     out: Some("runs/rl".into()),
///     ..TrainFlags::default()
/// };
/// let mut trainer = RlTrainer::new(CpuDevice::new(0)?, options.resolve_rl()?, false)?;
/// trainer.run(&mut |_| ())?;
/// # Ok(())
/// # }
/// ```
///
/// The reward is [`Correctness`] as the options have it; [`with_reward`](RlTrainer::with_reward) puts another
/// in its place.
pub struct RlTrainer<D: Device> {
    pub(super) options: RlOptions,
    pub(super) dir: RunDir,
    pub(super) loaded: Loaded<D>,
    /// The policy that the run started from.
    reference: Loaded<D>,
    grads: Grads<D>,
    optimizer: Optimizer<D>,
    reward: Box<dyn Reward>,
    pub(super) samples: Vec<Sample>,
    pub(super) val: Vec<Sample>,
    state: TrainState,
    stop: Stop,
}

impl<D: Device> RlTrainer<D> {
    /// Loads model, checkpoint and data. With `resume`, goes on from the run's last training state, if
    /// it has one.
    ///
    /// # Errors
    /// Bad data or model files, a checkpoint without a latent head or with a deterministic one, and a
    /// run directory that is in use while `resume` is false.
    pub fn new(device: D, mut options: RlOptions, resume: bool) -> Result<Self> {
        options.validate()?;
        options.run.follow_adapter(&checkpoint_dir::find(&options.adapter)?)?;
        let (dir, last) = RunDir::prepare(&options.run.out, resume)?;
        let fingerprints = resume::check(&dir, last.as_deref(), &TrainFlags::from(&options))?;
        let access = Access::unless(options.run.no_mmap);
        let additions =
            Additions { lora: options.run.adapter(), access, seed: options.run.seed, ..Additions::default() };
        let checkpoint = last.as_deref().unwrap_or(&options.adapter);
        checkpoint::check_base(&options.run.model, checkpoint, options.run.full)?;
        let trained = options.run.trained();
        let mut opened = open(&device, &options.run.model, Some(checkpoint), &additions, trained)?;
        opened.check_own_prompts()?;
        opened.model.transformer.recompute = options.run.recompute;
        if let Some(method) = opened.method.filter(|&m| m != Method::Colar) {
            return Err(Error::usage(format!(
                "{} is a checkpoint of method {}: `stage` rl trains colar alone",
                options.adapter.display(),
                method.name()
            )));
        }
        if opened.model.latent_head()?.deterministic() {
            return Err(no_density());
        }
        device.reserve(&needs::state(&device, &opened.model, trained, options.run.full))?;
        let grads = Grads::new(&device, &opened.model.params, trained)?;
        let mut optimizer = Optimizer::new(&device, &opened.model.params, &grads)?;
        let mut state = TrainState::default();
        if let Some(last) = &last {
            checkpoint::load_moments(&device, &opened, &mut optimizer, last)?;
            state = checkpoint::load_state(last)?;
        }
        let as_read = Additions { access, ..Additions::default() };
        let (model, start) = (&options.run.model, Some(options.adapter.as_path()));
        let reference = Loaded::with_choices(device.clone(), model, start, None, &as_read)?;
        let escape = options.run.escape_marks;
        let samples = opened.marks.guard(load_questions(&options.run.data)?, &options.run.data, escape)?;
        if samples.is_empty() {
            return Err(Error::file(&options.run.data, "the data set is empty"));
        }
        let mut val = match &options.run.val {
            Some(path) => opened.marks.guard(load_questions(path)?, path, escape)?,
            None => Vec::new(),
        };
        val.truncate(options.run.val_samples);
        // The separator after the latents takes a position, the last token of the answer none.
        let reply = options.sampling.max_latents + options.sampling.max_new_tokens;
        let spare = reply + opened.tokenizer.template_bytes();
        for (path, samples) in [(Some(&options.run.data), &samples), (options.run.val.as_ref(), &val)] {
            if let Some(path) = path {
                long::warn(path, &opened.model.transformer.config, samples, spare, |sample| {
                    let prompt = inference(&opened.tokenizer, opened.separator, &sample.question, AUTO)?;
                    Ok(prompt.len() + reply)
                })?;
            }
        }
        fingerprints.note(&dir)?;
        TrainFlags::from(&options).save(&dir.config())?;
        let reward = Box::new(Correctness {
            verifier: options.verifier.verifier(),
            answer_rule: options.answer_rule,
            punish_latent_length: options.punish_latent_length,
        });
        let loaded = Loaded::from_opened(device, opened);
        Ok(RlTrainer {
            options,
            dir,
            loaded,
            reference,
            grads,
            optimizer,
            reward,
            samples,
            val,
            state,
            stop: Stop::default(),
        })
    }

    /// Lets the run be stopped: once `stop` is requested, it ends with [`Error::Interrupted`] after the step it is
    /// in, its training state saved.
    pub fn stop_on(&mut self, stop: &Stop) {
        self.stop = stop.clone();
    }

    /// Rewards by another function than right or wrong. Of the options, those on the reward then mean
    /// nothing.
    pub fn with_reward(self, reward: Box<dyn Reward>) -> Self {
        RlTrainer { reward, ..self }
    }

    /// The model as it stands.
    pub fn loaded(&self) -> &Loaded<D> {
        &self.loaded
    }

    /// The places of the run's files.
    pub fn dir(&self) -> &RunDir {
        &self.dir
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// [`Error::NonFinite`] naming the step when a loss or gradient stops being a number (the last
    /// training state is kept), a checkpoint whose latents have no spread, and I/O errors.
    pub fn run(&mut self, on_progress: &mut (dyn FnMut(Progress) + Send)) -> Result<RlSummary> {
        let device = self.loaded.device.clone();
        let done = device.scope(|| self.run_in_scope(on_progress));
        done.map_err(|e| self.loaded.opened.model.params.explain(&device, &self.grads, e))
    }

    fn run_in_scope(&mut self, on_progress: &mut (dyn FnMut(Progress) + Send)) -> Result<RlSummary> {
        let o = self.options.clone();
        let mut questions = Questions::new(self.pool()?, o.samples_per_epoch, o.run.batch_size, o.run.seed);
        let total = o.run.max_steps.unwrap_or(questions.steps_per_epoch().saturating_mul(o.run.epochs));
        let val_every = o.run.val_every.unwrap_or(questions.steps_per_epoch());
        let mut metrics = Metrics::open(&self.dir, self.state.step)?;
        Begun::here(total).save(&self.dir.root)?;
        let mut log = RolloutLog::open(&self.dir.root, self.state.step)?;
        on_progress(Progress::Started(self.start_report(questions.len(), total, val_every)));
        if self.loaded.opened.folded {
            on_progress(Progress::Folded);
        }
        if self.state.step > 0 {
            on_progress(Progress::Resumed(self.state.step));
        }
        let mut informative_steps = (0, 0);
        if self.state.unvalidated {
            self.validate(&mut metrics, on_progress)?;
            // Another stop before the next step must not make it come twice.
            metrics.flush()?;
            self.save_state()?;
        } else if self.state.step == 0 && !self.val.is_empty() {
            self.validate(&mut metrics, on_progress)?;
        }
        let mut bounded_exponents = 0;
        while self.state.step < total && !self.state.is_over(o.run.patience) {
            self.stop.check(self.state.step)?;
            let step = self.state.step + 1;
            let asked: Vec<u32> = questions.step(self.state.step).to_vec();
            let seeds = questions.rollout_seeds(self.state.step);
            let started = Instant::now();
            let experience = self.experience(&asked, seeds)?;
            let rollout_seconds = started.elapsed().as_secs_f64();
            let rolled = RolloutStats::of(&experience.episodes);
            if self.state.step == 0 && rolled.sigma < LEAST_SIGMA {
                return Err(no_spread(&o, rolled.sigma));
            }
            let lr = o.run.schedule.lr(o.run.lr, step, o.run.warmup, total);
            let started = Instant::now();
            let order = questions.minibatch_order(self.state.step, experience.episodes.len());
            let updated = self.update(&experience, &order, step, lr)?;
            let update_seconds = started.elapsed().as_secs_f64();
            let PolicyMove { stats, minibatches, grad_norm, bounded } = updated;
            bounded_exponents += stats.bounded as u64;
            let (n, m) = (stats.elements.max(1) as f64, minibatches.max(1) as f64);
            metrics.record(
                "train",
                step,
                &[
                    ("reward", rolled.reward),
                    ("accuracy", rolled.accuracy),
                    ("n_latents", rolled.n_latents),
                    ("answer_tokens", rolled.answer_tokens),
                    ("entropy", rolled.entropy),
                    ("sigma", rolled.sigma),
                    ("informative_groups", rolled.informative),
                    ("kl_latent", rolled.kl_latent),
                    ("kl_answer", rolled.kl_answer),
                    ("latent_loss", stats.latent_loss / m),
                    ("answer_loss", stats.answer_loss / m),
                    ("ratio", if stats.elements == 0 { 1.0 } else { stats.ratios / n }),
                    ("ratio_deviation", stats.ratio_deviation),
                    ("clip_fraction", stats.clipped as f64 / n),
                    ("grad_norm", grad_norm / m),
                    ("lr", f64::from(lr)),
                    ("bounded_log_sigma", bounded as f64),
                    ("bounded_exponents", stats.bounded as f64),
                    ("rollout_seconds", rollout_seconds),
                    ("update_seconds", update_seconds),
                ],
            )?;
            self.state.step = step;
            log.record(step, &self.samples[asked[0] as usize], &experience)?;
            let RolloutStats { reward, accuracy, n_latents, informative, .. } = rolled;
            informative_steps.0 += 1;
            informative_steps.1 += u64::from(informative > 0.0);
            let seconds = rollout_seconds + update_seconds;
            on_progress(Progress::Policy(PolicyReport {
                step,
                total,
                reward,
                accuracy,
                n_latents,
                informative,
                seconds,
            }));
            let validated = if !self.val.is_empty() && (step.is_multiple_of(val_every) || step == total) {
                self.state.unvalidated = true;
                self.validate(&mut metrics, on_progress)
            } else {
                Ok(())
            };
            // As in a supervised run: after an error that is no stop, the step counts as not done.
            let sound = matches!(validated, Ok(()) | Err(Error::Interrupted { .. }));
            let over = step == total || self.state.is_over(o.run.patience);
            let due = step.is_multiple_of(o.run.save_every) || over || self.stop.requested();
            if sound && due {
                metrics.flush()?;
                self.save_state()?;
            }
            validated?;
        }
        if self.val.is_empty() || !self.dir.best().exists() {
            checkpoint::save_best(
                &self.loaded.device,
                &self.loaded.opened,
                Method::Colar,
                o.run.full,
                &self.dir,
            )?;
        }
        self.dir.check()?;
        #[cfg(feature = "plots")]
        curves::write(&self.dir.metrics(), &self.dir.root.join("rl.svg"))?;
        Ok(RlSummary {
            steps: self.state.step,
            best: self.state.best.first().cloned(),
            stale: self.state.stale,
            informative: informative_steps,
            bounded_exponents,
        })
    }

    /// The run's size and memory, without that of rollouts, which is not known before there are any.
    pub(super) fn start_report(&self, samples: usize, total: u64, val_every: u64) -> StartReport {
        let (o, model) = (&self.options, &self.loaded.opened.model);
        let held = needs::state(&self.loaded.device, model, o.run.trained(), o.run.full);
        let reference = crate::infer::needs::weights(&self.reference.opened.model);
        let bytes = held.iter().chain([&reference]).map(|need| need.bytes).sum();
        let (weights, trained) = model.params.count(o.run.trained());
        let val_samples = self.val.len();
        StartReport { total, samples, left_out: 0, val_samples, val_every, weights, trained, bytes }
    }

    /// The questions to ask: all, or those that the starting checkpoint does not yet solve in every
    /// rollout of a group. The choice is stored with the run.
    fn pool(&self) -> Result<Vec<u32>> {
        let all = (0..self.samples.len() as u32).collect();
        if !self.options.filter_solved {
            return Ok(all);
        }
        let path = self.dir.root.join("questions.json");
        if path.exists() {
            let text = std::fs::read(&path).map_err(Error::io(&path))?;
            let kept: Vec<u32> =
                serde_json::from_slice(&text).map_err(|e| Error::file(&path, e.to_string()))?;
            if kept.is_empty() || kept.iter().any(|&i| i as usize >= self.samples.len()) {
                return Err(Error::file(&path, "does not fit the data set"));
            }
            return Ok(kept);
        }
        let mut seeds = Stream::new(self.options.run.seed, FILTER_STREAM);
        let mut kept: Vec<u32> = Vec::new();
        for part in all.chunks(self.options.run.batch_size) {
            let experience = self.gather(part, &self.reference, &mut seeds)?;
            for (group, &question) in experience.episodes.chunks(self.options.group_size).zip(part) {
                if group.iter().any(|e| !e.correct) {
                    kept.push(question);
                }
            }
        }
        if kept.is_empty() {
            return Err(Error::file(
                &self.options.run.data,
                "the checkpoint solves every question in all its rollouts: nothing is left to learn from",
            ));
        }
        let text = serde_json::to_string(&kept).map_err(|e| Error::other(e.to_string()))?;
        write_atomic(&path, |out| out.write_all(text.as_bytes()))?;
        Ok(kept)
    }

    fn gather(&self, questions: &[u32], policy: &Loaded<D>, seeds: &mut Stream) -> Result<Experience<D>> {
        let o = &self.options;
        let questions: Vec<&Sample> = questions.iter().map(|&i| &self.samples[i as usize]).collect();
        Experience::gather(
            policy,
            &questions,
            o.group_size,
            &o.compression_factor,
            o.sampling,
            &*self.reward,
            seeds,
        )
    }

    /// Asks the questions and adds the reference policy's log-probabilities of the rollouts.
    pub(super) fn experience(&self, questions: &[u32], mut seeds: Stream) -> Result<Experience<D>> {
        let mut experience = self.gather(questions, &self.loaded, &mut seeds)?;
        let (device, model) = (&self.reference.device, &self.reference.opened.model);
        let loss = &self.options.loss;
        let Experience { latents, episodes, .. } = &mut experience;
        for part in episodes.chunks_mut(self.options.exp_batch_size) {
            let listed: Vec<&Episode> = part.iter().collect();
            let pass = run(device, model, loss, latents, &listed, listed.len(), None)?;
            let (mut latent, mut answer) = (pass.latent.into_iter(), pass.answer.into_iter());
            for e in part {
                let of_latents: Vec<f32> = latent.by_ref().take(e.trace.latent_logprobs.len()).collect();
                let mut of_answer: Vec<f32> = answer.by_ref().take(e.trace.answer.len()).collect();
                if of_latents.len() >= self.options.sampling.max_latents {
                    // The separator was forced, not drawn: its divergence says nothing, and is often huge.
                    of_answer[0] = e.trace.answer_logprobs[0];
                }
                e.reference = Some((of_latents, of_answer));
            }
        }
        Ok(experience)
    }

    /// Learns from the rollouts, a minibatch at a time.
    pub(super) fn update(
        &mut self,
        experience: &Experience<D>,
        order: &[usize],
        step: u64,
        lr: f32,
    ) -> Result<PolicyMove> {
        let o = &self.options;
        let device = &self.loaded.device;
        // Without a term of its own a rollout that was no better than its group has no gradient.
        let silent = o.loss.kl_weight == 0.0 && o.loss.entropy_weight == 0.0;
        let taught = |minibatch: &[usize]| -> Vec<&Episode> {
            let all = minibatch.iter().map(|&i| &experience.episodes[i]);
            all.filter(|e| !silent || e.advantage != 0.0).collect()
        };
        let minibatches = || order.chunks(o.exp_batch_size);
        let model = &self.loaded.opened.model;
        let needs = minibatches().map(|minibatch| {
            let size = size(&taught(minibatch));
            needs::pass(device, model, &self.grads, size, false, needs::SMALLER_MINIBATCH)
        });
        let held = crate::infer::needs::weights(model);
        let needs: Vec<_> = [held].into_iter().chain(needs.max_by_key(|need| need.bytes)).collect();
        device.reserve(&needs)?;
        let mut moved = PolicyMove::default();
        for minibatch in minibatches() {
            let episodes = taught(minibatch);
            self.grads.clear(device)?;
            let mut pending = None;
            if !episodes.is_empty() {
                let model = &self.loaded.opened.model;
                let latents = &experience.latents;
                let grads = Some(&mut self.grads);
                pending = Some(begin(device, model, &o.loss, latents, &episodes, minibatch.len(), grads)?);
            }
            self.state.updates += 1;
            let hyper = AdamW::new(lr, o.run.weight_decay, self.state.updates);
            let params = &mut self.loaded.opened.model.params;
            let watched: Vec<&D::Tensor> = pending.iter().flat_map(|pass| pass.tensors()).collect();
            let norm = self.optimizer.begin(device, params, &self.grads, &hyper, o.run.clip, &watched)?;
            // All of the minibatch is asked for, and only now waited for.
            if let Some(pass) = pending {
                let pass = pass.read(device)?;
                let stats = PolicyStats::of(&o.loss, &episodes, minibatch.len(), &pass);
                if !stats.total(&o.loss).is_finite() {
                    return Err(Error::NonFinite { step, what: "the policy loss".into() });
                }
                moved.stats.add(&stats);
                moved.bounded += pass.bounded;
            }
            moved.grad_norm += finite_norm(device, &norm, step)?;
            moved.minibatches += 1;
        }
        Ok(moved)
    }

    /// Greedy answers to the validation questions; keeps the checkpoint if it is among the best.
    pub(super) fn validate(
        &mut self,
        metrics: &mut Metrics,
        on_progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<()> {
        let o = &self.options;
        let options = EvalOptions {
            method: Method::Colar,
            compression_factor: o.compression_factor.clone(),
            sampling: Sampling {
                max_latents: o.sampling.max_latents,
                max_new_tokens: o.sampling.max_new_tokens,
                ..Sampling::default().greedy()
            },
            verifier: o.verifier,
            answer_rule: o.answer_rule,
            batch_size: (o.run.batch_size * o.group_size).max(32),
        };
        let step = self.state.step;
        self.stop.check(step)?;
        let (started, total) = (Instant::now(), self.val.len());
        on_progress(Progress::Validating { step, done: 0, total });
        let evaluation = evaluate(&self.loaded, &self.val, &options, &mut |done| {
            on_progress(Progress::Validating { step, done, total });
            self.stop.check(step)
        })?;
        let seconds = started.elapsed().as_secs_f64();
        let outcomes = evaluation.outcomes.iter();
        let reward =
            outcomes.map(|x| f64::from(self.reward.score(&x.generation, &x.gold).reward)).sum::<f64>()
                / evaluation.n as f64;
        let (accuracy, mean_length) = (evaluation.accuracy, evaluation.mean_length);
        let values = [("reward", reward), ("accuracy", accuracy), ("mean_length", mean_length)];
        metrics.record("val", step, &values)?;
        self.state.unvalidated = false;
        self.state.count(reward);
        on_progress(Progress::PolicyValidated { step, reward, accuracy, mean_length, seconds });
        checkpoint::keep(
            &self.loaded.device,
            &self.loaded.opened,
            Method::Colar,
            o.run.full,
            &self.dir,
            &mut self.state.best,
            KeptCheckpoint { step, monitor: reward },
            o.run.save_top_k,
        )
    }

    fn save_state(&self) -> Result<()> {
        checkpoint::save_state(
            &self.loaded.device,
            &self.loaded.opened,
            &self.optimizer,
            &self.state,
            Method::Colar,
            self.options.run.full,
            &self.dir,
        )
    }
}

/// Effects of a step's updates, summed over its minibatches.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PolicyMove {
    stats: PolicyStats,
    minibatches: usize,
    grad_norm: f64,
    bounded: u64,
}

/// Why a checkpoint cannot be trained by its rollouts.
fn no_spread(options: &RlOptions, sigma: f64) -> Error {
    Error::file(
        &options.adapter,
        format!(
            "the latents have no spread to explore with (sigma {sigma:.1e}): train the checkpoint with \
             `latent_loss` nll, or with a negative `entropy_weight`"
        ),
    )
}
