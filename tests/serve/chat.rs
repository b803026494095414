//! Questions and their answers.

use serde_json::{Value, json};

use super::server::Server;
use crate::common::golden;
use colar_engine::{Engine, Request, Sampling};

const QUESTION: &str = "Tom has 3 boxes of 24 pens. How many pens has he?";

/// The fields of the limits that the tests here have.
fn short(mut fields: Value) -> Value {
    fields["max_tokens"] = json!(12);
    fields["max_latents"] = json!(6);
    fields
}

fn engine() -> Engine {
    let model = golden("llama-tiny");
    Engine::load(&model, Some(model.join("adapter"))).unwrap()
}

#[test]
fn an_answer_is_the_engines() {
    let server = Server::start(&[]);
    let engine = engine();
    for (seed, factor) in [(1, json!(2)), (2, json!("auto")), (3, json!(1.5)), (4, Value::Null)] {
        let fields = json!({
            "seed": seed, "compression_factor": factor, "temperature": 0.7, "top_p": 0.8, "latent_temperature": 0.5,
            "eol_temperature": 0.9, "model": "llama-tiny",
        });
        let reply = server.client.ask(QUESTION, short(fields)).ok();
        let sampling = Sampling::default().seed(seed).temperature(0.7).top_p(0.8).latent_temperature(0.5);
        let sampling = sampling.eol_temperature(0.9).max_new_tokens(12).max_latents(6);
        let factor = factor.as_str().map_or_else(|| factor.to_string(), str::to_owned);
        let factor = if factor == "null" { "2".to_owned() } else { factor };
        let want = engine.generate(&Request::question(QUESTION, factor).sampling(sampling)).unwrap();
        assert_eq!(reply["object"], "chat.completion");
        assert_eq!(reply["model"], "llama-tiny");
        assert_eq!(reply["seed"], seed);
        let choice = &reply["choices"][0];
        assert_eq!(choice["message"]["role"], "assistant");
        assert_eq!(choice["message"]["content"], want.text);
        assert_eq!(choice["message"].get("reasoning_content"), None);
        assert_eq!(choice["finish_reason"], if want.finished { "stop" } else { "length" });
        let usage = &reply["usage"];
        assert_eq!(usage["prompt_tokens"], want.prompt_tokens);
        assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], want.n_latents);
        assert_eq!(usage["completion_tokens"], want.n_latents + want.answer_tokens);
        assert_eq!(usage["total_tokens"], want.prompt_tokens + want.n_latents + want.answer_tokens);
        let timings = &reply["timings"];
        assert_eq!(timings["predicted_n"], usage["completion_tokens"]);
        assert!(
            timings["predicted_ms"].as_f64().unwrap() > 0.0 && timings["prompt_ms"].as_f64().unwrap() >= 0.0
        );
    }
}

#[test]
fn several_answers_have_seeds_of_their_own() {
    let server = Server::start(&[]);
    let all = server.client.ask(QUESTION, short(json!({"n": 3, "seed": 5}))).ok();
    let mut completion_tokens = 0;
    for i in 0..3 {
        let alone = server.client.ask(QUESTION, short(json!({"seed": 5 + i}))).ok();
        let choice = &all["choices"][i as usize];
        assert_eq!(choice["index"], i);
        assert_eq!(choice["message"], alone["choices"][0]["message"]);
        completion_tokens += alone["usage"]["completion_tokens"].as_u64().unwrap();
        assert_eq!(all["usage"]["prompt_tokens"], alone["usage"]["prompt_tokens"], "a prompt counts once");
    }
    assert_eq!(all["usage"]["completion_tokens"], completion_tokens);
    // Without a seed there is one for each request, and it is told.
    let seeds: Vec<u64> = (0..2)
        .map(|_| server.client.ask(QUESTION, short(json!({}))).ok()["seed"].as_u64().unwrap())
        .collect();
    assert_ne!(seeds[0], seeds[1]);
}

#[test]
fn a_trace_is_the_reasoning() {
    let server = Server::start(&[]);
    let reply = server.client.ask(QUESTION, short(json!({"trace": true, "seed": 1}))).ok();
    let reasoning = reply["choices"][0]["message"]["reasoning_content"].as_str().unwrap();
    let latents = reply["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap();
    assert_eq!(reasoning.lines().count() as u64, latents);
    let sampling = Sampling::default().seed(1).max_new_tokens(12).max_latents(6);
    let want = engine().generate(&Request::question(QUESTION, "2").sampling(sampling).trace(true)).unwrap();
    for ((line, tokens), number) in reasoning.lines().zip(&want.trace).zip(1..) {
        let nearest = &tokens[0];
        let begins = format!("latent {number}:  {:?} {:.2}", nearest.text, nearest.cosine);
        assert!(line.starts_with(&begins), "{line:?}, not {begins:?}");
    }
}

/// The text ends before the first of the strings, wherever tokens part it.
#[test]
fn a_string_stops_an_answer() {
    let server = Server::start(&[]);
    let fields = json!({"seed": 1, "max_tokens": 40, "max_latents": 3});
    let whole = server.client.ask(QUESTION, fields.clone()).ok();
    let whole = whole["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let chars: Vec<char> = whole.chars().collect();
    assert!(chars.len() > 12, "{whole:?}");
    for at in [3, chars.len() / 2] {
        let stop: String = chars[at..at + 4].iter().collect();
        let mut fields = fields.clone();
        fields["stop"] = json!(["never there", stop]);
        let choice = &server.client.ask(QUESTION, fields).ok()["choices"][0];
        assert_eq!(choice["message"]["content"], whole[..whole.find(&stop).unwrap()]);
        assert_eq!(choice["finish_reason"], "stop");
    }
}

/// A bare model reasons in words, which are told as its reasoning.
#[test]
fn a_bare_model_reasons_in_words() {
    let model = golden("llama-tiny");
    let server = Server::of(&model, &[]);
    let reply = server.client.ask(QUESTION, json!({"max_cot_tokens": 9, "max_tokens": 7, "seed": 3})).ok();
    let choice = &reply["choices"][0];
    let sampling = Sampling::default().max_cot_tokens(9).max_new_tokens(7).seed(3);
    let prompt = Request::question(QUESTION, "1");
    let mut request = prompt.sampling(sampling);
    if let colar_engine::Prompt::Question { method, .. } = &mut request.prompt {
        *method = colar_engine::Method::Cot;
    }
    let want = Engine::load(&model, None::<&str>).unwrap().generate(&request).unwrap();
    assert_eq!(reply["usage"]["completion_tokens_details"]["reasoning_tokens"], want.n_latents);
    let told = |field: &str| choice["message"][field].as_str().unwrap_or_default().to_owned();
    let (reasoning, answer) = (told("reasoning_content"), told("content"));
    assert!(!reasoning.is_empty() && want.text.starts_with(&reasoning), "{reasoning:?} of {:?}", want.text);
    assert!(want.text.ends_with(&answer), "{answer:?} of {:?}", want.text);
    let between = &want.text[reasoning.len()..want.text.len() - answer.len()];
    assert!(between.trim() == "###" || answer.is_empty(), "{between:?}");
    for (field, value) in
        [("max_latents", json!(3)), ("trace", json!(true)), ("compression_factor", json!(2))]
    {
        let mut fields = json!({});
        fields[field] = value;
        let said = server.client.ask(QUESTION, fields).fails(400, Some(field));
        assert!(said.contains("the model's method is cot"), "{said}");
    }
}
