//! Generation by the kernels in both dtypes: the latent head and the logits of the golden vectors, and every step
//! of the golden greedy generations.
//!
//! In bf16 a generation may well take another token where two are nearly alike, so they are compared as the vectors
//! of their steps: the golden tokens and the latents of float32 are fed in either dtype.

use colar_engine::device::Dtype;
use colar_engine::device::cpu::CpuDevice;
use colar_engine::device::prelude::*;
use colar_engine::files::weights::Weights;
use colar_engine::infer::Loaded;
use colar_engine::model::kv_cache::KvCache;
use colar_engine::model::layout::Layout;
use colar_engine::model::prompt::{Method, training};
use colar_engine::train::batch::{Batch, Packing};
use serde_json::Value;

use super::common::{golden, relative, sample};
use super::models::{cases, load};

/// Agreement of float32 (spec section 9).
const FLOAT: f64 = 1e-5;

/// Agreement of bf16, relative to the norm of the vector.
const HALF: f64 = 2e-2;

/// Compares the latents' distributions and the logits that follow from the golden input embeddings.
fn heads(name: &str, dtype: Dtype, tolerance: f64) {
    let loaded = load(name, dtype);
    let (device, opened) = (&loaded.device, &loaded.opened);
    let (model, params) = (&opened.model, &opened.model.params);
    let vectors = Weights::open_file(&golden(name).join("sft.safetensors")).unwrap();
    let golden = cases(name);
    let mut compared = 0;
    for case in golden["cases"].as_array().unwrap() {
        let key = case["key"].as_str().unwrap();
        let Ok(x) = vectors.tensor(&format!("{key}.inputs_embeds")) else { continue };
        let cf = case["cf"].as_u64().unwrap() as usize;
        let sample = sample(&golden["samples"][case["sample"].as_u64().unwrap() as usize]);
        let segments = training(
            &opened.tokenizer,
            opened.separator,
            opened.eos.append,
            Method::Colar,
            &sample,
            &cf.to_string(),
        )
        .unwrap();
        let mut batch = Batch::new();
        batch.push(
            Packing { method: Method::Colar, compression_factor: cf, merge: model.merge },
            &segments,
            None,
        );
        let (rows, width) = (batch.rows(), model.transformer.config.hidden_size);
        let (mu, log_sigma, logits) = device.scope(|| {
            let x = device.activations(rows, width, &x.to_f32_vec()).unwrap();
            let layout = Layout::packed(device, &[rows]).unwrap();
            let hidden = model.transformer.forward(device, params, x, &layout, None).unwrap().0;
            let mut h = device.empty(batch.latent_rows.len(), width).unwrap();
            device.gather_rows(1.0, &hidden, &device.index(&batch.latent_rows).unwrap(), &mut h).unwrap();
            let dist = model.latent_head().unwrap().forward(device, params, h).unwrap().0;
            let w = params.get(model.transformer.lm_head);
            let mut logits = device.empty(rows, model.transformer.config.vocab_size).unwrap();
            device.matmul_nt(1.0, &hidden, w, 0.0, &mut logits).unwrap();
            let log_sigma = device.read(&dist.log_sigma.unwrap()).unwrap();
            (device.read(&dist.mu).unwrap(), log_sigma, device.read(&logits).unwrap())
        });
        for (what, got) in [("latent_mean", mu), ("latent_log_std", log_sigma), ("logits", logits)] {
            let want = vectors.tensor(&format!("{key}.{what}")).unwrap().to_f32_vec();
            let error = relative(&got, &want);
            assert!(error < tolerance, "{name}, {key}, {what}: relative error {error:.1e}");
            compared += 1;
        }
    }
    assert!(compared > 0, "{name} has no such vectors");
}

/// The steps of a generation: the inputs of the latent head and of the output head, and the output of the former.
#[derive(Default)]
struct Steps {
    hidden: Vec<Vec<f32>>,
    mu: Vec<Vec<f32>>,
}

