//! How samples become batches at some point of a run.

use super::batch::{Batch, Labels, Packing};
use super::batches::Batches;
use super::stages::Stages;
use super::thoughts::{ThoughtBatch, ThoughtExample};
use crate::Result;
use crate::data::Sample;
use crate::device::Device;
use crate::model::open::Opened;
use crate::model::prompt::{Method, Segments, shortened, training};
use crate::model::tokenizer::Tokenizer;

/// The choices that decide the batches of given samples.
#[derive(Clone, Copy)]
pub(crate) struct Recipe<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The token that ends an answer.
    pub eos: u32,
    /// The thinking separator.
    pub separator: u32,
    /// Method, compression factor and merge.
    pub packing: Packing,
    /// The compression factor that prompts state, as text: a number, or `auto`.
    pub prompt_compression_factor: &'a str,
    /// The stages of the run.
    pub stages: Stages,
    /// The stage it is in, counted from 1.
    pub stage: u64,
}

impl<'a> Recipe<'a> {
    /// The recipe of the last stage.
    pub fn new<D: Device>(
        opened: &'a Opened<D>,
        method: Method,
        compression_factor: usize,
        prompt_compression_factor: &'a str,
    ) -> Self {
        Recipe {
            tokenizer: &opened.tokenizer,
            eos: opened.eos.append,
            separator: opened.separator,
            packing: Packing { method, compression_factor, merge: opened.model.merge },
            prompt_compression_factor: method.fixed_compression_factor().unwrap_or(prompt_compression_factor),
            stages: Stages::ONE,
            stage: 1,
        }
    }

    /// The tokens of a sample, of a method whose sequences hold tokens and latents alone.
    ///
    /// # Errors
    /// Errors of the tokenizer.
    pub fn segments(&self, sample: &Sample) -> Result<Segments> {
        let method = self.packing.method;
        match method {
            Method::Icot => {
                let removed = self.stages.removed(self.stage, sample.steps.len());
                shortened(self.tokenizer, self.separator, self.eos, sample, removed)
            }
            Method::Colar | Method::Cot | Method::Coconut | Method::Distill => training(
                self.tokenizer,
                self.separator,
                self.eos,
                method,
                sample,
                self.prompt_compression_factor,
            ),
        }
    }

    /// Positions that a sample takes with all its steps, compressed where they are.
    ///
    /// # Errors
    /// Errors of the tokenizer.
    pub fn positions(&self, sample: &Sample) -> Result<usize> {
        Ok(self.segments(sample)?.positions(self.packing.compression_factor))
    }

    /// The batches of these samples, `per_batch` to each.
    ///
    /// # Errors
    /// Errors of the tokenizer.
    pub fn batches(&self, samples: &[&Sample], per_batch: usize, labels: &mut Labels<'_>) -> Result<Batches> {
        let parts = samples.chunks(per_batch.max(1));
        match self.packing.method {
            Method::Colar | Method::Cot | Method::Icot => {
                let mut pack = |part: &[&Sample]| {
                    let mut batch = Batch::new();
                    for sample in part {
                        batch.add(self.packing, &self.segments(sample)?, labels);
                    }
                    Ok(batch)
                };
                Ok(Batches::Sft(parts.map(&mut pack).collect::<Result<_>>()?))
            }
            Method::Coconut | Method::Distill => {
                let pack = |part: &[&Sample]| {
                    let mut batch = ThoughtBatch::new();
                    for sample in part {
                        batch.push(&self.example(sample)?)?;
                    }
                    Ok(batch)
                };
                Ok(Batches::Thoughts(parts.map(pack).collect::<Result<_>>()?))
            }
        }
    }

    /// A sample with thoughts: as distillation has it, or else Coconut.
    ///
    /// # Errors
    /// Errors of the tokenizer.
    pub fn example(&self, sample: &Sample) -> Result<ThoughtExample> {
        match self.packing.method {
            Method::Distill => self.distilled(sample),
            Method::Colar | Method::Cot | Method::Icot | Method::Coconut => self.coconut(sample),
        }
    }
}
