//! A step and a validation, timed: what a run would take.

use std::time::Instant;

use super::questions::Questions;
use super::trainer::RlTrainer;
use crate::Result;
use crate::device::Device;
use crate::train::estimate::{DryRun, TIMED_QUESTIONS, curve, longest, validations};
use crate::train::lengths;
use crate::train::metrics::Metrics;
use crate::train::progress::Progress;

impl<D: Device> RlTrainer<D> {
    /// Times a step, after one in which memory is taken, and a short validation.
    pub(crate) fn measure(&mut self) -> Result<DryRun> {
        let device = self.loaded.device.clone();
        device.scope(|| self.measure_in_scope())
    }

    fn measure_in_scope(&mut self) -> Result<DryRun> {
        let o = self.options.clone();
        // Whether questions are solved already is not asked: that would take as long as many steps.
        let pool = (0..self.samples.len() as u32).collect();
        let mut questions = Questions::new(pool, o.samples_per_epoch, o.run.batch_size, o.run.seed);
        let total = o.run.max_steps.unwrap_or(questions.steps_per_epoch().saturating_mul(o.run.epochs));
        let val_every = o.run.val_every.unwrap_or(questions.steps_per_epoch());
        let start = self.start_report(questions.len(), total, val_every);
        let lr = |step: u64| o.run.schedule.lr(o.run.lr, step, o.run.warmup, total);
        let mut seconds_per_step = 0.0;
        for step in 0..2 {
            let asked: Vec<u32> = questions.step(step % total).to_vec();
            let started = Instant::now();
            let experience = self.experience(&asked, questions.rollout_seeds(step))?;
            let order = questions.minibatch_order(step, experience.episodes.len());
            self.update(&experience, &order, step + 1, lr((step + 1).min(total)))?;
            seconds_per_step = started.elapsed().as_secs_f64();
        }
        let count = self.val.len();
        self.val.truncate(TIMED_QUESTIONS);
        let seconds_per_validation = if count == 0 {
            None
        } else {
            let mut metrics = Metrics::open(&self.dir, 0)?;
            let mut seconds = 0.0;
            self.validate(&mut metrics, &mut |progress| {
                if let Progress::PolicyValidated { seconds: taken, .. } = progress {
                    seconds = taken;
                }
            })?;
            Some(seconds * count as f64 / self.val.len() as f64)
        };
        Ok(DryRun {
            seconds_per_step,
            seconds_per_validation,
            // One comes before the first step too.
            validations: validations(&start) + u64::from(count > 0),
            longest: longest(&self.samples, |sample| lengths::tokens(sample, &self.loaded.opened))?,
            positions: self.loaded.opened.model.transformer.config.max_position_embeddings,
            lr: curve(total, lr),
            start,
        })
    }
}
