//! One supervised CoLaR step, as training runs it.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::memory::peak_bytes;
use super::opened::{TRAINED, open_for_training};
use super::timer::median;
use super::{Product, Setting, Timer, product_ceiling};
use crate::data;
use crate::device::{AdamW, Device, TensorInfo};
use crate::model::ColarModel;
use crate::model::adapter::AdapterConfig;
use crate::model::open::Opened;
use crate::model::operations::StepOperations;
use crate::model::params::Grads;
use crate::model::prompt::{Method, Segments, training};
use crate::random::Stream;
use crate::train::batch::{Batch, Packing};
use crate::train::needs;
use crate::train::optimizer::{Optimizer, finite_norm};
use crate::train::sft::{Counts, LossSums, Noise, Objective, begin};
use crate::{Error, Result};

/// Steps before those that are timed.
const WARMUP: u64 = 2;

/// Answer tokens of an invented sequence; shorter ones have a quarter of their rows.
const ANSWER: usize = 8;

/// Settings of a timed training step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOptions {
    /// Model directory.
    pub model: PathBuf,
    /// The batch of the step.
    pub batch: StepBatch,
    /// Compression factor.
    pub compression_factor: usize,
    /// Inner width of the latent head.
    pub head_size: Option<usize>,
    /// The adapter.
    pub lora: AdapterConfig,
    /// Whether layers are recomputed.
    pub recompute: bool,
    /// Timed steps, after two that are not.
    pub steps: usize,
    /// Seconds for which a large product is timed before, to compare with; `None` leaves it out.
    pub product: Option<f64>,
}

/// The batch of a timed step.
#[derive(Debug, Clone, PartialEq)]
pub enum StepBatch {
    /// Samples from the start of a data set.
    Samples {
        /// Training data.
        data: PathBuf,
        /// Number of samples.
        count: usize,
    },
    /// Sequences of random tokens, packed.
    Invented(Sequences),
}

/// Sequences of equal length, of random tokens: half of the rows a question, then the separator and compressed steps,
/// at the end the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequences {
    /// Number of sequences.
    pub count: usize,
    /// Packed rows of each, at least 8.
    pub rows: usize,
}

impl Sequences {
    /// Sequence number `number` of these under a compression factor, of tokens below `vocab`.
    fn segments(self, number: u64, compression_factor: usize, vocab: usize) -> Segments {
        let mut stream = Stream::new(0, 0x5e9 + number);
        let mut tokens = |n: usize| (0..n).map(|_| stream.below(vocab as u64) as u32).collect::<Vec<_>>();
        let (question, answer) = (self.rows / 2, ANSWER.min(self.rows / 4));
        let chunks = self.rows - question - answer - 1;
        Segments {
            question: tokens(question),
            steps: tokens(1 + chunks * compression_factor),
            answer: tokens(answer),
        }
    }
}

/// Timings of a training step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepTiming {
    /// Device, date and build.
    #[serde(flatten)]
    pub setting: Setting,
    /// Dtype of activations.
    pub dtype: String,
    /// Median seconds of a step: packing, forward, backward, update, and reading the losses.
    pub step_s: f64,
    /// Seconds of every timed step.
    pub step_s_all: Vec<f64>,
    /// Packed positions.
    pub positions: usize,
    /// Positions computed: the same, as nothing is padded.
    pub padded_positions: usize,
    /// Packed positions a second.
    pub positions_per_s: f64,
    /// Packed sequences.
    pub sequences: usize,
    /// Positions with a label.
    pub labels: usize,
    /// Positions that predict a latent.
    pub latents: usize,
    /// Numbers that are trained.
    pub trained_parameters: usize,
    /// Whether layers were recomputed.
    pub recompute: bool,
    /// Floating-point operations of a step, counted from shapes; operations that are repeated to save memory count
    /// once.
    pub operations: StepOperations,
    /// Operations over time, 1e12 a second.
    pub tflop_per_s: f64,
    /// A large product on the same device just before.
    pub product: Option<Product>,
    /// The step's rate over the product's.
    pub share_of_product: Option<f64>,
    /// The most bytes that buffers took, weights included; on `cpu` the process's largest resident set.
    pub peak_bytes: Option<usize>,
    /// The cross-entropy of each step, to see that it trains.
    pub ce: Vec<f64>,
    /// The latent loss of each step.
    pub latent: Vec<f64>,
}

