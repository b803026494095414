//! Scores of models that think in continuous thoughts.

use super::losses::{Losses, SampleScore, Score};
use crate::Result;
use crate::data::Sample;
use crate::device::{Device, Need, Stay};
use crate::infer::{Loaded, needs};
use crate::model::kv_cache::KvCache;
use crate::train::recipe::Recipe;
use crate::train::thoughts::{
    ThoughtBatch, ThoughtCounts, ThoughtLosses, ThoughtObjective, ThoughtSums, run,
};

/// Scores `samples`, at most `batch_tokens` rows to a pass.
pub(super) fn score<D: Device>(
    loaded: &Loaded<D>,
    samples: &[Sample],
    recipe: &Recipe<'_>,
    batch_tokens: usize,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Score> {
    let thoughts = loaded.opened.model.thoughts_of(recipe.packing.method)?.count;
    let (mut scores, mut total) = (Vec::with_capacity(samples.len()), ThoughtSums::default());
    let (mut batch, mut filled) = (ThoughtBatch::new(), 0);
    for sample in samples {
        let example = recipe.example(sample)?;
        let rows = example.rows(thoughts);
        if filled > 0 && filled + rows > batch_tokens {
            flush(loaded, samples, &batch, thoughts, filled, &mut scores, &mut total)?;
            progress(scores.len())?;
            (batch, filled) = (ThoughtBatch::new(), 0);
        }
        batch.push(&example)?;
        filled += rows;
    }
    flush(loaded, samples, &batch, thoughts, filled, &mut scores, &mut total)?;
    progress(scores.len())?;
    Ok(Score { samples: scores, total: means(&total) })
}

/// Scores one batch of `rows` rows, whose samples follow those already in `scores`.
fn flush<D: Device>(
    loaded: &Loaded<D>,
    samples: &[Sample],
    batch: &ThoughtBatch,
    thoughts: usize,
    rows: usize,
    scores: &mut Vec<SampleScore>,
    total: &mut ThoughtSums,
) -> Result<()> {
    let (device, model) = (&loaded.device, &loaded.opened.model);
    let counts = ThoughtCounts::of([batch]);
    let outputs = counts.student.max(counts.teacher);
    let pass = needs::activations(device, model, rows, outputs, "pass", "a smaller `batch_tokens`");
    let cache = Need {
        what: format!("the keys and values of a pass of {rows} rows"),
        bytes: KvCache::<D>::bytes(&model.transformer.config, 1, rows, device.compute_dtype()),
        stay: Stay::Run,
        less: "a smaller `batch_tokens`",
    };
    device.reserve(&[needs::weights(model), cache, pass])?;
    let objective = ThoughtObjective::default();
    let losses = device.scope(|| run(device, model, &objective, batch, thoughts, counts, None))?;
    let (mut student, mut teacher) = (losses.student.as_slice(), losses.teacher.as_slice());
    let mut distances = losses.distill.as_slice();
    for example in batch.examples() {
        let own = ThoughtLosses {
            student: take(&mut student, example.student_labels()),
            teacher: take(&mut teacher, example.teacher_labels()),
            distill: take(&mut distances, usize::from(example.distill.is_some())),
        };
        let mut sums = ThoughtSums::default();
        sums.add(&own);
        let losses = means(&sums);
        losses.check(scores.len(), device, &model.params)?;
        total.add(&own);
        scores.push(SampleScore { question: samples[scores.len()].question.clone(), losses });
    }
    Ok(())
}

/// Removes and returns the first `n` values of `rest`.
fn take(rest: &mut &[f32], n: usize) -> Vec<f32> {
    let (first, others) = rest.split_at(n.min(rest.len()));
    *rest = others;
    first.to_vec()
}

fn means(sums: &ThoughtSums) -> Losses {
    let taught = sums.counts.distill > 0;
    Losses {
        ce: sums.mean_student(),
        ce_positions: sums.counts.student,
        teacher_ce: taught.then(|| sums.mean_teacher()),
        distill: taught.then(|| sums.mean_distill()),
        ..Losses::default()
    }
}
