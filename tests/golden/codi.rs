//! A checkpoint of SIM-CoT, imported: its answers are those of the authors' class by the loop of their test program, token for
//! token, and so are the states that thoughts are made of. `tests/codi/make_replica.py` made both.

use colar_engine::Request;
use colar_engine::device::cpu::CpuDevice;
use colar_engine::device::prelude::*;
use colar_engine::files::weights::Weights;
use colar_engine::infer::{Loaded, Prompt};
use colar_engine::model::codi::{CodiOptions, import};
use colar_engine::model::layout::Layout;
use colar_engine::model::lora::LoraMode;
use colar_engine::model::prompt::Method;
use serde_json::Value;

use crate::common::{self, Bounds, golden, relative};

/// The replica's adapter has another scale than theirs.
const OPTIONS: CodiOptions = CodiOptions { lora_alpha: 8.0, thoughts: 6 };

fn imported() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let weights = Weights::open(&golden("codi")).unwrap();
    import(&weights, &golden("codi/base"), OPTIONS, dir.path()).unwrap();
    dir
}

fn rows() -> Vec<Value> {
    let text = std::fs::read(golden("codi").join("golden.json")).unwrap();
    serde_json::from_slice::<Value>(&text).unwrap().as_array().unwrap().clone()
}

fn ids(list: &Value) -> Vec<u32> {
    list.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn request(row: &Value) -> Request {
    let prompt = Prompt::Question {
        text: row["question"].as_str().unwrap().to_owned(),
        method: Method::Distill,
        compression_factor: "auto".to_owned(),
    };
    let mut request = Request::new(prompt).greedy();
    request.sampling.max_new_tokens = ids(&row["tokens"]).len();
    request
}

#[test]
fn answers_are_those_of_their_code() {
    let (dir, rows) = (imported(), rows());
    for mode in [LoraMode::Merge, LoraMode::Apart] {
        let loaded = Loaded::with_lora(CpuDevice::new(2).unwrap(), dir.path(), None, Some(mode)).unwrap();
        assert_eq!(loaded.opened.method, Some(Method::Distill));
        let requests: Vec<Request> = rows.iter().map(request).collect();
        let together = loaded.generate(&requests, &mut |_| ()).unwrap();
        for ((row, request), got) in rows.iter().zip(&requests).zip(together) {
            let alone = loaded.generate(std::slice::from_ref(request), &mut |_| ()).unwrap().remove(0);
            for got in [&alone, &got] {
                assert_eq!(got.token_ids, ids(&row["tokens"]), "{}", row["question"]);
                assert_eq!((got.prompt_tokens, got.n_latents), (ids(&row["prompt"]).len(), OPTIONS.thoughts));
            }
        }
    }
}

/// The prompts are theirs to the token, and so is each state of the chain, given those before it.
#[test]
fn states_and_logits_are_those_of_their_code() {
    let (device, dir) = (common::cpu(), imported());
    let vectors = Weights::open_file(&golden("codi").join("golden.safetensors")).unwrap();
    let loaded = Loaded::with_lora(device.clone(), dir.path(), None, Some(LoraMode::Merge)).unwrap();
    let (opened, bound) = (&loaded.opened, Bounds::of(&device).loss);
    let (t, params) = (&opened.model.transformer, &opened.model.params);
    let (width, codi) = (t.config.hidden_size, opened.codi.as_ref().unwrap());
    let projector = opened.model.thoughts.as_ref().unwrap().projector.as_ref().unwrap();
    let table = device.read(params.get(t.embed)).unwrap();
    device.scope(|| {
        for (n, row) in rows().iter().enumerate() {
            let prompt = codi.tokens(&opened.tokenizer, row["question"].as_str().unwrap()).unwrap();
            assert_eq!(prompt, ids(&row["prompt"]));
            let row_of = |id: u32| table[id as usize * width..][..width].to_vec();
            // The whole sequence anew for every thought: no cache that could be wrong in the same way.
            let mut inputs: Vec<f32> = prompt.iter().flat_map(|&id| row_of(id)).collect();
            let last = |inputs: &[f32]| {
                let rows = inputs.len() / width;
                let x = device.upload(rows, width, inputs).unwrap();
                let layout = Layout::packed(&device, &[rows]).unwrap();
                let (hidden, _) = t.forward(&device, params, x, &layout, None).unwrap();
                device.read(&hidden).unwrap()[(rows - 1) * width..].to_vec()
            };
            // Each thought is made of their state, since a rounding of one grows through all that follow.
            let theirs = vectors.tensor(&format!("{n}.hidden")).unwrap().to_f32_vec();
            for (thought, want) in theirs.chunks_exact(width).enumerate() {
                let error = relative(&last(&inputs), want);
                assert!(error < bound, "question {n}, thought {thought}: relative error {error:.1e}");
                let h = device.upload(1, width, want).unwrap();
                let (made, _) = projector.forward(&device, params, h).unwrap();
                inputs.extend(device.read(&made).unwrap());
            }
            inputs.extend(row_of(codi.end));
            let h = device.upload(1, width, &last(&inputs)).unwrap();
            let mut logits = device.empty(1, t.config.vocab_size).unwrap();
            device.matmul_nt(1.0, &h, params.get(t.lm_head), 0.0, &mut logits).unwrap();
            let want = vectors.tensor(&format!("{n}.logits")).unwrap().to_f32_vec();
            let error = relative(&device.read(&logits).unwrap(), &want);
            assert!(error < bound, "question {n}: relative error {error:.1e} of the logits");
        }
    });
}
