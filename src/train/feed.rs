//! The samples and the compression factor of each step.
//!
//! Everything is a function of the seed and the step, so a resumed run sees the samples of an unbroken one.

use super::batch::{ChunkLabels, Labels};
use super::batches::Batches;
use super::options::TrainOptions;
use super::recipe::Recipe;
use crate::data::Sample;
use crate::device::Device;
use crate::model::open::Opened;
use crate::model::prompt::AUTO;
use crate::random::Stream;
use crate::{Error, Result};

/// Streams of the run's seed.
mod stream {
    pub const ORDER: u64 = 1 << 32;
    pub const COMPRESSION_FACTOR: u64 = 2 << 32;
    pub const LABELS: u64 = 3 << 32;
}

/// The samples of a run in the order in which it meets them.
pub(crate) struct Feed<'a> {
    samples: &'a [Sample],
    options: &'a TrainOptions,
    /// The order of one epoch, kept from step to step.
    order: (u64, Vec<u32>),
}

/// Samples and batches of a training step.
pub(crate) struct Step {
    /// Its batches.
    pub batches: Batches,
    /// Their compression factor.
    pub compression_factor: usize,
    /// The stage that the run is in, counted from 1.
    pub stage: u64,
}

impl<'a> Feed<'a> {
    /// A feed over `samples`.
    ///
    /// # Errors
    /// When there are none, or too few for all stages.
    pub fn new(samples: &'a [Sample], options: &'a TrainOptions) -> Result<Self> {
        if samples.is_empty() {
            return Err(Error::file(&options.run.data, "the data set is empty"));
        }
        let feed = Feed { samples, options, order: (u64::MAX, Vec::new()) };
        options.stages().check(feed.total())?;
        Ok(feed)
    }

    /// Steps of the whole run.
    pub fn total(&self) -> u64 {
        let run = &self.options.run;
        run.max_steps.unwrap_or(self.steps_per_epoch().saturating_mul(run.epochs))
    }

    /// Steps of one pass over the data.
    pub fn steps_per_epoch(&self) -> u64 {
        self.samples.len().div_ceil(self.options.run.batch_size * self.options.accumulate) as u64
    }

    /// The batches of step `step`, counted from 0.
    ///
    /// # Errors
    /// Errors of the tokenizer.
    pub fn step<D: Device>(&mut self, step: u64, opened: &Opened<D>) -> Result<Step> {
        let o = self.options;
        let (seed, per_step) = (o.run.seed, o.run.batch_size * o.accumulate);
        let (epoch, within) = (step / self.steps_per_epoch(), (step % self.steps_per_epoch()) as usize);
        if self.order.0 != epoch {
            let mut order: Vec<u32> = (0..self.samples.len() as u32).collect();
            Stream::new(seed, stream::ORDER | epoch).shuffle(&mut order);
            self.order = (epoch, order);
        }
        let mut draw = Stream::new(seed, stream::COMPRESSION_FACTOR | step);
        let compression_factor = draw.choose(o.drawn_compression_factors()).copied().unwrap_or(1);
        let auto = draw.uniform_f64() < o.auto_prob;
        let prompt_compression_factor = if auto { AUTO.to_owned() } else { compression_factor.to_string() };
        let stage = o.stages().at(step + 1, self.total());
        let recipe = Recipe {
            stage,
            stages: o.stages(),
            ..Recipe::new(opened, o.method, compression_factor, &prompt_compression_factor)
        };
        let mut drawn = Stream::new(seed, stream::LABELS | step);
        let mut labels = match o.chunk_labels {
            ChunkLabels::Sample => Labels::Drawn(&mut drawn),
            ChunkLabels::Mean => Labels::Mean,
            ChunkLabels::None => Labels::Absent,
        };
        let chosen = &self.order.1[within * per_step..((within + 1) * per_step).min(self.samples.len())];
        let chosen: Vec<&Sample> = chosen.iter().map(|&i| &self.samples[i as usize]).collect();
        let batches = recipe.batches(&chosen, o.run.batch_size, &mut labels)?;
        Ok(Step { batches, compression_factor, stage })
    }
}
