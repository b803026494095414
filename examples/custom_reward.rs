//! Reinforcement learning with a reward of one's own: right answers, worth more the fewer tokens they take.
//!
//!     cargo run --release --example custom_reward -- MODEL_DIR CHECKPOINT data.jsonl runs/rl

use colar_engine::Generation;
use colar_engine::data::{Verifier, VerifierKind};
use colar_engine::train::{Progress, Reward, RlOptions, RlRun, Scored};

/// One over the tokens of a right answer, nothing for a wrong one.
struct ShortAnswers {
    verifier: Box<dyn Verifier>,
}

impl Reward for ShortAnswers {
    fn score(&self, rollout: &Generation, gold: &str) -> Scored {
        let correct = rollout.answer.as_deref().is_some_and(|answer| self.verifier.is_correct(answer, gold));
        let reward = if correct { 1.0 / rollout.answer_tokens.max(1) as f32 } else { 0.0 };
        Scored { correct, reward }
    }
}

fn main() -> colar_engine::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, adapter, data, out] = args.as_slice() else {
        return Err(colar_engine::Error::usage("give MODEL_DIR CHECKPOINT DATA OUT"));
    };
    let options = RlOptions::new(model, adapter, data, out);
    let reward = ShortAnswers { verifier: VerifierKind::Math.verifier() };
    let summary = RlRun::new(options).reward(reward).start(|progress| {
        if let Progress::Policy(p) = progress {
            println!("step {} of {}: reward {:.3}, {:.1} latents", p.step, p.total, p.reward, p.n_latents);
        }
    })?;
    println!("{} steps; the policy is in {out}/best", summary.steps);
    Ok(())
}
