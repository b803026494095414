//! `train`: a supervised run on your own model and data, or the embedded default.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use super::{signals, terminal};
use crate::device::{ComputeDtype, Device, DeviceKind, DeviceTask, run_on_device};
use crate::files::runs;
use crate::train::{Progress, RlOptions, RlTrainer, Stage, Stop, TrainFlags, TrainOptions, Trainer};
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
    if flags.out.is_none() {
        if args.resume {
            return Err(Error::usage("--resume needs --out, the run to go on with"));
        }
        flags.out = Some(runs::new_dir());
    }
    let resume = args.resume;
    if flags.stage == Some(Stage::Rl) {
        let options = flags.resolve_rl()?;
        let again = go_on_with(&options.run.out);
        let (device, dtype, threads) = (options.run.device, options.run.dtype, options.run.threads);
        let task = Rl { options, resume, stop: signals::watch()? };
        return signals::resumable(on_device(device, dtype, threads, task), &again);
    }
    let options = flags.resolve()?;
    let again = go_on_with(&options.run.out);
    let (device, dtype, threads) = (options.run.device, options.run.dtype, options.run.threads);
    let task = Supervised { options, resume, stop: signals::watch()? };
    signals::resumable(on_device(device, dtype, threads, task), &again)
}

/// The command that goes on with the run in `out`.
fn go_on_with(out: &Path) -> String {
    format!("colar-engine train --config {} --resume", out.join("config.toml").display())
}

/// Runs a task of training on the device that was asked for.
pub(super) fn on_device<T: DeviceTask>(
    kind: DeviceKind,
    dtype: Option<ComputeDtype>,
    threads: usize,
    task: T,
) -> Result<T::Output> {
    run_on_device(kind.for_training(), dtype, threads, task)
}

struct Supervised {
    options: TrainOptions,
    resume: bool,
    stop: Stop,
}

impl DeviceTask for Supervised {
    type Output = ();

    fn run<D: Device>(self, device: D) -> Result<()> {
        let out = self.options.run.out.clone();
        let mut trainer = Trainer::new(device, self.options, self.resume)?;
        trainer.stop_on(&self.stop);
        let mut shown = Shown::new("train");
        let summary = trainer.run(&mut |p| shown.update(&p))?;
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
}

struct Rl {
    options: RlOptions,
    resume: bool,
    stop: Stop,
}

impl DeviceTask for Rl {
    type Output = ();

    fn run<D: Device>(self, device: D) -> Result<()> {
        let out = self.options.run.out.clone();
        let mut trainer = RlTrainer::new(device, self.options, self.resume)?;
        trainer.stop_on(&self.stop);
        let mut shown = Shown::new("rl");
        let summary = trainer.run(&mut |p| shown.update(&p))?;
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
}

/// How often a run without a terminal writes a line about its steps.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// How a run goes: on a terminal a bar with loss, speed and time left, elsewhere a line now and then; either way a line
/// per validation.
pub(super) struct Shown {
    bar: ProgressBar,
    name: String,
    pace: Option<Pace>,
}

/// When the steps that are shown began, and how often they are written down.
struct Pace {
    total: u64,
    /// Steps done before.
    before: u64,
    started: Instant,
    written: Option<Instant>,
}

impl Pace {
    /// The time that the steps after `step` will take, if they take as long as those before.
    fn left(&self, step: u64) -> Duration {
        let done = (step - self.before).max(1);
        self.started.elapsed().mul_f64((self.total - step) as f64 / done as f64)
    }
}

impl Shown {
    pub(super) fn new(name: &str) -> Self {
        let (bar, name) = (ProgressBar::no_length(), name.to_owned());
        Shown { bar, name, pace: None }
    }

    pub(super) fn update(&mut self, progress: &Progress) {
        match progress {
            Progress::Resumed(step) => self.line(&format!("{}: resumed after step {step}", self.name)),
            Progress::Step(s) => self.step(
                s.step,
                s.total,
                s.seconds,
                &format!("loss {:.4}  {:.0} tokens/s", s.loss, s.tokens_per_second),
            ),
            Progress::Policy(p) => self.step(
                p.step,
                p.total,
                p.seconds,
                &format!(
                    "reward {:.3}  accuracy {:.1} %  {:.1} latents",
                    p.reward,
                    100.0 * p.accuracy,
                    p.n_latents
                ),
            ),
            Progress::PolicyValidated { step, reward, accuracy, mean_length } => self.line(&format!(
                "{}: step {step}: validation reward {reward:.4}, accuracy {:.1} %, {mean_length:.1} latents",
                self.name,
                100.0 * accuracy
            )),
            Progress::Validated(v) => {
                let accuracy = v.accuracy.map_or(String::new(), |a| format!(", accuracy {:.1} %", 100.0 * a));
                self.line(&format!(
                    "{}: step {}: validation loss {:.4}{accuracy}",
                    self.name, v.step, v.loss
                ));
            }
        }
    }

    /// Shows a step that took `seconds`.
    fn step(&mut self, step: u64, total: u64, seconds: f64, figures: &str) {
        if self.pace.as_ref().is_none_or(|pace| pace.total != total) {
            self.begin(total, step, seconds);
        }
        let Some(pace) = &mut self.pace else { return };
        let left = HumanDuration(pace.left(step));
        if !self.bar.is_hidden() {
            self.bar.set_position(step);
            self.bar.set_message(format!("{figures}  {left} left"));
        } else if pace.written.is_none_or(|at| at.elapsed() >= LINE_EVERY) {
            pace.written = Some(Instant::now());
            let line = format!("{}: step {step} of {total}: {figures}  {left} left", self.name);
            self.line(&line);
        }
    }

    /// Begins to count with a step that is done.
    fn begin(&mut self, total: u64, step: u64, seconds: f64) {
        let now = Instant::now();
        let started = now.checked_sub(Duration::from_secs_f64(seconds)).unwrap_or(now);
        self.pace = Some(Pace { total, before: step.saturating_sub(1), started, written: None });
        let template = "{prefix:>6} {bar:30} {pos}/{len}  {msg}";
        // The template is a constant; were it ever malformed, the default style serves.
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar.set_length(total);
        self.bar.set_prefix(self.name.clone());
        self.bar.enable_steady_tick(Duration::from_millis(500));
    }

    /// A line above the bar, or alone where there is no terminal.
    pub(super) fn line(&self, text: &str) {
        if self.bar.is_hidden() {
            terminal::note(text);
        } else {
            self.bar.println(text);
        }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
