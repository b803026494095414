//! A packed batch is the sum of its samples, in training and in generation.

use std::sync::OnceLock;

use colar_engine::device::cpu::CpuDevice;
use colar_engine::device::prelude::*;
use colar_engine::device::{DeviceKind, LatentLoss};
use colar_engine::model::open::{Additions, Opened, open};
use colar_engine::model::params::Grads;
use colar_engine::model::prompt::{Method, Segments, training};
use colar_engine::model::weight_spec::{Group, Groups};
use colar_engine::random::Stream;
use colar_engine::train::batch::{Batch, Packing};
use colar_engine::train::sft::{Counts, LossSums, Noise, Objective, PositionLosses, run};
use colar_engine::{Engine, EngineOptions, Generation, Prompt, Request, Sampling};
use proptest::prelude::*;
use serde_json::Value;

use crate::common::gradient::norm;
use crate::common::{self, golden};

/// Largest difference of sums taken in another order, in units of what was added up: of the sum of the samples' norms for
/// a gradient, of the sum of magnitudes for a loss. The sums themselves may cancel, and then no bound holds of them.
const TOLERANCE: f64 = 1e-5;

const MODELS: [&str; 2] = ["llama-tiny", "qwen2-tiny"];

fn samples(name: &str) -> Vec<colar_engine::data::Sample> {
    let text = std::fs::read(golden(name).join("sft.json")).unwrap();
    let cases: Value = serde_json::from_slice(&text).unwrap();
    cases["samples"].as_array().unwrap().iter().map(common::sample).collect()
}

/// A golden model open for training of adapter, head and embeddings.
struct Trainee {
    device: CpuDevice,
    opened: Opened<CpuDevice>,
}

const TRAINED: Groups = Groups::of(&[Group::Adapter, Group::LatentHead, Group::Embedding]);

fn trainee(index: usize) -> &'static Trainee {
    static OPENED: [OnceLock<Trainee>; 2] = [const { OnceLock::new() }; 2];
    OPENED[index].get_or_init(|| {
        let dir = golden(MODELS[index]);
        let device = CpuDevice::new(2).unwrap();
        let checkpoint = dir.join("adapter");
        let opened = open(&device, &dir, Some(&checkpoint), &Additions::default(), TRAINED).unwrap();
        Trainee { device, opened }
    })
}

/// The sums over one or more batches of a step.
struct Sums {
    losses: LossSums,
    grads: Vec<Vec<f32>>,
    added: Added,
}

/// How much was added up to the losses and gradients of a step.
struct Added {
    /// Magnitudes over all positions: cross-entropy, latent loss, entropy, second cross-entropy.
    losses: [f64; 4],
    /// Norms of each gradient's parts, one from every batch.
    grads: Vec<f64>,
}

impl Added {
    fn add(&mut self, losses: &PositionLosses, grads: &[Vec<f32>]) {
        let all = [&losses.ce, &losses.latent, &losses.entropy, &losses.second_ce];
        for (sum, rows) in self.losses.iter_mut().zip(all) {
            *sum += rows.iter().map(|&x| f64::from(x.abs())).sum::<f64>();
        }
        self.grads.resize(grads.len(), 0.0);
        for (sum, grad) in self.grads.iter_mut().zip(grads) {
            *sum += norm(grad);
        }
    }
}

/// One sample of a step: its tokens, and where its draws of labels come from.
#[derive(Debug, Clone)]
struct Item {
    question: Vec<u32>,
    steps: Vec<u32>,
    answer: Vec<u32>,
    label_seed: Option<u64>,
}

impl Trainee {
    fn push(&self, batch: &mut Batch, packing: Packing, item: &Item) {
        let Item { question, steps, answer, label_seed } = item.clone();
        let mut labels = label_seed.map(|seed| Stream::new(seed, 0));
        batch.push(packing, &Segments { question, steps, answer }, labels.as_mut());
    }

    fn batch(&self, packing: Packing, items: &[Item]) -> Batch {
        let mut batch = Batch::new();
        items.iter().for_each(|item| self.push(&mut batch, packing, item));
        batch
    }

