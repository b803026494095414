//! Latents: their noise, draws, losses and log-probabilities (spec sections 3 to 6).

use super::draw::Draw;
use super::memory::MemoryOps;
use super::policy::{PolicyTerms, check_policy};
use super::shape::{Checked, TensorInfo, check_len};
use crate::Result;

/// log_sigma is bounded to this range wherever sigma is formed: outside it exp overflows, or the
/// likelihood does, and a bad run would end in NaN. Inside, nothing changes. How often the bound was
/// met is reported with every loss.
pub const LOG_SIGMA_RANGE: (f32, f32) = (-20.0, 10.0);

/// Sigma of the deterministic head (ablation DL).
pub const DETERMINISTIC_SIGMA: f32 = 1e-9;

/// The scalar factors of one latent loss (spec section 3).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatentWeights {
    /// The distance that is minimised.
    pub loss: LatentLoss,
    /// Factor of the loss's gradient, for instance `latent_weight / (positions * D)`.
    pub loss_scale: f32,
    /// Factor of the entropy's gradient, for instance `entropy_weight / (positions * D)`.
    pub entropy_scale: f32,
}

/// The latent losses of spec section 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LatentLoss {
    /// Negative log-likelihood of the target under N(mu, sigma).
    Nll,
    /// Squared distance of a reparameterised sample ("soft-MSE").
    Mse,
    /// Expectation of [`LatentLoss::Mse`] over its noise: (mu − target)² + sigma².
    MseExpected,
}

/// Gradients that [`LatentOps::latent_logprob`] writes.
pub struct LatentPolicyGrads<'a, D: MemoryOps> {
    /// The objective, an element a latent.
    pub terms: PolicyTerms<'a, D>,
    /// Factor of the entropy's gradient, for instance `entropy_weight / (latents * D)`.
    pub entropy_scale: f32,
    /// `[N,D]`: gradient of mu.
    pub dmu: &'a mut D::Tensor,
    /// `[N,D]`: gradient of log_sigma.
    pub dlog_sigma: &'a mut D::Tensor,
}

/// Draws of latents, and the losses and gradients of their distributions.
///
/// `N` is a number of latents, `D` their width: the hidden size.
pub trait LatentOps: MemoryOps {
    /// Standard normal noise `[rows, cols]`: row `r` from `draws[r]`.
    fn normal(&self, draws: &[Draw], out: &mut Self::Tensor) -> Result<()>;
    /// `out = mu + exp(log_sigma)·temperature·eps`, the reparameterised latent. Without `log_sigma`
    /// (deterministic head) sigma is [`DETERMINISTIC_SIGMA`]. `log_sigma` is bounded by [`LOG_SIGMA_RANGE`].
    fn reparameterise(
        &self,
        mu: &Self::Tensor,
        log_sigma: Option<&Self::Tensor>,
        eps: &Self::Tensor,
        temperature: f32,
        out: &mut Self::Tensor,
    ) -> Result<()>;
    /// Latent loss and entropy (spec section 3), forward and backward in one pass.
    ///
    /// `per_row[N,3]` receives, per position, the mean over D of the loss, the mean of the entropy,
    /// and the number of elements whose log_sigma was bounded. `dmu` and `dlog_sigma` are
    /// overwritten with `loss_scale · ∂Σloss + entropy_scale · ∂Σentropy`, sums over all elements.
    #[allow(clippy::too_many_arguments)]
    fn latent_loss(
        &self,
        weights: LatentWeights,
        mu: &Self::Tensor,
        log_sigma: Option<&Self::Tensor>,
        eps: Option<&Self::Tensor>,
        target: &Self::Tensor,
        per_row: &mut Self::Tensor,
        grads: Option<(&mut Self::Tensor, Option<&mut Self::Tensor>)>,
    ) -> Result<()>;
    /// Log-probabilities of given latents `[N,D]` (in units of `embeds_std`) under N(mu, sigma), and
    /// the gradient of the policy objective on them, in one pass (spec section 6).
    ///
    /// `per_row[N,3]` receives, per latent, the mean over D of the log-density, the mean of the
    /// entropy, and the number of elements whose log_sigma was bounded. The gradients are
    /// overwritten.
    fn latent_logprob(
        &self,
        mu: &Self::Tensor,
        log_sigma: &Self::Tensor,
        latents: &Self::Tensor,
        per_row: &mut Self::Tensor,
        grads: Option<LatentPolicyGrads<'_, Self>>,
    ) -> Result<()>;
    /// Adds the gradient that reaches a reparameterised sample to `dmu` and `dlog_sigma`.
    fn reparameterise_backward(
        &self,
        dz: &Self::Tensor,
        log_sigma: Option<&Self::Tensor>,
        eps: &Self::Tensor,
        dmu: &mut Self::Tensor,
        dlog_sigma: Option<&mut Self::Tensor>,
    ) -> Result<()>;
}

pub(crate) fn check_normal(draws: &[Draw], out: &impl TensorInfo) -> Result<Checked> {
    let all = Checked::of("normal", out);
    check_len(all.op, "draws", draws.len(), all.rows)?;
    Ok(all)
}

pub(crate) fn check_reparameterise<T: TensorInfo>(
    mu: &T,
    log_sigma: Option<&T>,
    eps: &T,
    out: &T,
) -> Result<Checked> {
    let all = Checked::of("reparameterise", mu);
    all.same_if("log_sigma", log_sigma)?;
    all.same("eps", eps)?;
    all.same("out", out)?;
    Ok(all)
}

pub(crate) fn check_reparameterise_backward<T: TensorInfo>(
    dz: &T,
    log_sigma: Option<&T>,
    eps: &T,
    dmu: &T,
    dlog_sigma: Option<&T>,
) -> Result<Checked> {
    let all = Checked::of("reparameterise_backward", dz);
    all.same("eps", eps)?;
    all.same("dmu", dmu)?;
    all.same_if("log_sigma", log_sigma)?;
    all.same_if("dlog_sigma", dlog_sigma)?;
    Ok(all)
}

pub(crate) fn check_latent_loss<T: TensorInfo>(
    mu: &T,
    log_sigma: Option<&T>,
    eps: Option<&T>,
    target: &T,
    per_row: &T,
    grads: Option<(&T, Option<&T>)>,
) -> Result<Checked> {
    let all = Checked::of("latent_loss", mu);
    all.same("target", target)?;
    all.per_row("per_row", per_row, 3)?;
    all.same_if("log_sigma", log_sigma)?;
    all.same_if("eps", eps)?;
    if let Some((dmu, dlog_sigma)) = grads {
        all.same("dmu", dmu)?;
        all.same_if("dlog_sigma", dlog_sigma)?;
    }
    Ok(all)
}

pub(crate) fn check_latent_logprob<D: MemoryOps>(
    mu: &D::Tensor,
    log_sigma: &D::Tensor,
    latents: &D::Tensor,
    per_row: &D::Tensor,
    grads: Option<&LatentPolicyGrads<'_, D>>,
) -> Result<Checked> {
    let all = Checked::of("latent_logprob", mu);
    all.same("log_sigma", log_sigma)?;
    all.same("latents", latents)?;
    all.per_row("per_row", per_row, 3)?;
    if let Some(grads) = grads {
        all.same("dmu", grads.dmu)?;
        all.same("dlog_sigma", grads.dlog_sigma)?;
        check_policy(all, &grads.terms)?;
    }
    Ok(all)
}
