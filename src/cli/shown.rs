//! How a run of training is shown: bars where there is a terminal, lines where there is none.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressStyle};

use super::terminal;
use crate::train::{Progress, StartReport};

/// How often a run without a terminal writes a line about its steps, or about a validation.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// How a run goes: on a terminal a bar with loss, speed and time left, and another while it validates; elsewhere a line
/// now and then. Either way a line at its start and one a validation.
pub(super) struct Shown {
    bars: MultiProgress,
    bar: ProgressBar,
    validation: Option<ProgressBar>,
    name: String,
    dir: Option<PathBuf>,
    pace: Option<Pace>,
    /// The time of the last line about steps or a validation.
    written: Option<Instant>,
    /// Time of the work that follows these steps, if any does, as a multiple of theirs.
    after: Option<f64>,
}

/// When the steps that are shown began.
struct Pace {
    total: u64,
    /// Steps done before.
    before: u64,
    started: Instant,
}

impl Pace {
    /// The time that is left after `step`, if the other steps take as long as those so far and what follows all of them
    /// takes `after` times as long as they do.
    fn left(&self, step: u64, after: f64) -> Duration {
        let done = (step - self.before).max(1);
        let steps = (self.total - step) as f64 + after * self.total as f64;
        self.started.elapsed().mul_f64(steps / done as f64)
    }
}

impl Shown {
    pub(super) fn new(name: &str) -> Self {
        let bars = MultiProgress::new();
        let bar = bars.add(ProgressBar::no_length());
        let name = name.to_owned();
        Shown { bars, bar, validation: None, name, dir: None, pace: None, written: None, after: None }
    }

    /// The run's directory, which the first line names.
    pub(super) fn in_dir(self, dir: &Path) -> Self {
        Shown { dir: Some(dir.to_owned()), ..self }
    }

    /// Steps after which a run goes on: with something that takes `after` times as long as they do.
    pub(super) fn followed_by(self, after: f64) -> Self {
        Shown { after: Some(after), ..self }
    }

