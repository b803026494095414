//! A dry run: the size, time and memory of a run, from a few of its steps, without a run directory.

use std::time::Instant;

use super::estimate::{DryRun, TIMED_QUESTIONS, curve, longest, validations};
use super::feed::{Feed, Step};
use super::lengths;
use super::metrics::Metrics;
use super::options::{RlOptions, TrainOptions};
use super::rl::RlTrainer;
use super::trainer::Trainer;
use crate::Result;
use crate::device::{Device, DeviceTask, run_on_device};
use crate::files::atomic::scratch_dir;

/// Steps that are run, of which the first, in which memory is taken, is not timed.
const STEPS: u64 = 3;

/// Runs a few steps of a supervised run, and keeps nothing.
///
/// # Errors
/// Those of the run; its directory is not looked at.
pub fn dry_run(mut options: TrainOptions) -> Result<DryRun> {
    options.validate()?;
    let scratch = scratch_dir()?;
    options.run.out = scratch.path().join("run");
    let run = options.run.clone();
    run_on_device(run.device.for_training(), run.dtype, run.threads, Supervised(options))
}

/// Runs a few steps of reinforcement learning, and keeps nothing.
///
/// # Errors
/// Those of the run; its directory is not looked at.
pub fn dry_run_rl(mut options: RlOptions) -> Result<DryRun> {
    options.validate()?;
    let scratch = scratch_dir()?;
    options.run.out = scratch.path().join("run");
    let run = options.run.clone();
    run_on_device(run.device.for_training(), run.dtype, run.threads, Reinforced(options))
}

struct Supervised(TrainOptions);

impl DeviceTask for Supervised {
    type Output = DryRun;

    fn run<D: Device>(self, device: D) -> Result<DryRun> {
        let mut trainer = Trainer::new(device, self.0, false)?;
        let device = trainer.loaded.device.clone();
        device.scope(|| trainer.measure())
    }
}

struct Reinforced(RlOptions);

impl DeviceTask for Reinforced {
    type Output = DryRun;

    fn run<D: Device>(self, device: D) -> Result<DryRun> {
        let mut trainer = RlTrainer::new(device, self.0, false)?;
        trainer.measure()
    }
}

impl<D: Device> Trainer<D> {
    /// Times a few steps and a short validation.
    fn measure(&mut self) -> Result<DryRun> {
        let samples = std::mem::take(&mut self.samples);
        let o = self.options.clone();
        let mut feed = Feed::new(&samples, &o)?;
        let total = feed.total();
        let val_every = o.run.val_every.unwrap_or(feed.steps_per_epoch());
        let lr = |step: u64| o.run.schedule.lr(o.run.lr, step, o.run.warmup, total);
        let first = feed.step(0, &self.loaded.opened)?;
        self.enter(first.stage);
        let start = self.start_report(&first.batches, samples.len(), total, val_every);
        let mut times = Vec::new();
        for step in 1..=STEPS {
            // Over the whole run, since a later stage may have other steps than the first.
            let place = total / STEPS * (step - 1);
            let Step { batches, stage, .. } = feed.step(place, &self.loaded.opened)?;
            self.enter(stage);
            let started = Instant::now();
            self.step(&batches, step, lr(step.min(total)))?;
            times.push(started.elapsed().as_secs_f64());
        }
        let questions = self.val.len();
        self.val.truncate(TIMED_QUESTIONS);
        let stage = o.stages().at(total, total);
        let seconds_per_validation = if questions == 0 {
            None
        } else {
            self.enter(stage);
            let mut metrics = Metrics::open(&self.dir, 0)?;
            let seconds = self.validate(stage, &mut metrics, &mut |_| ())?.seconds;
            Some(seconds * questions as f64 / self.val.len() as f64)
        };
        Ok(DryRun {
            seconds_per_step: times[1..].iter().sum::<f64>() / (STEPS - 1) as f64,
            seconds_per_validation,
            validations: validations(&start),
            longest: longest(&samples, |sample| lengths::tokens(sample, &self.loaded.opened))?,
            positions: self.loaded.opened.model.transformer.config.max_position_embeddings,
            lr: curve(total, lr),
            start,
        })
    }
}
