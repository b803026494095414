//! The batches of a step, and the passes of their method over them.

use super::batch::Batch;
use super::needs;
use super::sft::{self, Counts, LossSums, Noise, PendingLosses};
use super::thoughts::{self, PendingThoughts, ThoughtBatch, ThoughtCounts, ThoughtObjective, ThoughtSums};
use crate::Result;
use crate::device::{Device, Need};
use crate::model::ColarModel;
use crate::model::params::Grads;

/// The batches of an update or of a validation.
pub(crate) enum Batches {
    /// Sequences of tokens and latents (colar, cot, icot).
    Sft(Vec<Batch>),
    /// Sequences with thoughts between question and answer (coconut, distill).
    Thoughts(Vec<ThoughtBatch>),
}

/// The objectives of a run, by the kind of its batches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Objectives {
    /// The objective of [`Batches::Sft`].
    pub sft: sft::Objective,
    /// The objective of [`Batches::Thoughts`].
    pub thoughts: ThoughtObjective,
}

/// The losses of an update or a validation: means over all positions of all its batches.
pub(crate) struct Losses {
    /// The weighted total.
    pub total: f64,
    /// Its terms by their names in the metrics.
    pub terms: Vec<(&'static str, f64)>,
    /// How many log_sigma were bounded.
    pub bounded: u64,
}

/// Key and step of the noise of latent draws; `None` takes the expectation over it.
pub(crate) type NoiseKey = Option<(u64, u32)>;

impl Batches {
    /// Packed positions of all batches, of a model with so many thoughts; a teacher's among them.
    pub fn rows(&self, thoughts: usize) -> usize {
        match self {
            Batches::Sft(batches) => batches.iter().map(Batch::rows).sum(),
            Batches::Thoughts(batches) => {
                batches.iter().flat_map(ThoughtBatch::examples).map(|e| e.rows(thoughts)).sum()
            }
        }
    }

    /// Memory of the largest of the batches, beside the memory already taken.
    pub fn needs<D: Device>(
        &self,
        device: &D,
        model: &ColarModel<D>,
        grads: &Grads<D>,
        objectives: &Objectives,
    ) -> Vec<Need> {
        match self {
            Batches::Sft(batches) => needs::supervised(device, model, grads, &objectives.sft, batches),
            Batches::Thoughts(batches) => needs::thinking(device, model, grads, batches),
        }
    }

    /// Runs the objective over all batches.
    ///
    /// # Errors
    /// Errors of the objective and of the device.
    pub fn run<D: Device>(
        &self,
        device: &D,
        model: &ColarModel<D>,
        objectives: &Objectives,
        noise: NoiseKey,
    ) -> Result<Losses> {
        self.begin(device, model, objectives, noise, None)?.read(device)
    }

    /// Asks for the objective over all batches; with `grads`, adds its gradients there.
    ///
    /// # Errors
    /// As [`run`](Batches::run).
    pub fn begin<D: Device>(
        &self,
        device: &D,
        model: &ColarModel<D>,
        objectives: &Objectives,
        noise: NoiseKey,
        mut grads: Option<&mut Grads<D>>,
    ) -> Result<Pending<D>> {
        match self {
            Batches::Sft(batches) => {
                let (objective, counts) = (objectives.sft, Counts::of(batches));
                let mut first_row = 0;
                let pending = batches.iter().map(|batch| {
                    let noise = match noise {
                        Some((key, step)) => Noise::Drawn { key, step, first_row },
                        None => Noise::Off,
                    };
                    first_row += batch.latent_rows.len() as u32;
                    sft::begin(device, model, &objective, batch, &noise, counts, grads.as_deref_mut())
                });
                Ok(Pending::Sft(objective, pending.collect::<Result<_>>()?))
            }
            Batches::Thoughts(batches) => {
                let (objective, counts) = (objectives.thoughts, ThoughtCounts::of(batches));
                let count = model.thoughts.as_ref().map_or(0, |t| t.count);
                let pending = batches.iter().map(|batch| {
                    thoughts::begin(device, model, &objective, batch, count, counts, grads.as_deref_mut())
                });
                Ok(Pending::Thoughts(objective, pending.collect::<Result<_>>()?))
            }
        }
    }
}

/// The losses batch by batch, which the device may still be computing.
pub(crate) enum Pending<D: Device> {
    /// Losses of [`Batches::Sft`].
    Sft(sft::Objective, Vec<PendingLosses<D>>),
    /// Losses of [`Batches::Thoughts`].
    Thoughts(ThoughtObjective, Vec<PendingThoughts<D>>),
}

impl<D: Device> Pending<D> {
    /// Tensors that must be finite for the step to apply.
    pub fn tensors(&self) -> Vec<&D::Tensor> {
        match self {
            Pending::Sft(_, batches) => batches.iter().flat_map(|losses| losses.tensors()).collect(),
            Pending::Thoughts(_, batches) => batches.iter().flat_map(|losses| losses.tensors()).collect(),
        }
    }

    /// Waits for them.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn read(self, device: &D) -> Result<Losses> {
        match self {
            Pending::Sft(objective, batches) => {
                let mut sums = LossSums::default();
                for losses in batches {
                    sums.add(&losses.read(device)?);
                }
                Ok(supervised(&objective, &sums))
            }
            Pending::Thoughts(objective, batches) => {
                let mut sums = ThoughtSums::default();
                for losses in batches {
                    sums.add(&losses.read(device)?);
                }
                Ok(thinking(&objective, &sums))
            }
        }
    }
}

fn supervised(objective: &sft::Objective, sums: &LossSums) -> Losses {
    let mut terms = vec![("ce", sums.mean_ce())];
    if sums.counts.latent > 0 {
        terms.push(("latent", sums.mean_latent()));
        terms.push(("entropy", sums.mean_entropy()));
        terms.push(("bounded_log_sigma", sums.bounded as f64));
    }
    if objective.pred_embed_forward_weight != 0.0 {
        terms.push(("second_ce", sums.mean_second_ce()));
    }
    Losses { total: sums.total(objective), terms, bounded: sums.bounded }
}

fn thinking(objective: &ThoughtObjective, sums: &ThoughtSums) -> Losses {
    let mut terms = vec![("ce", sums.mean_student())];
    if sums.counts.teacher > 0 {
        terms.push(("teacher_ce", sums.mean_teacher()));
        terms.push(("distill", sums.mean_distill()));
    }
    Losses { total: sums.total(objective), terms, bounded: 0 }
}
