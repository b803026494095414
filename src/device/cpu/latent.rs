//! The latent draw and the latent losses (spec sections 3 and 4), forward and backward.

use super::CpuDevice;
use super::buffer::CpuTensor;
use super::par::{self, SharedMut, row_grain};
use super::policy::{Policy, policy};
use super::rows::add;
use crate::Result;
use crate::device::draw::Draw;
use crate::device::latent::{
    DETERMINISTIC_SIGMA, LOG_SIGMA_RANGE, LatentLoss, LatentOps, LatentPolicyGrads, LatentWeights,
    check_latent_logprob, check_latent_loss, check_normal, check_reparameterise,
    check_reparameterise_backward,
};
use crate::device::shape::Checked;
use crate::random::Philox;

impl LatentOps for CpuDevice {
    fn normal(&self, draws: &[Draw], out: &mut CpuTensor) -> Result<()> {
        let Checked { op, cols, .. } = check_normal(draws, out)?;
        normal(draws, cols, out.f32_mut(op)?);
        Ok(())
    }

    fn reparameterise(
        &self,
        mu: &CpuTensor,
        log_sigma: Option<&CpuTensor>,
        eps: &CpuTensor,
        temperature: f32,
        out: &mut CpuTensor,
    ) -> Result<()> {
        let op = check_reparameterise(mu, log_sigma, eps, out)?.op;
        let log_sigma = log_sigma.map(|t| t.f32(op)).transpose()?;
        reparameterise(mu.f32(op)?, log_sigma, eps.f32(op)?, temperature, out.f32_mut(op)?);
        Ok(())
    }

    fn latent_loss(
        &self,
        weights: LatentWeights,
        mu: &CpuTensor,
        log_sigma: Option<&CpuTensor>,
        eps: Option<&CpuTensor>,
        target: &CpuTensor,
        per_row: &mut CpuTensor,
        grads: Option<(&mut CpuTensor, Option<&mut CpuTensor>)>,
    ) -> Result<()> {
        let given = grads.as_ref().map(|(dmu, dlog_sigma)| (&**dmu, dlog_sigma.as_deref()));
        let Checked { op, cols, .. } = check_latent_loss(mu, log_sigma, eps, target, per_row, given)?;
        let inputs = LatentInputs {
            mu: mu.f32(op)?,
            log_sigma: log_sigma.map(|t| t.f32(op)).transpose()?,
            eps: eps.map(|t| t.f32(op)).transpose()?,
            target: target.f32(op)?,
        };
        let grads = match grads {
            Some((dmu, dls)) => Some((dmu.f32_mut(op)?, dls.map(|t| t.f32_mut(op)).transpose()?)),
            None => None,
        };
        latent_loss(weights, &inputs, cols, per_row.f32_mut(op)?, grads);
        Ok(())
    }

    fn latent_logprob(
        &self,
        mu: &CpuTensor,
        log_sigma: &CpuTensor,
        latents: &CpuTensor,
        per_row: &mut CpuTensor,
        grads: Option<LatentPolicyGrads<'_, Self>>,
    ) -> Result<()> {
        let Checked { op, cols, .. } = check_latent_logprob(mu, log_sigma, latents, per_row, grads.as_ref())?;
        let grads = match grads {
            Some(g) => Some(PolicyGrads {
                policy: policy(op, &g.terms)?,
                entropy_scale: g.entropy_scale,
                dmu: g.dmu.f32_mut(op)?,
                dlog_sigma: g.dlog_sigma.f32_mut(op)?,
            }),
            None => None,
        };
        let [mu, log_sigma, latents] = [mu.f32(op)?, log_sigma.f32(op)?, latents.f32(op)?];
        latent_logprob(mu, log_sigma, latents, cols, per_row.f32_mut(op)?, grads);
        Ok(())
    }

