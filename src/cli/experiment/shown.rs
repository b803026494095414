//! The progress bars of an experiment: one for all of it, and one for each of the jobs side by side.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::super::terminal;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::experiment::ExperimentEvent;

/// The bars of an experiment on standard error; where that is no terminal, a line a finished part.
pub(super) struct Shown {
    bars: MultiProgress,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    all: Option<ProgressBar>,
    jobs: Vec<ProgressBar>,
    names: Vec<String>,
    written: Vec<PathBuf>,
}

/// The template is a constant; were it ever malformed, the default style serves.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Shown {
    pub fn new() -> Self {
        Shown { bars: MultiProgress::new(), state: Mutex::default() }
    }

    /// Shows an event.
    pub fn on(&self, event: ExperimentEvent) {
        let mut s = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            ExperimentEvent::Planned { parts, jobs, threads } => {
                let s_of = |n: usize| if n == 1 { "" } else { "s" };
                self.line(&format!(
                    "{parts} parts, {jobs} at a time, {threads} thread{} each",
                    s_of(threads)
                ));
                let all = self.bars.add(ProgressBar::new(parts as u64));
                all.set_style(style("{prefix:>28} {bar:30} {pos}/{len}  {elapsed} so far"));
                all.set_prefix("parts");
                all.enable_steady_tick(Duration::from_secs(1));
                s.all = Some(all);
                for _ in 0..jobs {
                    let bar = self.bars.add(ProgressBar::new(1));
                    bar.set_style(style("{prefix:>28} {bar:30} {pos}/{len}  {msg}  {eta} left"));
                    s.jobs.push(bar);
                    s.names.push(String::new());
                }
            }
            ExperimentEvent::Begun { job, name } => {
                if let (Some(bar), Some(last)) = (s.jobs.get(job).cloned(), s.names.get_mut(job))
                    && *last != name
                {
                    bar.reset();
                    bar.set_message("");
                    bar.set_prefix(name.clone());
                    *last = name;
                }
            }
            ExperimentEvent::At { job, done, of, loss } => {
                if let Some(bar) = s.jobs.get(job) {
                    if bar.length() != Some(of) {
                        bar.reset();
                        bar.set_length(of);
                    }
                    bar.set_position(done);
                    bar.set_message(loss.map_or(String::new(), |loss| format!("loss {loss:.4}")));
                }
            }
            ExperimentEvent::Finished { name, result, .. } => {
                if let Some(all) = &s.all {
                    all.inc(1);
                }
                if let Some(name) = name {
                    let result = if result.is_empty() { "done".to_owned() } else { result };
                    self.line(&format!("{name}: {result}"));
                }
            }
            ExperimentEvent::Written(paths) => s.written = paths,
        }
    }

    /// A line above the bars, or alone where there is no terminal.
    fn line(&self, text: &str) {
        if self.bars.is_hidden() {
            terminal::note(text);
        } else {
            // Lost with the terminal, if that is gone.
            let _ = self.bars.println(text);
        }
    }

    /// Removes the bars.
    pub fn clear(&self) {
        let s = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for bar in s.jobs.iter().chain(&s.all) {
            bar.finish_and_clear();
        }
    }

    /// Removes the bars and names the files that were written.
    pub fn finish(&self) {
        self.clear();
        let s = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let written: Vec<String> = s.written.iter().map(|p| p.display().to_string()).collect();
        terminal::note(format!("written: {}", written.join(", ")));
    }
}
