//! The whole supervised objective on the golden models: every trained tensor, the second forward
//! included.

use std::collections::BTreeSet;

use colar_engine::device::cpu::CpuDevice;
use colar_engine::device::{Device, LatentLoss};
use colar_engine::model::open::{Additions, Opened, open};
use colar_engine::model::params::{Grads, ParamId};
use colar_engine::model::prompt::{Method, Segments, training};
use colar_engine::random::Stream;
use colar_engine::train::batch::{Batch, Packing};
use colar_engine::train::sft::{Counts, LossSums, Noise, Objective, run};
use serde_json::Value;

use super::common::gradient::{derivative, direction, dot, norm};
use super::common::{Dir, golden, head_only};
use super::cpu;

/// Largest error, of a gradient's norm: the loss is a float32 number, and a whole model curves more
/// than an operation does.
const TOLERANCE: f64 = 2e-3;

/// The change of the loss that a step should make: far above its rounding, about 1e-7.
const CHANGE: f64 = 1e-3;

/// Elements move at most by this part of their tensor's root mean square.
const LARGEST_STEP: f64 = 0.2;

const EMBED: &str = "model.embed_tokens.weight";

struct Setup {
    device: CpuDevice,
    opened: Opened<CpuDevice>,
    batch: Batch,
    /// Tokens that stand in questions and nowhere else: their embeddings are no latent targets.
    question_only: BTreeSet<u32>,
}

/// A golden model and a batch of two samples at compression factor `cf`.
fn setup(name: &str, full: bool, cf: usize, sampled_labels: bool) -> Setup {
    let dir = golden(name);
    let device = cpu();
    let trained = move |n: &str| full || n.contains("lora") || n.contains("latent_policy");
    let checkpoint = if full { head_only(&dir) } else { Dir::Given(dir.join("adapter")) };
    let opened = open(&device, &dir, Some(checkpoint.path()), &Additions::default(), &trained).unwrap();
    let cases: Value = serde_json::from_slice(&std::fs::read(dir.join("sft.json")).unwrap()).unwrap();
    let mut batch = Batch::new();
    let packing = Packing { method: Method::Colar, cf, merge: opened.model.merge };
    let mut labels = Stream::new(1, 2);
    let (mut questions, mut others) = (BTreeSet::new(), BTreeSet::new());
    for sample in &cases["samples"].as_array().unwrap()[..2] {
        let sample = super::common::sample(sample);
        let Segments { question, steps, answer } =
            training(&opened.tokenizer, opened.eos.append, Method::Colar, &sample, &cf.to_string()).unwrap();
        questions.extend(question.iter().copied());
        others.extend(steps.iter().chain(&answer).copied());
        let segments = Segments { question, steps, answer };
        batch.push(packing, &segments, sampled_labels.then_some(&mut labels));
    }
    Setup { device, opened, batch, question_only: questions.difference(&others).copied().collect() }
}

impl Setup {
    fn loss(&self, objective: &Objective, grads: Option<&mut Grads<CpuDevice>>) -> f64 {
        let noise = Noise::Drawn { key: 3, step: 5, first_row: 0 };
        let counts = Counts::of([&self.batch]);
        let model = &self.opened.model;
        let losses = run(&self.device, model, objective, &self.batch, &noise, counts, grads).unwrap();
        let mut sums = LossSums::default();
        sums.add(&losses);
        assert_eq!(sums.bounded, 0);
        sums.total(objective)
    }

    /// Checks the gradients of all weights that `trained` names.
    fn check(mut self, objective: &Objective, trained: &dyn Fn(&str) -> bool) {
        let mut grads = Grads::new(&self.device, &self.opened.model.params, trained).unwrap();
        self.loss(objective, Some(&mut grads));
        let ids: Vec<ParamId> = grads.ids().collect();
        let mut checked = 0;
        for id in ids {
            checked += 1;
            let gradient = self.device.read(grads.get(id).unwrap()).unwrap();
            self.check_one(objective, id, gradient);
        }
        assert!(checked > 0);
    }