    fn reparameterise_backward(
        &self,
        dz: &CpuTensor,
        log_sigma: Option<&CpuTensor>,
        eps: &CpuTensor,
        dmu: &mut CpuTensor,
        dlog_sigma: Option<&mut CpuTensor>,
    ) -> Result<()> {
        let op = check_reparameterise_backward(dz, log_sigma, eps, dmu, dlog_sigma.as_deref())?.op;
        let log_sigma = log_sigma.map(|t| t.f32(op)).transpose()?;
        let dlog_sigma = dlog_sigma.map(|t| t.f32_mut(op)).transpose()?;
        reparameterise_backward(dz.f32(op)?, log_sigma, eps.f32(op)?, dmu.f32_mut(op)?, dlog_sigma);
        Ok(())
    }
}

/// Half of log(2π).
const HALF_LOG_TAU: f32 = 0.918_938_5;

/// Bounds log_sigma; the flag says whether the bound was met.
#[inline]
fn bounded(log_sigma: f32) -> (f32, bool) {
    let (low, high) = LOG_SIGMA_RANGE;
    // A NaN must stay one, so that the step that made it is reported.
    if log_sigma < low {
        (low, true)
    } else if log_sigma > high {
        (high, true)
    } else {
        (log_sigma, false)
    }
}

/// Row `r` of `out` is standard normal noise from `draws[r]`: column block `b` of four is the block
/// of counter `[b, c0, c1, 0]`.
fn normal(draws: &[Draw], cols: usize, out: &mut [f32]) {
    par::split_rows(out, cols, row_grain(cols).div_ceil(8), |first, rows| {
        for (row, draw) in rows.chunks_exact_mut(cols).zip(&draws[first..]) {
            let philox = Philox::new(draw.key);
            for (block, out) in row.chunks_mut(4).enumerate() {
                let z = philox.normals([block as u32, draw.counter[0], draw.counter[1], 0]);
                out.copy_from_slice(&z[..out.len()]);
            }
        }
    });
}

/// `out = mu + sigma·temperature·eps`.
fn reparameterise(mu: &[f32], log_sigma: Option<&[f32]>, eps: &[f32], temperature: f32, out: &mut [f32]) {
    for (i, o) in out.iter_mut().enumerate() {
        let sigma = log_sigma.map_or(DETERMINISTIC_SIGMA, |ls| libm::expf(bounded(ls[i]).0));
        *o = mu[i] + sigma * temperature * eps[i];
    }
}

/// Gradients of the policy objective on latents.
struct PolicyGrads<'a> {
    policy: Policy<'a>,
    entropy_scale: f32,
    /// `[N, D]`, overwritten.
    dmu: &'a mut [f32],
    /// `[N, D]`, overwritten.
    dlog_sigma: &'a mut [f32],
}

/// `per_row[N,3]` receives mean log-density, mean entropy, and the count of bounded log_sigma.
///
/// A row is read twice where its gradient is wanted: that depends on the whole row's mean, and a row
/// of a few thousand floats is still in the cache.
fn latent_logprob(
    mu: &[f32],
    log_sigma: &[f32],
    latents: &[f32],
    cols: usize,
    per_row: &mut [f32],
    grads: Option<PolicyGrads<'_>>,
) {
    let grads =
        grads.map(|g| (g.policy, g.entropy_scale, SharedMut::new(g.dmu), SharedMut::new(g.dlog_sigma)));
    par::split_rows(per_row, 3, row_grain(cols).div_ceil(8), |first, rows| {
        for (r, stats) in (first..).zip(rows.chunks_exact_mut(3)) {
            let at = r * cols..(r + 1) * cols;
            let (mut logprob, mut entropy, mut hits) = (0.0f64, 0.0f64, 0u32);
            for e in at.clone() {
                let (ls, hit) = bounded(log_sigma[e]);
                let z = (latents[e] - mu[e]) * libm::expf(-ls);
                logprob -= f64::from(0.5 * z * z + ls + HALF_LOG_TAU);
                entropy += f64::from(0.5 + HALF_LOG_TAU + ls);
                hits += u32::from(hit);
            }
            let logprob = (logprob / cols as f64) as f32;
            stats.copy_from_slice(&[logprob, (entropy / cols as f64) as f32, hits as f32]);
            let Some((policy, entropy_scale, dmu, dls)) = &grads else { continue };
            let upstream = policy.gradient(r, logprob) / cols as f32;
            // SAFETY: `at` is the range of one row, and each row belongs to one task.
            let (dmu, dls) = unsafe { (dmu.slice(at.clone()), dls.slice(at.clone())) };
            for ((e, dmu), dls) in at.zip(dmu).zip(dls) {
                let (ls, hit) = bounded(log_sigma[e]);
                let inverse = libm::expf(-ls);
                let z = (latents[e] - mu[e]) * inverse;
                *dmu = upstream * z * inverse;
                *dls = if hit { 0.0 } else { upstream * (z * z - 1.0) + entropy_scale };
            }
        }
    });
}

