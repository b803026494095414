//! How a run of training is shown: a bar where there is a terminal, lines where there is none.

use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use super::terminal;
use crate::train::Progress;

/// How often a run without a terminal writes a line about its steps.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// How a run goes: on a terminal a bar with loss, speed and time left, elsewhere a line now and then; either way a line
/// per validation.
pub(super) struct Shown {
    bar: ProgressBar,
    name: String,
    pace: Option<Pace>,
    /// Time of the work that follows these steps, if any does, as a multiple of theirs.
    after: Option<f64>,
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
        let (bar, name) = (ProgressBar::no_length(), name.to_owned());
        Shown { bar, name, pace: None, after: None }
    }

    /// Steps after which a run goes on: with something that takes `after` times as long as they do.
    pub(super) fn followed_by(self, after: f64) -> Self {
        Shown { after: Some(after), ..self }
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
        let left = HumanDuration(pace.left(step, self.after.unwrap_or(0.0)));
        let of = if self.after.is_some() { " in all" } else { "" };
        if !self.bar.is_hidden() {
            self.bar.set_position(step);
            self.bar.set_message(format!("{figures}  {left} left{of}"));
        } else if pace.written.is_none_or(|at| at.elapsed() >= LINE_EVERY) {
            pace.written = Some(Instant::now());
            let line = format!("{}: step {step} of {total}: {figures}  {left} left{of}", self.name);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_counts_what_follows() {
        let started = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        let pace = Pace { total: 50, before: 20, started, written: None };
        for (after, seconds) in [(0.0, 20.0), (2.0, 120.0)] {
            let left = pace.left(30, after).as_secs_f64();
            assert!(
                (seconds..1.5 * seconds).contains(&left),
                "{left} s with {after} times as much to follow"
            );
        }
    }
}