/// Runs a golden greedy generation; with `fed`, feeds those latents instead of its own.
fn steps<D: Device>(loaded: &Loaded<D>, row: &Value, fed: Option<&[Vec<f32>]>) -> Steps {
    let (device, opened) = (&loaded.device, &loaded.opened);
    let (model, params) = (&opened.model, &opened.model.params);
    let ids = |key: &str| -> Vec<u32> {
        row[key].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
    };
    let (prompt, answer) = (ids("prompt_ids"), ids("answer_ids"));
    let latents = row["n_latents"].as_u64().unwrap() as usize;
    let (width, table) = (model.transformer.config.hidden_size, params.get(model.transformer.embed));
    let room = prompt.len() + latents + 1 + answer.len();
    let mut cache = KvCache::new(device, &model.transformer.config, 1, room).unwrap();
    let mut out = Steps::default();
    let mut step = |x: D::Tensor, rows: usize, out: &mut Steps| -> D::Tensor {
        let extension = cache.extend(&[(0, rows)]).unwrap();
        let hidden = model.transformer.forward_cached(device, params, x, &extension, &mut cache).unwrap();
        let mut last = device.empty(1, width).unwrap();
        device.gather_rows(1.0, &hidden, &device.index(&[rows as u32 - 1]).unwrap(), &mut last).unwrap();
        out.hidden.push(device.read(&last).unwrap());
        last
    };
    let embed = |ids: &[u32]| -> D::Tensor {
        let mut x = device.empty(ids.len(), width).unwrap();
        device.gather_rows(1.0, table, &device.index(ids).unwrap(), &mut x).unwrap();
        x
    };
    let mut hidden = step(embed(&prompt), prompt.len(), &mut out);
    for i in 0..latents {
        let mu = model.latent_head().unwrap().forward(device, params, hidden).unwrap().0.mu;
        out.mu.push(device.read(&mu).unwrap());
        let mut x = device.empty(1, width).unwrap();
        let first = device.index(&[0]).unwrap();
        match fed {
            Some(fed) => {
                let z = device.upload(1, width, &fed[i]).unwrap();
                device.gather_rows(model.embeds_std, &z, &first, &mut x).unwrap();
            }
            None => device.gather_rows(model.embeds_std, &mu, &first, &mut x).unwrap(),
        }
        hidden = step(x, 1, &mut out);
    }
    for token in std::iter::once(opened.separator).chain(answer) {
        step(embed(&[token]), 1, &mut out);
    }
    out
}

fn generations(name: &str) {
    let dir = golden(name);
    let cpu = Loaded::new(CpuDevice::new(1).unwrap(), &dir, Some(&dir.join("adapter"))).unwrap();
    let (float, half) = (load(name, Dtype::F32), load(name, Dtype::Bf16));
    let file: Value = serde_json::from_slice(&std::fs::read(dir.join("generate.json")).unwrap()).unwrap();
    let check = |what: &str, got: &[Vec<f32>], want: &[Vec<f32>], tolerance: f64| {
        assert_eq!(got.len(), want.len());
        let error = relative(&got.concat(), &want.concat());
        assert!(error < tolerance, "{name}, {what}: relative error {error:.1e}");
    };
    for row in file["rows"].as_array().unwrap() {
        let want = cpu.device.scope(|| steps(&cpu, row, None));
        // The reference itself is held to the golden file, which has the beginning of the last latent.
        let recorded: Vec<f32> =
            row["last_latent_head"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
        let last: Vec<f32> = want.mu.last().unwrap()[..recorded.len()]
            .iter()
            .map(|x| x * cpu.opened.model.embeds_std)
            .collect();
        check("the last latent", &[last], &[recorded], FLOAT);

        let got = float.device.scope(|| steps(&float, row, None));
        check("hidden states in float32", &got.hidden, &want.hidden, FLOAT);
        check("latents in float32", &got.mu, &want.mu, FLOAT);
        let got = half.device.scope(|| steps(&half, row, Some(&want.mu)));
        check("hidden states in bf16", &got.hidden, &want.hidden, HALF);
        check("latents in bf16", &got.mu, &want.mu, HALF);
    }
}

#[test]
fn heads_in_float32() {
    heads("llama-tiny", Dtype::F32, FLOAT);
    heads("qwen2-tiny", Dtype::F32, FLOAT);
}

#[test]
fn heads_in_bf16() {
    heads("llama-tiny", Dtype::Bf16, HALF);
    heads("qwen2-tiny", Dtype::Bf16, HALF);
}

#[test]
fn generations_of_llama_tiny() {
    generations("llama-tiny");
}

#[test]
fn generations_of_qwen2_tiny() {
    generations("qwen2-tiny");
}
