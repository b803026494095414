//! One supervised CoLaR step, as training runs it.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::{median, open_for_training, trained};
use crate::Result;
use crate::data;
use crate::device::{AdamW, Device};
use crate::model::adapter::AdapterConfig;
use crate::model::params::Grads;
use crate::model::prompt::{Method, training};
use crate::random::Stream;
use crate::train::batch::{Batch, Packing};
use crate::train::optimizer::Optimizer;
use crate::train::sft::{Counts, Noise, Objective, run};

/// What to train on.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOptions {
    /// Model directory.
    pub model: PathBuf,
    /// Training data.
    pub data: PathBuf,
    /// Compression factor.
    pub cf: usize,
    /// Samples of the step, from the start of the data.
    pub batch_size: usize,
    /// Inner width of the latent head.
    pub head_size: Option<usize>,
    /// The adapter.
    pub lora: AdapterConfig,
    /// Timed steps, after two that are not.
    pub steps: usize,
}

/// What a step took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepTiming {
    /// Median seconds of a step: packing, forward, backward, update.
    pub step_s: f64,
    /// Packed positions.
    pub positions: usize,
    /// Positions computed: the same, as nothing is padded.
    pub padded_positions: usize,
    /// Packed positions a second.
    pub positions_per_s: f64,
    /// The cross-entropy of each step, to see that it trains.
    pub ce: Vec<f64>,
    /// The latent loss of each step.
    pub latent: Vec<f64>,
}

/// Times supervised steps on one batch.
///
/// # Errors
/// Bad model or data files, and what the device says.
pub fn train_step<D: Device>(device: &D, options: &StepOptions) -> Result<StepTiming> {
    let mut opened = open_for_training(device, &options.model, &options.lora, options.head_size)?;
    let mut samples = data::load(&options.data, None)?;
    samples.truncate(options.batch_size);
    let packing = Packing { method: Method::Colar, cf: options.cf, merge: opened.model.merge };
    let mut grads = Grads::new(device, &opened.model.params, trained)?;
    let mut optimizer = Optimizer::new(device, &opened.model.params, &grads)?;
    let objective = Objective::default();
    device.scope(|| {
        let (mut seconds, mut ce, mut latent, mut positions) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for step in 1..=options.steps as u64 + 2 {
            let start = Instant::now();
            let mut batch = Batch::new();
            let mut labels = Stream::new(0, step);
            for sample in &samples {
                let speed = options.cf.to_string();
                let segments = training(&opened.tokenizer, opened.eos.append, Method::Colar, sample, &speed)?;
                batch.push(packing, &segments, Some(&mut labels));
            }
            positions = batch.rows();
            grads.clear(device)?;
            let noise = Noise::Drawn { key: 0, step: step as u32, first_row: 0 };
            let counts = Counts::of([&batch]);
            let losses = run(device, &opened.model, &objective, &batch, &noise, counts, Some(&mut grads))?;
            let hyper = AdamW::new(1e-4, 0.01, step);
            optimizer.step(device, &mut opened.model.params, &grads, &hyper, 1.0)?;
            if step > 2 {
                seconds.push(start.elapsed().as_secs_f64());
            }
            let mean = |x: &[f32]| x.iter().map(|&x| f64::from(x)).sum::<f64>() / x.len().max(1) as f64;
            ce.push(mean(&losses.ce));
            latent.push(mean(&losses.latent));
        }
        let step_s = median(seconds);
        Ok(StepTiming {
            step_s,
            positions,
            padded_positions: positions,
            positions_per_s: positions as f64 / step_s,
            ce,
            latent,
        })
    })
}
