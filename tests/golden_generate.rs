//! Golden parity of generation, token for token (spec sections 5 and 9), alone and in one batch.

mod common;

use colar_engine::infer::DeviceKind;
use colar_engine::model::lora::LoraMode;
use colar_engine::{Engine, EngineOptions, Generation, Request, Sampling};
use common::golden;
use serde_json::Value;

struct Row {
    request: Request,
    prompt_tokens: usize,
    n_latents: usize,
    answer_ids: Vec<u32>,
    bias: f32,
}

fn rows(name: &str) -> Vec<Row> {
    let read = |file: &str| -> Value {
        serde_json::from_slice(&std::fs::read(golden(name).join(file)).unwrap()).unwrap()
    };
    let (g, samples) = (read("generate.json"), read("sft.json"));
    let size = |v: &Value| v.as_u64().unwrap() as usize;
    let rows = g["rows"].as_array().unwrap().iter().map(|row| {
        let sample = common::sample(&samples["samples"][size(&row["sample"])]);
        let bias = row["separator_bias"].as_f64().unwrap() as f32;
        let mut request = Request::question(sample.question, row["cf"].to_string()).greedy();
        request.sampling = Sampling {
            max_latents: size(&g["max_latents"]),
            max_new_tokens: size(&g["max_new_tokens"]),
            separator_bias: bias,
            ..request.sampling
        };
        Row {
            request,
            prompt_tokens: row["prompt_ids"].as_array().unwrap().len(),
            n_latents: size(&row["n_latents"]),
            answer_ids: row["answer_ids"].as_array().unwrap().iter().map(|v| size(v) as u32).collect(),
            bias,
        }
    });
    rows.collect()
}

fn check(row: &Row, got: &Generation, how: &str) {
    let at = format!("{how}, cf {}, bias {}", got.cf, row.bias);
    assert_eq!(got.prompt_tokens, row.prompt_tokens, "{at}: prompt");
    assert_eq!(got.n_latents, row.n_latents, "{at}: latents");
    assert_eq!(got.token_ids, row.answer_ids, "{at}: answer");
}

fn check_model(name: &str, device: DeviceKind, lora: LoraMode) {
    let dir = golden(name);
    let adapter = Some(dir.join("adapter"));
    let options = EngineOptions { model: dir, adapter, device, lora: Some(lora), ..EngineOptions::default() };
    let engine = Engine::with_options(&options).unwrap();
    let rows = rows(name);
    assert!(!rows.is_empty());
    for row in &rows {
        check(row, &engine.generate(&row.request).unwrap(), "alone");
    }
    let mut biases: Vec<f32> = rows.iter().map(|r| r.bias).collect();
    biases.sort_by(f32::total_cmp);
    biases.dedup();
    for bias in biases {
        let batch: Vec<&Row> = rows.iter().filter(|r| r.bias == bias).collect();
        let requests: Vec<Request> = batch.iter().map(|r| r.request.clone()).collect();
        for (row, got) in batch.iter().zip(engine.generate_batch(&requests).unwrap()) {
            check(row, &got, "in a batch");
        }
    }
}

#[test]
fn llama_tiny() {
    check_model("llama-tiny", DeviceKind::Cpu, LoraMode::Apart);
    check_model("llama-tiny", DeviceKind::Cpu, LoraMode::Merge);
}

#[test]
fn qwen2_tiny() {
    check_model("qwen2-tiny", DeviceKind::Cpu, LoraMode::Apart);
    check_model("qwen2-tiny", DeviceKind::Cpu, LoraMode::Merge);
}

#[test]
#[cfg(cuda_host)]
fn llama_tiny_by_the_kernels() {
    check_model("llama-tiny", DeviceKind::CudaHost, LoraMode::Merge);
    check_model("llama-tiny", DeviceKind::CudaHost, LoraMode::Apart);
}

#[test]
#[cfg(cuda_host)]
fn qwen2_tiny_by_the_kernels() {
    check_model("qwen2-tiny", DeviceKind::CudaHost, LoraMode::Merge);
    check_model("qwen2-tiny", DeviceKind::CudaHost, LoraMode::Apart);
}
