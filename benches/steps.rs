//! Whole steps of generation and of training, on models with random weights.
//!
//! `cargo bench --bench steps [-- FILTER]`. `tiny` is the shape of the embedded default (float32),
//! `smollm2-135m` that of a real model (bf16, mapped from a file that is written first). Decode steps run
//! at position 128 of their cache; throughput is the bytes of weights they must read. The SFT step is 8
//! samples of 60 question, 60 step and 8 answer tokens at compression factor 2, forward, backward and
//! AdamW on adapters of rank 128 and the latent head; throughput is packed rows. The pass with thoughts is forward and
//! backward of 8 samples of 60 question tokens and 60 more rows, all of them tokens or the first 6 thoughts.

use std::time::Duration;

use colar_engine::device::cpu::{CpuDevice, CpuTensor};
use colar_engine::device::prelude::*;
use colar_engine::device::{AdamW, Draw, Dtype, Span, TokenChoice};
use colar_engine::files::weights::Weights;
use colar_engine::model::ColarModel;
use colar_engine::model::adapter::{AdapterConfig, LoraTarget};
use colar_engine::model::init::{INITIALIZER_RANGE, RandomInit, write_random_model};
use colar_engine::model::kv_cache::{Extension, KvCache};
use colar_engine::model::latent_head::LatentHead;
use colar_engine::model::latent_head::LatentHeadConfig;
use colar_engine::model::lora::{LoraInit, attach};
use colar_engine::model::merge::Merge;
use colar_engine::model::params::{Grads, Params};
use colar_engine::model::presets::Preset;
use colar_engine::model::prompt::{Method, Segments};
use colar_engine::model::transformer::Transformer;
use colar_engine::model::weight_spec::{Group, Groups};
use colar_engine::train::batch::{Batch, Packing};
use colar_engine::train::optimizer::Optimizer;
use colar_engine::train::sft::{Counts, Noise, Objective, run};
use colar_engine::train::thoughts::{self, ThoughtBatch, ThoughtCounts, ThoughtExample, ThoughtObjective};
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};

const MODELS: [(Preset, Dtype); 2] = [(Preset::Tiny, Dtype::F32), (Preset::SmolLm2_135m, Dtype::Bf16)];

/// Position at which decode steps run.
const POSITION: usize = 128;

struct Model {
    device: CpuDevice,
    colar: ColarModel<CpuDevice>,
}

fn model(preset: Preset, dtype: Dtype, with_adapter: bool) -> Model {
    let dir = tempfile::tempdir().unwrap();
    let config = preset.config();
    write_random_model(dir.path(), &config, &RandomInit { dtype, std: INITIALIZER_RANGE, seed: 1 }).unwrap();
    let device = CpuDevice::new(0).unwrap();
    let mut params = Params::default();
    // The mapping outlives the directory.
    let weights = Weights::open(dir.path()).unwrap();
    let mut transformer =
        Transformer::load(&device, &config, &weights, &mut params, &mut |_, w| device.adopt(w)).unwrap();
    if with_adapter {
        let adapter = AdapterConfig {
            r: 128,
            lora_alpha: 32.0,
            use_rslora: false,
            target_modules: vec![LoraTarget::QProj, LoraTarget::VProj],
            ..AdapterConfig::default()
        };
        attach(&device, &mut transformer, &mut params, &adapter, &LoraInit::Random(1)).unwrap();
    }
    let head = LatentHeadConfig { intermediate_size: config.hidden_size, deterministic: false };
    let head = LatentHead::random(&device, &mut params, &head, config.hidden_size, 1).unwrap();
    let colar = ColarModel {
        transformer,
        head: Some(head),
        thoughts: None,
        params,
        embeds_std: 0.02,
        merge: Merge::default(),
    };
    Model { device, colar }
}

impl Model {
    /// Bytes of weights that a token's forward pass reads, the output head included and the latent head
    /// not; embeddings count once.
    fn weight_bytes(&self) -> u64 {
        let params = self.colar.params.iter().filter(|(_, p)| p.group != Group::LatentHead);
        params.map(|(_, p)| (p.value.rows() * p.value.cols() * p.value.dtype().size()) as u64).sum()
    }

