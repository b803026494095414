//! One training run of an experiment, begun or resumed, to its checkpoint.

use std::path::Path;

use serde_json::json;

use super::event::{ExperimentEvent, Listener};
use super::measure::write_json;
use crate::device::{Device, DeviceTask, run_on_device};
use crate::files::staged::{recover_dir, remove_dir};
use crate::train::{Progress, TrainFlags, TrainOptions, Trainer};
use crate::{Error, Result};

/// The file left by a run whose loss stopped being a number.
const DIVERGED: &str = "diverged.json";

/// The training state of a run, which one that has ended needs no more: its moments take twice the space of the weights.
const LAST: &str = "last";

/// The end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// With a checkpoint in `best`.
    Trained,
    /// Its loss or gradient stopped being a number.
    Diverged,
}

/// The end of the run in `dir`, if it has ended; an unfinished replacement of its checkpoint is put right first.
///
/// # Errors
/// [`Error::Io`] if a checkpoint that was being replaced cannot be put back.
pub(super) fn ended(dir: &Path) -> Result<Option<Ended>> {
    recover_dir(&dir.join("best"))?;
    let end = end(dir);
    if end == Some(Ended::Trained) {
        // It may have been killed before it removed this itself.
        remove_dir(&dir.join(LAST))?;
    }
    Ok(end)
}

/// The end of the run in `dir` as its files show it, which are left as they are.
pub(super) fn end(dir: &Path) -> Option<Ended> {
    // A run may have had a best checkpoint before it diverged.
    if dir.join(DIVERGED).exists() {
        return Some(Ended::Diverged);
    }
    // Without validation the checkpoint is written once, after the last step.
    dir.join("best").exists().then_some(Ended::Trained)
}

/// Trains a run to its end.
///
/// # Errors
/// Errors of training, except a loss or gradient that stops being a number, and a loss that stays far too high.
pub(super) fn train(flags: TrainFlags, job: usize, on_event: &Listener<'_>) -> Result<Ended> {
    let options = flags.resolve()?;
    let dir = options.run.out.clone();
    let run = &options.run;
    let (device, dtype, threads) = (run.device.for_training(), run.dtype, run.threads);
    match run_on_device(device, dtype, threads, Run { options, job, on_event }) {
        Err(Error::NonFinite { step, what } | Error::Diverged { step, what }) => {
            write_json(&dir.join(DIVERGED), &json!({"step": step, "what": what}))?;
            Ok(Ended::Diverged)
        }
        Err(e) => Err(e),
        Ok(()) => {
            remove_dir(&dir.join(LAST))?;
            Ok(Ended::Trained)
        }
    }
}

struct Run<'a> {
    options: TrainOptions,
    job: usize,
    on_event: &'a Listener<'a>,
}

impl DeviceTask for Run<'_> {
    type Output = ();

    fn run<D: Device>(self, device: D) -> Result<()> {
        let mut trainer = Trainer::new(device, self.options, true)?;
        trainer.run(&mut |progress| {
            if let Progress::Step(s) = progress {
                let (job, loss) = (self.job, Some(s.loss));
                (self.on_event)(ExperimentEvent::At { job, done: s.step, of: s.total, loss });
            }
        })?;
        Ok(())
    }
}

/// Mean seconds of a step, by the run's own record of packed positions and their speed; `None` without one. Steps
/// that a killed run did twice count once.
pub(super) fn seconds_per_step(dir: &Path) -> Option<f64> {
    let text = std::fs::read_to_string(dir.join("metrics.jsonl")).ok()?;
    let (mut steps, mut seconds) = (0u64, 0.0);
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        if line["kind"] == "train" {
            seconds += line["rows"].as_f64()? / line["tokens_per_second"].as_f64()?;
            steps += 1;
        }
    }
    (steps > 0).then(|| seconds / steps as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_read_off_the_record() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(seconds_per_step(dir.path()), None);
        let lines = "{\"kind\":\"train\",\"step\":1,\"rows\":100.0,\"tokens_per_second\":50.0}\n\
                     {\"kind\":\"val\",\"step\":1,\"loss\":1.0}\n\
                     {\"kind\":\"train\",\"step\":2,\"rows\":10.0,\"tokens_per_second\":10.0}\n";
        std::fs::write(dir.path().join("metrics.jsonl"), lines).unwrap();
        assert_eq!(seconds_per_step(dir.path()), Some(1.5));
    }

    #[test]
    fn an_end_is_recognised() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ended(dir.path()).unwrap(), None);
        std::fs::create_dir(dir.path().join("best")).unwrap();
        std::fs::create_dir(dir.path().join(LAST)).unwrap();
        assert_eq!(ended(dir.path()).unwrap(), Some(Ended::Trained));
        assert!(!dir.path().join(LAST).exists(), "a state that a kill left");
        // With a best checkpoint of the time before.
        std::fs::write(dir.path().join(DIVERGED), "{}").unwrap();
        assert_eq!(ended(dir.path()).unwrap(), Some(Ended::Diverged));
    }
}
