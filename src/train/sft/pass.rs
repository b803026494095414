//! The passes of a batch: over its input embeddings, and, where that is wanted, over predicted ones.

use super::objective::{Counts, Objective, PositionLosses};
use super::packed::{Uploaded, labels_loss};
use crate::Result;
use crate::device::{Device, Draw, LatentLoss, LatentWeights, TensorInfo};
use crate::model::ColarModel;
use crate::model::latent_head::{LatentDist, LatentHeadSaved};
use crate::model::params::Grads;
use crate::train::batch::Batch;

/// The noise of the latent draws.
pub enum Noise<'a, D: Device> {
    /// Drawn for each latent row in turn: key, and the counter's first word.
    Drawn {
        /// Philox key.
        key: u64,
        /// The number of the step, so that no two steps share their noise.
        step: u32,
        /// Index of the batch's first latent row within the step.
        first_row: u32,
    },
    /// Given, `[latent rows, D]`.
    Given(&'a D::Tensor),
    /// None: the expectation forms, and mu itself where a sample is fed on.
    Off,
}

/// Losses position by position, which the device may still be computing.
pub struct PendingLosses<D: Device> {
    /// `[labels, 1]`.
    ce: D::Tensor,
    /// `[latents, 3]`: latent loss, entropy, and how many log_sigma were bounded.
    latent: Option<D::Tensor>,
    /// `[labels, 1]`, of the second forward.
    second_ce: Option<D::Tensor>,
}

impl<D: Device> PendingLosses<D> {
    /// Tensors that must be finite for the step to apply: all of them.
    pub fn tensors(&self) -> impl Iterator<Item = &D::Tensor> {
        [Some(&self.ce), self.latent.as_ref(), self.second_ce.as_ref()].into_iter().flatten()
    }

    /// Waits for them.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn read(&self, device: &D) -> Result<PositionLosses> {
        let mut losses = PositionLosses { ce: device.read(&self.ce)?, ..PositionLosses::default() };
        if let Some(second_ce) = &self.second_ce {
            losses.second_ce = device.read(second_ce)?;
        }
        if let Some(latent) = &self.latent {
            for row in device.read(latent)?.chunks_exact(3) {
                losses.latent.push(row[0]);
                losses.entropy.push(row[1]);
                losses.bounded += row[2] as u64;
            }
        }
        Ok(losses)
    }
}

/// The latent part of a forward pass.
struct LatentPass<D: Device> {
    rows: D::Index,
    dist: LatentDist<D>,
    saved: LatentHeadSaved<D>,
    eps: Option<D::Tensor>,
    /// Losses, `[rows, 3]`.
    per_row: D::Tensor,
    /// Gradients of mu and log_sigma, where wanted.
    grads: Option<(D::Tensor, Option<D::Tensor>)>,
}

/// Runs the objective over a batch; with `grads`, adds its gradients there.
///
/// # Errors
/// Shape mismatches, a second forward or latent loss on a model without latent head, and errors
/// of the device.
pub fn run<D: Device>(
    device: &D,
    model: &ColarModel<D>,
    objective: &Objective,
    batch: &Batch,
    noise: &Noise<'_, D>,
    counts: Counts,
    grads: Option<&mut Grads<D>>,
) -> Result<PositionLosses> {
    begin(device, model, objective, batch, noise, counts, grads)?.read(device)
}

/// As [`run`], but does not wait for the device.
///
/// # Errors
/// As [`run`].
pub fn begin<D: Device>(
    device: &D,
    model: &ColarModel<D>,
    objective: &Objective,
    batch: &Batch,
    noise: &Noise<'_, D>,
    counts: Counts,
    mut grads: Option<&mut Grads<D>>,
) -> Result<PendingLosses<D>> {
    let (params, hidden) = (&model.params, model.transformer.config.hidden_size);
    let up = Uploaded::new(device, batch)?;
    let x = up.embed(device, model)?;

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
            Some(latent_forward(device, model, objective, batch, noise, counts, &h, target, wanted)?)
        }
        None => None,
    };

    // The gradient of the final hidden states, and of the input embeddings.
    let mut dh = match &grads {
        Some(_) => Some(device.cleared(h.rows(), hidden)?),
        None => None,
    };
    let (mut second_ce, mut dx_second) = (None, None);
    if let (Some(second_x), Some(latent)) = (second_x, &mut latent) {
        let (losses, dx) = second_forward(
            device,
            model,
            objective,
            batch,
            &up,
            second_x,
            latent,
            counts,
            grads.as_deref_mut(),
        )?;
        (second_ce, dx_second) = (Some(losses), dx);
    }
    let ce = labels_loss(
        device,
        model,
        &up,
        &h,
        objective.ce_weight / counts.ce.max(1) as f32,
        grads.as_deref_mut(),
        dh.as_mut(),
    )?;
    let (Some(grads), Some(mut dh), Some(saved)) = (grads, dh, saved) else {
        return Ok(PendingLosses { ce, latent: latent.map(|l| l.per_row), second_ce });
    };
    let mut per_latent = None;
    if let (Some(head), Some(l)) = (&model.head, latent) {
        if let Some((dmu, dls)) = l.grads {
            let dhl = head.backward(device, params, grads, &l.saved, &dmu, dls.as_ref())?;
            device.scatter_add_rows(1.0, &dhl, &l.rows, &mut dh)?;
        }
        per_latent = Some(l.per_row);
    }
    let embed = model.transformer.embed;
    let dx =
        model.transformer.backward(device, params, grads, saved, &dh, &up.layout, grads.trains(embed))?;
    up.embed_backward(device, model, grads, dx.as_ref())?;
    up.embed_backward(device, model, grads, dx_second.as_ref())?;
    Ok(PendingLosses { ce, latent: per_latent, second_ce })
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
    Ok(LatentPass { rows, dist, saved, eps, per_row, grads })
}

/// The second forward (`pred_embed_forward`): the predicted embeddings stand in for the compressed
/// positions they predict. Adds the gradients that reach mu and log_sigma to `latent.grads`. Returns
/// the labels' losses, and the gradient of the input embeddings which were not replaced.
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
) -> Result<(D::Tensor, Option<D::Tensor>)> {
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
    let losses = labels_loss(device, model, up, &h, scale, grads.as_deref_mut(), dh.as_mut())?;
    let (Some(grads), Some(dh), Some(saved)) = (grads, dh, saved) else { return Ok((losses, None)) };
    let dx = model.transformer.backward(device, &model.params, grads, saved, &dh, &up.layout, true)?;
    let Some(mut dx) = dx else { return Ok((losses, None)) };
    let mut dfed = device.empty(count, d)?;
    device.gather_rows(std, &dx, &rows, &mut dfed)?;
    let mut dz = device.cleared(n, d)?;
    device.scatter_rows(1.0, &dfed, &inner, &mut dz)?;
    if let Some((dmu, dls)) = &mut latent.grads {
        device.reparameterise_backward(&dz, log_sigma, eps, dmu, dls.as_mut())?;
    }
    // Rows that were replaced pass nothing on to the embedding table.
    device.scatter_rows(0.0, &dfed, &rows, &mut dx)?;
    Ok((losses, Some(dx)))
}
