//! Queries, keys and values of a block: from its normalised input to the operands of attention, and back.

use super::place::{KvTarget, Place};
use super::{Layer, Transformer, nothing_kept};
use crate::Result;
use crate::device::{Device, TensorInfo};
use crate::model::linear::LinearSaved;
use crate::model::lora_target::LoraTarget;
use crate::model::params::{Grads, ParamId, Params};

/// Queries, normalised and rotated, with the keys and values of a pass where they are its own.
pub(super) struct Qkv<D: Device> {
    pub(super) q: D::Tensor,
    /// Keys, likewise, and values; `None` where they went beside those of earlier passes.
    pub(super) kv: Option<[D::Tensor; 2]>,
    pub(super) saved: QkvSaved<D>,
}

/// Values for the backward pass of the three projections, beside their input.
pub(super) struct QkvSaved<D: Device> {
    /// Adapter products of q, k and v.
    low: [LinearSaved<D>; 3],
    /// Queries and keys before the norms of their heads, where they have some.
    before_norms: [Option<D::Tensor>; 2],
}

impl<D: Device> Transformer<D> {
    /// Queries, keys and values of layer `i` from its normalised input `n1[T, H]`; keys and values go to `target`.
    pub(super) fn qkv(
        &self,
        device: &D,
        params: &Params<D>,
        i: usize,
        n1: &D::Tensor,
        place: &Place<'_, D>,
        target: &mut KvTarget<'_, D>,
    ) -> Result<Qkv<D>> {
        let (layer, positions) = (place.layer(i, &self.layers[i]), place.positions);
        let project = |target| place.project(device, params, (i, &layer), target, n1);
        match target {
            KvTarget::Own { shared } => {
                let (q, q_low) = project(LoraTarget::QProj)?;
                let (k, k_low) = project(LoraTarget::KProj)?;
                let (mut v, v_low) = project(LoraTarget::VProj)?;
                let (mut q, q_before) = self.head_norm(device, params, layer.q_norm, q)?;
                let (mut k, k_before) = self.head_norm(device, params, layer.k_norm, k)?;
                device.rotary(&mut q, positions, &self.inv_freq, 1.0)?;
                device.rotary(&mut k, positions, &self.inv_freq, 1.0)?;
                if let Some(shared) = shared {
                    (k, v) = (shared.spread(device, &k)?, shared.spread(device, &v)?);
                }
                let saved = QkvSaved { low: [q_low, k_low, v_low], before_norms: [q_before, k_before] };
                Ok(Qkv { q, kv: Some([k, v]), saved })
            }
            KvTarget::Beside { keys, values, rows } => {
                // A norm and adapters take the sum with the bias, which can else wait for the rotation. Where rows may
                // have adapters it waits for none, so that a row has its bits whichever rows are beside it.
                let product = |target: LoraTarget, norm: Option<ParamId>| match (norm, place.adapters) {
                    (None, None) => layer.projections()[target as usize].forward_but_bias(device, params, n1),
                    _ => project(target).map(|(y, low)| (y, None, low)),
                };
                let (q, q_bias, q_low) = product(LoraTarget::QProj, layer.q_norm)?;
                let (k, k_bias, k_low) = product(LoraTarget::KProj, layer.k_norm)?;
                let (mut v, v_bias, v_low) = product(LoraTarget::VProj, None)?;
                let (mut q, q_before) = self.head_norm(device, params, layer.q_norm, q)?;
                let (mut k, k_before) = self.head_norm(device, params, layer.k_norm, k)?;
                let (qkv, biases) = ([&mut q, &mut k, &mut v], [q_bias, k_bias, v_bias]);
                let cached = [&mut keys[i], &mut values[i]];
                device.rotary_append(qkv, biases, positions, &self.inv_freq, rows, cached)?;
                let saved = QkvSaved { low: [q_low, k_low, v_low], before_norms: [q_before, k_before] };
                Ok(Qkv { q, kv: None, saved })
            }
        }
    }

    /// The heads of `x[T, heads·head_dim]`, each normalised, and `x` itself for the backward pass; `x` as it is where
    /// there is no norm.
    fn head_norm(
        &self,
        device: &D,
        params: &Params<D>,
        norm: Option<ParamId>,
        x: D::Tensor,
    ) -> Result<(D::Tensor, Option<D::Tensor>)> {
        let Some(norm) = norm else { return Ok((x, None)) };
        let mut out = device.empty(x.rows(), x.cols())?;
        device.rms_norm(&x, params.get(norm), self.config.rms_norm_eps, &mut out)?;
        Ok((out, Some(x)))
    }

    /// The gradient before the norm of the heads of `x`, given that after it; adds to that of the norm's weight.
    fn head_norm_backward(
        &self,
        device: &D,
        params: &Params<D>,
        grads: &mut Grads<D>,
        norm: Option<ParamId>,
        x: Option<&D::Tensor>,
        dout: D::Tensor,
    ) -> Result<D::Tensor> {
        let Some(norm) = norm else { return Ok(dout) };
        let x = x.ok_or_else(nothing_kept)?;
        let (w, eps) = (params.get(norm), self.config.rms_norm_eps);
        let mut dx = device.cleared(x.rows(), x.cols())?;
        device.rms_norm_backward(&dout, x, w, eps, &mut dx, grads.get_mut(norm))?;
        Ok(dx)
    }

    /// Adds to the gradients of the three projections of `layer`, given those of its rotated queries and keys and of
    /// its values, `[dq, dk, dv]`. Overwrites `dn1` with the gradient of their input where given.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn qkv_backward(
        &self,
        device: &D,
        params: &Params<D>,
        grads: &mut Grads<D>,
        layer: &Layer,
        n1: &D::Tensor,
        saved: &QkvSaved<D>,
        positions: &D::Index,
        [mut dq, mut dk, dv]: [D::Tensor; 3],
        mut dn1: Option<&mut D::Tensor>,
    ) -> Result<()> {
        device.rotary(&mut dq, positions, &self.inv_freq, -1.0)?;
        device.rotary(&mut dk, positions, &self.inv_freq, -1.0)?;
        let [q, k] = saved.before_norms.each_ref().map(Option::as_ref);
        let dq = self.head_norm_backward(device, params, grads, layer.q_norm, q, dq)?;
        let dk = self.head_norm_backward(device, params, grads, layer.k_norm, k, dk)?;
        let [q_low, k_low, v_low] = &saved.low;
        for (linear, low, dy, beta) in
            [(&layer.q, q_low, &dq, 0.0), (&layer.k, k_low, &dk, 1.0), (&layer.v, v_low, &dv, 1.0)]
        {
            let dx = dn1.as_mut().map(|dn1| (&mut **dn1, beta));
            linear.backward(device, params, grads, n1, low, dy, dx)?;
        }
        Ok(())
    }
}