    /// Runs the batches one after the other, each latent row with the noise of its place in the step if it has any.
    fn sums(&self, objective: &Objective, batches: &[Batch], noisy: bool) -> Sums {
        let (model, counts) = (&self.opened.model, Counts::of(batches));
        let empty = || Grads::new(&self.device, &model.params, TRAINED).unwrap();
        let read = |grads: &Grads<CpuDevice>| -> Vec<Vec<f32>> {
            grads.tensors().into_iter().map(|g| self.device.read(g).unwrap()).collect()
        };
        let (mut grads, mut losses) = (empty(), LossSums::default());
        let mut added = Added { losses: [0.0; 4], grads: Vec::new() };
        let mut first_row = 0;
        for batch in batches {
            let noise = if noisy { Noise::Drawn { key: 11, step: 3, first_row } } else { Noise::Off };
            let run = |grads: &mut Grads<CpuDevice>| {
                run(&self.device, model, objective, batch, &noise, counts, Some(grads)).unwrap()
            };
            let part = run(&mut grads);
            assert_eq!((part.ce.len(), part.latent.len()), (batch.ce_rows.len(), batch.latent_rows.len()));
            losses.add(&part);
            let mut own = empty();
            added.add(&run(&mut own), &read(&own));
            first_row += batch.latent_rows.len() as u32;
        }
        Sums { losses, grads: read(&grads), added }
    }
}

impl Sums {
    /// Whether the sums are those of `parts`, which holds the step's samples one a batch.
    fn assert_equal(&self, parts: &Sums, added: &Added, what: &str) {
        let (a, b) = (&self.losses, &parts.losses);
        assert_eq!(a.counts, b.counts, "{what}");
        assert_eq!(a.bounded, b.bounded, "{what}");
        let losses = [
            ("ce", a.ce, b.ce),
            ("latent", a.latent, b.latent),
            ("entropy", a.entropy, b.entropy),
            ("second ce", a.second_ce, b.second_ce),
        ];
        for ((name, a, b), size) in losses.into_iter().zip(added.losses) {
            assert!((a - b).abs() <= TOLERANCE * size, "{what}, {name}: {a} instead of {b}");
        }
        for (i, ((a, b), &size)) in self.grads.iter().zip(&parts.grads).zip(&added.grads).enumerate() {
            let error = gap(a, b);
            assert!(error <= TOLERANCE * size, "{what}: gradient {i} is off by {error:.1e}, of {size:.1e}");
        }
    }
}

/// ‖a − b‖ in float64.
fn gap(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum::<f64>().sqrt()
}

#[derive(Debug, Clone)]
struct Step {
    model: usize,
    method: Method,
    cf: usize,
    loss: LatentLoss,
    items: Vec<Item>,
    /// A place to cut the step in two.
    cut: usize,
}

fn objective(step: &Step) -> Objective {
    Objective {
        ce_weight: 0.9,
        latent_weight: 1.1,
        entropy_weight: -0.01,
        pred_embed_forward_weight: 0.5,
        latent_loss: step.loss,
    }
}

/// Tokens are arbitrary: lengths are what packing must get right, reasoning of the separator alone, a
/// question of one token and lengths around the factor among them.
fn step() -> impl Strategy<Value = Step> {
    let tokens = |len: std::ops::Range<usize>| prop::collection::vec(0u32..200, len);
    let item = (tokens(1..24), tokens(1..26), tokens(1..6), prop::option::of(any::<u64>()))
        .prop_map(|(question, steps, answer, label_seed)| Item { question, steps, answer, label_seed });
    let loss = prop::sample::select(vec![LatentLoss::Nll, LatentLoss::Mse, LatentLoss::MseExpected]);
    (0..MODELS.len(), any::<bool>(), 1..=5usize, loss, prop::collection::vec(item, 1..6), any::<usize>())
        .prop_map(|(model, colar, cf, loss, items, cut)| {
            let method = if colar { Method::Colar } else { Method::Cot };
            let cf = if colar { cf } else { 1 };
            Step { model, method, cf, loss, cut: cut % items.len(), items }
        })
}

