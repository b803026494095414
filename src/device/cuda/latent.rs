//! Launches of `cuda/latent.cu`: noise, the reparameterised draw, the latent losses and log-probabilities.

use super::cross_entropy::policy;
use super::driver::{Arg, Driver};
use super::kernels::{self as k, by_activation};
use super::layers::{optional, optional_mut};
use super::tensor::upload;
use super::{CudaDevice, CudaTensor, count32};
use crate::Result;
use crate::device::{
    Draw, Dtype, LatentLoss, LatentPolicyGrads, LatentWeights, TensorInfo, check, check_len,
};

/// Draws as kernels take them: key, low word first, and counter.
pub(super) fn draw_words(draws: impl Iterator<Item = Draw>) -> Vec<u32> {
    draws.flat_map(|d| [d.key as u32, (d.key >> 32) as u32, d.counter[0], d.counter[1]]).collect()
}

impl<R: Driver> CudaDevice<R> {
    pub(super) fn noise(&self, draws: &[Draw], out: &mut CudaTensor<R>) -> Result<()> {
        const OP: &str = "normal";
        let (rows, cols, dtype) = (out.rows(), out.cols(), out.dtype());
        check_len(OP, "draws", draws.len(), rows)?;
        let words = upload(&self.driver, &draw_words(draws.iter().copied()))?;
        let kernel = by_activation(OP, dtype, [&k::normal_f32, &k::normal_bf16])?;
        let args = [Arg::from(&words), count32(OP, cols)?.into(), out.write(OP, "out", dtype)?.into()];
        // SAFETY: a draw a row. The words live until the launch, after which they are freed in its order.
        unsafe { self.launch_rows(OP, kernel, rows, cols.div_ceil(4), &args) }
    }

    pub(super) fn sample(
        &self,
        mu: &CudaTensor<R>,
        log_sigma: Option<&CudaTensor<R>>,
        eps: &CudaTensor<R>,
        temperature: f32,
        out: &mut CudaTensor<R>,
    ) -> Result<()> {
        const OP: &str = "reparameterise";
        let (count, dtype) = (mu.count(), mu.dtype());
        check(OP, "eps", eps, mu.rows(), mu.cols())?;
        check(OP, "out", out, mu.rows(), mu.cols())?;
        let kernel = by_activation(OP, dtype, [&k::reparameterise_f32, &k::reparameterise_bf16])?;
        let args = [
            Arg::from(&mu.memory),
            optional(OP, "log_sigma", log_sigma, mu)?.into(),
            Arg::from(eps.read(OP, "eps", dtype)?),
            temperature.into(),
            (count as u64).into(),
            out.write(OP, "out", dtype)?.into(),
        ];
        // SAFETY: the checks above: all have `count` elements of one dtype.
        unsafe { self.launch_elements(kernel, count, &args) }
    }

