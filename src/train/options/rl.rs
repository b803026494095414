//! What a run of reinforcement learning is told.

use std::path::PathBuf;

use super::flags::{Stage, TrainFlags, check};
use super::run::{self, RunOptions};
use crate::Result;
use crate::data::verify::VerifierKind;
use crate::infer::Sampling;
use crate::train::rl::PolicyLossOptions;

/// The flags that mean something here alone.
const KNOWN: &[&str] = &[
    "adapter",
    "entropy_weight",
    "cf",
    "group_size",
    "clip_eps",
    "average_per_token_loss",
    "use_latent_loss",
    "use_answer_loss",
    "punish_latent_length",
    "kl_weight",
    "exp_batch_size",
    "samples_per_epoch",
    "filter_solved",
    "verifier",
    "max_latents",
    "max_new_tokens",
    "latent_temperature",
    "eol_temperature",
    "temperature",
    "top_p",
];

/// A run of reinforcement learning, fully specified.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct RlOptions {
    pub run: RunOptions,
    pub adapter: PathBuf,
    pub cf: String,
    pub group_size: usize,
    pub loss: PolicyLossOptions,
    pub punish_latent_length: bool,
    pub exp_batch_size: usize,
    pub samples_per_epoch: usize,
    pub filter_solved: bool,
    pub verifier: VerifierKind,
    /// How rollouts are drawn; the seed is that of the run.
    pub sampling: Sampling,
}

impl TrainFlags {
    /// Fills in the defaults of reinforcement learning and checks every value.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) naming the flag that is missing, out of range or of
    /// another stage.
    pub fn resolve_rl(self) -> Result<RlOptions> {
        self.only("rl", &[KNOWN, run::KNOWN].concat())?;
        let run = RunOptions::from_flags(&self, 1e-6, 50)?;
        let d = Sampling::default();
        let o = RlOptions {
            adapter: TrainFlags::needed(self.adapter, "adapter")?,
            cf: self.cf.unwrap_or_else(|| "2".to_owned()),
            group_size: self.group_size.unwrap_or(8),
            loss: PolicyLossOptions {
                clip_eps: self.clip_eps.unwrap_or(0.2),
                average_per_token_loss: self.average_per_token_loss.unwrap_or(true),
                use_latent_loss: self.use_latent_loss.unwrap_or(true),
                use_answer_loss: self.use_answer_loss.unwrap_or(true),
                kl_weight: self.kl_weight.unwrap_or(0.0),
                entropy_weight: self.entropy_weight.unwrap_or(0.0),
            },
            punish_latent_length: self.punish_latent_length.unwrap_or(false),
            exp_batch_size: self.exp_batch_size.unwrap_or(8),
            samples_per_epoch: self.samples_per_epoch.unwrap_or(512),
            filter_solved: self.filter_solved.unwrap_or(false),
            verifier: self.verifier.unwrap_or_default(),
            sampling: Sampling {
                latent_temperature: self.latent_temperature.unwrap_or(d.latent_temperature),
                eol_temperature: self.eol_temperature.unwrap_or(d.eol_temperature),
                temperature: self.temperature.unwrap_or(d.temperature),
                top_p: self.top_p.unwrap_or(d.top_p),
                max_latents: self.max_latents.unwrap_or(d.max_latents),
                max_new_tokens: self.max_new_tokens.unwrap_or(d.max_new_tokens),
                seed: run.seed,
                ..d
            },
            run,
        };
        o.validate()?;
        Ok(o)
    }
}

impl From<&RlOptions> for TrainFlags {
    /// The flags that say all of it, for storing with the run.
    fn from(o: &RlOptions) -> Self {
        TrainFlags {
            stage: Some(Stage::Rl),
            adapter: Some(o.adapter.clone()),
            cf: Some(o.cf.clone()),
            group_size: Some(o.group_size),
            clip_eps: Some(o.loss.clip_eps),
            average_per_token_loss: Some(o.loss.average_per_token_loss),
            use_latent_loss: Some(o.loss.use_latent_loss),
            use_answer_loss: Some(o.loss.use_answer_loss),
            kl_weight: Some(o.loss.kl_weight),
            entropy_weight: Some(o.loss.entropy_weight),
            punish_latent_length: Some(o.punish_latent_length),
            exp_batch_size: Some(o.exp_batch_size),
            samples_per_epoch: Some(o.samples_per_epoch),
            filter_solved: Some(o.filter_solved),
            verifier: Some(o.verifier),
            max_latents: Some(o.sampling.max_latents),
            max_new_tokens: Some(o.sampling.max_new_tokens),
            latent_temperature: Some(o.sampling.latent_temperature),
            eol_temperature: Some(o.sampling.eol_temperature),
            temperature: Some(o.sampling.temperature),
            top_p: Some(o.sampling.top_p),
            ..o.run.to_flags()
        }
    }
}

impl RlOptions {
    fn validate(&self) -> Result<()> {
        self.sampling.validate()?;
        let most = 1 << 16;
        check(
            (2..=most).contains(&self.group_size),
            "`group_size` must lie in 2..=65536: rewards are compared",
        )?;
        check((1..=most).contains(&self.run.batch_size), "`batch_size` must lie in 1..=65536")?;
        check((1..=1 << 20).contains(&self.exp_batch_size), "`exp_batch_size` must lie in 1..=1048576")?;
        check(self.samples_per_epoch > 0, "`samples_per_epoch` must be at least 1")?;
        check(self.sampling.max_latents <= 1 << 20, "`max_latents` must be at most 1048576")?;
        check(self.sampling.max_new_tokens <= 1 << 20, "`max_new_tokens` must be at most 1048576")?;
        let loss = &self.loss;
        check((0.0..1.0).contains(&loss.clip_eps), "`clip_eps` must lie in 0..1")?;
        check(
            loss.kl_weight.is_finite() && loss.kl_weight >= 0.0,
            "`kl_weight` must be a number of at least 0",
        )?;
        check(
            loss.use_latent_loss || loss.use_answer_loss,
            "`use_latent_loss` and `use_answer_loss` are both false",
        )?;
        check(loss.entropy_weight.is_finite(), "`entropy_weight` must be finite")
    }
}
