//! Launches of `cuda/latent.cu`: noise, the reparameterised draw, the latent losses and log-probabilities.

use super::draw::draw_words;
use super::driver::{Arg, Driver};
use super::kernels::{by_activation, kernels};
use super::policy::policy;
use super::tensor::upload;
use super::{CudaDevice, CudaTensor, count32};
use crate::Result;
use crate::device::Dtype;
use crate::device::draw::Draw;
use crate::device::latent::{
    LatentLoss, LatentOps, LatentPolicyGrads, LatentWeights, check_latent_logprob, check_latent_loss,
    check_normal, check_reparameterise, check_reparameterise_backward,
};
use crate::device::shape::{Checked, TensorInfo};

kernels! {
    "latent":
    normal_f32 normal_bf16 reparameterise_f32 reparameterise_bf16 latent_loss_f32 latent_loss_bf16
    reparameterise_backward_f32 reparameterise_backward_bf16 latent_logprob_f32 latent_logprob_bf16
}

impl<R: Driver> LatentOps for CudaDevice<R> {
    fn normal(&self, draws: &[Draw], out: &mut CudaTensor<R>) -> Result<()> {
        let Checked { op, rows, cols } = check_normal(draws, out)?;
        let dtype = out.dtype();
        let words = upload(&self.driver, &draw_words(draws.iter().copied()))?;
        let kernel = by_activation(op, dtype, [&normal_f32, &normal_bf16])?;
        let args = [Arg::from(&words), count32(op, cols)?.into(), out.write(op, "out", dtype)?.into()];
        // SAFETY: a draw a row. The words live until the launch, after which they are freed in its order.
        unsafe { self.launch_rows(op, kernel, rows, cols.div_ceil(4), &args) }
    }

    fn reparameterise(
        &self,
        mu: &CudaTensor<R>,
        log_sigma: Option<&CudaTensor<R>>,
        eps: &CudaTensor<R>,
        temperature: f32,
        out: &mut CudaTensor<R>,
    ) -> Result<()> {
        let checked = check_reparameterise(mu, log_sigma, eps, out)?;
        let (op, count, dtype) = (checked.op, checked.count(), mu.dtype());
        let kernel = by_activation(op, dtype, [&reparameterise_f32, &reparameterise_bf16])?;
        let args = [
            Arg::from(&mu.memory),
            optional(op, "log_sigma", log_sigma, dtype)?,
            Arg::from(eps.read(op, "eps", dtype)?),
            temperature.into(),
            (count as u64).into(),
            out.write(op, "out", dtype)?.into(),
        ];
        // SAFETY: the checks above: all have `count` elements of one dtype.
        unsafe { self.launch_elements(kernel, count, &args) }
    }

    fn latent_loss(
        &self,
        weights: LatentWeights,
        mu: &CudaTensor<R>,
        log_sigma: Option<&CudaTensor<R>>,
        eps: Option<&CudaTensor<R>>,
        target: &CudaTensor<R>,
        per_row: &mut CudaTensor<R>,
        grads: Option<(&mut CudaTensor<R>, Option<&mut CudaTensor<R>>)>,
    ) -> Result<()> {
        let given = grads.as_ref().map(|(dmu, dlog_sigma)| (&**dmu, dlog_sigma.as_deref()));
        let Checked { op, rows, cols } = check_latent_loss(mu, log_sigma, eps, target, per_row, given)?;
        let dtype = mu.dtype();
        let (dmu, dlog_sigma) = grads.map_or((None, None), |(dmu, dls)| (Some(dmu), dls));
        let kind: u32 = match weights.loss {
            LatentLoss::Nll => 0,
            LatentLoss::Mse => 1,
            LatentLoss::MseExpected => 2,
        };
        let kernel = by_activation(op, dtype, [&latent_loss_f32, &latent_loss_bf16])?;
        let args = [
            kind.into(),
            weights.loss_scale.into(),
            weights.entropy_scale.into(),
            Arg::from(&mu.memory),
            optional(op, "log_sigma", log_sigma, dtype)?,
            optional(op, "eps", eps, dtype)?,
            Arg::from(target.read(op, "target", dtype)?),
            count32(op, cols)?.into(),
            Arg::from(per_row.write(op, "per_row", Dtype::F32)?),
            optional_mut(op, "dmu", dmu, dtype)?,
            optional_mut(op, "dlog_sigma", dlog_sigma, dtype)?,
        ];
        // SAFETY: the checks above: all have the shape and dtype of `mu`, `per_row` three floats a row.
        unsafe { self.launch_rows(op, kernel, rows, cols, &args) }
    }

