//! Whole runs of training, on the device that their options name.

use super::options::{RlOptions, RunOptions, TrainOptions};
use super::progress::Progress;
use super::rl::{Reward, RlSummary, RlTrainer};
use super::stop::Stop;
use super::trainer::{Summary, Trainer};
use crate::Result;
use crate::device::{Device, DeviceTask, run_on_device};

/// A supervised run: CoT, CoLaR, or one of the methods that they are compared with.
///
/// It leaves its best checkpoint in `best` of the run's directory, metrics and its training state beside it.
///
/// ```no_run
/// use colar_engine::train::{Progress, TrainOptions, TrainRun};
///
/// # fn main() -> colar_engine::Result<()> {
/// let mut options = TrainOptions::new("models/SmolLM2-135M", "train.jsonl", "runs/colar");
/// options.run.batch_size = 16;
/// options.run.val = Some("val.jsonl".into());
/// TrainRun::new(options).start(|progress| {
///     if let Progress::Step(step) = progress {
///         println!("step {} of {}: loss {:.4}", step.step, step.total, step.loss);
///     }
/// })?;
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct TrainRun {
    options: TrainOptions,
    resume: bool,
    stop: Stop,
}

/// A run of reinforcement learning from a CoLaR checkpoint (GRPO, spec section 6).
///
/// ```no_run
/// use colar_engine::train::{RlOptions, RlRun};
///
/// # fn main() -> colar_engine::Result<()> {
/// let options = RlOptions::new("models/SmolLM2-135M", "runs/colar/best", "train.jsonl", "runs/rl");
/// let summary = RlRun::new(options.group_size(4)).start(|_| ())?;
/// println!("{} steps", summary.steps);
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct RlRun {
    options: RlOptions,
    resume: bool,
    stop: Stop,
    reward: Option<Box<dyn Reward>>,
}

impl TrainRun {
    /// A run from its beginning.
    pub fn new(options: TrainOptions) -> Self {
        TrainRun { options, resume: false, stop: Stop::default() }
    }

    /// Whether it goes on from the last training state in its directory.
    pub fn resume(self, resume: bool) -> Self {
        TrainRun { resume, ..self }
    }

    /// Ends it after the step in which `stop` is requested, with its state saved.
    pub fn stop_on(self, stop: &Stop) -> Self {
        TrainRun { stop: stop.clone(), ..self }
    }

    /// Trains to the end.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) for options that do not fit together, a directory that another run uses,
    /// files that do not fit, a loss that is not finite, and [`Error::Interrupted`](crate::Error::Interrupted) after a
    /// requested stop.
    pub fn start(self, on_progress: impl FnMut(Progress) + Send) -> Result<Summary> {
        self.options.validate()?;
        on_device_of(&self.options.run.clone(), Supervised(self, on_progress))
    }
}

impl RlRun {
    /// A run from its beginning, rewarded for right answers as its options say.
    pub fn new(options: RlOptions) -> Self {
        RlRun { options, resume: false, stop: Stop::default(), reward: None }
    }

    /// As [`TrainRun::resume`].
    pub fn resume(self, resume: bool) -> Self {
        RlRun { resume, ..self }
    }

    /// As [`TrainRun::stop_on`].
    pub fn stop_on(self, stop: &Stop) -> Self {
        RlRun { stop: stop.clone(), ..self }
    }

    /// Rewards rollouts otherwise than the options say.
    pub fn reward(self, reward: impl Reward + 'static) -> Self {
        RlRun { reward: Some(Box::new(reward)), ..self }
    }

    /// Trains to the end.
    ///
    /// # Errors
    /// As [`TrainRun::start`], and a reward that is not finite.
    pub fn start(self, on_progress: impl FnMut(Progress) + Send) -> Result<RlSummary> {
        self.options.validate()?;
        on_device_of(&self.options.run.clone(), Reinforced(self, on_progress))
    }
}

fn on_device_of<T: DeviceTask>(run: &RunOptions, task: T) -> Result<T::Output> {
    run_on_device(run.device.for_training(), run.dtype, run.threads, task)
}

struct Supervised<F>(TrainRun, F);

impl<F: FnMut(Progress) + Send> DeviceTask for Supervised<F> {
    type Output = Summary;

    fn run<D: Device>(self, device: D) -> Result<Summary> {
        let Supervised(run, mut on_progress) = self;
        let mut trainer = Trainer::new(device, run.options, run.resume)?;
        trainer.stop_on(&run.stop);
        trainer.run(&mut on_progress)
    }
}

struct Reinforced<F>(RlRun, F);

impl<F: FnMut(Progress) + Send> DeviceTask for Reinforced<F> {
    type Output = RlSummary;

    fn run<D: Device>(self, device: D) -> Result<RlSummary> {
        let Reinforced(run, mut on_progress) = self;
        let mut trainer = RlTrainer::new(device, run.options, run.resume)?;
        if let Some(reward) = run.reward {
            trainer = trainer.with_reward(reward);
        }
        trainer.stop_on(&run.stop);
        trainer.run(&mut on_progress)
    }
}
