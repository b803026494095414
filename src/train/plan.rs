//! The batches of a step, and what their method computes on them.

use super::batch::Batch;
use super::sft::{self, Counts, LossSums, Noise};
use super::thoughts::{self, ThoughtBatch, ThoughtCounts, ThoughtObjective, ThoughtSums};
use crate::Result;
use crate::device::Device;
use crate::model::ColarModel;
use crate::model::params::Grads;

/// The batches of an update or of a validation.
pub(crate) enum Plan {
    /// Sequences of tokens and latents (colar, cot, icot).
    Sft(Vec<Batch>),
    /// Sequences with thoughts between question and answer (coconut, distill).
    Thoughts(Vec<ThoughtBatch>),
}

/// What a run minimises, by the kind of its batches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Objectives {
    /// Of [`Plan::Sft`].
    pub sft: sft::Objective,
    /// Of [`Plan::Thoughts`].
    pub thoughts: ThoughtObjective,
}

/// The losses of a plan: means over all positions of all its batches.
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

impl Plan {
    /// Packed positions of all batches, of a model with so many thoughts; a teacher's among them.
    pub fn rows(&self, thoughts: usize) -> usize {
        match self {
            Plan::Sft(batches) => batches.iter().map(Batch::rows).sum(),
            Plan::Thoughts(batches) => {
                batches.iter().flat_map(ThoughtBatch::examples).map(|e| e.rows(thoughts)).sum()
            }
        }
    }

    /// Runs the objective over all batches; with `grads`, adds its gradients there.
    ///
    /// # Errors
    /// What the objective and the device say.
    pub fn run<D: Device>(
        &self,
        device: &D,
        model: &ColarModel<D>,
        objectives: &Objectives,
        noise: NoiseKey,
        grads: Option<&mut Grads<D>>,
    ) -> Result<Losses> {
        match self {
            Plan::Sft(batches) => supervised(device, model, &objectives.sft, batches, noise, grads),
            Plan::Thoughts(batches) => thinking(device, model, &objectives.thoughts, batches, grads),
        }
    }
}

fn supervised<D: Device>(
    device: &D,
    model: &ColarModel<D>,
    objective: &sft::Objective,
    batches: &[Batch],
    noise: NoiseKey,
    mut grads: Option<&mut Grads<D>>,
) -> Result<Losses> {
    let counts = Counts::of(batches);
    let mut sums = LossSums::default();
    let mut first_row = 0;
    for batch in batches {
        let noise = match noise {
            Some((key, step)) => Noise::Drawn { key, step, first_row },
            None => Noise::Off,
        };
        first_row += batch.latent_rows.len() as u32;
        sums.add(&sft::run(device, model, objective, batch, &noise, counts, grads.as_deref_mut())?);
    }
    let mut terms = vec![("ce", sums.mean_ce())];
    if counts.latent > 0 {
        terms.push(("latent", sums.mean_latent()));
        terms.push(("entropy", sums.mean_entropy()));
        terms.push(("bounded_log_sigma", sums.bounded as f64));
    }
    if objective.pred_embed_forward_weight != 0.0 {
        terms.push(("second_ce", sums.mean_second_ce()));
    }
    Ok(Losses { total: sums.total(objective), terms, bounded: sums.bounded })
}

fn thinking<D: Device>(
    device: &D,
    model: &ColarModel<D>,
    objective: &ThoughtObjective,
    batches: &[ThoughtBatch],
    mut grads: Option<&mut Grads<D>>,
) -> Result<Losses> {
    let (count, counts) = (model.thoughts.as_ref().map_or(0, |t| t.count), ThoughtCounts::of(batches));
    let mut sums = ThoughtSums::default();
    for batch in batches {
        sums.add(&thoughts::run(device, model, objective, batch, count, counts, grads.as_deref_mut())?);
    }
    let mut terms = vec![("ce", sums.mean_student())];
    if counts.teacher > 0 {
        terms.push(("teacher_ce", sums.mean_teacher()));
        terms.push(("distill", sums.mean_distill()));
    }
    Ok(Losses { total: sums.total(objective), terms, bounded: 0 })
}