/// Packs the batch of a step, whose labels are drawn for it.
fn pack<D: Device>(
    opened: &Opened<D>,
    samples: &[data::Sample],
    invented: &[Segments],
    compression_factor: usize,
    step: u64,
) -> Result<Batch> {
    let packing = Packing { method: Method::Colar, compression_factor, merge: opened.model.merge };
    let (mut batch, mut labels) = (Batch::new(), Stream::new(0, step));
    for sample in samples {
        let segments = training(
            &opened.tokenizer,
            opened.separator,
            opened.eos.append,
            Method::Colar,
            sample,
            &compression_factor.to_string(),
        )?;
        batch.push(packing, &segments, Some(&mut labels));
    }
    invented.iter().for_each(|segments| batch.push(packing, segments, Some(&mut labels)));
    Ok(batch)
}

fn operations<D: Device>(model: &ColarModel<D>, grads: &Grads<D>, batch: &Batch) -> StepOperations {
    let counts = [batch.ce_rows.len(), batch.latent_rows.len()];
    model.transformer.step_operations(&model.params, grads, model.head.as_ref(), &batch.lens, counts)
}

/// Times supervised steps on one batch.
///
/// # Errors
/// [`Error::Usage`] for sequences too short to have all parts; bad model or data files, and errors of the device.
pub fn train_step<D: Device>(device: &D, options: &StepOptions) -> Result<StepTiming> {
    let setting = Setting::of(device);
    let mut opened = open_for_training(device, &options.model, &options.lora, options.head_size)?;
    opened.model.transformer.recompute = options.recompute;
    let (mut samples, mut invented) = (Vec::new(), Vec::new());
    match &options.batch {
        StepBatch::Samples { data, count } => {
            samples = data::load(data, None)?;
            samples.truncate(*count);
        }
        StepBatch::Invented(sequences) => {
            if sequences.rows < 8 || sequences.count == 0 {
                return Err(Error::usage("at least one sequence of at least 8 packed rows is needed"));
            }
            let vocab = opened.model.transformer.config.vocab_size;
            let all =
                (0..sequences.count as u64).map(|i| sequences.segments(i, options.compression_factor, vocab));
            invented.extend(all);
        }
    }
    device.scope(|| {
        let config = opened.model.transformer.config.clone();
        let ceiling = |seconds| product_ceiling(&mut Timer::new(device)?, &config, seconds);
        let product = options.product.map(ceiling).transpose()?;
        device.reserve(&needs::state(device, &opened.model, TRAINED, false))?;
        let mut grads = Grads::new(device, &opened.model.params, TRAINED)?;
        let mut optimizer = Optimizer::new(device, &opened.model.params, &grads)?;
        let objective = Objective::default();
        let (mut seconds, mut ce, mut latent) = (Vec::new(), Vec::new(), Vec::new());
        let mut batch = Batch::new();
        for step in 1..=options.steps as u64 + WARMUP {
            let start = Instant::now();
            batch = pack(&opened, &samples, &invented, options.compression_factor, step)?;
            let batches = std::slice::from_ref(&batch);
            device.reserve(&needs::supervised(device, &opened.model, &grads, &objective, batches))?;
            grads.clear(device)?;
            let noise = Noise::Drawn { key: 0, step: step as u32, first_row: 0 };
            let counts = Counts::of([&batch]);
            let losses = begin(device, &opened.model, &objective, &batch, &noise, counts, Some(&mut grads))?;
            let hyper = AdamW::new(1e-4, 0.01, step);
            let watched: Vec<&D::Tensor> = losses.tensors().collect();
            let norm = optimizer.begin(device, &mut opened.model.params, &grads, &hyper, 1.0, &watched)?;
            let mut sums = LossSums::default();
            sums.add(&losses.read(device)?);
            finite_norm(device, &norm, step)?;
            if step > WARMUP {
                seconds.push(start.elapsed().as_secs_f64());
            }
            ce.push(sums.mean_ce());
            latent.push(sums.mean_latent());
        }
        let (step_s, operations) = (median(seconds.clone()), operations(&opened.model, &grads, &batch));
        let tflop_per_s = 1e-12 * operations.total() as f64 / step_s;
        let count = |t: &D::Tensor| t.rows() * t.cols();
        Ok(StepTiming {
            setting,
            dtype: device.compute_dtype().to_string(),
            step_s,
            step_s_all: seconds,
            positions: batch.rows(),
            padded_positions: batch.rows(),
            positions_per_s: batch.rows() as f64 / step_s,
            sequences: batch.lens.len(),
            labels: batch.ce_rows.len(),
            latents: batch.latent_rows.len(),
            trained_parameters: grads.tensors().into_iter().map(count).sum(),
            recompute: options.recompute,
            operations,
            tflop_per_s,
            share_of_product: product.as_ref().map(|p| tflop_per_s / p.tflop_per_s),
            product,
            peak_bytes: peak_bytes(device)?,
            ce,
            latent,
        })
    })
}
