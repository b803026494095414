//! Teacher-forced losses of a data set (spec section 3), in their expectation forms.
//!
//! Sampled labels and noise would make a score a random number; here every draw is replaced by its
//! expectation, so the same files give the same figures. Both latent losses and the entropy come from
//! one forward pass, since they look at the same distributions. Samples of a staged method are those of its
//! last stage.

mod losses;
mod thoughts;

pub use losses::{Losses, SampleScore, Score};

use super::batch::Batch;
use super::long;
use super::recipe::Recipe;
use super::sft::{Uploaded, labels_loss, latent_target};
use crate::data::Sample;
use crate::device::{Device, LatentLoss, LatentWeights, TensorInfo};
use crate::infer::{Loaded, needs};
use crate::model::prompt::Method;
use crate::{Error, Result};

/// Settings of a scoring run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScoreOptions {
    /// The layout: latents to predict, thoughts, or reasoning text.
    pub method: Method,
    /// Compression factor; 1 under any method but CoLaR.
    pub compression_factor: usize,
    /// Most packed rows of a forward pass; a longer sample runs alone.
    pub batch_tokens: usize,
}

setters!(ScoreOptions { method: Method, compression_factor: usize, batch_tokens: usize });

impl Default for ScoreOptions {
    fn default() -> Self {
        ScoreOptions { method: Method::Colar, compression_factor: 1, batch_tokens: 2048 }
    }
}

/// Scores `samples`; calls `progress` with the number done after each forward pass, which may end it by an error.
///
/// # Errors
/// [`Error::Usage`] for an empty data set, a compression factor of 0, or other than 1 where nothing is
/// compressed, a sample that holds a mark of the prompt or is beyond [`Loaded::most_positions`]; a model without the latent head or the thoughts of the method;
/// a loss that is not finite, naming the sample; errors of the device, and of `progress`.
pub fn score<D: Device>(
    loaded: &Loaded<D>,
    samples: &[Sample],
    options: &ScoreOptions,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Score> {
    if samples.is_empty() {
        return Err(Error::usage("there is nothing to score: the data set is empty"));
    }
    loaded.opened.check_own_prompts()?;
    let mut samples = samples.to_vec();
    loaded.opened.marks.settle(&mut samples, loaded.escape_marks)?;
    let samples = samples.as_slice();
    if options.compression_factor == 0 || (options.method != Method::Colar && options.compression_factor != 1)
    {
        return Err(Error::usage(
            "the compression factor must be at least 1, and 1 where nothing is compressed",
        ));
    }
    if options.method == Method::Colar {
        loaded.opened.model.latent_head()?;
    }
    let prompt_compression_factor = options.compression_factor.to_string();
    let recipe =
        Recipe::new(&loaded.opened, options.method, options.compression_factor, &prompt_compression_factor);
    if matches!(options.method, Method::Coconut | Method::Distill) {
        let thoughts = loaded.opened.model.thoughts_of(options.method)?.count;
        long::refuse(loaded, samples, &recipe, thoughts)?;
        return thoughts::score(loaded, samples, &recipe, options.batch_tokens, progress);
    }
    long::refuse(loaded, samples, &recipe, 0)?;
    let (mut scores, mut total) = (Vec::with_capacity(samples.len()), Sums::default());
    let mut batch = Batch::new();
    for (i, sample) in samples.iter().enumerate() {
        let segments = recipe.segments(sample)?;
        let rows = segments.positions(options.compression_factor);
        if batch.rows() > 0 && batch.rows() + rows > options.batch_tokens {
            flush(loaded, samples, &batch, &mut scores, &mut total)?;
            progress(scores.len())?;
            batch = Batch::new();
        }
        batch.push(recipe.packing, &segments, None);
        if i + 1 == samples.len() {
            flush(loaded, samples, &batch, &mut scores, &mut total)?;
            progress(scores.len())?;
        }
    }
    Ok(Score { samples: scores, total: total.means() })
}

/// Scores one batch, whose samples follow those already in `scores`.
fn flush<D: Device>(
    loaded: &Loaded<D>,
    samples: &[Sample],
    batch: &Batch,
    scores: &mut Vec<SampleScore>,
    total: &mut Sums,
) -> Result<()> {
    let model = &loaded.opened.model;
    let outputs = batch.ce_rows.len();
    let pass =
        needs::activations(&loaded.device, model, batch.rows(), outputs, "pass", "a smaller `batch_tokens`");
    loaded.device.reserve(&[needs::weights(model), pass])?;
    let losses = loaded.device.scope(|| positions(loaded, batch))?;
    let (mut ce, mut latent) = (0, 0);
    for &(ce_count, latent_count) in &batch.counts {
        let place = scores.len();
        let sums = losses.sums(ce..ce + ce_count, latent..latent + latent_count);
        (ce, latent) = (ce + ce_count, latent + latent_count);
        let means = sums.means();
        means.check(place, &loaded.device, &model.params)?;
        total.add(&sums);
        scores.push(SampleScore { question: samples[place].question.clone(), losses: means });
    }
    Ok(())
}

/// Losses position by position.
struct Positions {
    /// One a labelled row.
    ce: Vec<f32>,
    /// Expected squared error, likelihood loss and entropy, one a latent row.
    latent: Vec<[f32; 3]>,
}

impl Positions {
    fn sums(&self, ce: std::ops::Range<usize>, latent: std::ops::Range<usize>) -> Sums {
        let mut sums = Sums { ce_positions: ce.len(), latent_positions: latent.len(), ..Sums::default() };
        sums.ce = self.ce[ce].iter().map(|&x| f64::from(x)).sum();
        for row in &self.latent[latent] {
            for (sum, &x) in sums.latent.iter_mut().zip(row) {
                *sum += f64::from(x);
            }
        }
        sums
    }
}

/// One forward pass, and every loss of it.
fn positions<D: Device>(loaded: &Loaded<D>, batch: &Batch) -> Result<Positions> {
    let (device, model) = (&loaded.device, &loaded.opened.model);
    let (params, transformer) = (&model.params, &model.transformer);
    let up = Uploaded::new(device, batch)?;
    let x = up.embed(device, model)?;
    let target =
        if batch.latent_rows.is_empty() { None } else { Some(latent_target(device, model, batch, &x)?) };
    let (h, _) = transformer.forward(device, params, x, &up.layout, None)?;
    let latent = match target {
        Some(target) => latent_losses(loaded, batch, &h, &target)?,
        None => Vec::new(),
    };
    let ce = device.read(&labels_loss(device, model, &up, &h, 0.0, None, None)?)?;
    Ok(Positions { ce, latent })
}

fn latent_losses<D: Device>(
    loaded: &Loaded<D>,
    batch: &Batch,
    h: &D::Tensor,
    target: &D::Tensor,
) -> Result<Vec<[f32; 3]>> {
    let (device, model) = (&loaded.device, &loaded.opened.model);
    let n = batch.latent_rows.len();
    let mut hl = device.empty(n, h.cols())?;
    device.gather_rows(1.0, h, &device.index(&batch.latent_rows)?, &mut hl)?;
    let (dist, _) = model.latent_head()?.forward(device, &model.params, hl)?;
    let of = |loss| -> Result<Vec<f32>> {
        let weights = LatentWeights { loss, loss_scale: 0.0, entropy_scale: 0.0 };
        let mut per_row = device.zeros(n, 3)?;
        device.latent_loss(weights, &dist.mu, dist.log_sigma.as_ref(), None, target, &mut per_row, None)?;
        device.read(&per_row)
    };
    let (mse, nll) = (of(LatentLoss::MseExpected)?, of(LatentLoss::Nll)?);
    Ok(mse.chunks_exact(3).zip(nll.chunks_exact(3)).map(|(m, n)| [m[0], n[0], m[1]]).collect())
}

/// Sums over positions.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    ce: f64,
    latent: [f64; 3],
    ce_positions: usize,
    latent_positions: usize,
}

