//! `train`: a supervised run on your own model and data, or the embedded default.

mod dry_run;
mod sweep;

use std::path::{Path, PathBuf};

use clap::Args;

use super::shown::Shown;
use super::{signals, terminal};
use crate::files::new_run::NewDir;
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
  colar-engine train --model models/SmolLM2-135M --data train.jsonl --val val.jsonl --dry-run
  colar-engine train --model models/SmolLM2-135M --data train.jsonl --max-steps 40 --lr-sweep 3e-5,1e-4,3e-4 --out runs/lr
  colar-engine train --config runs/colar/config.toml --resume")]
pub struct TrainArgs {
    /// TOML file with any of the flags below as keys (`batch-size = 16`); flags override it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Go on with the run in --out from its last training state
    #[arg(long)]
    resume: bool,
    /// Say what the run would be and take, from a few timed steps; writes nothing
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
    /// Try these learning rates in runs of --max-steps each, in directories under --out, and print a table
    #[arg(long, value_name = "LR,…", value_delimiter = ',', conflicts_with_all = ["resume", "dry_run", "lr"])]
    lr_sweep: Vec<f32>,
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
        flags = flags.over(TrainFlags::from_toml(path)?);
    }
    if flags.model.is_none() && flags.data.is_none() {
        if args.dry_run || !args.lr_sweep.is_empty() {
            return Err(Error::usage(
                "--dry-run and --lr-sweep are for a model and data of your own: give --model and --data",
            ));
        }
        return super::embedded::run(flags, args.resume);
    }
    if flags.out.is_none() && args.resume {
        return Err(Error::usage("--resume needs --out, the run to go on with"));
    }
    let (out, _new) = NewDir::unless(flags.out)?;
    flags.out = Some(out);
    let resume = args.resume;
    if flags.stage == Some(Stage::Rl) {
        if !args.lr_sweep.is_empty() {
            return Err(Error::usage("--lr-sweep does not go with --stage rl"));
        }
        let options = flags.resolve_rl()?;
        if args.dry_run {
            return terminal::print(&dry_run::report(&crate::train::dry_run_rl(options)?));
        }
        let again = go_on_with(&options.run.out);
        return signals::resumable(reinforce(options, resume, &signals::stop()?), &again);
    }
    let options = flags.resolve()?;
    if args.dry_run {
        return terminal::print(&dry_run::report(&crate::train::dry_run(options)?));
    }
    if !args.lr_sweep.is_empty() {
        return try_rates(&options, &args.lr_sweep);
    }
    let again = go_on_with(&options.run.out);
    signals::resumable(supervise(options, resume, &signals::stop()?), &again)
}

/// Tries learning rates one after the other.
fn try_rates(options: &TrainOptions, lrs: &[f32]) -> Result<()> {
    if options.run.max_steps.is_none() {
        return Err(Error::usage("--lr-sweep makes short runs: give their --max-steps"));
    }
    if let Some(range) = crate::train::ranges::range("lr_sweep") {
        range.check("lr_sweep", &lrs.to_vec())?;
    }
    let mut shown: Option<(f32, Shown)> = None;
    let rows = crate::train::sweep(options, lrs, &signals::stop()?, &mut |lr, progress| {
        if shown.as_ref().is_none_or(|(of, _)| *of != lr) {
            if let Some((_, before)) = shown.take() {
                before.finish();
            }
            shown = Some((lr, Shown::new(&format!("lr {lr:e}"))));
        }
        if let Some((_, shown)) = &mut shown {
            shown.update(progress);
        }
    })?;
    if let Some((_, shown)) = shown {
        shown.finish();
    }
    terminal::print(&sweep::table(&rows))
}

/// The command that goes on with the run in `out`.
fn go_on_with(out: &Path) -> String {
    format!("colar-engine train --config {} --resume", out.join("config.toml").display())
}

fn supervise(options: TrainOptions, resume: bool, stop: &Stop) -> Result<()> {
    let (out, patience) = (options.run.out.clone(), options.run.patience);
    let mut shown = Shown::new("train").in_dir(&out);
    let summary = TrainRun::new(options).resume(resume).stop_on(stop).start(|p| shown.update(&p))?;
    shown.finish();
    if summary.bounded > 0 {
        terminal::note(format!(
            "note: {} log_sigma values met their bound (see bounded_log_sigma in metrics.jsonl)",
            summary.bounded
        ));
    }
    if summary.far > 0 {
        terminal::note(format!(
            "note: the loss of the last {} steps was far above its running mean; a smaller --lr may help",
            summary.far
        ));
    }
    ran_out(patience, summary.stale);
    terminal::tell(format!("{} steps; {}", summary.steps, kept(summary.best.is_some(), &out)));
    Ok(())
}

/// Says that a run ended for want of a better validation, if it did.
fn ran_out(patience: Option<u64>, stale: u64) {
    if patience.is_some_and(|most| stale >= most) {
        terminal::note(format!(
            "note: none of the last {stale} validations was better than the best (--patience)"
        ));
    }
}

/// Where the checkpoint is, and which one: without a validation none is the best.
fn kept(validated: bool, out: &Path) -> String {
    let best = out.join("best");
    if validated {
        format!("best checkpoint in {}", best.display())
    } else {
        format!("the last checkpoint is in {}; nothing was validated (--val)", best.display())
    }
}

fn reinforce(options: RlOptions, resume: bool, stop: &Stop) -> Result<()> {
    let (out, patience) = (options.run.out.clone(), options.run.patience);
    let mut shown = Shown::new("rl").in_dir(&out);
    let summary = RlRun::new(options).resume(resume).stop_on(stop).start(|p| shown.update(&p))?;
    shown.finish();
    if let (steps @ 1.., 0) = summary.informative {
        terminal::note(format!(
            "note: nothing was learnt from rewards: in each of {steps} steps all rollouts of a question had the same; \
             easier questions, a longer supervised training or a larger --group-size may help"
        ));
    }
    ran_out(patience, summary.stale);
    if summary.bounded_exponents > 0 {
        terminal::note(format!(
            "note: {} log-probabilities went so far from those of the start or of the rollouts that the bound of their \
             ratio acted (see bounded_exponents in metrics.jsonl): a smaller --lr or a larger --kl-weight keeps them near",
            summary.bounded_exponents
        ));
    }
    terminal::tell(format!(
        "{} steps; {}; curves in {}, rollouts in {}",
        summary.steps,
        kept(summary.best.is_some(), &out),
        out.join("rl.svg").display(),
        out.join("rollouts.txt").display()
    ));
    Ok(())
}
