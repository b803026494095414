//! The passes of a batch: the teacher's, an ordinary one, and the student's, through its thoughts.

use super::batch::ThoughtBatch;
use super::distill::smooth_l1;
use super::objective::{ThoughtCounts, ThoughtLosses, ThoughtObjective};
use crate::Result;
use crate::device::{Device, TensorInfo};
use crate::model::ColarModel;
use crate::model::params::Grads;
use crate::model::transformer::{Taps, ThoughtLayout};
use crate::train::sft::{Uploaded, labels_loss};

/// Losses and hidden states of a teacher's pass.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Taught {
    /// Cross-entropy of each label.
    pub losses: Vec<f32>,
    /// Per layer, the hidden states `[samples, H]` at the colons.
    pub states: Vec<Vec<f32>>,
}

/// Losses of a batch, of which the device may still be computing those of labels.
pub struct PendingThoughts<D: Device> {
    /// `[labels, 1]`.
    student: D::Tensor,
    /// `[labels, 1]`.
    teacher: Option<D::Tensor>,
    distill: Vec<f32>,
}

impl<D: Device> PendingThoughts<D> {
    /// Tensors that must be finite for the step to apply. Distances are not among them: a hidden state that is not
    /// finite makes the loss of a label not finite too.
    pub fn tensors(&self) -> impl Iterator<Item = &D::Tensor> {
        [Some(&self.student), self.teacher.as_ref()].into_iter().flatten()
    }

    /// Waits for them.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn read(self, device: &D) -> Result<ThoughtLosses> {
        let teacher = self.teacher.map_or(Ok(Vec::new()), |losses| device.read(&losses))?;
        Ok(ThoughtLosses { student: device.read(&self.student)?, teacher, distill: self.distill })
    }
}

/// Runs the objective over a batch, each sample with `thoughts` thoughts; with `grads`, adds its gradients there.
///
/// # Errors
/// Shape mismatches and errors of the device.
pub fn run<D: Device>(
    device: &D,
    model: &ColarModel<D>,
    objective: &ThoughtObjective,
    batch: &ThoughtBatch,
    thoughts: usize,
    counts: ThoughtCounts,
    grads: Option<&mut Grads<D>>,
) -> Result<ThoughtLosses> {
    begin(device, model, objective, batch, thoughts, counts, grads)?.read(device)
}

/// As [`run`], but waits for the device only where hidden states are compared.
///
/// # Errors
/// As [`run`].
pub fn begin<D: Device>(
    device: &D,
    model: &ColarModel<D>,
    objective: &ThoughtObjective,
    batch: &ThoughtBatch,
    thoughts: usize,
    counts: ThoughtCounts,
    mut grads: Option<&mut Grads<D>>,
) -> Result<PendingThoughts<D>> {
    let taught = teach(device, model, objective, batch, counts, grads.as_deref_mut())?;
    let pending = learn(device, model, objective, batch, thoughts, counts, &taught.states, grads)?;
    Ok(PendingThoughts { teacher: taught.losses, ..pending })
}

/// The teacher's pass over the samples that have one.
///
/// # Errors
/// As [`run`].
pub fn teacher_pass<D: Device>(
    device: &D,
    model: &ColarModel<D>,
    objective: &ThoughtObjective,
    batch: &ThoughtBatch,
    counts: ThoughtCounts,
    grads: Option<&mut Grads<D>>,
) -> Result<Taught> {
    let Teaching { losses, states } = teach(device, model, objective, batch, counts, grads)?;
    Ok(Taught { losses: losses.map_or(Ok(Vec::new()), |losses| device.read(&losses))?, states })
}

/// Results of the teacher's pass: losses `[labels, 1]`, and the states at the colons.
struct Teaching<D: Device> {
    losses: Option<D::Tensor>,
    states: Vec<Vec<f32>>,
}

