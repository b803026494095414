//! The forward pass: the blocks over the rows of one pass, wherever their keys and values go.
//!
//! The residual stream is kept at both norms, so a backward pass recomputes only what is cheap: the
//! inverse root mean squares, the attention probabilities (from their log-sum-exp) and SwiGLU.

use super::{Taps, Transformer};
use crate::Result;
use crate::device::{Device, Span, TensorInfo};
use crate::model::kv_cache::{Extension, KvCache};
use crate::model::layout::{Layout, SharedKeys};
use crate::model::linear::LinearSaved;
use crate::model::params::{Grads, Params};

/// What one block keeps for its backward pass, but keys and values.
pub(super) struct LayerSaved<D: Device> {
    pub(super) stream1: D::Tensor,
    pub(super) n1: D::Tensor,
    pub(super) q: D::Tensor,
    pub(super) attn: D::Tensor,
    pub(super) lse: D::Tensor,
    pub(super) n2: D::Tensor,
    pub(super) gate: D::Tensor,
    pub(super) up: D::Tensor,
    /// SwiGLU's output, kept only where the down projection is trained.
    pub(super) act: Option<D::Tensor>,
    /// Adapter products of q, k, v, o, gate, up and down.
    pub(super) low: [LinearSaved<D>; 7],
}

/// What the backward of one pass needs, but keys and values.
pub(super) struct PassSaved<D: Device> {
    pub(super) layers: Vec<LayerSaved<D>>,
    /// Per layer, the stream between attention and MLP.
    pub(super) stream2: Vec<D::Tensor>,
    /// The stream that enters the last norm.
    pub(super) stream: D::Tensor,
}

/// What [`Transformer::backward`] needs of a forward pass. Memory: per layer about
/// `T · (7·H + 2·kv_width + 2·I)` floats.
pub struct ForwardSaved<D: Device> {
    pub(super) pass: PassSaved<D>,
    /// Per layer, keys and values as attention took them.
    pub(super) kv: Vec<[D::Tensor; 2]>,
}

/// Where the rows of a pass stand.
pub(super) struct Place<'a, D: Device> {
    /// Position of each row in its sequence.
    pub(super) positions: &'a D::Index,
    /// What each sequence attends to.
    pub(super) spans: &'a [Span],
}

/// Where the keys and values of a pass go.
pub(super) enum KvTarget<'a, D: Device> {
    /// They are all there is. `kept` receives them, layer by layer, where a backward pass follows.
    Own { shared: Option<&'a SharedKeys<D>>, kept: &'a mut Vec<[D::Tensor; 2]> },
    /// To `rows` of those of earlier passes, one matrix of each a layer.
    Beside { keys: &'a mut [D::Tensor], values: &'a mut [D::Tensor], rows: &'a D::Index },
}

impl<D: Device> Transformer<D> {
    /// Runs whole sequences: input embeddings `x[T, H]` to the final hidden states `[T, H]` (after the
    /// last RMSNorm), with what a backward pass needs.
    ///
    /// # Errors
    /// Shape mismatches and what the device says.
    pub fn forward(
        &self,
        device: &D,
        params: &Params<D>,
        x: D::Tensor,
        layout: &Layout<D>,
        grads: Option<&Grads<D>>,
    ) -> Result<(D::Tensor, Option<ForwardSaved<D>>)> {
        self.forward_tapped(device, params, x, layout, grads, None)
    }

    /// As [`forward`](Self::forward), and fills `taps` with the states of its rows in every layer.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and for taps at rows that are not there.
    pub fn forward_tapped(
        &self,
        device: &D,
        params: &Params<D>,
        x: D::Tensor,
        layout: &Layout<D>,
        grads: Option<&Grads<D>>,
        taps: Option<&mut Taps<D>>,
    ) -> Result<(D::Tensor, Option<ForwardSaved<D>>)> {
        let mut kv = Vec::new();
        let target = KvTarget::Own { shared: layout.shared.as_ref(), kept: &mut kv };
        let place = Place { positions: &layout.positions, spans: &layout.spans };
        let (hidden, saved) = self.pass(device, params, x, place, target, grads, taps)?;
        Ok((hidden, saved.map(|pass| ForwardSaved { pass, kv })))
    }

    /// Runs new positions of cached sequences, in the order in which they were given to
    /// [`KvCache::extend`]; returns their final hidden states.
    ///
    /// # Errors
    /// Shape mismatches and what the device says.
    pub fn forward_cached(
        &self,
        device: &D,
        params: &Params<D>,
        x: D::Tensor,
        extension: &Extension,
        cache: &mut KvCache<D>,
    ) -> Result<D::Tensor> {
        let positions = device.index(&extension.positions)?;
        let rows = device.index(&extension.rows)?;
        let target = KvTarget::Beside { keys: &mut cache.keys, values: &mut cache.values, rows: &rows };
        let place = Place { positions: &positions, spans: &extension.spans };
        Ok(self.pass(device, params, x, place, target, None, None)?.0)
    }

