//! Reinforcement learning over latents: GRPO (spec section 6).
//!
//! A step asks the model some questions, several times each; [`reward`] judges the answers, and a rollout's
//! advantage is how much better it did than its group. Then the policy is moved: minibatches of
//! rollouts go through one packed forward and backward pass each, and every latent and answer token becomes
//! likelier or less likely by its rollout's advantage ([`objective`]). Rollouts bring their own
//! log-probabilities along (see [`Rollouts`](crate::infer::Rollouts)), so the old policy needs no pass of its own.

#[cfg(feature = "plots")]
mod curves;
mod experience;
mod measure;
pub mod objective;
mod questions;
pub mod reward;
mod samples;
mod stats;
mod trainer;

pub use experience::{Episode, Experience};
#[cfg(feature = "cli")]
pub(crate) use objective::SUM_DIVISOR;
pub use objective::{PolicyLossOptions, PolicyPass};
pub use reward::{Correctness, Reward, Scored, advantages};
pub use stats::PolicyStats;
pub use trainer::{RlSummary, RlTrainer};
