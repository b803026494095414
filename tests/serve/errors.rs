//! Requests that are refused, and the words for it.

use serde_json::{Value, json};

use super::client::asked;
use super::server::Server;

#[test]
fn a_field_that_is_not_supported_is_named() {
    let server = Server::start(&[]);
    let refused = |fields: Value, param: Option<&str>| server.client.ask("1 + 1?", fields).fails(400, param);
    for (fields, param) in [
        (json!({"tools": [{"type": "function"}]}), "tools"),
        (json!({"logprobs": true}), "logprobs"),
        (json!({"frequency_penalty": 0.5}), "frequency_penalty"),
        (json!({"response_format": {"type": "json_object"}}), "response_format"),
        (json!({"user": "somebody"}), "user"),
        (json!({"reasoning_effort": "high"}), "reasoning_effort"),
        (json!({"temprature": 0.5}), "temprature"),
        (json!({"temperature": -1}), "temperature"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"top_p": 0}), "top_p"),
        (json!({"top_p": 1.5}), "top_p"),
        (json!({"seed": -1}), "seed"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_tokens": 3, "max_completion_tokens": 4}), "max_tokens"),
        (json!({"max_latents": 0}), "max_latents"),
        (json!({"max_cot_tokens": 5}), "max_cot_tokens"),
        (json!({"compression_factor": 0}), "compression_factor"),
        (json!({"compression_factor": "fast"}), "compression_factor"),
        (json!({"compression_factor": true}), "compression_factor"),
        (json!({"n": 0}), "n"),
        (json!({"n": 1000}), "n"),
        (json!({"stop": ""}), "stop"),
        (json!({"stop": 5}), "stop"),
        (json!({"stop": ["a", 5]}), "stop"),
        (json!({"stream_options": {"include_usage": true}}), "stream_options"),
        (json!({"stream": true, "stream_options": {"include_waste": true}}), "stream_options.include_waste"),
    ] {
        let said = refused(fields.clone(), Some(param));
        assert!(said.contains(&format!("`{param}`")) || param == "n", "{fields}: {said}");
    }
    // More than the cache has: the engine says which limits to lower, by the names they have here.
    let said =
        server.client.ask("1 + 1?", json!({"max_tokens": 1_000_000})).json()["error"]["message"].clone();
    assert!(said.as_str().unwrap().contains("`max_tokens`"), "{said}");
}

#[test]
fn fields_that_ask_for_nothing_are_taken() {
    let server = Server::start(&[]);
    let fields = json!({
        "max_tokens": 2, "max_latents": 2, "tools": null, "logprobs": false, "frequency_penalty": 0, "logit_bias": {},
        "presence_penalty": 0.0, "response_format": {"type": "text"}, "user": null, "n": null, "stop": null, "store": false,
        "parallel_tool_calls": true, "reasoning_control": true, "service_tier": "auto",
    });
    server.client.ask("1 + 1?", fields).ok();
}

#[test]
fn a_question_is_one_message_of_text() {
    let server = Server::start(&[]);
    let refused = |messages: Value, param: &str| {
        let body = json!({"messages": messages});
        server.client.post("/v1/chat/completions", &body).fails(400, Some(param))
    };
    let user = json!({"role": "user", "content": "1 + 1?"});
    refused(json!([]), "messages");
    let said = refused(json!([{"role": "system", "content": "Be brief."}, user]), "messages");
    assert!(said.contains("single questions") && said.contains("\"system\""), "{said}");
    refused(json!([user, {"role": "assistant", "content": "2"}, user]), "messages");
    refused(json!([{"role": "user"}]), "messages[0].content");
    refused(json!([{"role": "user", "content": "1?", "name": "Ann"}]), "messages[0].name");
    let image = json!({"type": "image_url", "image_url": {"url": "data:"}});
    let parts = json!([{"type": "text", "text": "1 +"}, image]);
    refused(json!([{"role": "user", "content": parts}]), "messages[0].content[1]");
    let parts = json!([{"type": "text", "text": "1 +"}, {"type": "text", "text": " 1?"}]);
    let limits = json!({"max_tokens": 4, "max_latents": 2, "seed": 1});
    let mut body = asked("", limits.clone());
    body["messages"][0]["content"] = parts;
    let in_parts = server.client.post("/v1/chat/completions", &body).ok();
    assert_eq!(in_parts["choices"], server.client.ask("1 + 1?", limits).ok()["choices"]);
    server.client.ask(" ", json!({})).fails(400, None);
    let said = server.client.ask("1 ### 1?", json!({})).fails(400, None);
    assert!(
        said.contains("the separator \"###\"") && said.contains("where the server is told to (escape_marks)"),
        "{said}"
    );
    Server::start(&["--escape-marks"])
        .client
        .ask("1 ### 1?", json!({"max_tokens": 1, "max_latents": 1}))
        .ok();
}

#[test]
fn addresses_methods_types_and_sizes_are_checked() {
    let server = Server::start(&[]);
    let client = &server.client;
    client.get("/v1/nothing").fails(404, None);
    client.get("/v1/chat/completions").fails(405, None);
    client.post("/health", &json!({})).fails(405, None);
    client.ask("1?", json!({"model": "gpt-4"})).fails(404, Some("model"));
    client.get("/v1/models/gpt-4").fails(404, Some("model"));
    assert_eq!(client.get("/v1/models/llama-tiny").ok()["id"], "llama-tiny");
    assert_eq!(client.get("/v1/models").ok()["data"][0]["id"], "llama-tiny");
    let body = asked("1?", json!({})).to_string();
    client.post_as("/v1/chat/completions", "text/plain", &body).fails(415, None);
    client.post_as("/v1/chat/completions", "application/json", "{").fails(400, None);
    client.post_as("/v1/chat/completions", "application/json", "[]").fails(400, None);
    let long = format!("{{\"messages\": \"{}\"}}", "a".repeat(1 << 20));
    client.post_as("/v1/chat/completions", "application/json", &long).fails(413, None);
}

#[test]
fn a_key_lets_in() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    std::fs::write(&file, "# of the tests\nfirst-key\nsecond-key\n").unwrap();
    let server = Server::start(&["--api-key-file", file.to_str().unwrap()]);
    // Who watches the server, and the page, need none.
    for path in ["/health", "/", "/openapi.json"] {
        assert_eq!(server.client.get(path).status, 200, "{path}");
    }
    for path in ["/v1/models", "/props", "/metrics"] {
        server.client.get(path).fails(401, None);
        server.client.with_key("third-key").get(path).fails(401, None);
        assert_eq!(server.client.with_key("second-key").get(path).status, 200, "{path}");
    }
    server.client.ask("1 + 1?", json!({})).fails(401, None);
    let fields = json!({"max_tokens": 2, "max_latents": 2});
    server.client.with_key("first-key").ask("1 + 1?", fields).ok();
    server.client.get("/v1/nothing").fails(404, None);
}
