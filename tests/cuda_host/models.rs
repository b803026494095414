//! Whole models by the kernels: hidden states of the golden vectors, and the scores of samples, in both dtypes.

use colar_engine::device::cuda::CudaDevice;
use colar_engine::device::prelude::*;
use colar_engine::device::{DeviceKind, Dtype};
use colar_engine::files::weights::Weights;
use colar_engine::infer::Loaded;
use colar_engine::model::layout::Layout;
use colar_engine::model::lora::LoraMode;
use colar_engine::train::score::{ScoreOptions, score};
use colar_engine::{Engine, EngineOptions, Generation, Request};
use serde_json::Value;

use super::common::driver::{TestDriver, kernels};
use super::common::{golden, relative, sample};

pub fn load(name: &str, dtype: Dtype) -> Loaded<CudaDevice<TestDriver>> {
    let dir = golden(name);
    Loaded::new(kernels(dtype, 9), &dir, Some(&dir.join("adapter"))).unwrap()
}

pub fn cases(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(name).join("sft.json")).unwrap()).unwrap()
}

fn hidden_states(name: &str, dtype: Dtype, tolerance: f64) {
    let loaded = load(name, dtype);
    let (device, model) = (&loaded.device, &loaded.opened.model);
    let vectors = Weights::open_file(&golden(name).join("sft.safetensors")).unwrap();
    let mut compared = 0;
    for case in cases(name)["cases"].as_array().unwrap() {
        let key = case["key"].as_str().unwrap();
        let (Ok(x), Ok(want)) =
            (vectors.tensor(&format!("{key}.inputs_embeds")), vectors.tensor(&format!("{key}.hidden")))
        else {
            continue;
        };
        // The full case is of the bare model.
        if key == "full" {
            continue;
        }
        let rows = x.numel() / model.transformer.config.hidden_size;
        let x = device.activations(rows, x.numel() / rows, &x.to_f32_vec()).unwrap();
        let layout = Layout::packed(device, &[rows]).unwrap();
        let run = || model.transformer.forward(device, &model.params, x, &layout, None).unwrap().0;
        let hidden = device.scope(run);
        assert_eq!(hidden.dtype(), dtype);
        let error = relative(&device.read(&hidden).unwrap(), &want.to_f32_vec());
        assert!(error < tolerance, "{name}, {key}: relative error {error:.1e}");
        compared += 1;
    }
    assert!(compared > 0, "{name} has no hidden states");
}

#[test]
fn hidden_states_in_float32() {
    hidden_states("llama-tiny", Dtype::F32, 1e-5);
    hidden_states("qwen2-tiny", Dtype::F32, 1e-5);
}

#[test]
fn hidden_states_in_bf16() {
    hidden_states("llama-tiny", Dtype::Bf16, 2e-2);
    hidden_states("qwen2-tiny", Dtype::Bf16, 2e-2);
}

/// A golden model with its checkpoint, on the device `cpu`.
fn on_cpu(name: &str) -> Engine {
    let model = golden(name);
    let adapter = model.join("adapter");
    let options = EngineOptions::new(model).adapter(adapter).device(DeviceKind::Cpu).threads(2);
    Engine::with_options(&options).unwrap()
}

/// Losses of the golden samples, beside those of the device `cpu`.
fn scores(name: &str, dtype: Dtype, tolerance: f64) {
    let samples: Vec<_> = cases(name)["samples"].as_array().unwrap().iter().map(sample).collect();
    let options = ScoreOptions::default().compression_factor(2);
    let mine = score(&load(name, dtype), &samples, &options, &mut |_| Ok(())).unwrap();
    let theirs = on_cpu(name).score(&samples, &options, &mut |_| Ok(())).unwrap();
    for (mine, theirs) in mine.samples.iter().zip(&theirs.samples) {
        let (mine, theirs) = (&mine.losses, &theirs.losses);
        let pairs = [
            (mine.ce, theirs.ce),
            (mine.latent_mse.unwrap(), theirs.latent_mse.unwrap()),
            (mine.latent_nll.unwrap(), theirs.latent_nll.unwrap()),
            (mine.entropy.unwrap(), theirs.entropy.unwrap()),
        ];
        for (mine, theirs) in pairs {
            assert!((mine - theirs).abs() < tolerance * theirs.abs(), "{mine} instead of {theirs}");
        }
    }
}

