//! Does this machine compute what it should? Three steps of training and an answer of a tiny model, beside the values
//! that they have.
//!
//! Model, data and draws follow from a seed, and every operation of a CoLaR step takes part: forward and backward pass,
//! latent head, optimiser, and generation after it. On `cpu` the values are the same to the bit on every x86-64 processor
//! and on any number of threads; other devices add up in another order.

use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use crate::Result;
use crate::data::synth::{self, SynthConfig};
use crate::data::write_jsonl;
use crate::device::{Device, Dtype};
use crate::files::atomic::scratch_dir;
use crate::infer::Request;
use crate::model::config::ModelConfig;
use crate::model::init::{RandomInit, write_random_model};
use crate::model::presets::Preset;
use crate::train::{ChunkLabels, LatentNoise, Progress, TrainOptions, Trainer};

/// The loss of each step on `cpu`.
const LOSSES: [f64; 3] = [9.111430590097294, 7.363492077509738, 6.0387711511747275];

/// The tokens of the answer after them on `cpu`, drawn with the default seed.
const TOKENS: [u32; 6] = [42, 38, 2, 55, 75, 19];

/// Largest relative difference of a loss in float32 with sums in another order, through two updates.
const CLOSE_F32: f64 = 1e-4;

/// The same in bfloat16, whose numbers have eight bits.
const CLOSE_BF16: f64 = 0.03;

/// How a device did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SelfTest {
    /// Whether it computes what it should.
    pub passed: bool,
    /// Whether the losses are those of `cpu` to the bit.
    pub exact: bool,
    /// The losses of the steps.
    pub losses: Vec<f64>,
    /// The largest relative difference from those they should be.
    pub error: f64,
    /// The tokens of the answer.
    pub answer: Vec<u32>,
    /// Whether they are those of `cpu`.
    pub same_answer: bool,
    /// How long it took.
    pub seconds: f64,
}

/// Runs the test on a device.
///
/// # Errors
/// Errors of the device and of the temporary directory; wrong values are none.
pub fn self_test<D: Device>(device: D) -> Result<SelfTest> {
    let scratch = scratch_dir()?;
    let dtype = device.compute_dtype();
    let on_cpu = device.name() == "cpu";
    let started = Instant::now();
    let (losses, answer) = run(device, scratch.path())?;
    let error = losses.iter().zip(LOSSES).map(|(got, want)| ((got - want) / want).abs()).fold(0.0, f64::max);
    let exact = losses == LOSSES;
    let same_answer = answer == TOKENS;
    let close = if dtype == Dtype::Bf16 { CLOSE_BF16 } else { CLOSE_F32 };
    // Elsewhere the answer may turn on a difference in the last digit.
    let passed = losses.len() == LOSSES.len() && error <= close && (same_answer || !on_cpu);
    Ok(SelfTest {
        passed,
        exact,
        losses,
        error,
        answer,
        same_answer,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The losses of the steps, and the tokens of an answer after them.
fn run<D: Device>(device: D, dir: &Path) -> Result<(Vec<f64>, Vec<u32>)> {
    let (model, data) = (dir.join("model"), dir.join("data.jsonl"));
    let config = ModelConfig {
        vocab_size: synth::tokenizer::vocabulary().len(),
        hidden_size: 64,
        intermediate_size: 96,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        ..Preset::Tiny.config()
    };
    std::fs::create_dir_all(&model).map_err(crate::Error::io(&model))?;
    write_random_model(
        &model,
        &config,
        &RandomInit { dtype: crate::files::safetensors::Dtype::F32, std: 0.08, seed: 1 },
    )?;
    synth::write_tokenizer(&model)?;
    let problems =
        synth::generate(&SynthConfig { seed: 1, train: 24, val: 1, test: 1, ..SynthConfig::default() })?;
    write_jsonl(&data, &problems.train)?;
    let mut options = TrainOptions::new(&model, &data, dir.join("run"))
        .compression_factors(vec![2])
        .chunk_labels(ChunkLabels::Mean)
        .latent_noise(LatentNoise::Expected)
        .latent_head_size(32);
    options.run.full = true;
    options.run.lr = 1e-2;
    options.run.batch_size = 8;
    options.run.max_steps = Some(LOSSES.len() as u64);
    let mut losses = Vec::new();
    let mut trainer = Trainer::new(device, options, false)?;
    trainer.run(&mut |progress| {
        if let Progress::Step(step) = progress {
            losses.push(step.loss);
        }
    })?;
    let mut request = Request::question("Mia buys 3 bags of 5 pens. How many has Mia?", "2");
    (request.sampling.max_latents, request.sampling.max_new_tokens) = (6, TOKENS.len());
    let loaded = trainer.into_loaded();
    let answers = loaded.generate(&[request], &mut |_| ())?;
    Ok((losses, answers.into_iter().flat_map(|answer| answer.token_ids).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::CpuDevice;

    #[test]
    fn the_cpu_gives_the_values_to_the_bit() {
        for threads in [1, 3] {
            let test = self_test(CpuDevice::new(threads).unwrap()).unwrap();
            assert!(test.passed && test.exact && test.same_answer, "{test:?}");
        }
    }
}