    /// One pass through all blocks: input embeddings `x[T, H]` to the final hidden states `[T, H]`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn pass(
        &self,
        device: &D,
        params: &Params<D>,
        x: D::Tensor,
        Place { positions, spans }: Place<'_, D>,
        mut target: KvTarget<'_, D>,
        grads: Option<&Grads<D>>,
        mut taps: Option<&mut Taps<D>>,
    ) -> Result<(D::Tensor, Option<PassSaved<D>>)> {
        let eps = self.config.rms_norm_eps;
        let heads = self.heads();
        let (t, h) = (x.rows(), x.cols());
        let (mut saved, mut streams2) = (Vec::new(), Vec::new());
        // The stream before a layer, and what the layer before it adds.
        let (mut stream, mut delta): (D::Tensor, Option<D::Tensor>) = (x, None);
        for (i, layer) in self.layers.iter().enumerate() {
            let Normalised { stream: stream1, norm: n1, before } =
                normalise(device, stream, delta, params.get(layer.input_norm), eps)?;
            if grads.is_some() {
                streams2.extend(before);
            }
            if let (Some(taps), true) = (taps.as_deref_mut(), i > 0) {
                taps.keep(device, &stream1)?;
            }
            let mut attn = device.empty(t, heads.q_width())?;
            let mut lse = match grads {
                Some(_) => Some(device.zeros(t, heads.heads)?),
                None => None,
            };
            let projected = match &mut target {
                KvTarget::Own { shared, kept } => {
                    let (mut q, q_low) = layer.q.forward(device, params, &n1)?;
                    let (mut k, k_low) = layer.k.forward(device, params, &n1)?;
                    let (mut v, v_low) = layer.v.forward(device, params, &n1)?;
                    device.rotary(&mut q, positions, &self.inv_freq, 1.0)?;
                    device.rotary(&mut k, positions, &self.inv_freq, 1.0)?;
                    if let Some(shared) = shared {
                        (k, v) = (shared.spread(device, &k)?, shared.spread(device, &v)?);
                    }
                    device.attention(heads, spans, &q, &k, &v, &mut attn, lse.as_mut())?;
                    grads.map(|_| {
                        kept.push([k, v]);
                        (q, [q_low, k_low, v_low])
                    })
                }
                KvTarget::Beside { keys, values, rows } => {
                    let (mut q, q_bias, q_low) = layer.q.forward_but_bias(device, params, &n1)?;
                    let (mut k, k_bias, k_low) = layer.k.forward_but_bias(device, params, &n1)?;
                    let (mut v, v_bias, v_low) = layer.v.forward_but_bias(device, params, &n1)?;
                    let (qkv, biases) = ([&mut q, &mut k, &mut v], [q_bias, k_bias, v_bias]);
                    let cached = [&mut keys[i], &mut values[i]];
                    device.rotary_append(qkv, biases, positions, &self.inv_freq, rows, cached)?;
                    device.attention(heads, spans, &q, &keys[i], &values[i], &mut attn, lse.as_mut())?;
                    grads.map(|_| (q, [q_low, k_low, v_low]))
                }
            };
            let (o, o_low) = layer.o.forward(device, params, &attn)?;
            let mut stream2 = device.empty(t, h)?;
            let mut n2 = device.empty(t, h)?;
            device.add_rms_norm(&stream1, &o, params.get(layer.post_norm), eps, &mut stream2, &mut n2)?;
            let (gate, gate_low) = layer.gate.forward(device, params, &n2)?;
            let (up, up_low) = layer.up.forward(device, params, &n2)?;
            let mut act = device.empty(t, self.config.intermediate_size)?;
            device.swiglu(&gate, &up, &mut act)?;
            let (down, down_low) = layer.down.forward(device, params, &act)?;
            if let (Some(grads), Some(lse), Some((q, low))) = (grads, lse, projected) {
                let [q_low, k_low, v_low] = low;
                let act = layer.down.trained(grads).then_some(act);
                let low = [q_low, k_low, v_low, o_low, gate_low, up_low, down_low];
                saved.push(LayerSaved { stream1, n1, q, attn, lse, n2, gate, up, act, low });
            }
            (stream, delta) = (stream2, Some(down));
        }
        let Normalised { stream, norm: hidden, before } =
            normalise(device, stream, delta, params.get(self.norm), eps)?;
        streams2.extend(before);
        if let Some(taps) = taps {
            taps.keep(device, &hidden)?;
        }
        Ok((hidden, grads.map(|_| PassSaved { layers: saved, stream2: streams2, stream })))
    }
}

/// What [`normalise`] returns.
struct Normalised<D: Device> {
    /// The stream that was normalised.
    stream: D::Tensor,
    /// Its norm.
    norm: D::Tensor,
    /// The stream before the addition, where there was one.
    before: Option<D::Tensor>,
}

/// Adds `delta` to the stream, if there is one, and normalises.
fn normalise<D: Device>(
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