/// `PROPTEST_CASES` overrides the number of cases.
fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { cases };
    ProptestConfig { cases, ..default }
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn a_batch_is_the_sum_of_its_samples(step in step()) {
        let t = trainee(step.model);
        let packing = Packing { method: step.method, compression_factor: step.cf, merge: t.opened.model.merge };
        let objective = objective(&step);
        let whole = t.sums(&objective, &[t.batch(packing, &step.items)], true);
        let alone: Vec<Batch> = step.items.iter().map(|i| t.batch(packing, std::slice::from_ref(i))).collect();
        let alone = t.sums(&objective, &alone, true);
        whole.assert_equal(&alone, &alone.added, "alone");
        // Accumulation over two batches, wherever it is cut.
        if step.cut > 0 {
            let (a, b) = step.items.split_at(step.cut);
            let parts = t.sums(&objective, &[t.batch(packing, a), t.batch(packing, b)], true);
            whole.assert_equal(&parts, &alone.added, "accumulated");
        }
    }

    #[test]
    fn the_order_of_a_batch_does_not_matter(step in step()) {
        let t = trainee(step.model);
        let packing = Packing { method: step.method, compression_factor: step.cf, merge: t.opened.model.merge };
        // Noise goes by place, so it is left out here.
        let objective = Objective { latent_loss: LatentLoss::MseExpected, ..objective(&step) };
        let alone: Vec<Batch> = step.items.iter().map(|i| t.batch(packing, std::slice::from_ref(i))).collect();
        let added = t.sums(&objective, &alone, false).added;
        let mut reversed = step.items.clone();
        reversed.reverse();
        let sums = |items: &[Item]| t.sums(&objective, &[t.batch(packing, items)], false);
        sums(&step.items).assert_equal(&sums(&reversed), &added, "reversed");
    }
}

/// Real samples, of both methods, at every factor.
#[test]
fn golden_samples_pack() {
    for (model, name) in MODELS.into_iter().enumerate() {
        let t = trainee(model);
        for (method, cf) in
            [1, 2, 3, 4, 5].map(|cf| (Method::Colar, cf)).into_iter().chain([(Method::Cot, 1)])
        {
            let packing = Packing { method, compression_factor: cf, merge: t.opened.model.merge };
            let items: Vec<Item> = samples(name)
                .iter()
                .map(|s| {
                    let append = t.opened.eos.append;
                    let Segments { question, steps, answer } =
                        training(&t.opened.tokenizer, t.opened.separator, append, method, s, &cf.to_string())
                            .unwrap();
                    Item { question, steps, answer, label_seed: Some(cf as u64) }
                })
                .collect();
            let objective = Objective { entropy_weight: -1e-6, ..Objective::default() };
            let whole = t.sums(&objective, &[t.batch(packing, &items)], true);
            let alone: Vec<Batch> = items.iter().map(|i| t.batch(packing, std::slice::from_ref(i))).collect();
            let alone = t.sums(&objective, &alone, true);
            whole.assert_equal(&alone, &alone.added, &format!("{name}, {method:?}, cf {cf}"));
        }
    }
}

// ---- generation -----------------------------------------------------------------------------------

fn engine(name: &str) -> Engine {
    let (model, adapter) = (golden(name), golden(name).join("adapter"));
    let device = DeviceKind::Cpu;
    Engine::with_options(&EngineOptions::new(model).adapter(adapter).device(device)).unwrap()
}

/// The parts of a generation that must not depend on its neighbours in the batch.
fn outcome(g: &Generation) -> (usize, Vec<u32>, usize, bool, String, Option<String>, usize) {
    (
        g.n_latents,
        g.token_ids.clone(),
        g.answer_tokens,
        g.finished,
        g.text.clone(),
        g.answer.clone(),
        g.prompt_tokens,
    )
}

