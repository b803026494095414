//! Where the rows of a pass stand, and where their keys and values go.

use crate::device::{Device, Span};
use crate::model::layout::SharedKeys;

/// Where the rows of a pass stand.
pub(super) struct Place<'a, D: Device> {
    /// Position of each row in its sequence.
    pub(super) positions: &'a D::Index,
    /// The rows that each sequence attends to.
    pub(super) spans: &'a [Span],
}

/// Where the keys and values of a pass go.
pub(super) enum KvTarget<'a, D: Device> {
    /// They are all there is, and kept with the layer.
    Own { shared: Option<&'a SharedKeys<D>> },
    /// To `rows` of those of earlier passes, one matrix of each a layer.
    Beside { keys: &'a mut [D::Tensor], values: &'a mut [D::Tensor], rows: &'a D::Index },
}
