//! Rollouts in plain text, for whoever wants to see which texts are rewarded.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::experience::Experience;
use crate::data::Sample;
use crate::device::Device;
use crate::files::atomic::append_to;
use crate::{Error, Result};

/// How a step's block begins.
const STEP: &str = "step ";

/// The file `rollouts.txt` of a run: a group of rollouts now and then, a block a step.
pub(super) struct RolloutLog {
    path: PathBuf,
    file: std::fs::File,
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
        Ok(RolloutLog { path, file })
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
        }
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