    /// A filled cache, and the place of the next position of each of `slots` sequences.
    fn cache(&self, slots: usize) -> (KvCache<CpuDevice>, Extension) {
        let config = &self.colar.transformer.config;
        let mut cache = KvCache::new(&self.device, config, slots, POSITION + 1).unwrap();
        let extension = cache.extend(&(0..slots).map(|s| (s, POSITION)).collect::<Vec<_>>()).unwrap();
        let h = config.hidden_size;
        let x = self.device.upload(slots * POSITION, h, &vec![0.01; slots * POSITION * h]).unwrap();
        self.forward(x, &extension, &mut cache);
        let place = |s: usize| s * (POSITION + 1);
        let next = Extension {
            rows: (0..slots).map(|s| (place(s) + POSITION) as u32).collect(),
            positions: vec![POSITION as u32; slots],
            spans: (0..slots)
                .map(|s| Span { q_start: s, q_len: 1, k_start: place(s), k_len: POSITION + 1 })
                .collect(),
        };
        (cache, next)
    }

    fn forward(&self, x: CpuTensor, extension: &Extension, cache: &mut KvCache<CpuDevice>) -> CpuTensor {
        let (device, params) = (&self.device, &self.colar.params);
        self.colar.transformer.forward_cached(device, params, x, extension, cache).unwrap()
    }

    fn choices(slots: usize) -> Vec<TokenChoice> {
        let draw = |i| Draw { key: 1, counter: [0, i] };
        (0..slots as u32).map(|i| TokenChoice { temperature: 1.0, top_p: 0.9, draw: draw(i) }).collect()
    }

    /// Embeds a token a sequence, runs the decoder and chooses the next tokens.
    fn token_step(&self, next: &Extension, cache: &mut KvCache<CpuDevice>) -> Vec<u32> {
        let (device, params) = (&self.device, &self.colar.params);
        let slots = next.positions.len();
        let table = params.get(self.colar.transformer.embed);
        let mut x = device.empty(slots, table.cols()).unwrap();
        device.gather_rows(1.0, table, &vec![17; slots], &mut x).unwrap();
        let hidden = self.forward(x, next, cache);
        let w = params.get(self.colar.transformer.lm_head);
        device.choose_tokens(&hidden, w, &Self::choices(slots), None).unwrap()
    }

    /// Draws a latent from the last hidden state, runs the decoder and draws whether the latents end.
    fn latent_step(&self, h: &[f32], next: &Extension, cache: &mut KvCache<CpuDevice>) -> Vec<bool> {
        let (device, params) = (&self.device, &self.colar.params);
        let slots = next.positions.len();
        let hidden = device.upload(slots, h.len() / slots, h).unwrap();
        let (dist, _) = self.colar.latent_head().unwrap().forward(device, params, hidden).unwrap();
        let make = || device.empty(slots, h.len() / slots).unwrap();
        let (mut eps, mut z, mut x) = (make(), make(), make());
        let draws: Vec<Draw> = Self::choices(slots).iter().map(|c| c.draw).collect();
        device.normal(&draws, &mut eps).unwrap();
        device.reparameterise(&dist.mu, dist.log_sigma.as_ref(), &eps, 1.0, &mut z).unwrap();
        let all: Vec<u32> = (0..slots as u32).collect();
        device.gather_rows(self.colar.embeds_std, &z, &all, &mut x).unwrap();
        let hidden = self.forward(x, next, cache);
        let w = params.get(self.colar.transformer.lm_head);
        device.token_event(&hidden, w, 5, &Self::choices(slots), 0.0).unwrap()
    }
}

