//! Texts that are continued.

use serde_json::json;

use super::server::Server;
use crate::common::golden;
use colar_engine::{Engine, Prompt, Request, Sampling};

#[test]
fn texts_are_continued_as_the_engine_does() {
    let server = Server::start(&[]);
    let model = golden("llama-tiny");
    let engine = Engine::load(&model, Some(model.join("adapter"))).unwrap();
    let texts = ["The capital of France is", "Question: 1 + 1"];
    let body = json!({"prompt": texts, "n": 2, "seed": 9, "max_tokens": 8});
    let reply = server.client.post("/v1/completions", &body).ok();
    assert_eq!(reply["object"], "text_completion");
    let mut prompt_tokens = 0;
    for (i, text) in texts.iter().enumerate() {
        for j in 0..2 {
            let sampling = Sampling::default().seed(9 + j as u64).max_new_tokens(8);
            let request = Request::new(Prompt::Plain((*text).to_owned())).sampling(sampling);
            let want = engine.generate(&request).unwrap();
            assert_eq!(reply["choices"][2 * i + j]["text"], want.text);
            prompt_tokens += if j == 0 { want.prompt_tokens } else { 0 };
        }
    }
    assert_eq!(reply["usage"]["prompt_tokens"], prompt_tokens);
    assert_eq!(reply["usage"]["completion_tokens_details"]["reasoning_tokens"], 0);
    // In events it is the same text.
    let body = json!({"prompt": texts[0], "seed": 9, "max_tokens": 8, "stream": true});
    let (events, done) = server.client.events("/v1/completions", &body).rest();
    assert!(done);
    let streamed: String = events.iter().map(|e| e["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(streamed, reply["choices"][0]["text"].as_str().unwrap());
    // Nothing is reasoned, so nothing says how.
    let said = server.client.post("/v1/completions", &json!({"prompt": "a", "max_latents": 3}));
    said.fails(400, Some("max_latents"));
}

#[test]
fn tokens_go_there_and_back() {
    let server = Server::start(&[]);
    let text = "Tom has 3 boxes — 日本語.";
    let tokens = server.client.post("/tokenize", &json!({"content": text})).ok()["tokens"].clone();
    assert!(tokens.as_array().unwrap().len() > 3);
    let back = server.client.post("/detokenize", &json!({"tokens": tokens})).ok();
    assert_eq!(back["content"], text);
    let pieces = server.client.post("/tokenize", &json!({"content": text, "with_pieces": true})).ok();
    assert_eq!(pieces["tokens"][0]["id"], tokens[0]);
    assert!(pieces["tokens"][0]["piece"].is_string());
    let beyond = server.client.post("/detokenize", &json!({"tokens": [1, 4_000_000_000_u32]}));
    beyond.fails(400, Some("tokens[1]"));
    let props = server.client.get("/props").ok();
    assert_eq!((&props["method"], &props["model_alias"]), (&json!("colar"), &json!("llama-tiny")));
}
