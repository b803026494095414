//! Progress of a run, as its listener hears of it.

/// A run before its first step.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct StartReport {
    /// Steps of the whole run.
    pub total: u64,
    /// Training samples.
    pub samples: usize,
    /// Samples that were longer than they may be, and are left out.
    pub left_out: usize,
    /// Questions of a validation; 0 where there is none.
    pub val_samples: usize,
    /// Steps between validations.
    pub val_every: u64,
    /// Weights of the model, with all that was added to it.
    pub weights: usize,
    /// How many of them are trained.
    pub trained: usize,
    /// Bytes of the weights, of the gradients and moments of those trained, and, in supervised training, of the
    /// activations of the first step.
    pub bytes: usize,
}

/// A step of supervised training.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct StepReport {
    /// The step, counted from 1.
    pub step: u64,
    /// Steps of the whole run.
    pub total: u64,
    /// The weighted total of the losses.
    pub loss: f64,
    /// Packed positions a second, over this step.
    pub tokens_per_second: f64,
    /// How long the step took.
    pub seconds: f64,
}

/// The outcome of a validation.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Validation {
    /// After which step.
    pub step: u64,
    /// Validation loss in the expectation forms, at the largest compression factor below 3.
    pub loss: f64,
    /// Accuracy of greedy generation at that compression factor; `None` where only the loss is monitored.
    pub accuracy: Option<f64>,
    /// How long it took.
    pub seconds: f64,
}

impl Validation {
    /// The measure by which checkpoints are best: higher is better.
    pub(crate) fn monitor(&self) -> f64 {
        self.accuracy.unwrap_or(-self.loss)
    }
}

/// A step of reinforcement learning.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct PolicyReport {
    /// The step, counted from 1.
    pub step: u64,
    /// Steps of the whole run.
    pub total: u64,
    /// Mean reward of its rollouts.
    pub reward: f64,
    /// Share of them that were right.
    pub accuracy: f64,
    /// Their mean number of latents.
    pub n_latents: f64,
    /// Share of its groups whose rewards differ: the others say nothing of what to do better.
    pub informative: f64,
    /// How long the step took, rollouts and updates.
    pub seconds: f64,
}

/// Progress of a run.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Progress {
    /// The run begins, or goes on.
    Started(StartReport),
    /// The adapter of the starting checkpoint was added to the weights, since the run trains all of them.
    Folded,
    /// The run goes on after this many steps.
    Resumed(u64),
    /// A step is done.
    Step(StepReport),
    /// A validation goes on: so many of its questions are answered.
    Validating {
        /// After which step.
        step: u64,
        /// Questions answered.
        done: usize,
        /// All questions.
        total: usize,
    },
    /// A validation is done.
    Validated(Validation),
    /// A step of reinforcement learning is done.
    Policy(PolicyReport),
    /// A validation of reinforcement learning is done: greedy answers.
    PolicyValidated {
        /// After which step.
        step: u64,
        /// Mean reward.
        reward: f64,
        /// Share of right answers.
        accuracy: f64,
        /// Mean number of latents.
        mean_length: f64,
        /// How long it took.
        seconds: f64,
    },
}
