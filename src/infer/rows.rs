//! Rows taken from matrices: embeddings of tokens, hidden states of some of a batch.

use crate::Result;
use crate::device::{Device, TensorInfo};
use crate::model::ColarModel;

/// Input embeddings of tokens, `[T, H]`.
pub(super) fn embed<D: Device>(device: &D, model: &ColarModel<D>, ids: &[u32]) -> Result<D::Tensor> {
    let table = model.params.get(model.transformer.embed);
    let mut x = device.empty(ids.len(), table.cols())?;
    device.gather_rows(1.0, table, &device.index(ids)?, &mut x)?;
    Ok(x)
}

/// The listed rows of a matrix.
pub(super) fn select<D: Device>(device: &D, src: &D::Tensor, rows: &[u32]) -> Result<D::Tensor> {
    let mut out = device.empty(rows.len(), src.cols())?;
    device.gather_rows(1.0, src, &device.index(rows)?, &mut out)?;
    Ok(out)
}
