//! The costs of a training step: operations, waits of the host, conversions of weights, memory.
#![cfg(cuda_host)]

use std::path::Path;
use std::sync::Arc;

use colar_engine::bench::{Sequences, StepBatch, StepOptions, train_step};
use colar_engine::device::cuda::CudaDevice;
use colar_engine::device::cuda::driver::Driver;
use colar_engine::device::cuda::host::HostDriver;
use colar_engine::device::prelude::*;
use colar_engine::device::{AdamW, Dtype};
use colar_engine::model::adapter::{AdapterConfig, LoraTarget};
use colar_engine::model::config::ModelConfig;
use colar_engine::model::merge::Merge;
use colar_engine::model::open::{Additions, Opened, open};
use colar_engine::model::params::Grads;
use colar_engine::model::prompt::{Method, Segments};
use colar_engine::model::weight_spec::{Group, Groups};
use colar_engine::train::batch::{Batch, Packing};
use colar_engine::train::optimizer::{Optimizer, finite_norm};
use colar_engine::train::sft::{Counts, Noise, Objective, begin};
use colar_engine::train::{RlTrainer, Trainer};

use crate::common::driver::{Asked, counted};
use crate::common::golden;
use crate::common::runs::{flags, materials, policy};

fn adapter(r: usize) -> AdapterConfig {
    AdapterConfig {
        r,
        lora_alpha: 32.0,
        use_rslora: false,
        target_modules: vec![LoraTarget::QProj, LoraTarget::VProj],
        ..AdapterConfig::default()
    }
}

/// The operations that are counted from shapes are those of the products that the device is asked for.
#[test]
fn counted_operations_are_those_asked_for() {
    let (device, asked) = counted(Dtype::F32, 1);
    let (steps, sequences) = (1, Sequences { count: 3, rows: 48 });
    for model in ["llama-tiny", "qwen2-tiny", "qwen3-tiny"] {
        let options = StepOptions {
            model: golden(model),
            batch: StepBatch::Invented(sequences),
            compression_factor: 2,
            head_size: Some(24),
            lora: adapter(4),
            recompute: false,
            steps,
            product: None,
        };
        Asked::take(&asked.operations);
        let timing = train_step(&device, &options).unwrap();
        // Two steps are not timed.
        assert_eq!(
            Asked::take(&asked.operations),
            (2 + steps as u64) * timing.operations.products,
            "{model}"
        );
        assert_eq!((timing.positions, timing.sequences, timing.labels), (3 * 48, 3, 3 * 24));
        // Half of the rows ask, eight answer, and the separator stands between.
        assert_eq!(timing.latents, 3 * (48 - 24 - 8));
        let config = ModelConfig::load(&golden(model)).unwrap();
        let width = (config.num_hidden_layers * config.num_attention_heads * config.head_dim) as u64;
        // Three sequences, two products of two operations forward and twice that back, for each pair.
        assert_eq!(timing.operations.attention, 3 * 12 * (48 * 49 / 2) * width, "{model}");
        assert!(timing.peak_bytes.unwrap() > 0 && timing.ce.iter().all(|x| x.is_finite()));
    }
}

/// A batch of two sequences.
fn batch(opened: &Opened<impl Device>) -> Batch {
    let mut batch = Batch::new();
    for i in 0..2u32 {
        let tokens = |n: u32| (0..n).map(|t| (7 * t + 3 * i) % 100).collect();
        let segments = Segments { question: tokens(11), steps: tokens(14), answer: tokens(4) };
        let packing = Packing { method: Method::Colar, compression_factor: 2, merge: Merge::Sqrt };
        assert!(opened.model.transformer.config.vocab_size > 100);
        batch.push(packing, &segments, None);
    }
    batch
}

