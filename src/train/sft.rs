//! The supervised objective (spec section 3), forward and backward over a packed batch.
//!
//! The losses are means over all positions of an optimiser step. A step may be cut into several
//! batches that are accumulated, so the counts to divide by ([`Counts`]) are given, not taken from
//! the batch: accumulation is then exact, whatever the sizes of the parts.

use super::batch::Batch;
use crate::Result;
use crate::device::{CrossEntropyGrads, Device, Draw, LatentLoss, LatentWeights, TensorInfo, Upstream};
use crate::model::ColarModel;
use crate::model::latent_head::{LatentDist, LatentHeadSaved};
use crate::model::layout::Layout;
use crate::model::params::Grads;

/// The weights of the objective's terms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Objective {
    /// Factor of the cross-entropy.
    pub ce_weight: f32,
    /// Factor of the latent loss.
    pub latent_weight: f32,
    /// Factor of the entropy; the paper's regularised form has −1e-6.
    pub entropy_weight: f32,
    /// Factor of the second forward's cross-entropy.
    pub pred_embed_forward_weight: f32,
    /// Which latent loss.
    pub latent_loss: LatentLoss,
}

impl Default for Objective {
    /// The paper's defaults: cross-entropy and soft-MSE, weight 1 each.
    fn default() -> Self {
        Objective {
            ce_weight: 1.0,
            latent_weight: 1.0,
            entropy_weight: 0.0,
            pred_embed_forward_weight: 0.0,
            latent_loss: LatentLoss::Mse,
        }
    }
}

/// The noise of the latent draws.
pub enum Noise<'a, D: Device> {
    /// Drawn for each latent row in turn: key, and the counter's first word.
    Drawn {
        /// Philox key.
        key: u64,
        /// Which step, so that no two steps share their noise.
        step: u32,
        /// Index of the batch's first latent row within the step.
        first_row: u32,
    },
    /// Given, `[latent rows, D]`.
    Given(&'a D::Tensor),
    /// None: the expectation forms, and mu itself where a sample is fed on.
    Off,
}

/// Positions of an optimiser step, over all its batches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Labelled positions.
    pub ce: usize,
    /// Latent positions.
    pub latent: usize,
}

impl Counts {
    /// The counts of these batches together.
    pub fn of<'a>(batches: impl IntoIterator<Item = &'a Batch>) -> Self {
        batches.into_iter().fold(Counts::default(), |c, b| Counts {
            ce: c.ce + b.ce_rows.len(),
            latent: c.latent + b.latent_rows.len(),
        })
    }
}

/// Losses position by position.
#[derive(Debug, Clone, Default)]
pub struct PositionLosses {
    /// Cross-entropy of each of the batch's `ce_rows`.
    pub ce: Vec<f32>,
    /// Latent loss of each of `latent_rows`, mean over D.
    pub latent: Vec<f32>,
    /// Entropy of each of `latent_rows`, mean over D.
    pub entropy: Vec<f32>,
    /// Cross-entropy of the second forward, where it is on.
    pub second_ce: Vec<f32>,
    /// How many log_sigma were bounded (see
    /// [`LOG_SIGMA_RANGE`](crate::model::latent_head::LOG_SIGMA_RANGE)).
    pub bounded: u64,
}

/// Sums of the losses of an optimiser step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossSums {
    /// Positions seen.
    pub counts: Counts,
    /// Sum of the cross-entropy over positions.
    pub ce: f64,
    /// Sum of the latent loss over positions.
    pub latent: f64,
    /// Sum of the entropy over positions.
    pub entropy: f64,
    /// Sum of the second forward's cross-entropy.
    pub second_ce: f64,
    /// How many log_sigma were bounded.
    pub bounded: u64,
}

impl LossSums {
    /// Adds a batch.
    pub fn add(&mut self, batch: &PositionLosses) {
        let sum = |x: &[f32]| x.iter().map(|&x| f64::from(x)).sum::<f64>();
        self.counts.ce += batch.ce.len();
        self.counts.latent += batch.latent.len();
        self.ce += sum(&batch.ce);
        self.latent += sum(&batch.latent);
        self.entropy += sum(&batch.entropy);
        self.second_ce += sum(&batch.second_ce);
        self.bounded += batch.bounded;
    }

    /// Mean cross-entropy.
    pub fn mean_ce(&self) -> f64 {
        self.ce / self.counts.ce.max(1) as f64
    }

    /// Mean latent loss.
    pub fn mean_latent(&self) -> f64 {
        self.latent / self.counts.latent.max(1) as f64
    }

    /// Mean entropy.
    pub fn mean_entropy(&self) -> f64 {
        self.entropy / self.counts.latent.max(1) as f64
    }

    /// Mean cross-entropy of the second forward.
    pub fn mean_second_ce(&self) -> f64 {
        self.second_ce / self.counts.ce.max(1) as f64
    }

