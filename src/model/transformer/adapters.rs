//! Adapters of several checkpoints in one pass: each row has that of its own sequence, or none.
//!
//! The decoder's own products go over all rows together, and those of an adapter over the rows that have it, taken out and
//! put back. A row goes through the operations that it goes through where its adapter is the only one, so its bits are
//! those of a pass without the others, wherever an operation's bits do not depend on the rows beside it.

use super::{Layer, Transformer};
use crate::Result;
use crate::device::{Device, TensorInfo};
use crate::model::lora_target::LoraTarget;
use crate::model::params::Params;

/// The adapters of the rows of a pass over a decoder that has none itself.
pub struct RowAdapters<'a, D: Device> {
    groups: Vec<Group<'a, D>>,
}

/// Rows with the same adapter.
struct Group<'a, D: Device> {
    /// `None` stands for all rows of the pass.
    rows: Option<D::Index>,
    count: usize,
    layers: &'a [Layer],
    params: &'a Params<D>,
}

impl<'a, D: Device> RowAdapters<'a, D> {
    /// For a pass of `total` rows: groups of them, none in two, each with the decoder that has its adapter. Rows in no group
    /// have none.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn new(
        device: &D,
        total: usize,
        groups: impl IntoIterator<Item = (&'a Transformer<D>, &'a Params<D>, Vec<u32>)>,
    ) -> Result<Self> {
        let group = |(transformer, params, rows): (&'a Transformer<D>, &'a Params<D>, Vec<u32>)| {
            let count = rows.len();
            let rows = if count == total { None } else { Some(device.index(&rows)?) };
            Ok(Group { rows, count, layers: &transformer.layers, params })
        };
        Ok(RowAdapters { groups: groups.into_iter().map(group).collect::<Result<_>>()? })
    }

    /// Adds what the adapters of a projection make of its input `x[T, in]` to its output `y[T, out]`.
    pub(super) fn add(
        &self,
        device: &D,
        layer: usize,
        target: LoraTarget,
        x: &D::Tensor,
        y: &mut D::Tensor,
    ) -> Result<()> {
        for Group { rows, count, layers, params } in &self.groups {
            let Some(lora) = layers[layer].projections()[target as usize].lora else { continue };
            let Some(rows) = rows else {
                lora.add(device, params, x, y)?;
                continue;
            };
            let (mut own_x, mut own_y) = (device.empty(*count, x.cols())?, device.empty(*count, y.cols())?);
            device.gather_rows(1.0, x, rows, &mut own_x)?;
            device.gather_rows(1.0, y, rows, &mut own_y)?;
            lora.add(device, params, &own_x, &mut own_y)?;
            device.scatter_rows(1.0, &own_y, rows, y)?;
        }
        Ok(())
    }
}