/// The host waits for a step once it has asked for all of it, and a weight is rounded once, however many batches and
/// steps.
#[test]
fn a_step_waits_at_its_end_and_rounds_no_weight_again() {
    for full in [false, true] {
        let (device, asked) = counted(Dtype::Bf16, 2);
        let trained = if full { Groups::ALL } else { Groups::of(&[Group::Adapter, Group::LatentHead]) };
        let dir = golden("llama-tiny");
        let checkpoint = dir.join("adapter");
        let mut opened = open(&device, &dir, Some(&checkpoint), &Additions::default(), trained).unwrap();
        let mut grads = Grads::new(&device, &opened.model.params, trained).unwrap();
        let mut optimizer = Optimizer::new(&device, &opened.model.params, &grads).unwrap();
        let (batch, objective) = (batch(&opened), Objective::default());
        let batches = [&batch, &batch];
        Asked::take(&asked.downloads);
        Asked::take(&asked.conversions);
        for step in 1..=3u64 {
            grads.clear(&device).unwrap();
            let counts = Counts::of(batches);
            let mut pending = Vec::new();
            for (i, batch) in batches.into_iter().enumerate() {
                let noise = Noise::Drawn { key: 1, step: step as u32, first_row: 100 * i as u32 };
                let model = &opened.model;
                let grads = Some(&mut grads);
                pending.push(begin(&device, model, &objective, batch, &noise, counts, grads).unwrap());
            }
            let watched: Vec<_> = pending.iter().flat_map(|p| p.tensors()).collect();
            let hyper = AdamW::new(1e-3, 0.01, step);
            let params = &mut opened.model.params;
            let norm = optimizer.begin(&device, params, &grads, &hyper, 1.0, &watched).unwrap();
            assert_eq!(Asked::take(&asked.downloads), 0, "the host waited within step {step}");
            let rounded = Asked::take(&asked.conversions);
            let matrices = opened.model.params.iter().filter(|(_, p)| p.shape.len() == 2).count() as u64;
            // The input embeddings, which are no other product's matrix here, are gathered as they are.
            assert_eq!(rounded, if step == 1 { matrices - 1 } else { 0 }, "step {step}, full {full}");
            finite_norm(&device, &norm, step).unwrap();
            Asked::take(&asked.downloads);
        }
        // Products take the rounded weights.
        let ids: Vec<_> = opened.model.params.iter().filter(|(_, p)| p.shape.len() == 2).collect();
        for (_, p) in ids {
            let values = device.read(&p.value).unwrap();
            let fresh = device.upload(p.value.rows(), p.value.cols(), &values).unwrap();
            let rows: Vec<f32> = (0..20 * p.value.cols()).map(|i| (i % 13) as f32 - 6.0).collect();
            let x = device.activations(20, p.value.cols(), &rows).unwrap();
            let product = |w| {
                let mut y = device.empty(20, p.value.rows()).unwrap();
                device.matmul_nt(1.0, &x, w, 0.0, &mut y).unwrap();
                device.read(&y).unwrap()
            };
            assert!(product(&p.value) == product(&fresh), "{}: an old copy", p.name);
        }
    }
}

/// A weight that is written otherwise than by the optimiser is rounded again, and one that a step left as it was is
/// not.
#[test]
fn copies_follow_their_weights() {
    use colar_engine::device::AdamWTensor;
    let (device, asked) = counted(Dtype::Bf16, 3);
    let values =
        |by: f32| -> Vec<f32> { (0..24 * 40).map(|i| by * ((i * 37 % 101) as f32 - 50.0)).collect() };
    let mut w = device.upload(24, 40, &values(0.013)).unwrap();
    let x = device.activations(20, 40, &values(0.1)[..800]).unwrap();
    let product = |w: &_| {
        let mut y = device.empty(20, 24).unwrap();
        device.matmul_nt(1.0, &x, w, 0.0, &mut y).unwrap();
        device.read(&y).unwrap()
    };
    let first = product(&w);
    Asked::take(&asked.conversions);
    let zeros = || device.zeros(24, 40).unwrap();
    let (mut grad, mut m, mut v) = (zeros(), zeros(), zeros());
    device.write(&mut grad, &[f32::NAN; 960]).unwrap();
    let mut step = |grad: &_, w: &mut _| {
        let tensors = &mut [AdamWTensor { value: w, grad, m: &mut m, v: &mut v }];
        drop(device.adamw_clipped(&AdamW::new(0.1, 0.0, 1), 1.0, &[], tensors).unwrap());
    };
    step(&grad, &mut w);
    assert!(product(&w) == first, "a step without a norm changed the weight");
    device.write(&mut grad, &values(1.0)).unwrap();
    step(&grad, &mut w);
    let moved = product(&w);
    assert!(moved != first);
    assert_eq!(Asked::take(&asked.conversions), 0);
    let fresh = device.upload(24, 40, &device.read(&w).unwrap()).unwrap();
    assert!(moved == product(&fresh), "the step's copy is not the rounding of its weight");
    device.write(&mut w, &values(0.013)).unwrap();
    assert!(product(&w) == first, "an old copy after writing");
    let other = device.upload(24, 40, &values(-0.013)).unwrap();
    device.copy(&other, &mut w).unwrap();
    let negative: Vec<f32> = first.iter().map(|x| -x).collect();
    assert!(product(&w) == negative, "an old copy after copying");
}

type Host = CudaDevice<HostDriver>;

/// A trainer of either kind, of few steps.
enum Made {
    Supervised(Box<Trainer<Host>>),
    Policy(Box<RlTrainer<Host>>),
}

fn make(device: Host, dir: &Path, name: &str, text: &str) -> colar_engine::Result<Made> {
    let flags = flags(dir, name, text);
    if text.contains("stage = \"rl\"") {
        return RlTrainer::new(device, flags.resolve_rl().unwrap(), false).map(Box::new).map(Made::Policy);
    }
    Trainer::new(device, flags.resolve().unwrap(), false).map(Box::new).map(Made::Supervised)
}