    /// The weighted total.
    pub fn total(&self, o: &Objective) -> f64 {
        f64::from(o.ce_weight) * self.mean_ce()
            + f64::from(o.latent_weight) * self.mean_latent()
            + f64::from(o.entropy_weight) * self.mean_entropy()
            + f64::from(o.pred_embed_forward_weight) * self.mean_second_ce()
    }
}

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

/// The latent part of a forward pass.
struct LatentPass<D: Device> {
    rows: D::Index,
    dist: LatentDist<D>,
    saved: LatentHeadSaved<D>,
    eps: Option<D::Tensor>,
    /// Gradients of mu and log_sigma, where wanted.
    grads: Option<(D::Tensor, Option<D::Tensor>)>,
}

/// Runs the objective over a batch; with `grads`, adds its gradients there.
///
/// # Errors
/// Shape mismatches, a second forward or latent loss on a model without latent head, and what the
/// device says.
pub fn run<D: Device>(
    device: &D,
    model: &ColarModel<D>,
    objective: &Objective,
    batch: &Batch,
    noise: &Noise<'_, D>,
    counts: Counts,
    mut grads: Option<&mut Grads<D>>,
) -> Result<PositionLosses> {
    let (params, hidden) = (&model.params, model.transformer.config.hidden_size);
    let up = Uploaded::new(device, batch)?;
    let x = up.embed(device, model)?;

    let mut losses = PositionLosses::default();
    let latents = !batch.latent_rows.is_empty();
    let target = if latents { Some(latent_target(device, model, batch, &x)?) } else { None };
    // The second forward needs the input embeddings again.
    let second_x = if objective.pred_embed_forward_weight != 0.0 && latents {
        let mut copy = device.empty(x.rows(), hidden)?;
        device.copy(&x, &mut copy)?;
        Some(copy)
    } else {
        None
    };
    let (h, saved) = model.transformer.forward(device, params, x, &up.layout, grads.as_deref())?;
    let mut latent = match &target {
        Some(target) => {
            let wanted = grads.is_some();
            Some(latent_forward(
                device,
                model,
                objective,
                batch,
                noise,
                counts,
                &h,
                target,
                wanted,
                &mut losses,
            )?)
        }
        None => None,
    };

    // The gradient of the final hidden states, and of the input embeddings.
    let mut dh = match &grads {
        Some(_) => Some(device.cleared(h.rows(), hidden)?),
        None => None,
    };
    let mut dx_second = None;
    if let (Some(second_x), Some(latent)) = (second_x, &mut latent) {
        dx_second = second_forward(
            device,
            model,
            objective,
            batch,
            &up,
            second_x,
            latent,
            counts,
            grads.as_deref_mut(),
            &mut losses,
        )?;
    }
    losses.ce = labels_loss(
        device,
        model,
        &up,
        &h,
        objective.ce_weight / counts.ce.max(1) as f32,
        grads.as_deref_mut(),
        dh.as_mut(),
    )?;
    let (Some(grads), Some(mut dh), Some(saved)) = (grads, dh, saved) else { return Ok(losses) };
    if let (Some(head), Some(l)) = (&model.head, latent)
        && let Some((dmu, dls)) = l.grads
    {
        let dhl = head.backward(device, params, grads, &l.saved, &dmu, dls.as_ref())?;
        device.scatter_add_rows(1.0, &dhl, &l.rows, &mut dh)?;
    }
    let embed = model.transformer.embed;
    let dx =
        model.transformer.backward(device, params, grads, saved, &dh, &up.layout, grads.trains(embed))?;
    up.embed_backward(device, model, grads, dx.as_ref())?;
    up.embed_backward(device, model, grads, dx_second.as_ref())?;
    Ok(losses)
}

/// The targets of the latent loss: the next row's input embedding over `embeds_std`, detached.
pub(crate) fn latent_target<D: Device>(
    device: &D,
    model: &ColarModel<D>,
    batch: &Batch,
    x: &D::Tensor,
) -> Result<D::Tensor> {
    let rows: Vec<u32> = batch.latent_rows.iter().map(|r| r + 1).collect();
    let mut target = device.empty(rows.len(), x.cols())?;
    device.gather_rows(1.0 / model.embeds_std, x, &device.index(&rows)?, &mut target)?;
    Ok(target)
}