    pub(super) fn update(&mut self, progress: &Progress) {
        match progress {
            Progress::Started(start) => {
                let dir = self
                    .dir
                    .as_ref()
                    .map_or(String::new(), |dir| format!("run directory {}: ", dir.display()));
                self.line(&format!("{}: {dir}{}", self.name, begun(start)));
            }
            Progress::Folded => self.line(&format!(
                "{}: the checkpoint's adapter was added to the weights, of which all are trained",
                self.name
            )),
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
                    "reward {:.3}  accuracy {:.1} %  {:.1} latents  {:.0} % of groups differ",
                    p.reward,
                    100.0 * p.accuracy,
                    p.n_latents,
                    100.0 * p.informative
                ),
            ),
            Progress::Validating { step, done, total } => self.validating(*step, *done, *total),
            Progress::PolicyValidated { step, reward, accuracy, mean_length, seconds } => {
                self.validated(&format!(
                    "{}: step {step}: validation reward {reward:.4}, accuracy {:.1} %, {mean_length:.1} latents, in {}",
                    self.name,
                    100.0 * accuracy,
                    duration(*seconds)
                ));
            }
            Progress::Validated(v) => {
                let accuracy = v.accuracy.map_or(String::new(), |a| format!(", accuracy {:.1} %", 100.0 * a));
                self.validated(&format!(
                    "{}: step {}: validation loss {:.4}{accuracy}, in {}",
                    self.name,
                    v.step,
                    v.loss,
                    duration(v.seconds)
                ));
            }
        }
    }

    /// Shows a step that took `seconds`.
    fn step(&mut self, step: u64, total: u64, seconds: f64, figures: &str) {
        if self.pace.as_ref().is_none_or(|pace| pace.total != total) {
            self.begin(total, step, seconds);
        }
        let Some(pace) = &self.pace else { return };
        let left = HumanDuration(pace.left(step, self.after.unwrap_or(0.0)));
        let of = if self.after.is_some() { " in all" } else { "" };
        if !self.bar.is_hidden() {
            self.bar.set_position(step);
            self.bar.set_message(format!("{figures}  {left} left{of}"));
        } else if self.is_due() || step == total {
            let line = format!("{}: step {step} of {total}: {figures}  {left} left{of}", self.name);
            self.line(&line);
        }
    }

    /// Shows how far a validation is.
    fn validating(&mut self, step: u64, done: usize, total: usize) {
        if self.bar.is_hidden() {
            // Its beginning is told too where it may be long: the steps before it have set the clock.
            if done > 0 && self.is_due() {
                self.line(&format!("{}: step {step}: validation, {done} of {total} questions", self.name));
            }
            return;
        }
        if self.validation.is_none() {
            let bar = self.bars.add(ProgressBar::new(total as u64));
            if let Ok(style) =
                ProgressStyle::with_template("{prefix:>6} {bar:30} {pos}/{len}  questions, {eta} left")
            {
                bar.set_style(style);
            }
            bar.set_prefix("val");
            bar.enable_steady_tick(Duration::from_millis(500));
            self.validation = Some(bar);
        }
        if let Some(bar) = &self.validation {
            bar.set_position(done as u64);
        }
    }

    /// Ends the bar of a validation with a line.
    fn validated(&mut self, line: &str) {
        if let Some(bar) = self.validation.take() {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
        self.line(line);
    }

    /// Whether the last line is long ago; if so, one is written now.
    fn is_due(&mut self) -> bool {
        let due = self.written.is_none_or(|at| at.elapsed() >= LINE_EVERY);
        if due {
            self.written = Some(Instant::now());
        }
        due
    }

    /// Begins to count with a step that is done.
    fn begin(&mut self, total: u64, step: u64, seconds: f64) {
        let now = Instant::now();
        let started = now.checked_sub(Duration::from_secs_f64(seconds)).unwrap_or(now);
        self.pace = Some(Pace { total, before: step.saturating_sub(1), started });
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

/// The line that a run begins with: its size and memory.
pub(super) fn begun(s: &StartReport) -> String {
    let validation = match s.val_samples {
        0 => "no validation".to_owned(),
        // The question on a user's mind is what a validation costs; the time is told after the first.
        n if s.val_every >= s.total => {
            format!("{n} questions validated at the end (--val-samples, --val-every)")
        }
        n => format!("{n} questions validated every {} steps (--val-samples, --val-every)", s.val_every),
    };
    let left_out = match s.left_out {
        0 => String::new(),
        n => format!(" ({n} longer than --max-length left out)"),
    };
    format!(
        "{} steps over {} samples{left_out}; {} of {} weights trained; about {} of memory; {validation}",
        s.total,
        s.samples,
        millions(s.trained),
        millions(s.weights),
        memory(s.bytes)
    )
}

/// A number of weights: `0.93 M`.
fn millions(n: usize) -> String {
    format!("{:.2} M", n as f64 / 1e6)
}

/// Bytes: `12 MiB`, `1.2 GiB`.
pub(super) fn memory(bytes: usize) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1000.0 { format!("{mib:.0} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}

/// Seconds: `0.4 s`, `3 minutes`.
pub(super) fn duration(seconds: f64) -> String {
    if seconds < 0.1 {
        format!("{:.1} ms", 1e3 * seconds)
    } else if seconds < 10.0 {
        format!("{seconds:.1} s")
    } else if seconds < 100.0 {
        format!("{seconds:.0} s")
    } else {
        HumanDuration(Duration::from_secs_f64(seconds)).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_counts_what_follows() {
        let started = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        let pace = Pace { total: 50, before: 20, started };
        for (after, seconds) in [(0.0, 20.0), (2.0, 120.0)] {
            let left = pace.left(30, after).as_secs_f64();
            assert!(
                (seconds..1.5 * seconds).contains(&left),
                "{left} s with {after} times as much to follow"
            );
        }
    }

    #[test]
    fn figures_have_fitting_units() {
        assert_eq!([memory(3 << 20), memory(3 << 30)], ["3 MiB", "3.0 GiB"]);
        assert_eq!([duration(0.44), duration(42.4), duration(180.0)], ["0.4 s", "42 s", "3 minutes"]);
        assert_eq!(millions(929_000), "0.93 M");
    }
}
