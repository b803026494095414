//! `train` without a model: runs the embedded default and shows its progress.

use std::time::Instant;

use super::shown::Shown;
use super::{signals, terminal};
use crate::device::{Device, DeviceTask, run_on_device};
use crate::eval::table;
use crate::files::new_run::NewDir;
use crate::train::embedded::{self, EmbeddedOptions, Stage};
use crate::train::{Stop, TrainFlags};
use crate::{Error, Result};

/// Runs the embedded default with those of the flags that it knows.
pub(super) fn run(flags: TrainFlags, resume: bool) -> Result<()> {
    let known = TrainFlags {
        out: flags.out.clone(),
        seed: flags.seed,
        threads: flags.threads,
        dtype: flags.dtype,
        device: flags.device,
        ..TrainFlags::default()
    };
    if known != flags {
        return Err(Error::usage(
            "without --model and --data only --out, --seed, --threads, --device and --resume apply",
        ));
    }
    if flags.out.is_none() && resume {
        return Err(Error::usage("--resume needs --out, the run to go on with"));
    }
    let (out, _new) = NewDir::unless(flags.out)?;
    let options = EmbeddedOptions { out, seed: flags.seed.unwrap_or(0), resume, shorten: 1 };
    let (device, threads) = (flags.device.unwrap_or_default(), flags.threads.unwrap_or(0));
    let again = format!("colar-engine train --out {} --resume", options.out.display());
    signals::resumable(
        run_on_device(device.for_training(), flags.dtype, threads, Embedded(options, signals::stop()?)),
        &again,
    )
}

struct Embedded(EmbeddedOptions, Stop);

impl DeviceTask for Embedded {
    type Output = ();

    fn run<D: Device>(self, device: D) -> Result<()> {
        train(&device, &self.0, &self.1)
    }
}

/// Trains and evaluates, and says how it goes.
fn train<D: Device>(device: &D, options: &EmbeddedOptions, stop: &Stop) -> Result<()> {
    let started = Instant::now();
    terminal::tell(format!("run directory: {}", options.out.display()));
    let mut shown: Option<(String, Shown)> = None;
    let rows = embedded::run(device, options, stop, &mut |stage| match stage {
        Stage::Prepared { samples: [train, val, test], parameters } => terminal::tell(format!(
            "data: {train} training, {val} validation, {test} test questions; model: {parameters} weights"
        )),
        Stage::Training(name, progress) => {
            if shown.as_ref().is_none_or(|(n, _)| n != name) {
                if let Some((_, bar)) = shown.take() {
                    bar.finish();
                }
                shown = Some((name.to_owned(), Shown::new(name).followed_by(embedded::time_after(name))));
            }
            if let Some((_, bar)) = &mut shown {
                bar.update(&progress);
            }
        }
        Stage::Evaluated(_) => {
            if let Some((_, bar)) = shown.take() {
                bar.finish();
            }
        }
    })?;
    terminal::tell(format!("\n{}", table::text(&rows)));
    terminal::tell(format!(
        "{:.0} s; table.json, table.svg and metrics.jsonl in {}",
        started.elapsed().as_secs_f64(),
        options.out.display()
    ));
    terminal::tell(
        "ask it: colar-engine generate --cf 2 --greedy \"Mia buys 3 bags of 5 pens, sells 6 and finds 4. How many has Mia now?\"",
    );
    Ok(())
}
