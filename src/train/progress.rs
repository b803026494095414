//! Progress of a run, as its listener hears of it.

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
    /// How long the step took, rollouts and updates.
    pub seconds: f64,
}

/// Progress of a run.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Progress {
    /// The run goes on after this many steps.
    Resumed(u64),
    /// A step is done.
    Step(StepReport),
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
    },
}