    fn reparameterise_backward(
        &self,
        dz: &CudaTensor<R>,
        log_sigma: Option<&CudaTensor<R>>,
        eps: &CudaTensor<R>,
        dmu: &mut CudaTensor<R>,
        dlog_sigma: Option<&mut CudaTensor<R>>,
    ) -> Result<()> {
        let checked = check_reparameterise_backward(dz, log_sigma, eps, dmu, dlog_sigma.as_deref())?;
        let (op, count, dtype) = (checked.op, checked.count(), dz.dtype());
        let forms = [&reparameterise_backward_f32, &reparameterise_backward_bf16];
        let kernel = by_activation(op, dtype, forms)?;
        // Without log_sigma nothing reaches it.
        let wanted = if log_sigma.is_some() { dlog_sigma } else { None };
        let args = [
            Arg::from(&dz.memory),
            optional(op, "log_sigma", log_sigma, dtype)?,
            Arg::from(eps.read(op, "eps", dtype)?),
            (count as u64).into(),
            dmu.write(op, "dmu", dtype)?.into(),
            optional_mut(op, "dlog_sigma", wanted, dtype)?,
        ];
        // SAFETY: the checks above: all have `count` elements of one dtype, and dlog_sigma comes with log_sigma.
        unsafe { self.launch_elements(kernel, count, &args) }
    }

    fn latent_logprob(
        &self,
        mu: &CudaTensor<R>,
        log_sigma: &CudaTensor<R>,
        latents: &CudaTensor<R>,
        per_row: &mut CudaTensor<R>,
        grads: Option<LatentPolicyGrads<'_, CudaDevice<R>>>,
    ) -> Result<()> {
        let Checked { op, rows, cols } =
            check_latent_logprob(mu, log_sigma, latents, per_row, grads.as_ref())?;
        let dtype = mu.dtype();
        let none = || Arg::Pointer(0);
        let (terms, entropy_scale, grads) = match grads {
            Some(g) => {
                let grads = [
                    optional_mut(op, "dmu", Some(g.dmu), dtype)?,
                    optional_mut(op, "dlog_sigma", Some(g.dlog_sigma), dtype)?,
                ];
                (policy(op, Some(&g.terms))?, g.entropy_scale, grads)
            }
            None => (policy::<R>(op, None)?, 0.0, [none(), none()]),
        };
        let kernel = by_activation(op, dtype, [&latent_logprob_f32, &latent_logprob_bf16])?;
        let args = [
            &[
                Arg::from(&mu.memory),
                Arg::from(log_sigma.read(op, "log_sigma", dtype)?),
                Arg::from(latents.read(op, "latents", dtype)?),
                count32(op, cols)?.into(),
                Arg::from(per_row.write(op, "per_row", Dtype::F32)?),
            ][..],
            &terms,
            &[entropy_scale.into()],
            &grads,
        ]
        .concat();
        // SAFETY: the checks above: all have the shape and dtype of `mu`; a row has three floats of `per_row` and, with
        // gradients, four of the terms.
        unsafe { self.launch_rows(op, kernel, rows, cols, &args) }
    }
}

/// The address of an operand that may be left out.
fn optional<R: Driver>(op: &'static str, name: &str, t: Option<&CudaTensor<R>>, dtype: Dtype) -> Result<Arg> {
    Ok(t.map(|t| t.read(op, name, dtype)).transpose()?.into())
}

/// As [`optional`], of one that is written.
fn optional_mut<R: Driver>(
    op: &'static str,
    name: &str,
    t: Option<&mut CudaTensor<R>>,
    dtype: Dtype,
) -> Result<Arg> {
    Ok(t.map(|t| t.write(op, name, dtype)).transpose()?.into())
}