#[allow(clippy::too_many_arguments)]
fn latent_forward<D: Device>(
    device: &D,
    model: &ColarModel<D>,
    objective: &Objective,
    batch: &Batch,
    noise: &Noise<'_, D>,
    counts: Counts,
    h: &D::Tensor,
    target: &D::Tensor,
    with_grads: bool,
    losses: &mut PositionLosses,
) -> Result<LatentPass<D>> {
    let head = model.latent_head()?;
    let (n, d) = (batch.latent_rows.len(), h.cols());
    let rows = device.index(&batch.latent_rows)?;
    let mut hl = device.empty(n, d)?;
    device.gather_rows(1.0, h, &rows, &mut hl)?;
    let (dist, saved) = head.forward(device, &model.params, hl)?;
    let eps = match noise {
        Noise::Off => None,
        Noise::Given(eps) => {
            let mut copy = device.empty(n, d)?;
            device.copy(eps, &mut copy)?;
            Some(copy)
        }
        Noise::Drawn { key, step, first_row } => {
            let draws: Vec<Draw> =
                (0..n as u32).map(|i| Draw { key: *key, counter: [*step, first_row + i] }).collect();
            let mut eps = device.empty(n, d)?;
            device.normal(&draws, &mut eps)?;
            Some(eps)
        }
    };
    let per_element = 1.0 / (counts.latent.max(1) * d) as f32;
    let loss = match (objective.latent_loss, &eps) {
        (LatentLoss::Mse, None) => LatentLoss::MseExpected,
        (loss, _) => loss,
    };
    let weights = LatentWeights {
        loss,
        loss_scale: objective.latent_weight * per_element,
        entropy_scale: objective.entropy_weight * per_element,
    };
    let mut per_row = device.zeros(n, 3)?;
    let mut grads = if with_grads {
        let dls = match dist.log_sigma {
            Some(_) => Some(device.empty(n, d)?),
            None => None,
        };
        Some((device.empty(n, d)?, dls))
    } else {
        None
    };
    device.latent_loss(
        weights,
        &dist.mu,
        dist.log_sigma.as_ref(),
        eps.as_ref(),
        target,
        &mut per_row,
        grads.as_mut().map(|(m, s)| (m, s.as_mut())),
    )?;
    for row in device.read(&per_row)?.chunks_exact(3) {
        losses.latent.push(row[0]);
        losses.entropy.push(row[1]);
        losses.bounded += row[2] as u64;
    }
    Ok(LatentPass { rows, dist, saved, eps, grads })
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
) -> Result<Vec<f32>> {
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
    device.read(&loss)
}

/// The second forward (`pred_embed_forward`): the predicted embeddings stand in for the compressed
/// positions they predict. Adds the gradients that reach mu and log_sigma to `latent.grads`, and
/// returns that of the input embeddings which were not replaced.
#[allow(clippy::too_many_arguments)]
fn second_forward<D: Device>(
    device: &D,
    model: &ColarModel<D>,
    objective: &Objective,
    batch: &Batch,
    up: &Uploaded<D>,
    mut x: D::Tensor,
    latent: &mut LatentPass<D>,
    counts: Counts,
    mut grads: Option<&mut Grads<D>>,
    losses: &mut PositionLosses,
) -> Result<Option<D::Tensor>> {
    let (n, d) = (batch.latent_rows.len(), x.cols());
    let std = model.embeds_std;
    let zeros;
    let eps = match &latent.eps {
        Some(eps) => eps,
        None => {
            zeros = device.cleared(n, d)?;
            &zeros
        }
    };
    let log_sigma = latent.dist.log_sigma.as_ref();
    let mut z = device.empty(n, d)?;
    device.reparameterise(&latent.dist.mu, log_sigma, eps, 1.0, &mut z)?;
    // Of the predictions, those of compressed positions are fed; the answer's separator is a token.
    let inner: Vec<u32> = (0..n as u32).filter(|&i| batch.latent_inner[i as usize]).collect();
    let rows: Vec<u32> = inner.iter().map(|&i| batch.latent_rows[i as usize] + 1).collect();
    let (inner, rows) = (device.index(&inner)?, device.index(&rows)?);
    let count = batch.latent_inner.iter().filter(|&&b| b).count();
    let mut fed = device.empty(count, d)?;
    device.gather_rows(1.0, &z, &inner, &mut fed)?;
    device.scatter_rows(std, &fed, &rows, &mut x)?;
    let (h, saved) = model.transformer.forward(device, &model.params, x, &up.layout, grads.as_deref())?;
    let mut dh = match &grads {
        Some(_) => Some(device.cleared(h.rows(), d)?),
        None => None,
    };
    let scale = objective.pred_embed_forward_weight / counts.ce.max(1) as f32;
    losses.second_ce = labels_loss(device, model, up, &h, scale, grads.as_deref_mut(), dh.as_mut())?;
    let (Some(grads), Some(dh), Some(saved)) = (grads, dh, saved) else { return Ok(None) };
    let dx = model.transformer.backward(device, &model.params, grads, saved, &dh, &up.layout, true)?;
    let Some(mut dx) = dx else { return Ok(None) };
    let mut dfed = device.empty(count, d)?;
    device.gather_rows(std, &dx, &rows, &mut dfed)?;
    let mut dz = device.cleared(n, d)?;
    device.scatter_rows(1.0, &dfed, &inner, &mut dz)?;
    if let Some((dmu, dls)) = &mut latent.grads {
        device.reparameterise_backward(&dz, log_sigma, eps, dmu, dls.as_mut())?;
    }
    // What was replaced passes nothing on to the embedding table.
    device.scatter_rows(0.0, &dfed, &rows, &mut dx)?;
    Ok(Some(dx))
}