impl Made {
    fn run(&mut self) -> colar_engine::Result<()> {
        match self {
            Made::Supervised(trainer) => trainer.run(&mut |_| ()).map(drop),
            Made::Policy(trainer) => trainer.run(&mut |_| ()).map(drop),
        }
    }
}

/// Bytes of the buffers alive.
fn held(driver: &HostDriver) -> usize {
    let room = driver.room().unwrap().unwrap();
    room.total - room.free
}

const STEPS: &str = "batch-size = 4\ncf-list = [2]\nlatent-head-size = 32\nmax-steps = 2\n";

/// The stated need of memory suffices, and is not far above the use.
#[test]
fn what_a_step_needs_is_known_before() {
    let dir = tempfile::tempdir().unwrap();
    let text = materials(dir.path());
    let supervised = text.clone() + STEPS + "monitor = \"loss\"\n";
    let second = "pred-embed-forward-weight = 0.5\n";
    let reinforced = text + &policy() + "max-steps = 1\n";
    let kinds = [
        ("lora", supervised.clone(), Dtype::F32),
        ("lora-bf16", supervised.clone(), Dtype::Bf16),
        ("recomputed", supervised.clone() + "recompute = true\n", Dtype::F32),
        ("dropout", supervised.clone() + "lora-dropout = 0.1\n", Dtype::F32),
        ("second", supervised.clone() + second, Dtype::F32),
        ("full", supervised.clone() + "full = true\n", Dtype::Bf16),
        ("full-recomputed", supervised + "full = true\nrecompute = true\n", Dtype::F32),
        ("rl", reinforced, Dtype::F32),
    ];
    let mut took_by = std::collections::BTreeMap::new();
    for (kind, text, dtype) in kinds {
        let driver = HostDriver::limited(1, 0, 1 << 40).unwrap();
        let mut made = make(CudaDevice::new(driver.clone(), dtype), dir.path(), kind, &text).unwrap();
        made.run().unwrap();
        // Without the buffers that are still alive after the run: weights, gradients, moments and copies.
        let (took, reserved) = (driver.most_bytes() - held(&driver), driver.reserved_bytes());
        let said = format!("{kind}: {took} bytes, {reserved} set aside");
        println!("{said}");
        assert!(took <= reserved, "{said}");
        assert!(reserved <= 2 * took, "{said}");
        took_by.insert(kind, took);
    }
    assert!(took_by["recomputed"] < took_by["lora"], "{took_by:?}");
}

/// The line that a run without room fails with, before its first step.
fn line(result: colar_engine::Result<()>) -> String {
    let line = result.unwrap_err().to_string();
    assert!(line.starts_with("cuda-host: ") && !line.contains('\n'), "{line}");
    line
}

#[test]
fn what_does_not_fit_is_said_before_the_first_step() {
    let dir = tempfile::tempdir().unwrap();
    let text = materials(dir.path());
    let supervised = text.clone() + STEPS + "monitor = \"loss\"\n";
    let supervised = supervised.replace("max-steps = 2", "max-steps = 1");
    let reinforced = text + &policy() + "max-steps = 1\n";
    for (kind, text, less) in [
        ("sft", supervised.clone(), "a smaller `batch_size` with a larger `accumulate`, or `recompute`"),
        ("rl", reinforced, "a smaller `exp_batch_size`, or `recompute`"),
    ] {
        let whole = HostDriver::limited(1, 0, 1 << 40).unwrap();
        let name = format!("{kind}-whole");
        let mut made = make(CudaDevice::new(whole.clone(), Dtype::F32), dir.path(), &name, &text).unwrap();
        let state = held(&whole);
        made.run().unwrap();
        // One byte less than the most that is asked for: a step, as rollouts take less.
        let driver = HostDriver::limited(1, 0, state + whole.reserved_bytes() - 1).unwrap();
        let name = format!("{kind}-tight");
        let mut made = make(CudaDevice::new(driver, Dtype::F32), dir.path(), &name, &text).unwrap();
        let said = line(made.run());
        for part in ["the activations of a step of", "are free", "beside the weights", less] {
            assert!(said.contains(part), "{part:?} is not in {said:?}");
        }
        let metrics =
            std::fs::read_to_string(dir.path().join(&name).join("metrics.jsonl")).unwrap_or_default();
        assert!(!metrics.contains("grad_norm"), "a step was taken: {metrics}");
    }
    // The state of training alone may be too much.
    let driver = Arc::new(HostDriver::limited(1, 0, 2 << 20).unwrap());
    let full = supervised + "full = true\n";
    let made = make(CudaDevice::new(HostDriver::clone(&driver), Dtype::F32), dir.path(), "state", &full);
    let said = line(made.map(drop));
    for part in ["gradients and moments of", "trained weights", "an adapter instead of `full`"] {
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
}
