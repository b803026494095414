//! Where the rows of a pass stand, and where their keys and values go.

use super::Layer;
use crate::device::{Device, Span};
use crate::model::dropout::PassDropout;
use crate::model::layout::SharedKeys;
use crate::model::linear::{Linear, Lora};

/// Where the rows of a pass stand.
pub(super) struct Place<'a, D: Device> {
    /// Position of each row in its sequence.
    pub(super) positions: &'a D::Index,
    /// The rows that each sequence attends to.
    pub(super) spans: &'a [Span],
    /// The elements of the rows that adapters do not see; of a training pass alone.
    pub(super) dropout: Option<PassDropout>,
}

impl<D: Device> Place<'_, D> {
    /// Layer `i` as it is in this pass: with the dropout of its adapters.
    pub(super) fn layer(&self, i: usize, layer: &Layer) -> Layer {
        let Some(pass) = self.dropout else { return *layer };
        let mut projections = 0..;
        layer.map_projections(|linear| {
            let dropout = projections.next().map(|p| pass.of(i, p));
            Linear { lora: linear.lora.map(|lora| Lora { dropout, ..lora }), ..linear }
        })
    }
}

/// Where the keys and values of a pass go.
pub(super) enum KvTarget<'a, D: Device> {
    /// They are all there is, and kept with the layer.
    Own { shared: Option<&'a SharedKeys<D>> },
    /// To `rows` of those of earlier passes, one matrix of each a layer.
    Beside { keys: &'a mut [D::Tensor], values: &'a mut [D::Tensor], rows: &'a D::Index },
}
