//! Options of reinforcement learning.

use std::path::{Path, PathBuf};

use super::choices::Stage;
use super::conditions;
use super::flags::{TrainFlags, check};
use super::run::RunOptions;
use crate::data::AnswerRule;
use crate::data::verify::VerifierKind;
use crate::infer::Sampling;
use crate::model::prompt::{DEFAULT_COMPRESSION_FACTOR, parse_compression_factor};
use crate::train::rl::PolicyLossOptions;
use crate::{Error, Result};

/// Most rollouts of a step.
const MOST_ROLLOUTS: usize = 1 << 16;

/// The options of a run of reinforcement learning.
///
/// ```
/// use colar_engine::train::RlOptions;
///
/// let mut options = RlOptions::new("models/SmolLM2-135M", "runs/colar/best", "train.jsonl", "runs/rl");
/// options.punish_latent_length = true;
/// options.run.max_steps = Some(100);
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RlOptions {
    /// Options common to all runs.
    pub run: RunOptions,
    /// The checkpoint to start from, of a model that reasons in latents.
    pub adapter: PathBuf,
    /// The compression factor in the prompts: a number or `auto`.
    pub compression_factor: String,
    /// Rollouts of a question, whose rewards are compared.
    pub group_size: usize,
    /// The terms of the objective.
    pub loss: PolicyLossOptions,
    /// Whether the reward is divided by the number of latents.
    pub punish_latent_length: bool,
    /// Rollouts of one update.
    pub exp_batch_size: usize,
    /// Questions of an epoch, drawn afresh for each.
    pub samples_per_epoch: usize,
    /// Whether questions that the checkpoint solves in all rollouts of a group are left out.
    pub filter_solved: bool,
    /// How an answer is compared with the gold one.
    pub verifier: VerifierKind,
    /// Which part of a rollout's text is its answer.
    pub answer_rule: AnswerRule,
    /// How rollouts are drawn; their seeds follow from that of the run.
    pub sampling: Sampling,
}

setters!(RlOptions {
    run: RunOptions,
    group_size: usize,
    loss: PolicyLossOptions,
    punish_latent_length: bool,
    exp_batch_size: usize,
    samples_per_epoch: usize,
    filter_solved: bool,
    verifier: VerifierKind,
    answer_rule: AnswerRule,
    sampling: Sampling,
});
setters!(RlOptions into {
    adapter: PathBuf,
    compression_factor: String,
});

impl Default for RlOptions {
    /// GRPO as the paper has it, without paths.
    fn default() -> Self {
        RlOptions {
            run: RunOptions { lr: 1e-6, save_every: 50, ..RunOptions::default() },
            adapter: PathBuf::new(),
            compression_factor: DEFAULT_COMPRESSION_FACTOR.to_owned(),
            group_size: 8,
            loss: PolicyLossOptions::default(),
            punish_latent_length: false,
            exp_batch_size: 8,
            samples_per_epoch: 512,
            filter_solved: false,
            verifier: VerifierKind::default(),
            answer_rule: AnswerRule::default(),
            sampling: Sampling::default(),
        }
    }
}