    /// Losses, entropies and counts per row; `operands` are log_sigma and eps.
    pub(super) fn loss_of_latents(
        &self,
        weights: LatentWeights,
        mu: &CudaTensor<R>,
        operands: [Option<&CudaTensor<R>>; 2],
        target: &CudaTensor<R>,
        per_row: &mut CudaTensor<R>,
        grads: Option<(&mut CudaTensor<R>, Option<&mut CudaTensor<R>>)>,
    ) -> Result<()> {
        const OP: &str = "latent_loss";
        let (rows, cols, dtype) = (mu.rows(), mu.cols(), mu.dtype());
        let [log_sigma, eps] = operands;
        check(OP, "target", target, rows, cols)?;
        check(OP, "per_row", per_row, rows, 3)?;
        let (dmu, dlog_sigma) = grads.map_or((None, None), |(dmu, dls)| (Some(dmu), dls));
        let kind: u32 = match weights.loss {
            LatentLoss::Nll => 0,
            LatentLoss::Mse => 1,
            LatentLoss::MseExpected => 2,
        };
        let kernel = by_activation(OP, dtype, [&k::latent_loss_f32, &k::latent_loss_bf16])?;
        let args = [
            kind.into(),
            weights.loss_scale.into(),
            weights.entropy_scale.into(),
            Arg::from(&mu.memory),
            optional(OP, "log_sigma", log_sigma, mu)?.into(),
            optional(OP, "eps", eps, mu)?.into(),
            Arg::from(target.read(OP, "target", dtype)?),
            count32(OP, cols)?.into(),
            Arg::from(per_row.write(OP, "per_row", Dtype::F32)?),
            optional_mut(OP, "dmu", dmu, mu)?,
            optional_mut(OP, "dlog_sigma", dlog_sigma, mu)?,
        ];
        // SAFETY: the checks above: all have the shape and dtype of `mu`, `per_row` three floats a row.
        unsafe { self.launch_rows(OP, kernel, rows, cols, &args) }
    }
    /// Gradient of [`sample`](Self::sample).
    pub(super) fn sample_gradient(
        &self,
        dz: &CudaTensor<R>,
        log_sigma: Option<&CudaTensor<R>>,
        eps: &CudaTensor<R>,
        dmu: &mut CudaTensor<R>,
        dlog_sigma: Option<&mut CudaTensor<R>>,
    ) -> Result<()> {
        const OP: &str = "reparameterise_backward";
        let (count, dtype) = (dz.count(), dz.dtype());
        check(OP, "eps", eps, dz.rows(), dz.cols())?;
        check(OP, "dmu", dmu, dz.rows(), dz.cols())?;
        let forms = [&k::reparameterise_backward_f32, &k::reparameterise_backward_bf16];
        let kernel = by_activation(OP, dtype, forms)?;
        // Without log_sigma nothing reaches it.
        let wanted = if log_sigma.is_some() { dlog_sigma } else { None };
        let args = [
            Arg::from(&dz.memory),
            optional(OP, "log_sigma", log_sigma, dz)?.into(),
            Arg::from(eps.read(OP, "eps", dtype)?),
            (count as u64).into(),
            dmu.write(OP, "dmu", dtype)?.into(),
            optional_mut(OP, "dlog_sigma", wanted, dz)?,
        ];
        // SAFETY: the checks above: all have `count` elements of one dtype, and dlog_sigma comes with log_sigma.
        unsafe { self.launch_elements(kernel, count, &args) }
    }

    /// Log-probabilities, entropies and counts per row, and the gradient of the policy objective.
    pub(super) fn logprobs_of_latents(
        &self,
        mu: &CudaTensor<R>,
        log_sigma: &CudaTensor<R>,
        latents: &CudaTensor<R>,
        per_row: &mut CudaTensor<R>,
        grads: Option<LatentPolicyGrads<'_, CudaDevice<R>>>,
    ) -> Result<()> {
        const OP: &str = "latent_logprob";
        let (rows, cols, dtype) = (mu.rows(), mu.cols(), mu.dtype());
        check(OP, "log_sigma", log_sigma, rows, cols)?;
        check(OP, "latents", latents, rows, cols)?;
        check(OP, "per_row", per_row, rows, 3)?;
        let none = || Arg::Pointer(0);
        let (terms, entropy_scale, grads) = match grads {
            Some(g) => {
                let grads = [
                    optional_mut(OP, "dmu", Some(g.dmu), mu)?,
                    optional_mut(OP, "dlog_sigma", Some(g.dlog_sigma), mu)?,
                ];
                (policy(OP, Some(&g.terms), rows)?, g.entropy_scale, grads)
            }
            None => (policy::<R>(OP, None, rows)?, 0.0, [none(), none()]),
        };
        let kernel = by_activation(OP, dtype, [&k::latent_logprob_f32, &k::latent_logprob_bf16])?;
        let args = [
            &[
                Arg::from(&mu.memory),
                Arg::from(log_sigma.read(OP, "log_sigma", dtype)?),
                Arg::from(latents.read(OP, "latents", dtype)?),
                count32(OP, cols)?.into(),
                Arg::from(per_row.write(OP, "per_row", Dtype::F32)?),
            ][..],
            &terms,
            &[entropy_scale.into()],
            &grads,
        ]
        .concat();
        // SAFETY: the checks above: all have the shape and dtype of `mu`; a row has three floats of `per_row` and, with
        // gradients, four of the terms.
        unsafe { self.launch_rows(OP, kernel, rows, cols, &args) }
    }
}