/// Adds `dz` to `dmu`, and `dz·sigma·eps` to `dlog_sigma`.
fn reparameterise_backward(
    dz: &[f32],
    log_sigma: Option<&[f32]>,
    eps: &[f32],
    dmu: &mut [f32],
    dlog_sigma: Option<&mut [f32]>,
) {
    add(dz, dmu);
    if let (Some(ls), Some(dls)) = (log_sigma, dlog_sigma) {
        for (i, d) in dls.iter_mut().enumerate() {
            let (ls, hit) = bounded(ls[i]);
            if !hit {
                *d += dz[i] * libm::expf(ls) * eps[i];
            }
        }
    }
}

/// The inputs of the latent loss, all `[N, D]`.
struct LatentInputs<'a> {
    mu: &'a [f32],
    log_sigma: Option<&'a [f32]>,
    /// Needed by [`LatentLoss::Mse`] alone.
    eps: Option<&'a [f32]>,
    target: &'a [f32],
}

/// `per_row[N,3]` receives mean loss, mean entropy, and the count of bounded log_sigma; the
/// gradients, where asked for, are overwritten.
fn latent_loss(
    weights: LatentWeights,
    inputs: &LatentInputs<'_>,
    cols: usize,
    per_row: &mut [f32],
    grads: Option<(&mut [f32], Option<&mut [f32]>)>,
) {
    let fixed = libm::logf(DETERMINISTIC_SIGMA);
    let (dmu, dls) = grads.map_or((None, None), |(m, s)| (Some(SharedMut::new(m)), s.map(SharedMut::new)));
    par::split_rows(per_row, 3, row_grain(cols).div_ceil(8), |first, rows| {
        for (i, stats) in rows.chunks_exact_mut(3).enumerate() {
            let at = (first + i) * cols..(first + i + 1) * cols;
            // SAFETY: `at` is the range of one row, and each row belongs to one task.
            let mut dmu = dmu.as_ref().map(|d| unsafe { d.slice(at.clone()) });
            // SAFETY: as above.
            let mut dls = dls.as_ref().map(|d| unsafe { d.slice(at.clone()) });
            let (mut loss, mut entropy, mut hits) = (0.0f64, 0.0f64, 0u32);
            for (j, e) in at.enumerate() {
                let (ls, hit) = inputs.log_sigma.map_or((fixed, true), |x| bounded(x[e]));
                let sigma = libm::expf(ls);
                let gap = inputs.mu[e] - inputs.target[e];
                let (l, dm, ds) = match weights.loss {
                    LatentLoss::Nll => {
                        let z = gap / sigma;
                        (0.5 * z * z + ls + HALF_LOG_TAU, z / sigma, 1.0 - z * z)
                    }
                    LatentLoss::Mse => {
                        let noise = sigma * inputs.eps.map_or(0.0, |x| x[e]);
                        let r = gap + noise;
                        (r * r, 2.0 * r, 2.0 * r * noise)
                    }
                    LatentLoss::MseExpected => {
                        let var = sigma * sigma;
                        (gap * gap + var, 2.0 * gap, 2.0 * var)
                    }
                };
                loss += f64::from(l);
                entropy += f64::from(0.5 + HALF_LOG_TAU + ls);
                hits += u32::from(hit && inputs.log_sigma.is_some());
                if let Some(d) = &mut dmu {
                    d[j] = weights.loss_scale * dm;
                }
                if let Some(d) = &mut dls {
                    d[j] = if hit { 0.0 } else { weights.loss_scale * ds + weights.entropy_scale };
                }
            }
            stats.copy_from_slice(&[
                (loss / cols as f64) as f32,
                (entropy / cols as f64) as f32,
                hits as f32,
            ]);
        }
    });
}