impl TrainFlags {
    /// Fills in the defaults of reinforcement learning and checks every value.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) naming the flag that is missing, out of range or of
    /// another stage.
    pub fn resolve_rl(self) -> Result<RlOptions> {
        self.check_ranges()?;
        conditions::check(&TrainFlags { stage: Some(Stage::Rl), ..self.clone() })?;
        let d = RlOptions::default();
        let o = RlOptions {
            run: RunOptions::from_flags(&self, d.run)?,
            adapter: TrainFlags::needed(self.adapter, "adapter")?,
            compression_factor: factor(&self.cf.unwrap_or(d.compression_factor))?,
            group_size: self.group_size.unwrap_or(d.group_size),
            loss: PolicyLossOptions {
                clip_eps: self.clip_eps.unwrap_or(d.loss.clip_eps),
                average_per_token_loss: self.average_per_token_loss.unwrap_or(d.loss.average_per_token_loss),
                use_latent_loss: self.use_latent_loss.unwrap_or(d.loss.use_latent_loss),
                use_answer_loss: self.use_answer_loss.unwrap_or(d.loss.use_answer_loss),
                kl_weight: self.kl_weight.unwrap_or(d.loss.kl_weight),
                entropy_weight: self.entropy_weight.unwrap_or(d.loss.entropy_weight),
            },
            punish_latent_length: self.punish_latent_length.unwrap_or(d.punish_latent_length),
            exp_batch_size: self.exp_batch_size.unwrap_or(d.exp_batch_size),
            samples_per_epoch: self.samples_per_epoch.unwrap_or(d.samples_per_epoch),
            filter_solved: self.filter_solved.unwrap_or(d.filter_solved),
            verifier: self.verifier.unwrap_or(d.verifier),
            answer_rule: self.answer_rule.unwrap_or(d.answer_rule),
            sampling: Sampling {
                latent_temperature: self.latent_temperature.unwrap_or(d.sampling.latent_temperature),
                eol_temperature: self.eol_temperature.unwrap_or(d.sampling.eol_temperature),
                temperature: self.temperature.unwrap_or(d.sampling.temperature),
                top_p: self.top_p.unwrap_or(d.sampling.top_p),
                max_latents: self.max_latents.unwrap_or(d.sampling.max_latents),
                max_new_tokens: self.max_new_tokens.unwrap_or(d.sampling.max_new_tokens),
                ..d.sampling
            },
        };
        o.validate()?;
        Ok(o)
    }
}

impl From<&RlOptions> for TrainFlags {
    /// The flags of all options that have an effect beside the others, for storing with the run.
    fn from(o: &RlOptions) -> Self {
        o.to_flags().effective()
    }
}

/// A compression factor in its one spelling.
fn factor(text: &str) -> Result<String> {
    parse_compression_factor(text).map_err(|e| Error::usage(format!("`cf` {text:?}: {e}")))
}

impl RlOptions {
    /// The flags that state all of these options.
    pub(crate) fn to_flags(&self) -> TrainFlags {
        let o = self;
        TrainFlags {
            stage: Some(Stage::Rl),
            adapter: Some(o.adapter.clone()),
            cf: Some(o.compression_factor.clone()),
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
            answer_rule: Some(o.answer_rule),
            max_latents: Some(o.sampling.max_latents),
            max_new_tokens: Some(o.sampling.max_new_tokens),
            latent_temperature: Some(o.sampling.latent_temperature),
            eol_temperature: Some(o.sampling.eol_temperature),
            temperature: Some(o.sampling.temperature),
            top_p: Some(o.sampling.top_p),
            ..o.run.to_flags()
        }
    }

    /// Options of a run on this model, from the checkpoint `adapter`, on this data, kept in the directory `out`.
    pub fn new(
        model: impl Into<PathBuf>,
        adapter: impl Into<PathBuf>,
        data: impl Into<PathBuf>,
        out: impl Into<PathBuf>,
    ) -> Self {
        let mut options = RlOptions { adapter: adapter.into(), ..RlOptions::default() };
        (options.run.model, options.run.data, options.run.out) = (model.into(), data.into(), out.into());
        options
    }

    /// Reads a TOML file with the names of `train`'s flags as keys, for instance the `config.toml` of a run.
    ///
    /// # Errors
    /// As [`TrainOptions::from_toml`](super::TrainOptions::from_toml).
    pub fn from_toml(path: impl AsRef<Path>) -> Result<Self> {
        TrainFlags::from_toml(path.as_ref())?.resolve_rl()
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) naming the one that is out of range, as the flag that sets it.
    pub(crate) fn validate(&self) -> Result<()> {
        self.to_flags().check_ranges()?;
        factor(&self.compression_factor)?;
        self.run.validate()?;
        self.sampling.validate()?;
        check(
            self.run.batch_size.saturating_mul(self.group_size) <= MOST_ROLLOUTS,
            "`batch_size` times `group_size` takes 2 to 65536",
        )?;
        let loss = &self.loss;
        check(
            loss.use_latent_loss || loss.use_answer_loss,
            "`use_latent_loss` and `use_answer_loss` are both false",
        )
    }
}
