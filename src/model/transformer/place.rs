//! Where the rows of a pass stand, and where their keys and values go.

use super::Layer;
use super::adapters::RowAdapters;
use crate::Result;
use crate::device::{Device, Span};
use crate::model::dropout::PassDropout;
use crate::model::layout::SharedKeys;
use crate::model::linear::{Linear, LinearSaved, Lora};
use crate::model::lora_target::LoraTarget;
use crate::model::params::Params;

/// Where the rows of a pass stand.
pub(super) struct Place<'a, D: Device> {
    /// Position of each row in its sequence.
    pub(super) positions: &'a D::Index,
    /// The rows that each sequence attends to.
    pub(super) spans: &'a [Span],
    /// The elements of the rows that adapters do not see; of a training pass alone.
    pub(super) dropout: Option<PassDropout>,
    /// The adapters of the rows, where rows of several checkpoints run together.
    pub(super) adapters: Option<&'a RowAdapters<'a, D>>,
}

impl<'a, D: Device> Place<'a, D> {
    /// Rows that stand so, with nothing beside the decoder.
    pub(super) fn new(positions: &'a D::Index, spans: &'a [Span]) -> Self {
        Place { positions, spans, dropout: None, adapters: None }
    }

    /// Layer `i` as it is in this pass: with the dropout of its adapters.
    pub(super) fn layer(&self, i: usize, layer: &Layer) -> Layer {
        let Some(pass) = self.dropout else { return *layer };
        let mut projections = 0..;
        layer.map_projections(|linear| {
            let dropout = projections.next().map(|p| pass.of(i, p));
            Linear { lora: linear.lora.map(|lora| Lora { dropout, ..lora }), ..linear }
        })
    }

    /// The output of a projection of layer `i`, which is `layer`, for its input `x[T, in]`, and the product to keep for the
    /// backward pass.
    pub(super) fn project(
        &self,
        device: &D,
        params: &Params<D>,
        (i, layer): (usize, &Layer),
        target: LoraTarget,
        x: &D::Tensor,
    ) -> Result<(D::Tensor, LinearSaved<D>)> {
        let (mut y, low) = layer.projections()[target as usize].forward(device, params, x)?;
        if let Some(adapters) = self.adapters {
            adapters.add(device, i, target, x, &mut y)?;
        }
        Ok((y, low))
    }
}

/// Where the keys and values of a pass go.
pub(super) enum KvTarget<'a, D: Device> {
    /// They are all there is, and kept with the layer.
    Own { shared: Option<&'a SharedKeys<D>> },
    /// To `rows` of those of earlier passes, one matrix of each a layer.
    Beside { keys: &'a mut [D::Tensor], values: &'a mut [D::Tensor], rows: &'a D::Index },
}
