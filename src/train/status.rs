//! How a run stands, read from its directory while it goes on or after it has ended.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::metrics::Records;
use crate::files::atomic::write_atomic;
use crate::files::json::read_limited;
use crate::files::lock::DirLock;
use crate::{Error, Result};

/// The file that a run writes when it begins or goes on.
const FILE: &str = "run.json";

/// Steps over which the speed is taken.
const RECENT: usize = 20;

/// The record that a process leaves of the run that it performs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Begun {
    /// Its process.
    pub pid: u32,
    /// Steps of the whole run.
    pub total: u64,
}

impl Begun {
    /// This process, and a run of so many steps.
    pub(super) fn here(total: u64) -> Self {
        Begun { pid: std::process::id(), total }
    }

    /// Writes it into a run's directory.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub(super) fn save(self, dir: &Path) -> Result<()> {
        let text = serde_json::to_string(&self).map_err(|e| Error::other(e.to_string()))?;
        write_atomic(&dir.join(FILE), |out| writeln!(out, "{text}"))
    }
}

/// How a run stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RunStatus {
    /// The process that trains it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Whether a process trains it now.
    pub running: bool,
    /// Steps done.
    pub step: u64,
    /// Steps of the whole run; absent for runs of earlier versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Mean seconds of the last steps, validations apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_per_step: Option<f64>,
    /// Seconds that the steps left will take, validations apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<f64>,
    /// The measure of the curve: `loss`, or `reward` of reinforcement learning.
    pub measure: &'static str,
    /// Its values by step.
    pub curve: Vec<f64>,
    /// The last validation's record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<Map<String, Value>>,
}

/// The status of the run in `dir`.
///
/// # Errors
/// [`Error::File`] for a directory that holds no run; errors of reading its files.
pub fn run_status(dir: &Path) -> Result<RunStatus> {
    let metrics = dir.join("metrics.jsonl");
    let begun = dir.join(FILE);
    if !metrics.exists() && !begun.exists() {
        return Err(Error::file(dir, "no run: it has neither metrics.jsonl nor run.json"));
    }
    let records = if metrics.exists() { Records::read(&metrics)? } else { Records::default() };
    let begun: Option<Begun> = match begun.exists() {
        true => {
            let text = read_limited(&begun, 1 << 16)?;
            Some(serde_json::from_slice(&text).map_err(|e| Error::file(&begun, e.to_string()))?)
        }
        false => None,
    };
    let running = DirLock::is_held(dir)?;
    let step = records.of_kind("train").next_back().and_then(|line| line.get("step")?.as_u64()).unwrap_or(0);
    let (total, pid) = (begun.map(|b| b.total), begun.filter(|_| running).map(|b| b.pid));
    let seconds_per_step = seconds_per_step(&records);
    let left = total.map(|total| total.saturating_sub(step));
    let measure = if records.series("train", "reward").is_empty() { "loss" } else { "reward" };
    Ok(RunStatus {
        pid,
        running,
        step,
        total,
        seconds_per_step,
        seconds_left: seconds_per_step.zip(left).map(|(seconds, left)| seconds * left as f64),
        measure,
        curve: records.series("train", measure).into_iter().map(|(_, y)| y).collect(),
        validation: records.of_kind("val").next_back().cloned(),
    })
}

/// Mean seconds of the last steps, by their own records.
fn seconds_per_step(records: &Records) -> Option<f64> {
    let of_step = |line: &Map<String, Value>| {
        let of = |name: &str| line.get(name)?.as_f64();
        let supervised = || Some(of("rows")? / of("tokens_per_second")?);
        supervised()
            .or_else(|| Some(of("rollout_seconds")? + of("update_seconds")?))
            .filter(|s| s.is_finite())
    };
    let recent: Vec<f64> = records.of_kind("train").rev().take(RECENT).filter_map(of_step).collect();
    (!recent.is_empty()).then(|| recent.iter().sum::<f64>() / recent.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_read_as_far_as_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        assert!(run_status(dir.path()).unwrap_err().to_string().contains("no run"));
        Begun { pid: 7, total: 10 }.save(dir.path()).unwrap();
        let at = run_status(dir.path()).unwrap();
        assert_eq!(
            (at.step, at.total, at.pid, at.running, at.seconds_left),
            (0, Some(10), None, false, None)
        );
        let lines = "{\"kind\":\"train\",\"step\":1,\"loss\":3.0,\"rows\":10,\"tokens_per_second\":5}\n\
                     {\"kind\":\"val\",\"step\":1,\"loss\":2.5}\n\
                     {\"kind\":\"train\",\"step\":2,\"loss\":2.0,\"rows\":10,\"tokens_per_second\":10}\n\
                     {\"kind\":\"train\",\"ste";
        std::fs::write(dir.path().join("metrics.jsonl"), lines).unwrap();
        let lock = DirLock::take(dir.path()).unwrap();
        let at = run_status(dir.path()).unwrap();
        assert_eq!((at.step, at.pid, at.running), (2, Some(7), true));
        assert_eq!((at.seconds_per_step, at.seconds_left), (Some(1.5), Some(12.0)));
        assert_eq!((at.measure, at.curve), ("loss", vec![3.0, 2.0]));
        assert_eq!(at.validation.unwrap()["loss"], 2.5);
        drop(lock);
        assert!(!run_status(dir.path()).unwrap().running);
        let lines =
            "{\"kind\":\"train\",\"step\":1,\"reward\":0.5,\"rollout_seconds\":2,\"update_seconds\":1}\n";
        std::fs::write(dir.path().join("metrics.jsonl"), lines).unwrap();
        let at = run_status(dir.path()).unwrap();
        assert_eq!((at.measure, at.seconds_per_step), ("reward", Some(3.0)));
    }
}