#[test]
fn scores_in_float32() {
    scores("llama-tiny", Dtype::F32, 1e-5);
    scores("qwen2-tiny", Dtype::F32, 1e-5);
}

#[test]
fn scores_in_bf16() {
    scores("llama-tiny", Dtype::Bf16, 2e-2);
    scores("qwen2-tiny", Dtype::Bf16, 2e-2);
}

/// With every temperature on: latents, ends and tokens of a seed are those of `cpu`.
#[test]
fn draws_of_a_seed_are_those_of_the_cpu() {
    let requests: Vec<Request> = (0..4)
        .map(|seed| {
            let mut request = Request::question("Tom has 3 boxes with 24 pens each.", "2");
            request.sampling.max_latents = 5;
            request.sampling.max_new_tokens = 6;
            request.sampling.separator_bias = 2.0;
            request.sampling.seed = seed;
            request
        })
        .collect();
    let drawn = |generations: Vec<Generation>| -> Vec<(usize, Vec<u32>)> {
        generations.into_iter().map(|g| (g.n_latents, g.token_ids)).collect()
    };
    let mine = load("llama-tiny", Dtype::F32).generate(&requests, &mut |_| ()).unwrap();
    assert_eq!(drawn(mine), drawn(on_cpu("llama-tiny").generate_batch(&requests).unwrap()));
}

/// Loaded to run, every matrix has the compute dtype, so that no product mixes two; vectors are float32.
#[test]
fn no_product_mixes_dtypes() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for lora in [LoraMode::Merge, LoraMode::Apart] {
            let dir = golden("qwen2-tiny");
            let loaded =
                Loaded::with_lora(kernels(dtype, 0), &dir, Some(&dir.join("adapter")), Some(lora)).unwrap();
            let mut kinds = [0; 4];
            for (_, p) in loaded.opened.model.params.iter() {
                let want = if p.shape.len() == 2 { dtype } else { Dtype::F32 };
                assert_eq!(p.value.dtype(), want, "{}", p.name);
                let lora = p.name.contains("lora");
                let head = p.name.contains("latent_policy");
                kinds[if p.shape.len() == 1 { 3 } else { usize::from(lora) + 2 * usize::from(head) }] += 1;
            }
            assert_eq!(kinds[1] > 0, lora == LoraMode::Apart);
            assert!(kinds[0] > 0 && kinds[2] > 0 && kinds[3] > 0);
        }
    }
}

/// The nearest tokens of latents, which are found in float32 whatever the device computes in.
#[test]
fn traces_in_both_dtypes() {
    let trace = |dtype| {
        let mut request = Request::question("Tom has 3 boxes with 24 pens each.", "2").greedy();
        (request.trace, request.sampling.max_latents, request.sampling.max_new_tokens) = (true, 2, 1);
        let mut out = load("llama-tiny", dtype).generate(&[request], &mut |_| ()).unwrap();
        out.remove(0).trace
    };
    let (float, half) = (trace(Dtype::F32), trace(Dtype::Bf16));
    assert!(!float.is_empty() && float.len() == half.len());
    for (float, half) in float.iter().zip(&half) {
        let (first, same) = (&float[0], half.iter().find(|t| t.id == float[0].id));
        let same = same.unwrap_or_else(|| panic!("{:?} is not near in bf16", first.text));
        assert!((first.cosine - same.cosine).abs() < 2e-2, "{} instead of {}", same.cosine, first.cosine);
    }
}
