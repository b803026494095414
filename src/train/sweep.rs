//! Learning rates tried in short runs, one after the other, all else alike.

use super::options::TrainOptions;
use super::progress::{Progress, Validation};
use super::start::TrainRun;
use super::stop::Stop;
use crate::{Error, Result};

/// Share of a run's steps, at its end, whose mean loss is told.
const TAIL: f64 = 0.2;

/// A learning rate, and how its run went.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SweepRow {
    /// The rate.
    pub lr: f32,
    /// The loss of the first step.
    pub first: Option<f64>,
    /// Mean loss of the last fifth of the steps; `None` for a run that diverged.
    pub last: Option<f64>,
    /// The last validation, if there was one.
    pub validation: Option<Validation>,
    /// Why the run ended early, if it diverged.
    pub diverged: Option<String>,
}

/// Runs `options` at each of `lrs`, in a directory `lr<rate>` of its own under the run directory; `on_progress` hears the
/// progress of each.
///
/// # Errors
/// [`Error::Usage`] for a rate that comes twice; errors of the runs, except those of one that diverges.
pub fn sweep(
    options: &TrainOptions,
    lrs: &[f32],
    stop: &Stop,
    on_progress: &mut (dyn FnMut(f32, &Progress) + Send),
) -> Result<Vec<SweepRow>> {
    let twice = lrs.iter().enumerate().find(|(i, lr)| lrs[..*i].contains(lr));
    if let Some((_, lr)) = twice {
        return Err(Error::usage(format!("`lr_sweep` has {lr} twice")));
    }
    lrs.iter().map(|&lr| run(options, lr, stop, on_progress)).collect()
}

fn run(
    options: &TrainOptions,
    lr: f32,
    stop: &Stop,
    on_progress: &mut (dyn FnMut(f32, &Progress) + Send),
) -> Result<SweepRow> {
    let mut options = options.clone();
    options.run.lr = lr;
    options.run.out = options.run.out.join(format!("lr{lr}"));
    let (mut losses, mut validation) = (Vec::new(), None);
    let ended = TrainRun::new(options).stop_on(stop).start(|progress| {
        match progress {
            Progress::Step(s) => losses.push(s.loss),
            Progress::Validated(v) => validation = Some(v),
            _ => {}
        }
        on_progress(lr, &progress);
    });
    let diverged = match ended {
        Ok(_) => None,
        Err(Error::NonFinite { step, what }) => Some(format!("{what} is not finite at step {step}")),
        Err(Error::Diverged { step, .. }) => Some(format!("the loss is far too high at step {step}")),
        Err(e) => return Err(e),
    };
    let tail = &losses[losses.len() - ((losses.len() as f64 * TAIL).ceil() as usize)..];
    let last = (diverged.is_none() && !tail.is_empty()).then(|| tail.iter().sum::<f64>() / tail.len() as f64);
    Ok(SweepRow { lr, first: losses.first().copied(), last, validation, diverged })
}