    fn check_one(&mut self, objective: &Objective, id: ParamId, mut gradient: Vec<f32>) {
        let (name, values) = {
            let (_, param) = self.opened.model.params.iter().find(|(i, _)| *i == id).unwrap();
            (param.name.clone(), self.device.read(&param.value).unwrap())
        };
        // Embeddings of steps are also targets of the latent loss. The objective takes targets as constants; a finite
        // difference cannot, so such embeddings stay as they are.
        let hidden = self.opened.model.transformer.config.hidden_size;
        let fixed = name == EMBED && objective.latent_weight != 0.0;
        let moves: Vec<bool> = (0..values.len())
            .map(|i| !fixed || self.question_only.contains(&((i / hidden) as u32)))
            .collect();
        gradient.iter_mut().zip(&moves).filter(|(_, moves)| !**moves).for_each(|(g, _)| *g = 0.0);
        let device = self.device.clone();
        check_slopes(&name, &values, &gradient, &moves, |moved| {
            device.write(self.opened.model.params.get_mut(id), moved).unwrap();
            self.loss(objective, None)
        });
    }
}

/// Checks the gradient of a loss at `values`, of which some move; leaves the weights at `values`.
pub fn check_slopes(
    name: &str,
    values: &[f32],
    gradient: &[f32],
    moves: &[bool],
    mut loss: impl FnMut(&[f32]) -> f64,
) {
    let rms = norm(values) / (values.len() as f64).sqrt();
    let size = norm(gradient);
    assert!(size > 0.0, "{name}: no gradient");
    for seed in 0..2 {
        let d: Vec<f32> = direction(values.len(), 100 + seed)
            .into_iter()
            .zip(moves)
            .map(|(d, &moves)| if moves { d } else { 0.0 })
            .collect();
        let h = (CHANGE / size).min(LARGEST_STEP * rms.max(1e-2));
        let mut moved = values.to_vec();
        let mut at = |h: f64| {
            for ((m, &x), &d) in moved.iter_mut().zip(values).zip(&d) {
                *m = x + (h * f64::from(d)) as f32;
            }
            loss(&moved)
        };
        let measured = derivative(h, &mut at);
        at(0.0);
        let error = (measured - dot(gradient, &d)).abs() / size;
        assert!(
            error < TOLERANCE,
            "{name}, direction {seed}: slope {measured} but the gradient says {}, error {error:.1e}",
            dot(gradient, &d)
        );
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

fn adapter(name: &str) -> bool {
    name.contains("lora") || name.contains("latent_policy")
}

#[test]
fn adapter_and_head_soft_mse() {
    setup("llama-tiny", false, 2, true).check(&all_terms(LatentLoss::Mse), &adapter);
}

#[test]
fn adapter_and_head_nll() {
    setup("llama-tiny", false, 3, false).check(&all_terms(LatentLoss::Nll), &adapter);
}

#[test]
fn adapter_and_head_expected_mse() {
    setup("qwen2-tiny", false, 2, false).check(&all_terms(LatentLoss::MseExpected), &adapter);
}

#[test]
fn every_weight() {
    setup("llama-tiny", true, 2, false).check(&all_terms(LatentLoss::Mse), &|_| true);
}

#[test]
fn every_weight_of_a_tied_model_with_biases() {
    setup("qwen2-tiny", true, 3, true).check(&all_terms(LatentLoss::Mse), &|_| true);
}

/// Without latent targets all embeddings may move: those of merged chunks, and those that the second
/// forward replaces.
#[test]
fn all_embeddings() {
    for name in ["llama-tiny", "qwen2-tiny"] {
        let objective = Objective { latent_weight: 0.0, ..all_terms(LatentLoss::Mse) };
        setup(name, true, 2, false).check(&objective, &|name| name == EMBED);
    }
}