/// Requests that leave the batch at different times: every limit, method and temperature differs.
fn requests(name: &str, separator_bias: f32) -> Vec<Request> {
    let samples = samples(name);
    let speeds = ["2", "1", "5", "auto", "1.5", "7"];
    let mut requests = Vec::new();
    for i in 0..14usize {
        let sample = &samples[i % samples.len()];
        let mut request = Request::question(sample.question.clone(), speeds[i % speeds.len()]);
        if i % 5 == 3 {
            request.prompt = Prompt::Question {
                text: sample.question.clone(),
                method: Method::Cot,
                compression_factor: "1".into(),
            };
        }
        if i % 7 == 5 {
            request.prompt = Prompt::Plain(sample.question.clone());
        }
        let greedy = i % 3 == 0;
        let sampling = Sampling::default()
            .max_latents(1 + (i * 5) % 13)
            .max_cot_tokens(2 + i)
            .max_new_tokens(1 + (i * 7) % 16)
            .latent_temperature([1.0, 0.5, 0.0][i % 3])
            .eol_temperature([1.0, 2.0][i % 2])
            .temperature([1.0, 0.7][i % 2])
            .top_p([0.9, 1.0, 0.3][i % 3])
            .seed(1000 + i as u64)
            .separator_bias(separator_bias);
        request.sampling = if greedy { sampling.greedy() } else { sampling };
        requests.push(request);
    }
    requests
}

#[test]
fn generation_in_a_batch_is_that_of_each_alone() {
    for name in MODELS {
        let engine = engine(name);
        let (mut lengths, mut answers) =
            (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
        for bias in [0.0, 3.0] {
            let requests = requests(name, bias);
            let alone: Vec<Generation> = requests.iter().map(|r| engine.generate(r).unwrap()).collect();
            let check = |order: &[usize], how: &str| {
                let batch: Vec<Request> = order.iter().map(|&i| requests[i].clone()).collect();
                for (&i, got) in order.iter().zip(engine.generate_batch(&batch).unwrap()) {
                    assert_eq!(outcome(&got), outcome(&alone[i]), "{name}, bias {bias}, request {i}, {how}");
                }
            };
            let n = requests.len();
            check(&(0..n).collect::<Vec<_>>(), "in order");
            check(&(0..n).rev().collect::<Vec<_>>(), "reversed");
            check(&[3, 3, 3, 8], "repeated");
            for i in 0..n - 1 {
                check(&[i, i + 1], "in a pair");
            }
            lengths.extend(alone.iter().map(|g| g.n_latents));
            answers.extend(alone.iter().map(|g| g.answer_tokens));
        }
        // The requests did leave the batch at different times.
        assert!(lengths.len() > 4 && answers.len() > 4, "{name}: {lengths:?}, {answers:?}");
    }
}

#[test]
fn seeds_matter_and_repeat() {
    for name in MODELS {
        let engine = engine(name);
        let question = &samples(name)[0].question;
        let with_seed = |seed: u64| {
            let mut request = Request::question(question.clone(), "2");
            request.sampling.seed = seed;
            request
        };
        let requests: Vec<Request> = (0..24).map(with_seed).collect();
        let first: Vec<_> = engine.generate_batch(&requests).unwrap().iter().map(outcome).collect();
        let second: Vec<_> = engine.generate_batch(&requests).unwrap().iter().map(outcome).collect();
        assert_eq!(first, second, "{name}");
        let distinct: std::collections::BTreeSet<_> = first.iter().map(|o| &o.1).collect();
        assert!(distinct.len() > 12, "{name}: {} distinct answers of 24 seeds", distinct.len());
        let greedy: Vec<Request> = requests.into_iter().map(Request::greedy).collect();
        let greedy: Vec<_> = engine.generate_batch(&greedy).unwrap().iter().map(outcome).collect();
        assert!(greedy.iter().all(|o| o == &greedy[0]), "{name}: a greedy run has no seed");
    }
}

/// Sequences that end early disturb no others: one long sequence beside many that leave, one by one.
#[test]
fn those_who_stay_do_not_notice_who_leaves() {
    for name in MODELS {
        let engine = engine(name);
        let question = &samples(name)[0].question;
        let mut long = Request::question(question.clone(), "2");
        long.sampling = long.sampling.max_latents(20).max_new_tokens(40).seed(5);
        let alone = outcome(&engine.generate(&long).unwrap());
        let mut batch: Vec<Request> = (1..10)
            .map(|i| {
                let mut short = Request::question(format!("{question} {i}"), "3").greedy();
                short.sampling.max_latents = i;
                short.sampling.max_new_tokens = 10 - i;
                short
            })
            .collect();
        for place in [0, 4, 9] {
            batch.insert(place, long.clone());
            let got = outcome(&engine.generate_batch(&batch).unwrap()[place]);
            assert_eq!(got, alone, "{name}, place {place}");
            batch.remove(place);
        }
    }
}
