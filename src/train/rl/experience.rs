//! The rollouts of a step, judged and compared within their groups.

use super::reward::{Reward, advantages};
use crate::data::Sample;
use crate::device::Device;
use crate::infer::{Generation, Loaded, Prompt, Request, Rollouts, Sampling, Trace};
use crate::model::prompt::Method;
use crate::random::Stream;
use crate::{Error, Result};

/// One rollout with its reward and advantage.
#[derive(Debug, Clone, PartialEq)]
pub struct Episode {
    /// The question that it answers, by its place in the step.
    pub group: usize,
    /// The draws, with their log-probabilities.
    pub trace: Trace,
    /// Log-probabilities under the reference policy, of latents and of answer tokens, where known.
    pub reference: Option<(Vec<f32>, Vec<f32>)>,
    /// Whether the answer was right.
    pub correct: bool,
    /// The reward.
    pub reward: f32,
    /// The advantage within the group.
    pub advantage: f32,
}

/// The rollouts of a step.
pub struct Experience<D: Device> {
    /// The generations.
    pub generations: Vec<Generation>,
    /// The latents of all rollouts, end to end: `[Σ n_latents, D]`, in units of `embeds_std`.
    pub latents: D::Tensor,
    /// A rollout each, in the order of the generations: `group_size` a question.
    pub episodes: Vec<Episode>,
}

impl<D: Device> Experience<D> {
    /// Answers each question `group_size` times; every rollout's seed is drawn from `seeds`.
    ///
    /// # Errors
    /// Errors of generation, and a reward that is not finite.
    pub fn gather(
        loaded: &Loaded<D>,
        questions: &[&Sample],
        group_size: usize,
        compression_factor: &str,
        sampling: Sampling,
        reward: &dyn Reward,
        seeds: &mut Stream,
    ) -> Result<Self> {
        let mut requests = Vec::with_capacity(questions.len() * group_size);
        for sample in questions {
            for _ in 0..group_size {
                let prompt = Prompt::Question {
                    text: sample.question.clone(),
                    method: Method::Colar,
                    compression_factor: compression_factor.to_owned(),
                };
                let sampling = Sampling { seed: seeds.next_u64(), ..sampling };
                requests.push(Request { prompt, sampling, trace: false, adapter: None });
            }
        }
        let Rollouts { generations, latents, traces } = loaded.rollout(&requests)?;
        let mut episodes = Vec::with_capacity(requests.len());
        for (i, (trace, generation)) in traces.into_iter().zip(&generations).enumerate() {
            let group = i / group_size;
            let scored = reward.score(generation, &questions[group].answer);
            if !scored.reward.is_finite() {
                return Err(Error::other(format!("the reward of a rollout is {}", scored.reward)));
            }
            let (correct, reward) = (scored.correct, scored.reward);
            episodes.push(Episode { group, trace, reference: None, correct, reward, advantage: 0.0 });
        }
        for group in episodes.chunks_mut(group_size) {
            let rewards: Vec<f32> = group.iter().map(|e| e.reward).collect();
            for (episode, advantage) in group.iter_mut().zip(advantages(&rewards)) {
                episode.advantage = advantage;
            }
        }
        Ok(Experience { generations, latents, episodes })
    }
}
