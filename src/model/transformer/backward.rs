//! The backward pass: the blocks in reverse, for the rows of one pass.

use super::block::LayerSaved;
use super::forward::{ForwardSaved, KeptLayer, PassSaved};
use super::place::{KvTarget, Place};
use super::{TapGrads, Transformer, nothing_kept, untrained};
use crate::Result;
use crate::device::{Device, HeadShape, Span, TensorInfo};
use crate::model::layout::{Layout, SharedKeys};
use crate::model::params::{Grads, Params};

/// How far down a backward pass must go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// To the lowest layer with a trained weight: below it there is nothing to compute.
    Weights,
    /// To the keys and values of every layer, of which some belong to earlier passes.
    Keys,
    /// To the input embeddings.
    Input,
}

/// The keys and values that the queries of a pass met, and where their gradients go.
pub(super) enum KvBackward<'a, D: Device> {
    /// Keys and values of the pass itself, kept with each layer.
    Own { shared: Option<&'a SharedKeys<D>> },
    /// Keys and values of several passes, one matrix of each a layer, in which `rows` are this pass's.
    Beside {
        keys: &'a mut [D::Tensor],
        values: &'a mut [D::Tensor],
        /// Per layer the gradients that later passes, which go first, have left.
        sums: &'a mut [Option<[D::Tensor; 2]>],
        rows: &'a D::Index,
    },
}

/// The attention of a pass in one layer: its queries, outputs and log-sum-exps, the gradient of its outputs, and
/// its own keys and values where they are not kept beside.
struct AttentionSaved<'a, D: Device> {
    q: &'a D::Tensor,
    kv: Option<&'a [D::Tensor; 2]>,
    attn: &'a D::Tensor,
    lse: &'a D::Tensor,
    dattn: &'a D::Tensor,
}

impl<D: Device> KvBackward<'_, D> {
    /// Where keys and values go when a layer of the pass is run again: to where they are, the same to the bit, if
    /// they are kept beside it.
    fn target(&mut self) -> KvTarget<'_, D> {
        match self {
            KvBackward::Own { shared } => KvTarget::Own { shared: *shared },
            KvBackward::Beside { keys, values, rows, .. } => KvTarget::Beside { keys, values, rows },
        }
    }

    /// The gradients of queries, keys and values of the pass's own rows in layer `i`.
    fn attention(
        &mut self,
        device: &D,
        heads: HeadShape,
        spans: &[Span],
        i: usize,
        AttentionSaved { q, kv, attn, lse, dattn }: AttentionSaved<'_, D>,
    ) -> Result<[D::Tensor; 3]> {
        let (t, width) = (q.rows(), heads.kv_width());
        let mut dq = device.empty(t, heads.q_width())?;
        match self {
            KvBackward::Own { shared } => {
                let [k, v] = kv.ok_or_else(nothing_kept)?;
                let mut dk = device.empty(k.rows(), width)?;
                let mut dv = device.empty(k.rows(), width)?;
                device
                    .attention_backward(heads, spans, q, k, v, attn, lse, dattn, &mut dq, &mut dk, &mut dv)?;
                if let Some(shared) = shared {
                    (dk, dv) = (shared.collect(device, &dk, t)?, shared.collect(device, &dv, t)?);
                }
                Ok([dq, dk, dv])
            }
            KvBackward::Beside { keys, values, sums, rows } => {
                let (k, v) = (&keys[i], &values[i]);
                // Rows of no span are left as they are.
                let mut dk = device.cleared(k.rows(), width)?;
                let mut dv = device.cleared(k.rows(), width)?;
                device
                    .attention_backward(heads, spans, q, k, v, attn, lse, dattn, &mut dq, &mut dk, &mut dv)?;
                let sum = match &mut sums[i] {
                    Some(sum) => {
                        device.add(&dk, &mut sum[0])?;
                        device.add(&dv, &mut sum[1])?;
                        sum
                    }
                    none => none.insert([dk, dv]),
                };
                let mut own = [device.empty(t, width)?, device.empty(t, width)?];
                for (sum, own) in sum.iter().zip(&mut own) {
                    device.gather_rows(1.0, sum, rows, own)?;
                }
                let [dk, dv] = own;
                Ok([dq, dk, dv])
            }
        }
    }
}

