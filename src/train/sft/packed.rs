//! A packed batch on the device: its input embeddings, and the cross-entropy of its labels.

use crate::Result;
use crate::device::{CrossEntropyGrads, Device, TensorInfo, Upstream};
use crate::model::ColarModel;
use crate::model::layout::Layout;
use crate::model::params::Grads;
use crate::train::batch::Batch;

/// A batch on the device.
pub(crate) struct Uploaded<D: Device> {
    ids: D::Index,
    offsets: D::Index,
    scale: D::Tensor,
    pub(crate) layout: Layout<D>,
    ce_rows: D::Index,
    label_ids: D::Index,
    label_offsets: D::Index,
    /// Number of labelled rows.
    labelled: usize,
}

impl<D: Device> Uploaded<D> {
    pub(crate) fn new(device: &D, batch: &Batch) -> Result<Self> {
        Ok(Uploaded {
            ids: device.index(&batch.ids)?,
            offsets: device.index(&batch.offsets)?,
            scale: device.upload(batch.rows(), 1, &batch.scale)?,
            layout: Layout::packed(device, &batch.lens)?,
            ce_rows: device.index(&batch.ce_rows)?,
            label_ids: device.index(&batch.label_ids)?,
            label_offsets: device.index(&batch.label_offsets)?,
            labelled: batch.ce_rows.len(),
        })
    }

    /// The input embeddings of all rows, `[rows, H]`; 0 where a row has no token.
    pub(crate) fn embed(&self, device: &D, model: &ColarModel<D>) -> Result<D::Tensor> {
        let mut x = device.empty(self.scale.rows(), model.transformer.config.hidden_size)?;
        let table = model.params.get(model.transformer.embed);
        device.gather_merge(table, &self.ids, &self.offsets, &self.scale, &mut x)?;
        Ok(x)
    }

    /// Adds the gradient of the embedding table, where it is trained, given that of the rows.
    pub(crate) fn embed_backward(
        &self,
        device: &D,
        model: &ColarModel<D>,
        grads: &mut Grads<D>,
        dx: Option<&D::Tensor>,
    ) -> Result<()> {
        match (dx, grads.get_mut(model.transformer.embed)) {
            (Some(dx), Some(dtable)) => {
                device.gather_merge_backward(dx, &self.ids, &self.offsets, &self.scale, dtable)
            }
            _ => Ok(()),
        }
    }
}

/// Cross-entropy of the labelled rows; their gradients go into `dh` and into the output head.
pub(crate) fn labels_loss<D: Device>(
    device: &D,
    model: &ColarModel<D>,
    up: &Uploaded<D>,
    h: &D::Tensor,
    scale: f32,
    grads: Option<&mut Grads<D>>,
    dh: Option<&mut D::Tensor>,
) -> Result<D::Tensor> {
    let w = model.params.get(model.transformer.lm_head);
    let rows = up.labelled;
    let mut hc = device.empty(rows, h.cols())?;
    device.gather_rows(1.0, h, &up.ce_rows, &mut hc)?;
    let mut loss = device.zeros(rows, 1)?;
    if let (Some(grads), Some(dh)) = (grads, dh) {
        let row_scale = device.upload(rows, 1, &vec![scale; rows])?;
        let mut dhc = device.empty(rows, h.cols())?;
        let dw = grads.get_mut(model.transformer.lm_head);
        let out = CrossEntropyGrads { upstream: Upstream::Scale(&row_scale), dh: &mut dhc, dw };
        device.cross_entropy(&hc, w, &up.label_ids, &up.label_offsets, &mut loss, Some(out))?;
        device.scatter_add_rows(1.0, &dhc, &up.ce_rows, dh)?;
    } else {
        device.cross_entropy(&hc, w, &up.label_ids, &up.label_offsets, &mut loss, None)?;
    }
    Ok(loss)
}