fn teach<D: Device>(
    device: &D,
    model: &ColarModel<D>,
    objective: &ThoughtObjective,
    batch: &ThoughtBatch,
    counts: ThoughtCounts,
    mut grads: Option<&mut Grads<D>>,
) -> Result<Teaching<D>> {
    let (packed, colons) = batch.teacher();
    if colons.is_empty() {
        return Ok(Teaching { losses: None, states: Vec::new() });
    }
    let (params, transformer) = (&model.params, &model.transformer);
    let up = Uploaded::new(device, &packed)?;
    let mut taps = Taps::new(device, &colons)?;
    let x = up.embed(device, model)?;
    let (h, saved) =
        transformer.forward_tapped(device, params, x, &up.layout, grads.as_deref(), Some(&mut taps))?;
    let scale = objective.teacher_weight / counts.teacher.max(1) as f32;
    let mut dh = gradient_of(device, &h, grads.is_some())?;
    let losses = labels_loss(device, model, &up, &h, scale, grads.as_deref_mut(), dh.as_mut())?;
    if let (Some(grads), Some(dh), Some(saved)) = (grads, dh, saved) {
        let embed = grads.trains(transformer.embed);
        let dx = transformer.backward(device, params, grads, saved, &dh, &up.layout, embed)?;
        up.embed_backward(device, model, grads, dx.as_ref())?;
    }
    Ok(Teaching { losses: Some(losses), states: taps.read(device)? })
}

/// The student's pass over all samples, towards the `states` that the teacher had; leaves `teacher` empty in what
/// it returns. A step of training takes the states from the [`teacher_pass`] before it, as [`run`] does. They are
/// constants to this pass: a finite difference of it must not change them.
///
/// # Errors
/// As [`run`].
#[allow(clippy::too_many_arguments)]
pub fn student_pass<D: Device>(
    device: &D,
    model: &ColarModel<D>,
    objective: &ThoughtObjective,
    batch: &ThoughtBatch,
    thoughts: usize,
    counts: ThoughtCounts,
    states: &[Vec<f32>],
    grads: Option<&mut Grads<D>>,
) -> Result<ThoughtLosses> {
    learn(device, model, objective, batch, thoughts, counts, states, grads)?.read(device)
}

/// The student's pass; leaves `teacher` empty.
#[allow(clippy::too_many_arguments)]
fn learn<D: Device>(
    device: &D,
    model: &ColarModel<D>,
    objective: &ThoughtObjective,
    batch: &ThoughtBatch,
    thoughts: usize,
    counts: ThoughtCounts,
    states: &[Vec<f32>],
    mut grads: Option<&mut Grads<D>>,
) -> Result<PendingThoughts<D>> {
    let (params, transformer) = (&model.params, &model.transformer);
    let projector = model.thoughts.as_ref().and_then(|t| t.projector.as_ref());
    let up = Uploaded::new(device, &batch.student(thoughts))?;
    let layout = ThoughtLayout::new(device, &batch.lens(), thoughts)?;
    let colons = batch.student_colons();
    let mut taps = if colons.is_empty() { None } else { Some(Taps::new(device, &colons)?) };
    let x = up.embed(device, model)?;
    let (h, saved) = transformer.forward_thoughts(
        device,
        params,
        projector,
        &x,
        &layout,
        grads.as_deref(),
        taps.as_mut(),
    )?;
    drop(x);
    let scale = objective.student_weight / counts.student.max(1) as f32;
    let mut dh = gradient_of(device, &h, grads.is_some())?;
    let student = labels_loss(device, model, &up, &h, scale, grads.as_deref_mut(), dh.as_mut())?;
    let mut losses = PendingThoughts { student, teacher: None, distill: Vec::new() };
    let mut tap_grads = None;
    if let Some(taps) = taps {
        let of_student = taps.read(device)?;
        let elements = counts.distill.max(1) * of_student.len() * h.cols();
        let scale = objective.distill_weight / elements as f32;
        let (distances, gradients) = smooth_l1(&of_student, states, colons.len(), scale);
        losses.distill = distances;
        if grads.is_some() {
            tap_grads = Some(taps.with_grads(device, &gradients)?);
        }
    }
    if let (Some(grads), Some(dh), Some(saved)) = (grads, dh, saved) {
        let embed = grads.trains(transformer.embed);
        let dx = transformer.backward_thoughts(
            device,
            params,
            projector,
            grads,
            saved,
            dh,
            &layout,
            tap_grads.as_ref(),
            embed,
        )?;
        up.embed_backward(device, model, grads, dx.as_ref())?;
    }
    Ok(losses)
}

/// Zeros for the gradient of `h`, where it is wanted.
fn gradient_of<D: Device>(device: &D, h: &D::Tensor, wanted: bool) -> Result<Option<D::Tensor>> {
    if wanted { device.cleared(h.rows(), h.cols()).map(Some) } else { Ok(None) }
}