impl<D: Device> Transformer<D> {
    /// Adds to the gradients of the trained weights, given that of the final hidden states
    /// (`dhidden[T, H]`). Returns the gradient of the input embeddings `[T, H]` where `want_input`.
    ///
    /// # Errors
    /// Shape mismatches and errors of the device.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        device: &D,
        params: &Params<D>,
        grads: &mut Grads<D>,
        saved: ForwardSaved<D>,
        dhidden: &D::Tensor,
        layout: &Layout<D>,
        want_input: bool,
    ) -> Result<Option<D::Tensor>> {
        let place = Place::new(&layout.positions, &layout.spans);
        let kv = KvBackward::Own { shared: layout.shared.as_ref() };
        let reach = if want_input { Reach::Input } else { Reach::Weights };
        self.pass_backward(device, params, grads, saved.pass, dhidden, place, kv, None, reach)
    }

    /// One pass through all blocks in reverse: adds to the gradients of the trained weights, given that of
    /// the final hidden states (`dhidden[T, H]`, in which tapped ones have their part) and those of the
    /// tapped states of lower layers. Returns the gradient of the input embeddings `[T, H]` where it reaches
    /// them.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn pass_backward(
        &self,
        device: &D,
        params: &Params<D>,
        grads: &mut Grads<D>,
        mut saved: PassSaved<D>,
        dhidden: &D::Tensor,
        mut place: Place<'_, D>,
        mut kv: KvBackward<'_, D>,
        taps: Option<&TapGrads<D>>,
        reach: Reach,
    ) -> Result<Option<D::Tensor>> {
        let eps = self.config.rms_norm_eps;
        place.dropout = saved.dropout;
        // The gradient of the residual stream, carried down through the layers.
        let mut d = device.cleared(dhidden.rows(), dhidden.cols())?;
        let norm = params.get(self.norm);
        device.rms_norm_backward(dhidden, &saved.stream, norm, eps, &mut d, grads.get_mut(self.norm))?;
        let lowest = match reach {
            Reach::Weights => untrained(&self.layers, grads),
            Reach::Keys | Reach::Input => 0,
        };
        while let (Some(kept), i) = (saved.layers.pop(), saved.layers.len())
            && i >= lowest
        {
            if let (Some(taps), true) = (taps, i + 1 < self.layers.len()) {
                taps.add(device, i, &mut d)?;
            }
            let (s, stream2) = match kept {
                KeptLayer::All(s) => (s, saved.stream2.pop().ok_or_else(nothing_kept)?),
                KeptLayer::Input(input) => {
                    self.again(device, params, grads, i, input, &place, kv.target())?
                }
            };
            let below = reach == Reach::Input || i > lowest;
            self.backward_layer(device, params, grads, i, s, &stream2, &place, &mut kv, &mut d, below)?;
        }
        Ok((reach == Reach::Input).then_some(d))
    }

    /// Takes `d`, the gradient of the stream after a layer, to that before it; where nothing below
    /// is wanted, `d` is left somewhere between.
    #[allow(clippy::too_many_arguments)]
    fn backward_layer(
        &self,
        device: &D,
        params: &Params<D>,
        grads: &mut Grads<D>,
        i: usize,
        s: LayerSaved<D>,
        stream2: &D::Tensor,
        place: &Place<'_, D>,
        kv: &mut KvBackward<'_, D>,
        d: &mut D::Tensor,
        below: bool,
    ) -> Result<()> {
        let (eps, heads, layer) = (self.config.rms_norm_eps, self.heads(), place.layer(i, &self.layers[i]));
        let (t, h) = (d.rows(), d.cols());
        let LayerSaved { stream1, n1, q, kv: own, qkv, attn, lse, n2, mut gate, mut up, act, low } = s;
        let [o_low, gate_low, up_low, down_low] = low;

        let mut dact = device.empty(t, self.config.intermediate_size)?;
        let act = act.as_ref().unwrap_or(&gate); // read only where down is trained, and then kept
        layer.down.backward(device, params, grads, act, &down_low, d, Some((&mut dact, 0.0)))?;
        device.swiglu_backward(&dact, &mut gate, &mut up)?;
        let mut dn = device.empty(t, h)?;
        layer.gate.backward(device, params, grads, &n2, &gate_low, &gate, Some((&mut dn, 0.0)))?;
        layer.up.backward(device, params, grads, &n2, &up_low, &up, Some((&mut dn, 1.0)))?;
        let post_norm = params.get(layer.post_norm);
        device.rms_norm_backward(&dn, stream2, post_norm, eps, d, grads.get_mut(layer.post_norm))?;

        let mut dattn = device.empty(t, heads.q_width())?;
        layer.o.backward(device, params, grads, &attn, &o_low, d, Some((&mut dattn, 0.0)))?;
        let attention = AttentionSaved { q: &q, kv: own.as_ref(), attn: &attn, lse: &lse, dattn: &dattn };
        let dqkv = kv.attention(device, heads, place.spans, i, attention)?;
        let input = below || grads.trains(layer.input_norm);
        let dn1 = input.then_some(&mut dn);
        self.qkv_backward(device, params, grads, &layer, &n1, &qkv, place.positions, dqkv, dn1)?;
        if input {
            let input_norm = params.get(layer.input_norm);
            device.rms_norm_backward(&dn, &stream1, input_norm, eps, d, grads.get_mut(layer.input_norm))?;
        }
        Ok(())
    }
}