fn decode(c: &mut Criterion) {
    let mut g = c.benchmark_group("decode");
    g.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    for (preset, dtype) in MODELS {
        let m = model(preset, dtype, false);
        for slots in [1, 8] {
            let (mut cache, next) = m.cache(slots);
            g.throughput(Throughput::Bytes(m.weight_bytes()));
            g.bench_function(format!("{}/token/batch {slots}", preset.name()), |b| {
                m.device.scope(|| b.iter(|| m.token_step(&next, &mut cache)));
            });
            let h = vec![0.3; slots * m.colar.transformer.config.hidden_size];
            g.bench_function(format!("{}/latent/batch {slots}", preset.name()), |b| {
                m.device.scope(|| b.iter(|| m.latent_step(&h, &next, &mut cache)));
            });
        }
        g.throughput(Throughput::Elements(POSITION as u64));
        g.bench_function(format!("{}/prefill of {POSITION}", preset.name()), |b| {
            m.device.scope(|| b.iter(|| m.cache(1)));
        });
    }
}

fn sft(c: &mut Criterion) {
    let mut g = c.benchmark_group("sft");
    g.sample_size(10).sampling_mode(SamplingMode::Flat);
    g.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(5));
    for (preset, dtype) in MODELS {
        let mut m = model(preset, dtype, true);
        let vocab = m.colar.transformer.config.vocab_size as u32;
        let token = |i: u32| i * 7919 % vocab;
        let mut batch = Batch::new();
        for sample in 0..8 {
            let tokens = |from: u32, n: u32| (from..from + n).map(token).collect::<Vec<u32>>();
            let (question, steps, answer) =
                (tokens(200 * sample, 60), tokens(200 * sample + 60, 60), tokens(200 * sample + 120, 8));
            let packing = Packing { method: Method::Colar, compression_factor: 2, merge: m.colar.merge };
            batch.push(packing, &Segments { question, steps, answer }, None);
        }
        let trained = Groups::of(&[Group::Adapter, Group::LatentHead]);
        let mut grads = Grads::new(&m.device, &m.colar.params, trained).unwrap();
        let mut optimizer = Optimizer::new(&m.device, &m.colar.params, &grads).unwrap();
        let counts = Counts::of([&batch]);
        let objective = Objective::default();
        let hyper = AdamW::new(1e-6, 0.01, 1);
        g.throughput(Throughput::Elements(batch.rows() as u64));
        let device = m.device.clone();
        g.bench_function(format!("{}/step of 8", preset.name()), |b| {
            device.scope(|| {
                b.iter(|| {
                    grads.clear(&device).unwrap();
                    let noise = Noise::Drawn { key: 1, step: 1, first_row: 0 };
                    run(&device, &m.colar, &objective, &batch, &noise, counts, Some(&mut grads)).unwrap();
                    optimizer.step(&device, &mut m.colar.params, &grads, &hyper, 1.0).unwrap()
                });
            });
        });
    }
}

fn thought_steps(c: &mut Criterion) {
    let mut g = c.benchmark_group("thoughts");
    g.sample_size(10).sampling_mode(SamplingMode::Flat);
    g.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(5));
    for (preset, dtype) in MODELS {
        let m = model(preset, dtype, true);
        let vocab = m.colar.transformer.config.vocab_size as u32;
        let mut grads = Grads::new(&m.device, &m.colar.params, Groups::of(&[Group::Adapter])).unwrap();
        for count in [0, 6] {
            let mut batch = ThoughtBatch::new();
            for sample in 0..8 {
                let tokens =
                    |from: u32, n: u32| (from..from + n).map(|i| i * 7919 % vocab).collect::<Vec<u32>>();
                let (question, tail) = (tokens(200 * sample, 60), tokens(200 * sample + 60, 60 - count));
                batch.push(&ThoughtExample { question, tail, distill: None }).unwrap();
            }
            let counts = ThoughtCounts::of([&batch]);
            let objective = ThoughtObjective::default();
            g.throughput(Throughput::Elements(8 * 120));
            g.bench_function(format!("{}/{count} thoughts", preset.name()), |b| {
                m.device.scope(|| {
                    b.iter(|| {
                        let (thoughts, grads) = (count as usize, Some(&mut grads));
                        thoughts::run(&m.device, &m.colar, &objective, &batch, thoughts, counts, grads)
                            .unwrap()
                    });
                });
            });
        }
    }
}

criterion_group!(benches, decode, sft, thought_steps);
criterion_main!(benches);
