//! Draws, losses and densities of latents.

use colar_engine::Result;
use colar_engine::device::prelude::*;
use colar_engine::device::{
    DETERMINISTIC_SIGMA, Draw, LOG_SIGMA_RANGE, LatentLoss, LatentPolicyGrads, LatentWeights,
};
use colar_engine::random::Philox;

use super::{Float64, Float64Tensor, forward_only, refused};

impl LatentOps for Float64 {
    fn normal(&self, draws: &[Draw], out: &mut Float64Tensor) -> Result<()> {
        normal(draws, out);
        Ok(())
    }

    fn reparameterise(
        &self,
        mu: &Float64Tensor,
        log_sigma: Option<&Float64Tensor>,
        eps: &Float64Tensor,
        temperature: f32,
        out: &mut Float64Tensor,
    ) -> Result<()> {
        reparameterise(mu, log_sigma, eps, temperature.into(), out);
        Ok(())
    }

    fn reparameterise_backward(
        &self,
        _: &Float64Tensor,
        _: Option<&Float64Tensor>,
        _: &Float64Tensor,
        _: &mut Float64Tensor,
        _: Option<&mut Float64Tensor>,
    ) -> Result<()> {
        refused("reparameterise_backward")
    }

    /// The targets of the first call are those of all later ones: they are constants to the objective, so a finite
    /// difference must keep them fixed while the embeddings that they were made of move.
    fn latent_loss(
        &self,
        weights: LatentWeights,
        mu: &Float64Tensor,
        log_sigma: Option<&Float64Tensor>,
        eps: Option<&Float64Tensor>,
        target: &Float64Tensor,
        per_row: &mut Float64Tensor,
        grads: Option<(&mut Float64Tensor, Option<&mut Float64Tensor>)>,
    ) -> Result<()> {
        forward_only("latent_loss", grads)?;
        let mut first = self.targets.lock().unwrap();
        let target = first.get_or_insert_with(|| target.clone());
        latent_loss(weights.loss, mu, log_sigma, eps, target, per_row);
        Ok(())
    }

    fn latent_logprob(
        &self,
        mu: &Float64Tensor,
        log_sigma: &Float64Tensor,
        latents: &Float64Tensor,
        per_row: &mut Float64Tensor,
        grads: Option<LatentPolicyGrads<'_, Self>>,
    ) -> Result<()> {
        forward_only("latent_logprob", grads)?;
        latent_logprob(mu, log_sigma, latents, per_row);
        Ok(())
    }
}

/// log_sigma within its bounds, and whether it met one.
fn bounded(log_sigma: f64) -> (f64, bool) {
    let (low, high) = LOG_SIGMA_RANGE;
    let held = log_sigma.clamp(f64::from(low), f64::from(high));
    (held, held != log_sigma)
}

/// Half of log(2π).
fn half_log_tau() -> f64 {
    0.5 * std::f64::consts::TAU.ln()
}

/// The float32 draws of every device, widened.
fn normal(draws: &[Draw], out: &mut Float64Tensor) {
    assert_eq!(draws.len(), out.rows);
    for (draw, row) in draws.iter().zip(out.values.chunks_exact_mut(out.cols)) {
        let philox = Philox::new(draw.key);
        for (block, out) in (0..).zip(row.chunks_mut(4)) {
            let drawn = philox.normals([block, draw.counter[0], draw.counter[1], 0]);
            out.iter_mut().zip(drawn).for_each(|(o, z)| *o = f64::from(z));
        }
    }
}

/// `out = mu + sigma·temperature·eps`.
fn reparameterise(
    mu: &Float64Tensor,
    log_sigma: Option<&Float64Tensor>,
    eps: &Float64Tensor,
    temperature: f64,
    out: &mut Float64Tensor,
) {
    mu.like(eps);
    mu.like(out);
    for (i, out) in out.values.iter_mut().enumerate() {
        let sigma = log_sigma.map_or(f64::from(DETERMINISTIC_SIGMA), |ls| bounded(ls.values[i]).0.exp());
        *out = mu.values[i] + sigma * temperature * eps.values[i];
    }
}

/// `per_row[N, 3]` receives mean loss, mean entropy, and the number of bounded log_sigma.
fn latent_loss(
    loss: LatentLoss,
    mu: &Float64Tensor,
    log_sigma: Option<&Float64Tensor>,
    eps: Option<&Float64Tensor>,
    target: &Float64Tensor,
    per_row: &mut Float64Tensor,
) {
    mu.like(target);
    assert_eq!((per_row.rows, per_row.cols), (mu.rows, 3));
    let element = |e: usize| {
        let fixed = f64::from(DETERMINISTIC_SIGMA).ln();
        let (ls, hit) = log_sigma.map_or((fixed, false), |x| bounded(x.values[e]));
        let (sigma, gap) = (ls.exp(), mu.values[e] - target.values[e]);
        let loss = match loss {
            LatentLoss::Nll => 0.5 * (gap / sigma).powi(2) + ls + half_log_tau(),
            LatentLoss::Mse => (gap + sigma * eps.map_or(0.0, |x| x.values[e])).powi(2),
            LatentLoss::MseExpected => gap * gap + sigma * sigma,
        };
        [loss, 0.5 + half_log_tau() + ls, f64::from(u8::from(hit))]
    };
    means(mu.cols, element, per_row);
}

/// `per_row[N, 3]` receives mean log-density, mean entropy, and the number of bounded log_sigma.
fn latent_logprob(
    mu: &Float64Tensor,
    log_sigma: &Float64Tensor,
    latents: &Float64Tensor,
    per_row: &mut Float64Tensor,
) {
    mu.like(log_sigma);
    mu.like(latents);
    assert_eq!((per_row.rows, per_row.cols), (mu.rows, 3));
    let element = |e: usize| {
        let (ls, hit) = bounded(log_sigma.values[e]);
        let z = (latents.values[e] - mu.values[e]) * (-ls).exp();
        [-(0.5 * z * z + ls + half_log_tau()), 0.5 + half_log_tau() + ls, f64::from(u8::from(hit))]
    };
    means(mu.cols, element, per_row);
}

/// Of each row of `cols` elements the means of the first two figures, and the sum of the third.
fn means(cols: usize, element: impl Fn(usize) -> [f64; 3], per_row: &mut Float64Tensor) {
    for (r, out) in per_row.values.chunks_exact_mut(3).enumerate() {
        let sums = (r * cols..(r + 1) * cols)
            .map(&element)
            .fold([0.0; 3], |s, x| [s[0] + x[0], s[1] + x[1], s[2] + x[2]]);
        out.copy_from_slice(&[sums[0] / cols as f64, sums[1] / cols as f64, sums[2]]);
    }
}
