//! The reward of a rollout, and its advantage over its group.

use crate::data::AnswerRule;
use crate::data::verify::Verifier;
use crate::infer::Generation;

/// The judgement of one rollout.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Whether the answer is right.
    pub correct: bool,
    /// The rollout's reward; finite.
    pub reward: f32,
}

/// A reward function.
pub trait Reward: Send + Sync {
    /// Judges a rollout of a question whose answer is `gold`.
    fn score(&self, rollout: &Generation, gold: &str) -> Scored;
}

/// 1 for a right answer, 0 for a wrong or missing one (spec section 6).
pub struct Correctness {
    /// Decides whether an answer is right.
    pub verifier: Box<dyn Verifier>,
    /// Which part of a rollout's text is its answer.
    pub answer_rule: AnswerRule,
    /// Divide by the number of latents, so that of two right rollouts the one with fewer is worth more.
    pub punish_latent_length: bool,
}

impl Reward for Correctness {
    fn score(&self, rollout: &Generation, gold: &str) -> Scored {
        let (answer, gold) = (self.answer_rule.extract(&rollout.text), self.answer_rule.gold(gold));
        let correct = answer.is_some_and(|answer| self.verifier.is_correct(answer, gold));
        let length = if self.punish_latent_length { rollout.n_latents.max(1) as f32 } else { 1.0 };
        Scored { correct, reward: if correct { 1.0 / length } else { 0.0 } }
    }
}

/// The advantages within one group: (r − mean) / (std + 1e-8), with Bessel's correction; all 0 where
/// the rewards are equal (spec section 6).
pub fn advantages(rewards: &[f32]) -> Vec<f32> {
    let n = rewards.len() as f64;
    if rewards.iter().all(|&r| r == rewards[0]) {
        return vec![0.0; rewards.len()];
    }
    let mean = rewards.iter().map(|&r| f64::from(r)).sum::<f64>() / n;
    let squares = rewards.iter().map(|&r| (f64::from(r) - mean).powi(2)).sum::<f64>();
    let std = (squares / (n - 1.0)).sqrt() + 1e-8;
    rewards.iter().map(|&r| ((f64::from(r) - mean) / std) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::verify::VerifierKind;

    #[test]
    fn equal_rewards_have_no_advantage() {
        assert_eq!(advantages(&[0.1; 8]), [0.0; 8]);
        assert_eq!(advantages(&[3.0]), [0.0]);
        assert!(advantages(&[]).is_empty());
    }

    #[test]
    fn advantages_are_standardised_with_bessels_correction() {
        let a = advantages(&[1.0, 0.0, 0.0, 0.0]);
        assert!((a[0] - 1.5).abs() < 1e-6 && (a[1] + 0.5).abs() < 1e-6, "{a:?}");
        let n = a.len() as f32;
        let variance = a.iter().map(|x| x * x).sum::<f32>() / (n - 1.0);
        assert!((variance - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_right_answer_is_worth_more_the_fewer_its_latents_where_length_is_punished() {
        let rollout = |text: &str, n_latents| Generation::saying(text, n_latents, 3);
        let by = |answer_rule, punish_latent_length| Correctness {
            verifier: VerifierKind::Exact.verifier(),
            answer_rule,
            punish_latent_length,
        };
        let (plain, short) = (by(AnswerRule::Last, false), by(AnswerRule::Last, true));
        assert_eq!(plain.score(&rollout("Answer:14.0", 4), "14"), Scored { correct: true, reward: 1.0 });
        assert_eq!(short.score(&rollout("Answer:14", 4), "14"), Scored { correct: true, reward: 0.25 });
        assert_eq!(short.score(&rollout("Answer:15", 4), "14"), Scored { correct: false, reward: 0.0 });
        assert_eq!(plain.score(&rollout("", 4), ""), Scored { correct: false, reward: 0.0 });
        // By the authors' rule a text without the mark is all answer.
        let paper = by(AnswerRule::Paper, false);
        assert!(
            paper.score(&rollout("14", 4), "14").correct && !plain.score(&rollout("14", 4), "14").correct
        );
        assert!(plain.score(&rollout("Answer:14", 4), "Answer: 14").correct, "a gold answer with the mark");
    }
}
