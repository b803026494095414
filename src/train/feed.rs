//! Which samples make up which step, and with which compression factor.
//!
//! Everything is a function of the seed and the step, so a resumed run sees what an unbroken one would.

use super::batch::{Batch, ChunkLabels, Packing};
use super::options::TrainOptions;
use crate::data::Sample;
use crate::model::merge::Merge;
use crate::model::prompt::training;
use crate::model::tokenizer::Tokenizer;
use crate::random::Stream;
use crate::{Error, Result};

/// Streams of the run's seed.
mod stream {
    pub const ORDER: u64 = 1 << 32;
    pub const FACTOR: u64 = 2 << 32;
    pub const LABELS: u64 = 3 << 32;
}

/// The samples of a run in the order in which it meets them.
pub struct Feed<'a> {
    samples: &'a [Sample],
    eos: u32,
    merge: Merge,
    options: &'a TrainOptions,
    /// The order of one epoch, kept from step to step.
    order: (u64, Vec<u32>),
}

impl<'a> Feed<'a> {
    /// A feed over `samples`.
    ///
    /// # Errors
    /// When there are none.
    pub fn new(samples: &'a [Sample], eos: u32, merge: Merge, options: &'a TrainOptions) -> Result<Self> {
        if samples.is_empty() {
            return Err(Error::file(&options.run.data, "the data set is empty"));
        }
        Ok(Feed { samples, eos, merge, options, order: (u64::MAX, Vec::new()) })
    }

    /// Steps of one pass over the data.
    pub fn steps_per_epoch(&self) -> u64 {
        self.samples.len().div_ceil(self.options.run.batch_size * self.options.accumulate) as u64
    }

    /// The batches of step `step`, counted from 0, and their compression factor.
    ///
    /// # Errors
    /// What the tokenizer says.
    pub fn step(&mut self, step: u64, tokenizer: &Tokenizer) -> Result<(Vec<Batch>, usize)> {
        let (seed, per_step) = (self.options.run.seed, self.options.run.batch_size * self.options.accumulate);
        let (epoch, within) = (step / self.steps_per_epoch(), (step % self.steps_per_epoch()) as usize);
        if self.order.0 != epoch {
            let mut order: Vec<u32> = (0..self.samples.len() as u32).collect();
            Stream::new(seed, stream::ORDER | epoch).shuffle(&mut order);
            self.order = (epoch, order);
        }
        let mut draw = Stream::new(seed, stream::FACTOR | step);
        let cf = draw.choose(&self.options.factors).copied().unwrap_or(1);
        let auto = draw.uniform_f64() < self.options.auto_prob;
        let speed = if auto { "auto".to_owned() } else { cf.to_string() };
        let packing = Packing { method: self.options.method, cf, merge: self.merge };
        let mut labels = Stream::new(seed, stream::LABELS | step);
        let chosen = &self.order.1[within * per_step..((within + 1) * per_step).min(self.samples.len())];
        let mut batches = Vec::new();
        for part in chosen.chunks(self.options.run.batch_size) {
            let mut batch = Batch::new();
            for &i in part {
                let sample = &self.samples[i as usize];
                let segments = training(tokenizer, self.eos, self.options.method, sample, &speed)?;
                let labels = match self.options.chunk_labels {
                    ChunkLabels::Sample => Some(&mut labels),
                    ChunkLabels::Mean => None,
                };
                batch.push(packing, &segments, labels);
            }
            batches.push(batch);
        }
        Ok((batches, cf))
    }
}

/// Packs samples for teacher-forced losses in the expectation forms: `per_batch` at a time.
///
/// # Errors
/// What the tokenizer says.
pub fn expectation_batches(
    samples: &[Sample],
    tokenizer: &Tokenizer,
    eos: u32,
    packing: Packing,
    per_batch: usize,
) -> Result<Vec<Batch>> {
    let speed = packing.method.speed().map_or_else(|| packing.cf.to_string(), str::to_owned);
    samples
        .chunks(per_batch.max(1))
        .map(|part| {
            let mut batch = Batch::new();
            for sample in part {
                batch.push(packing, &training(tokenizer, eos, packing.method, sample, &speed)?, None);
            }
            Ok(batch)
        })
        .collect()
}