impl Sums {
    fn add(&mut self, other: &Sums) {
        self.ce += other.ce;
        self.ce_positions += other.ce_positions;
        self.latent_positions += other.latent_positions;
        for (sum, x) in self.latent.iter_mut().zip(other.latent) {
            *sum += x;
        }
    }

    fn means(&self) -> Losses {
        let latent =
            (self.latent_positions > 0).then(|| self.latent.map(|sum| sum / self.latent_positions as f64));
        Losses {
            ce: self.ce / self.ce_positions.max(1) as f64,
            latent_mse: latent.map(|[mse, _, _]| mse),
            latent_nll: latent.map(|[_, nll, _]| nll),
            entropy: latent.map(|[_, _, entropy]| entropy),
            ce_positions: self.ce_positions,
            latent_positions: self.latent_positions,
            teacher_ce: None,
            distill: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::device::cpu::CpuDevice;
    use crate::model::prompt;
    use crate::train::batch::Packing;
    use crate::train::sft::{Counts, LossSums, Noise, Objective, run};

    fn load(adapter: bool) -> Loaded<CpuDevice> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/qwen2-tiny");
        let checkpoint = dir.join("adapter");
        Loaded::new(CpuDevice::new(2).unwrap(), &dir, adapter.then_some(checkpoint.as_path())).unwrap()
    }

    fn samples() -> Vec<Sample> {
        let sample = |question: &str, steps: &[&str], answer: &str| Sample {
            question: question.to_owned(),
            steps: steps.iter().map(|&s| s.to_owned()).collect(),
            answer: answer.to_owned(),
        };
        vec![
            sample("A shop has 12 apples and buys 7 more.", &["<<12+7=19>>"], "19"),
            sample("Tom has 3 boxes with 24 pens each.", &["<<3*24=72>>", "<<72-10=62>>"], "62"),
            sample("1+1?", &[], "2"),
        ]
    }

    fn close(got: f64, want: f64) {
        assert!((got - want).abs() <= 1e-5 * want.abs(), "{got} instead of {want}");
    }

    /// The objective that training uses is another way to the same figures.
    #[test]
    fn agrees_with_the_training_objective() {
        let loaded = load(true);
        let samples = samples();
        let options = ScoreOptions { compression_factor: 2, batch_tokens: 4096, ..ScoreOptions::default() };
        let got = score(&loaded, &samples, &options, &mut |_| Ok(())).unwrap();
        let mut batch = Batch::new();
        let opened = &loaded.opened;
        for s in &samples {
            let segments = prompt::training(
                &opened.tokenizer,
                opened.separator,
                opened.eos.append,
                Method::Colar,
                s,
                "2",
            )
            .unwrap();
            batch.push(
                Packing { method: Method::Colar, compression_factor: 2, merge: opened.model.merge },
                &segments,
                None,
            );
        }
        for loss in [LatentLoss::Mse, LatentLoss::Nll] {
            let objective = Objective { latent_loss: loss, ..Objective::default() };
            let counts = Counts::of([&batch]);
            let mut sums = LossSums::default();
            sums.add(
                &run(&loaded.device, &opened.model, &objective, &batch, &Noise::Off, counts, None).unwrap(),
            );
            close(got.total.ce, sums.mean_ce());
            close(got.total.entropy.unwrap(), sums.mean_entropy());
            let latent = if loss == LatentLoss::Nll { got.total.latent_nll } else { got.total.latent_mse };
            close(latent.unwrap(), sums.mean_latent());
            assert_eq!((got.total.ce_positions, got.total.latent_positions), (counts.ce, counts.latent));
        }
    }

    #[test]
    fn batches_do_not_move_a_score_and_totals_weigh_positions() {
        let loaded = load(true);
        let samples = samples();
        let of = |batch_tokens| {
            let options = ScoreOptions { compression_factor: 3, batch_tokens, ..ScoreOptions::default() };
            let mut heard = Vec::new();
            let s = score(&loaded, &samples, &options, &mut |done| {
                heard.push(done);
                Ok(())
            })
            .unwrap();
            (s, heard)
        };
        let ((together, one), (alone, three)) = (of(4096), of(1));
        assert_eq!((one, three), (vec![3], vec![1, 2, 3]));
        let (mut ce, mut positions) = (0.0, 0);
        for ((a, b), s) in together.samples.iter().zip(&alone.samples).zip(&samples) {
            assert_eq!((&a.question, &b.question), (&s.question, &s.question));
            close(a.losses.ce, b.losses.ce);
            close(a.losses.latent_nll.unwrap(), b.losses.latent_nll.unwrap());
            ce += a.losses.ce * a.losses.ce_positions as f64;
            positions += a.losses.ce_positions;
        }
        close(together.total.ce, ce / positions as f64);
        close(together.total.ce, alone.total.ce);
    }

    #[test]
    fn whoever_hears_of_the_progress_may_end_it() {
        let mut heard = 0;
        let options = ScoreOptions { batch_tokens: 1, ..ScoreOptions::default() };
        let ended = score(&load(true), &samples(), &options, &mut |_| {
            heard += 1;
            Err(Error::other("enough"))
        });
        assert_eq!((ended.unwrap_err().to_string().as_str(), heard), ("enough", 1));
    }

    #[test]
    fn reasoning_text_has_no_latent_losses() {
        let loaded = load(false);
        let options = ScoreOptions { method: Method::Cot, batch_tokens: 64, ..ScoreOptions::default() };
        let got = score(&loaded, &samples(), &options, &mut |_| Ok(())).unwrap();
        assert!(got.total.ce > 0.0);
        assert_eq!((got.total.latent_mse, got.total.latent_positions), (None, 0));
        let line = serde_json::to_value(&got.samples[0]).unwrap();
        assert!(line["latent_nll"].is_null() && line["ce"].is_f64(), "{line}");
        let colar = ScoreOptions { method: Method::Colar, ..options };
        assert!(score(&loaded, &samples(), &colar, &mut |_| Ok(())).is_err());
        assert!(
            score(&loaded, &samples(), &ScoreOptions { compression_factor: 2, ..options }, &mut |_| Ok(()))
                .is_err()
        );
        assert!(score(&loaded, &[], &options, &mut |_| Ok(())).is_err());
    }
}
