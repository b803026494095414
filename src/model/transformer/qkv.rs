//! Queries, keys and values of a block: from its normalised input to what attention takes, and back.

use super::Transformer;
use super::place::KvTarget;
use crate::Result;
use crate::device::Device;
use crate::model::linear::LinearSaved;
use crate::model::params::{Grads, Params};

/// Queries, rotated, with the keys and values of a pass where they are its own.
pub(super) struct Qkv<D: Device> {
    pub(super) q: D::Tensor,
    /// Keys, rotated, and values; `None` where they went beside those of earlier passes.
    pub(super) kv: Option<[D::Tensor; 2]>,
    pub(super) saved: QkvSaved<D>,
}

/// What the backward pass of the three projections needs, beside their input.
pub(super) struct QkvSaved<D: Device> {
    /// Adapter products of q, k and v.
    low: [LinearSaved<D>; 3],
}

impl<D: Device> Transformer<D> {
    /// Queries, keys and values of layer `i` from its normalised input `n1[T, H]`; keys and values go to `target`.
    pub(super) fn qkv(
        &self,
        device: &D,
        params: &Params<D>,
        i: usize,
        n1: &D::Tensor,
        positions: &D::Index,
        target: &mut KvTarget<'_, D>,
    ) -> Result<Qkv<D>> {
        let layer = &self.layers[i];
        match target {
            KvTarget::Own { shared } => {
                let (mut q, q_low) = layer.q.forward(device, params, n1)?;
                let (mut k, k_low) = layer.k.forward(device, params, n1)?;
                let (mut v, v_low) = layer.v.forward(device, params, n1)?;
                device.rotary(&mut q, positions, &self.inv_freq, 1.0)?;
                device.rotary(&mut k, positions, &self.inv_freq, 1.0)?;
                if let Some(shared) = shared {
                    (k, v) = (shared.spread(device, &k)?, shared.spread(device, &v)?);
                }
                Ok(Qkv { q, kv: Some([k, v]), saved: QkvSaved { low: [q_low, k_low, v_low] } })
            }
            KvTarget::Beside { keys, values, rows } => {
                let (mut q, q_bias, q_low) = layer.q.forward_but_bias(device, params, n1)?;
                let (mut k, k_bias, k_low) = layer.k.forward_but_bias(device, params, n1)?;
                let (mut v, v_bias, v_low) = layer.v.forward_but_bias(device, params, n1)?;
                let (qkv, biases) = ([&mut q, &mut k, &mut v], [q_bias, k_bias, v_bias]);
                let cached = [&mut keys[i], &mut values[i]];
                device.rotary_append(qkv, biases, positions, &self.inv_freq, rows, cached)?;
                Ok(Qkv { q, kv: None, saved: QkvSaved { low: [q_low, k_low, v_low] } })
            }
        }
    }

    /// Adds to the gradients of the three projections of layer `i`, given those of its rotated queries and keys and of
    /// its values, `[dq, dk, dv]`. Overwrites `dn1` with the gradient of their input where given.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn qkv_backward(
        &self,
        device: &D,
        params: &Params<D>,
        grads: &mut Grads<D>,
        i: usize,
        n1: &D::Tensor,
        saved: &QkvSaved<D>,
        positions: &D::Index,
        [mut dq, mut dk, dv]: [D::Tensor; 3],
        mut dn1: Option<&mut D::Tensor>,
    ) -> Result<()> {
        let layer = &self.layers[i];
        device.rotary(&mut dq, positions, &self.inv_freq, -1.0)?;
        device.rotary(&mut dk, positions, &self.inv_freq, -1.0)?;
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
