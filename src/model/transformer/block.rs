//! One block, forward: as far as its last product, so that a backward pass which runs it again need not finish it.

use super::place::{KvTarget, Place};
use super::qkv::{Qkv, QkvSaved};
use super::{Layer, Transformer, nothing_kept};
use crate::Result;
use crate::device::{Device, TensorInfo};
use crate::model::linear::LinearSaved;
use crate::model::lora_target::LoraTarget;
use crate::model::params::{Grads, Params};

/// Values that one block keeps for its backward pass.
pub(super) struct LayerSaved<D: Device> {
    pub(super) stream1: D::Tensor,
    pub(super) n1: D::Tensor,
    pub(super) q: D::Tensor,
    /// Keys and values as attention took them, where they are the pass's own.
    pub(super) kv: Option<[D::Tensor; 2]>,
    pub(super) qkv: QkvSaved<D>,
    pub(super) attn: D::Tensor,
    pub(super) lse: D::Tensor,
    pub(super) n2: D::Tensor,
    pub(super) gate: D::Tensor,
    pub(super) up: D::Tensor,
    /// SwiGLU's output, kept only where the down projection is trained.
    pub(super) act: Option<D::Tensor>,
    /// Adapter products of o, gate, up and down.
    pub(super) low: [LinearSaved<D>; 4],
}

impl<D: Device> LayerSaved<D> {
    /// Adds the values that the backward pass of the down projection needs.
    pub(super) fn keep_down(&mut self, layer: &Layer, grads: &Grads<D>, act: D::Tensor, low: LinearSaved<D>) {
        self.act = layer.down.trained(grads).then_some(act);
        self.low[3] = low;
    }
}

/// A block as far as its last product: the input of that product, and the stream that it is added to.
pub(super) struct BeforeDown<D: Device> {
    pub(super) stream2: D::Tensor,
    pub(super) act: D::Tensor,
    /// Values for the backward pass, if one follows, without those of the last product.
    pub(super) saved: Option<LayerSaved<D>>,
}

impl<D: Device> Transformer<D> {
    /// Runs layer `i` from its input, normalised in `n1`, as far as its last product. Where gradients follow, the
    /// values that they need are the same whether they are kept or computed again.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn before_down(
        &self,
        device: &D,
        params: &Params<D>,
        i: usize,
        stream1: D::Tensor,
        n1: D::Tensor,
        place: &Place<'_, D>,
        target: &mut KvTarget<'_, D>,
        with_grads: bool,
    ) -> Result<BeforeDown<D>> {
        let (eps, heads, layer) = (self.config.rms_norm_eps, self.heads(), place.layer(i, &self.layers[i]));
        let (t, h) = (stream1.rows(), stream1.cols());
        let mut attn = device.empty(t, heads.q_width())?;
        let mut lse = if with_grads { Some(device.zeros(t, heads.heads)?) } else { None };
        let Qkv { q, kv, saved: qkv } = self.qkv(device, params, i, &n1, place, target)?;
        let [k, v] = match (&kv, &*target) {
            (Some([k, v]), _) => [k, v],
            (None, KvTarget::Beside { keys, values, .. }) => [&keys[i], &values[i]],
            (None, KvTarget::Own { .. }) => return Err(nothing_kept()),
        };
        device.attention(heads, place.spans, &q, k, v, &mut attn, lse.as_mut())?;
        let project = |target, x| place.project(device, params, (i, &layer), target, x);
        let (o, o_low) = project(LoraTarget::OProj, &attn)?;
        let mut stream2 = device.empty(t, h)?;
        let mut n2 = device.empty(t, h)?;
        device.add_rms_norm(&stream1, &o, params.get(layer.post_norm), eps, &mut stream2, &mut n2)?;
        let (gate, gate_low) = project(LoraTarget::GateProj, &n2)?;
        let (up, up_low) = project(LoraTarget::UpProj, &n2)?;
        let mut act = device.empty(t, self.config.intermediate_size)?;
        device.swiglu(&gate, &up, &mut act)?;
        let saved = lse.map(|lse| {
            let low = [o_low, gate_low, up_low, None];
            LayerSaved { stream1, n1, q, kv, qkv, attn, lse, n2, gate, up, act: None, low }
        });
        Ok(BeforeDown { stream2, act, saved })
    }

    /// The values that layer `i` would have kept, computed again from its input, with the stream between attention
    /// and MLP.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn again(
        &self,
        device: &D,
        params: &Params<D>,
        grads: &Grads<D>,
        i: usize,
        input: D::Tensor,
        place: &Place<'_, D>,
        mut target: KvTarget<'_, D>,
    ) -> Result<(LayerSaved<D>, D::Tensor)> {
        let layer = place.layer(i, &self.layers[i]);
        let (w, eps) = (params.get(layer.input_norm), self.config.rms_norm_eps);
        let Normalised { stream, norm, .. } = normalise(device, input, None, w, eps)?;
        let block = self.before_down(device, params, i, stream, norm, place, &mut target, true)?;
        let mut saved = block.saved.ok_or_else(nothing_kept)?;
        let low = layer.down.low(device, params, &block.act)?;
        saved.keep_down(&layer, grads, block.act, low);
        Ok((saved, block.stream2))
    }
}

/// Result of [`normalise`].
pub(super) struct Normalised<D: Device> {
    /// The stream that was normalised.
    pub(super) stream: D::Tensor,
    /// Its norm.
    pub(super) norm: D::Tensor,
    /// The stream before the addition, where there was one.
    pub(super) before: Option<D::Tensor>,
}

/// Adds `delta` to the stream, if there is one, and normalises.
pub(super) fn normalise<D: Device>(
    device: &D,
    stream: D::Tensor,
    delta: Option<D::Tensor>,
    w: &D::Tensor,
    eps: f32,
) -> Result<Normalised<D>> {
    let mut norm = device.empty(stream.rows(), stream.cols())?;
    let Some(delta) = delta else {
        device.rms_norm(&stream, w, eps, &mut norm)?;
        return Ok(Normalised { stream, norm, before: None });
    };
    let mut sum = device.empty(stream.rows(), stream.cols())?;
    device.add_rms_norm(&stream, &delta, w, eps, &mut sum, &mut norm)?;
    Ok(Normalised { stream: sum, norm, before: Some(stream) })
}
