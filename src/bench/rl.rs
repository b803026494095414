//! A rollout of one group and an update on it, as reinforcement learning runs them.
//!
//! Latents and answers have a fixed number: the separator is never drawn, so that the latents end at their limit,
//! and no token ends the answer. Everything else is as in training, sampling included.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::opened::{TRAINED, open_for_training};
use super::timer::median;
use crate::data;
use crate::device::{AdamW, Device};
use crate::infer::{Generation, Loaded, Sampling};
use crate::model::adapter::AdapterConfig;
use crate::model::params::Grads;
use crate::random::Stream;
use crate::train::optimizer::Optimizer;
use crate::train::rl::objective::run;
use crate::train::rl::{Episode, Experience, PolicyLossOptions, Reward, Scored};
use crate::{Error, Result};

/// Settings of a timed step of reinforcement learning.
#[derive(Debug, Clone, PartialEq)]
pub struct RlStepOptions {
    /// Model directory.
    pub model: PathBuf,
    /// Data, whose first question is asked.
    pub data: PathBuf,
    /// Compression factor in the prompt.
    pub compression_factor: usize,
    /// Rollouts of the question.
    pub group_size: usize,
    /// Latents of every rollout.
    pub n_latents: usize,
    /// Tokens of every answer, the separator before it not counted.
    pub answer_tokens: usize,
    /// Inner width of the latent head.
    pub head_size: Option<usize>,
    /// The adapter.
    pub lora: AdapterConfig,
    /// Timed steps, after one that is not.
    pub steps: usize,
}

/// Timings of a rollout and its update.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RlStepTiming {
    /// Median seconds of a rollout: prompt, latents, answer, and their log-probabilities.
    pub rollout_s: f64,
    /// Median seconds of an update on all of it: forward, loss, backward, AdamW.
    pub update_s: f64,
    /// Rollouts of the question.
    pub group_size: usize,
    /// Tokens of the prompt.
    pub question_tokens: usize,
    /// Latents of every rollout.
    pub n_latents: usize,
    /// Tokens of every answer.
    pub answer_tokens: usize,
    /// Every rollout's seconds.
    pub rollout_s_all: Vec<f64>,
    /// Every update's seconds.
    pub update_s_all: Vec<f64>,
}

/// Rewards that differ within every group, so that every rollout is learnt from.
struct ByAnswer;

impl Reward for ByAnswer {
    fn score(&self, rollout: &Generation, _gold: &str) -> Scored {
        let sum = rollout.token_ids.iter().fold(0u64, |sum, &id| sum + u64::from(id));
        Scored { correct: false, reward: (sum % 1009) as f32 }
    }
}

/// Times rollouts of one group and updates on them.
///
/// # Errors
/// Bad model or data files, and errors of the device.
pub fn rl_step<D: Device>(device: &D, options: &RlStepOptions) -> Result<RlStepTiming> {
    let mut opened = open_for_training(device, &options.model, &options.lora, options.head_size)?;
    opened.eos.stop.clear();
    let samples = data::load(&options.data, None)?;
    let question = samples.first().ok_or_else(|| Error::file(&options.data, "the data set is empty"))?;
    let mut grads = Grads::new(device, &opened.model.params, TRAINED)?;
    let mut optimizer = Optimizer::new(device, &opened.model.params, &grads)?;
    let mut loaded = Loaded::from_opened(device.clone(), opened);
    let sampling = Sampling {
        max_latents: options.n_latents,
        max_new_tokens: options.answer_tokens,
        separator_bias: -1e4,
        ..Sampling::default()
    };
    let loss = PolicyLossOptions::default();
    device.scope(|| {
        let (mut rollouts, mut updates, mut question_tokens) = (Vec::new(), Vec::new(), 0);
        for step in 1..=options.steps as u64 + 1 {
            let start = Instant::now();
            let (compression_factor, seeds) =
                (options.compression_factor.to_string(), &mut Stream::new(0, step));
            let experience = Experience::gather(
                &loaded,
                &[question],
                options.group_size,
                &compression_factor,
                sampling,
                &ByAnswer,
                seeds,
            )?;
            let rolled = start.elapsed().as_secs_f64();

            let start = Instant::now();
            let episodes: Vec<&Episode> = experience.episodes.iter().collect();
            let (latents, n) = (&experience.latents, episodes.len());
            grads.clear(device)?;
            run(device, &loaded.opened.model, &loss, latents, &episodes, n, Some(&mut grads))?;
            let hyper = AdamW::new(1e-6, 0.01, step);
            optimizer.step(device, &mut loaded.opened.model.params, &grads, &hyper, 1.0)?;
            if step > 1 {
                rollouts.push(rolled);
                updates.push(start.elapsed().as_secs_f64());
            }
            question_tokens = experience.episodes.first().map_or(0, |e| e.trace.prompt.len());
        }
        Ok(RlStepTiming {
            rollout_s: median(rollouts.clone()),
            update_s: median(updates.clone()),
            group_size: options.group_size,
            question_tokens,
            n_latents: options.n_latents,
            answer_tokens: options.answer_tokens,
            rollout_s_all: rollouts,
            update_s_all: updates,
        })
    })
}
