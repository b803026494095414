//! Rollouts in plain text, for whoever wants to see which texts are rewarded, and the same as JSON for programs.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::experience::Experience;
use serde_json::{Value, json};

use crate::data::Sample;
use crate::device::Device;
use crate::files::atomic::append_to;
use crate::{Error, Result};

/// How a step's block begins.
const STEP: &str = "step ";

/// The files `rollouts.txt` and `rollouts.jsonl` of a run: a group of rollouts of every step, as a block of text and as an
/// object a line.
pub(super) struct RolloutLog {
    path: PathBuf,
    file: std::fs::File,
    json_path: PathBuf,
    json: std::fs::File,
}

impl RolloutLog {
    /// Opens the file for a run that has done `step` steps; samples of an interrupted run beyond them
    /// are dropped.
    pub(super) fn open(root: &Path, step: u64) -> Result<Self> {
        let path = root.join("rollouts.txt");
        let mut keep = true;
        let file = append_to(&path, |line| {
            if let Some(rest) = line.strip_prefix(STEP) {
                let number = rest.split(':').next().unwrap_or(rest);
                keep = number.trim().parse::<u64>().is_ok_and(|s| s <= step);
            }
            keep
        })?;
        let json_path = root.join("rollouts.jsonl");
        let json = append_to(&json_path, |line| {
            serde_json::from_str::<Value>(line).is_ok_and(|v| v["step"].as_u64().is_some_and(|s| s <= step))
        })?;
        Ok(RolloutLog { path, file, json_path, json })
    }

    /// Writes the first group of a step.
    pub(super) fn record<D: Device>(
        &mut self,
        step: u64,
        question: &Sample,
        experience: &Experience<D>,
    ) -> Result<()> {
        let mut text = format!("{STEP}{step}: {}\n", one_line(&question.question));
        let group = experience.episodes.iter().zip(&experience.generations);
        let mut rollouts = Vec::new();
        let _ = writeln!(text, "  gold {}", one_line(&question.answer));
        for (episode, generation) in group.take_while(|(e, _)| e.group == 0) {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "  {} {:>3} latents  reward {:.4}  advantage {:+.3}  logprob of latents {:+.3} of answer {:+.3}  {}",
                if episode.correct { "right" } else { "wrong" },
                generation.n_latents,
                episode.reward,
                episode.advantage,
                mean(&episode.trace.latent_logprobs),
                mean(&episode.trace.answer_logprobs),
                one_line(&generation.text),
            );
            rollouts.push(json!({
                "right": episode.correct,
                "n_latents": generation.n_latents,
                "reward": episode.reward,
                "advantage": episode.advantage,
                "latent_logprob": mean(&episode.trace.latent_logprobs),
                "answer_logprob": mean(&episode.trace.answer_logprobs),
                "text": generation.text,
            }));
        }
        let line = json!({
            "step": step,
            "question": question.question,
            "gold": question.answer,
            "rollouts": rollouts,
        });
        writeln!(self.json, "{line}").map_err(Error::io(&self.json_path))?;
        text.push('\n');
        self.file.write_all(text.as_bytes()).map_err(Error::io(&self.path))
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn mean(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x)).sum::<f64>() / x.len().max(1) as f64
}
