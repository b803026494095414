//! `status`: how a run stands.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;

use super::shown::duration;
use super::sparkline::sparkline;
use super::terminal;
use crate::files::runs::RUNS;
use crate::train::{RunStatus, run_status};
use crate::{Error, Result};

/// How often --watch looks again.
const EVERY: Duration = Duration::from_secs(2);

/// Columns of the curve.
const WIDTH: usize = 60;

/// Show how a run stands: whether it goes on, its step, its speed and the time left, its loss, its last validation
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  colar-engine status
  colar-engine status runs/colar --watch")]
pub struct StatusArgs {
    /// Run directory [default: the run in runs/ that was written to last]
    #[arg(value_name = "RUN")]
    run: Option<PathBuf>,
    /// Look again every two seconds, until the run ends
    #[arg(long)]
    watch: bool,
    /// Print a JSON object a run
    #[arg(long)]
    json: bool,
}

/// Runs `status`.
///
/// # Errors
/// [`Error::File`] for a directory without a run; [`Error::Usage`] if there is no run at all.
pub fn run(args: &StatusArgs) -> Result<()> {
    let root = match &args.run {
        Some(run) => run.clone(),
        None => newest(Path::new(RUNS))?,
    };
    loop {
        let mut running = false;
        let mut out = String::new();
        for dir in stages(&root)? {
            let status = run_status(&dir)?;
            running |= status.running;
            out += &if args.json { json(&dir, &status)? } else { text(&dir, &status) };
        }
        // On a terminal the last picture gives way to this one.
        let clear = if args.watch && !args.json && std::io::stdout().is_terminal() {
            "\u{1b}[2J\u{1b}[H"
        } else {
            ""
        };
        terminal::print(&format!("{clear}{out}"))?;
        if !args.watch || !running {
            return Ok(());
        }
        std::thread::sleep(EVERY);
    }
}

/// Whether a directory has a run's metrics, or has begun to be one.
fn is_run(dir: &Path) -> bool {
    ["metrics.jsonl", "run.json"].iter().any(|file| dir.join(file).is_file())
}

/// The run itself, or the stages of the embedded default in the order in which they were written to.
fn stages(root: &Path) -> Result<Vec<PathBuf>> {
    if is_run(root) || !root.is_dir() {
        return Ok(vec![root.to_owned()]);
    }
    let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(root).map_err(Error::io(root))? {
        let dir = entry.map_err(Error::io(root))?.path();
        if is_run(&dir) {
            found.push((written(&dir), dir));
        }
    }
    if found.is_empty() {
        return Err(Error::file(root, "no run: neither it nor a directory in it has metrics.jsonl"));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, dir)| dir).collect())
}

/// When a run was written to last.
fn written(dir: &Path) -> SystemTime {
    let times = ["metrics.jsonl", "run.json"]
        .iter()
        .filter_map(|file| std::fs::metadata(dir.join(file)).ok()?.modified().ok());
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The run, or the embedded default, that was written to last.
fn newest(runs: &Path) -> Result<PathBuf> {
    let none = || Error::usage(format!("no run in {}: give its directory", runs.display()));
    let entries = std::fs::read_dir(runs).map_err(|_| none())?;
    let dirs = entries.flatten().map(|entry| entry.path());
    let last = dirs.filter_map(|dir| {
        let stages = stages(&dir).ok().filter(|stages| stages.iter().all(|stage| is_run(stage)))?;
        Some((stages.iter().map(|stage| written(stage)).max()?, dir))
    });
    last.max().map(|(_, dir)| dir).ok_or_else(none)
}

fn json(dir: &Path, status: &RunStatus) -> Result<String> {
    let mut value = serde_json::to_value(status).map_err(|e| Error::other(e.to_string()))?;
    value["run"] = dir.display().to_string().into();
    Ok(format!("{value}\n"))
}

/// A run in a few lines.
fn text(dir: &Path, s: &RunStatus) -> String {
    let of = s.total.map_or(String::new(), |total| format!(" of {total}"));
    let state = match (s.running, s.total) {
        (true, _) => format!("running{}", s.pid.map_or(String::new(), |pid| format!(" (process {pid})"))),
        (false, Some(total)) if s.step >= total => "done".to_owned(),
        (false, _) => format!(
            "not running; colar-engine train --config {} --resume goes on with it",
            dir.join("config.toml").display()
        ),
    };
    let mut lines = vec![format!("{}: step {}{of}, {state}", dir.display(), s.step)];
    if let Some(seconds) = s.seconds_per_step {
        let left = s.seconds_left.filter(|&left| left > 0.0);
        let left =
            left.map_or(String::new(), |left| format!(", {} left without validations", duration(left)));
        lines.push(format!("{} a step{left}", duration(seconds)));
    }
    if let Some(last) = s.curve.last() {
        lines.push(format!("{} {last:.4}  {}", s.measure, sparkline(&s.curve, WIDTH)));
    }
    if let Some(validation) = &s.validation {
        let figure = |name: &str| validation.get(name).and_then(serde_json::Value::as_f64);
        let mut parts = vec![format!("validation after step {}", figure("step").unwrap_or(0.0))];
        parts.extend(figure("loss").map(|loss| format!("loss {loss:.4}")));
        parts.extend(figure("reward").map(|reward| format!("reward {reward:.4}")));
        parts.extend(figure("accuracy").map(|accuracy| format!("accuracy {:.1} %", 100.0 * accuracy)));
        lines.push(parts.join(", "));
    }
    lines.join("\n  ") + "\n"
}
