//! `train`: a supervised run on your own model and data, or the embedded default.

use std::path::{Path, PathBuf};

use clap::Args;

use super::shown::Shown;
use super::{signals, terminal};
use crate::files::runs::NewDir;
use crate::train::{RlOptions, RlRun, Stage, Stop, TrainFlags, TrainOptions, TrainRun};
use crate::{Error, Result};

/// Train a model, in chains of thought, in compressed latents, or as the methods that these are compared with
///
/// With neither --model nor --data: the embedded default. It makes a small tokenizer, model and data
/// set of arithmetic word problems, trains CoT, then CoLaR from that checkpoint, then lets reinforcement
/// learning shorten its chains, and prints accuracy and reasoning length of all three.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  colar-engine train
  colar-engine train --method cot --model models/SmolLM2-135M --data train.jsonl --val val.jsonl --out runs/cot
  colar-engine train --model models/SmolLM2-135M --data train.jsonl --init runs/cot/best --out runs/colar
  colar-engine train --method coconut --model models/SmolLM2-135M --data train.jsonl --init runs/cot/best --out runs/coconut
  colar-engine train --stage rl --model models/SmolLM2-135M --adapter runs/colar/best --data train.jsonl --out runs/rl
  colar-engine train --config runs/colar/config.toml --resume")]
pub struct TrainArgs {
    /// TOML file with any of the flags below as keys (`batch-size = 16`); flags override it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Go on with the run in --out from its last training state
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    flags: Box<TrainFlags>,
}

/// Runs `train`.
///
/// # Errors
/// Errors of the run; [`Error::Usage`] for flags that do not fit together.
pub fn run(args: TrainArgs) -> Result<()> {
    let mut flags = *args.flags;
    if let Some(path) = &args.config {
        let mut file = TrainFlags::from_toml(path)?;
        if flags.c_max.is_some() {
            file.cf_list = None;
        }
        flags = flags.over(file);
    }
    if flags.model.is_none() && flags.data.is_none() {
        return super::embedded::run(flags, args.resume);
    }
    if flags.out.is_none() && args.resume {
        return Err(Error::usage("--resume needs --out, the run to go on with"));
    }
    let (out, _new) = NewDir::unless(flags.out)?;
    flags.out = Some(out);
    let resume = args.resume;
    if flags.stage == Some(Stage::Rl) {
        let options = flags.resolve_rl()?;
        let again = go_on_with(&options.run.out);
        return signals::resumable(reinforce(options, resume, &signals::watch()?), &again);
    }
    let options = flags.resolve()?;
    let again = go_on_with(&options.run.out);
    signals::resumable(supervise(options, resume, &signals::watch()?), &again)
}

/// The command that goes on with the run in `out`.
fn go_on_with(out: &Path) -> String {
    format!("colar-engine train --config {} --resume", out.join("config.toml").display())
}

fn supervise(options: TrainOptions, resume: bool, stop: &Stop) -> Result<()> {
    let out = options.run.out.clone();
    let mut shown = Shown::new("train");
    let summary = TrainRun::new(options).resume(resume).stop_on(stop).start(|p| shown.update(&p))?;
    shown.finish();
    if summary.bounded > 0 {
        terminal::note(format!(
            "note: {} log_sigma values met their bound (see bounded_log_sigma in metrics.jsonl)",
            summary.bounded
        ));
    }
    terminal::tell(format!("{} steps; best checkpoint in {}", summary.steps, out.join("best").display()));
    Ok(())
}

fn reinforce(options: RlOptions, resume: bool, stop: &Stop) -> Result<()> {
    let out = options.run.out.clone();
    let mut shown = Shown::new("rl");
    let summary = RlRun::new(options).resume(resume).stop_on(stop).start(|p| shown.update(&p))?;
    shown.finish();
    terminal::tell(format!(
        "{} steps; best checkpoint in {}; curves in {}, rollouts in {}",
        summary.steps,
        out.join("best").display(),
        out.join("rl.svg").display(),
        out.join("rollouts.txt").display()
    ));
    Ok(())
}
