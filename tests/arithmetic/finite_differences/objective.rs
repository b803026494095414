//! The whole supervised objective on the golden models: every trained tensor, the second forward
//! included.

use colar_engine::device::LatentLoss;
use colar_engine::device::prelude::*;
use colar_engine::model::ColarModel;
use colar_engine::model::prompt::{Method, Segments, training};
use colar_engine::model::weight_spec::{Group, Groups};
use colar_engine::random::Stream;
use colar_engine::train::batch::{Batch, Packing};
use colar_engine::train::sft::{Counts, LossSums, Noise, Objective, begin, run};
use serde_json::Value;

use super::common::float64::{Float64, Float64Tensor};
use super::common::golden;
use super::whole::{Both, both};

struct Setup {
    both: Both,
    batch: Batch,
}

/// A golden model and a batch of two samples at compression factor `cf`.
fn setup(name: &str, full: bool, cf: usize, sampled_labels: bool) -> Setup {
    let both = both(name, full);
    let opened = &both.opened;
    // The samples are the same for all models.
    let cases = std::fs::read(golden("qwen2-tiny").join("sft.json")).unwrap();
    let cases: Value = serde_json::from_slice(&cases).unwrap();
    let mut batch = Batch::new();
    let packing = Packing { method: Method::Colar, compression_factor: cf, merge: opened.model.merge };
    let mut labels = Stream::new(1, 2);
    for sample in &cases["samples"].as_array().unwrap()[..2] {
        let sample = super::common::sample(sample);
        let segments: Segments = training(
            &opened.tokenizer,
            opened.separator,
            opened.eos.append,
            Method::Colar,
            &sample,
            &cf.to_string(),
        )
        .unwrap();
        batch.push(packing, &segments, sampled_labels.then_some(&mut labels));
    }
    Setup { both, batch }
}

fn noise<D: Device>() -> Noise<'static, D> {
    Noise::Drawn { key: 3, step: 5, first_row: 0 }
}

/// The objective in float64.
fn wide_loss(device: &Float64, model: &ColarModel<Float64>, objective: &Objective, batch: &Batch) -> f64 {
    let counts = Counts::of([batch]);
    let pending = begin(device, model, objective, batch, &noise(), counts, None).unwrap();
    let losses: Vec<&Float64Tensor> = pending.tensors().collect();
    let [ce, latent, second_ce] = losses[..] else { panic!("{} losses", losses.len()) };
    let sum = |t: &Float64Tensor, column: usize| t.column(column).iter().sum::<f64>();
    let sums = LossSums {
        counts,
        ce: sum(ce, 0),
        latent: sum(latent, 0),
        entropy: sum(latent, 1),
        second_ce: sum(second_ce, 0),
        bounded: sum(latent, 2) as u64,
    };
    assert_eq!(sums.bounded, 0);
    sums.total(objective)
}

impl Setup {
    /// Checks the gradients of these weights.
    fn check(self, objective: &Objective, trained: Groups) {
        let Setup { mut both, batch } = self;
        let mut grads = both.grads(trained);
        let (model, counts) = (&both.opened.model, Counts::of([&batch]));
        let losses = run(&both.device, model, objective, &batch, &noise(), counts, Some(&mut grads)).unwrap();
        let mut sums = LossSums::default();
        sums.add(&losses);
        both.check(sums.total(objective), &grads, |wide, model| wide_loss(wide, model, objective, &batch));
    }
}

fn all_terms(latent_loss: LatentLoss) -> Objective {
    Objective {
        ce_weight: 0.9,
        latent_weight: 1.1,
        entropy_weight: -0.3,
        pred_embed_forward_weight: 0.7,
        latent_loss,
    }
}

const ADAPTER: Groups = Groups::of(&[Group::Adapter, Group::LatentHead]);

#[test]
fn adapter_and_head_soft_mse() {
    setup("llama-tiny", false, 2, true).check(&all_terms(LatentLoss::Mse), ADAPTER);
}

#[test]
fn adapter_and_head_nll() {
    setup("llama-tiny", false, 3, false).check(&all_terms(LatentLoss::Nll), ADAPTER);
}

#[test]
fn adapter_and_head_expected_mse() {
    setup("qwen2-tiny", false, 2, false).check(&all_terms(LatentLoss::MseExpected), ADAPTER);
}

#[test]
fn every_weight() {
    setup("llama-tiny", true, 2, false).check(&all_terms(LatentLoss::Mse), Groups::ALL);
}

#[test]
fn every_weight_of_a_tied_model_with_biases() {
    setup("qwen2-tiny", true, 3, true).check(&all_terms(LatentLoss::Mse), Groups::ALL);
}

#[test]
fn every_weight_of_a_model_with_normalised_heads() {
    setup("qwen3-tiny", true, 2, false).check(&all_terms(LatentLoss::Mse), Groups::ALL);
    setup("qwen3-tiny", false, 3, true).check(&all_terms(LatentLoss::Nll), ADAPTER);
}
