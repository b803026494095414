//! The forward pass: the blocks over the rows of one pass, wherever their keys and values go.
//!
//! The residual stream is kept at both norms, so a backward pass recomputes only cheap values: the
//! inverse root mean squares, the attention probabilities (from their log-sum-exp) and SwiGLU. With
//! [`Transformer::recompute`] only the stream that enters a block is kept, and the block is run again.

use super::adapters::RowAdapters;
use super::block::{LayerSaved, Normalised, normalise};
use super::place::{KvTarget, Place};
use super::{Taps, Transformer};
use crate::Result;
use crate::device::{Device, TensorInfo};
use crate::model::dropout::PassDropout;
use crate::model::kv_cache::{Extension, KvCache};
use crate::model::layout::Layout;
use crate::model::lora_target::LoraTarget;
use crate::model::params::{Grads, Params};

/// Values of one pass for its backward pass, without the keys and values that are kept beside it.
pub(super) struct PassSaved<D: Device> {
    pub(super) layers: Vec<KeptLayer<D>>,
    /// The stream between attention and MLP of each layer of which all is kept.
    pub(super) stream2: Vec<D::Tensor>,
    /// The stream that enters the last norm.
    pub(super) stream: D::Tensor,
    /// The elements that adapters did not see.
    pub(super) dropout: Option<PassDropout>,
}

/// Values that a layer leaves for its backward pass.
pub(super) enum KeptLayer<D: Device> {
    /// All that it needs.
    All(LayerSaved<D>),
    /// The stream that entered the layer, which is run again.
    Input(D::Tensor),
}

/// Values of a forward pass for [`Transformer::backward`]. Memory: per layer about
/// `T · (7·H + 2·kv_width + 2·I)` floats, or `T · H` where layers are [recomputed](Transformer::recompute).
pub struct ForwardSaved<D: Device> {
    pub(super) pass: PassSaved<D>,
}

impl<D: Device> Transformer<D> {
    /// Runs whole sequences: input embeddings `x[T, H]` to the final hidden states `[T, H]` (after the
    /// last RMSNorm), with the values that a backward pass needs.
    ///
    /// # Errors
    /// Shape mismatches and errors of the device.
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
        let target = KvTarget::Own { shared: layout.shared.as_ref() };
        let place = Place::new(&layout.positions, &layout.spans);
        let (hidden, saved) = self.pass(device, params, x, place, target, grads, taps)?;
        Ok((hidden, saved.map(|pass| ForwardSaved { pass })))
    }

    /// Runs new positions of cached sequences, in the order in which they were given to
    /// [`KvCache::extend`]; returns their final hidden states.
    ///
    /// # Errors
    /// Shape mismatches and errors of the device.
    pub fn forward_cached(
        &self,
        device: &D,
        params: &Params<D>,
        x: D::Tensor,
        extension: &Extension,
        cache: &mut KvCache<D>,
    ) -> Result<D::Tensor> {
        self.forward_adapted(device, params, x, extension, cache, None)
    }

    /// As [`forward_cached`](Self::forward_cached), with an adapter for each row beside a decoder that has none.
    ///
    /// # Errors
    /// As [`forward_cached`](Self::forward_cached).
    pub fn forward_adapted(
        &self,
        device: &D,
        params: &Params<D>,
        x: D::Tensor,
        extension: &Extension,
        cache: &mut KvCache<D>,
        adapters: Option<&RowAdapters<'_, D>>,
    ) -> Result<D::Tensor> {
        let positions = device.index(&extension.positions)?;
        let rows = device.index(&extension.rows)?;
        let target = KvTarget::Beside { keys: &mut cache.keys, values: &mut cache.values, rows: &rows };
        let place = Place { adapters, ..Place::new(&positions, &extension.spans) };
        Ok(self.pass(device, params, x, place, target, None, None)?.0)
    }

    /// One pass through all blocks: input embeddings `x[T, H]` to the final hidden states `[T, H]`. With `grads` it is a
    /// pass of training, and takes their dropout.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn pass(
        &self,
        device: &D,
        params: &Params<D>,
        x: D::Tensor,
        mut place: Place<'_, D>,
        mut target: KvTarget<'_, D>,
        grads: Option<&Grads<D>>,
        mut taps: Option<&mut Taps<D>>,
    ) -> Result<(D::Tensor, Option<PassSaved<D>>)> {
        let eps = self.config.rms_norm_eps;
        place.dropout = grads.and_then(|grads| grads.next_dropout(x.rows()));
        let (mut saved, mut streams2) = (Vec::new(), Vec::new());
        // The stream before a layer, and the output of the layer before it, not yet added.
        let (mut stream, mut delta): (D::Tensor, Option<D::Tensor>) = (x, None);
        for (i, layer) in self.layers.iter().enumerate() {
            let Normalised { stream: stream1, norm: n1, before } =
                normalise(device, stream, delta, params.get(layer.input_norm), eps)?;
            if grads.is_some() && !self.recompute {
                streams2.extend(before);
            }
            if let (Some(taps), true) = (taps.as_deref_mut(), i > 0) {
                taps.keep(device, &stream1)?;
            }
            let block =
                self.before_down(device, params, i, stream1, n1, &place, &mut target, grads.is_some())?;
            let placed = place.layer(i, layer);
            let (down, down_low) =
                place.project(device, params, (i, &placed), LoraTarget::DownProj, &block.act)?;
            if let (Some(grads), Some(mut all)) = (grads, block.saved) {
                saved.push(if self.recompute {
                    KeptLayer::Input(all.stream1)
                } else {
                    all.keep_down(layer, grads, block.act, down_low);
                    KeptLayer::All(all)
                });
            }
            (stream, delta) = (block.stream2, Some(down));
        }
        let Normalised { stream, norm: hidden, before } =
            normalise(device, stream, delta, params.get(self.norm), eps)?;
        if !self.recompute {
            streams2.extend(before);
        }
        if let Some(taps) = taps {
            taps.keep(device, &hidden)?;
        }
        Ok((
            hidden,
            grads.map(|_| PassSaved { layers: saved, stream2: streams2, stream, dropout: place.dropout }),
        ))
    }
}
