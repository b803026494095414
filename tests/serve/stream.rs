//! Answers in events.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::{asked, endless};
use super::server::{LONG, Server};

const QUESTION: &str = "Tom has 3 boxes of 24 pens. How many pens has he?";

#[test]
fn events_make_up_the_answer() {
    let server = Server::start(&[]);
    let fields = json!({"seed": 4, "trace": true, "max_tokens": 20, "max_latents": 5, "n": 2});
    let whole = server.client.ask(QUESTION, fields.clone()).ok();
    let mut streamed = fields;
    streamed["stream_options"] = json!({"include_usage": true});
    let (events, done) = server.client.stream(QUESTION, streamed).rest();
    assert!(done);
    let (usage, chunks) = events.split_last().unwrap();
    assert_eq!(
        (&usage["choices"], &usage["usage"]["completion_tokens"]),
        (&json!([]), &whole["usage"]["completion_tokens"])
    );
    for i in 0..2 {
        let of: Vec<&Value> = chunks.iter().map(|e| &e["choices"][0]).filter(|c| c["index"] == i).collect();
        let joined = |field: &str| of.iter().filter_map(|c| c["delta"][field].as_str()).collect::<String>();
        let message = &whole["choices"][i]["message"];
        assert_eq!(of[0]["delta"]["role"], "assistant");
        assert_eq!(joined("content"), message["content"].as_str().unwrap());
        assert_eq!(joined("reasoning_content"), message["reasoning_content"].as_str().unwrap());
        let reasons: Vec<&Value> = of.iter().map(|c| &c["finish_reason"]).filter(|r| !r.is_null()).collect();
        assert_eq!(reasons, [&whole["choices"][i]["finish_reason"]]);
        // Each latent comes by itself.
        let traced = of.iter().filter(|c| c["delta"]["reasoning_content"].is_string()).count();
        assert_eq!(traced, joined("reasoning_content").lines().count());
    }
    for chunk in chunks {
        assert_eq!((&chunk["object"], &chunk["id"]), (&json!("chat.completion.chunk"), &chunks[0]["id"]));
    }
    assert!(chunks.last().unwrap()["timings"]["predicted_n"].as_u64().unwrap() > 0);
}

/// A request whose client goes away is cancelled before its next step or the one after: few latents more are drawn.
#[test]
fn a_client_that_goes_is_cancelled_within_a_step() {
    let server = Server::start(&[]);
    let mut fields = endless();
    fields["trace"] = json!(true);
    let mut events = server.client.stream(QUESTION, fields);
    for _ in 0..3 {
        events.next().unwrap();
    }
    drop(events);
    let begun = Instant::now();
    server.until("colar:num_requests_running", 0.0);
    let drawn = server.client.metric("colar:latents_total");
    assert!(drawn < 7000.0, "it ran to its end");
    // No latent is drawn after it has gone, and its rows and tasks are free.
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(server.client.metric("colar:latents_total"), drawn);
    assert_eq!(server.client.metric("colar:kv_cache_usage"), 0.0);
    assert!(begun.elapsed() < LONG);
    // The same without events: the client sends its request and goes.
    let body = asked(QUESTION, endless()).to_string();
    let mut stream = TcpStream::connect(server.address.strip_prefix("http://").unwrap()).unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).unwrap();
    server.until("colar:num_requests_running", 1.0);
    drop(stream);
    server.until("colar:num_requests_running", 0.0);
    assert!(server.client.metric("colar:latents_total") < drawn + 7000.0);
    assert_eq!(server.client.metric("colar:kv_cache_usage"), 0.0);
}

/// One that reads nothing for a while holds up nobody, and finds all of its answer in the end.
#[test]
fn a_slow_reader_holds_up_nobody() {
    let server = Server::start(&[]);
    let fields = json!({"trace": true, "max_latents": 3000, "eol_temperature": 0, "seed": 1, "max_tokens": 3, "stream": true});
    let body = asked(QUESTION, fields).to_string();
    let mut slow = TcpStream::connect(server.address.strip_prefix("http://").unwrap()).unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: \
         {}\r\n\r\n",
        body.len()
    );
    slow.write_all((head + &body).as_bytes()).unwrap();
    // It comes to its end while more than the buffers between hold waits for the reader.
    server.until("colar:request_success_total{finished_reason=\"length\"}", 1.0);
    server.client.ask(QUESTION, json!({"max_latents": 2, "max_tokens": 2})).ok();
    let mut all = String::new();
    slow.read_to_string(&mut all).unwrap();
    assert!(all.len() > 1 << 19, "{} bytes are not more than buffers hold", all.len());
    assert!(all.contains("latent 3000:") && all.contains("data: [DONE]"));
}

#[test]
fn reasoning_ends_when_told() {
    let server = Server::start(&[]);
    let mut fields = endless();
    fields["trace"] = json!(true);
    let mut events = server.client.stream(QUESTION, fields);
    let first: Value = serde_json::from_str(&events.next().unwrap()).unwrap();
    let control = |id: &Value, action: &str| {
        server.client.post("/v1/chat/completions/control", &json!({"id": id, "action": action}))
    };
    // Some latents have come.
    for _ in 0..3 {
        events.next().unwrap();
    }
    assert_eq!(control(&first["id"], "reasoning_end").ok(), json!({"success": true}));
    let (rest, done) = events.rest();
    assert!(done);
    let last = rest.last().unwrap();
    let latents = rest.iter().filter(|e| e["choices"][0]["delta"]["reasoning_content"].is_string()).count();
    assert!(latents < 6990, "{latents} latents");
    assert!(
        last["choices"][0]["finish_reason"].is_string()
            && last["timings"]["predicted_n"].as_u64().unwrap() > 3
    );
    assert_eq!(control(&json!("chatcmpl-nobody"), "reasoning_end").ok()["success"], false);
    control(&first["id"], "stop").fails(400, Some("action"));
    server
        .client
        .post("/v1/chat/completions/control", &json!({"action": "reasoning_end"}))
        .fails(400, Some("id"));
}

#[test]
fn a_response_comes_in_its_events() {
    let server = Server::start(&[]);
    let body = json!({"input": QUESTION, "seed": 4, "trace": true, "max_latents": 4, "max_output_tokens": 9});
    let whole = server.client.post("/v1/responses", &body).ok();
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let (events, _) = server.client.events("/v1/responses", &streamed).rest();
    for (event, number) in events.iter().zip(0..) {
        assert_eq!(event["sequence_number"], number);
    }
    let last = &events.last().unwrap()["response"];
    assert!(["completed", "incomplete"].contains(&last["status"].as_str().unwrap()));
    let text = |response: &Value| response["output"][1]["content"][0]["text"].clone();
    assert_eq!(
        (text(last), &last["usage"]["output_tokens"]),
        (text(&whole), &whole["usage"]["output_tokens"])
    );
    let deltas = |kind: &str| {
        let of = events.iter().filter(|e| e["type"] == kind).filter_map(|e| e["delta"].as_str());
        of.collect::<String>()
    };
    assert_eq!(deltas("response.output_text.delta"), text(&whole).as_str().unwrap());
    assert_eq!(
        deltas("response.reasoning_text.delta"),
        whole["output"][0]["content"][0]["text"].as_str().unwrap()
    );
    let message = json!([{"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}]);
    let mut as_list = body;
    as_list["input"] = message;
    assert_eq!(text(&server.client.post("/v1/responses", &as_list).ok()), text(&whole));
    for (field, value, param) in [
        ("instructions", json!("Be brief."), "instructions"),
        ("previous_response_id", json!("resp_1"), "previous_response_id"),
        ("max_output_tokens", json!(0), "max_output_tokens"),
        ("input", json!([{"role": "system", "content": "a"}]), "input[0]"),
        ("input", json!(7), "input"),
    ] {
        let mut bad = as_list.clone();
        bad[field] = value;
        server.client.post("/v1/responses", &bad).fails(400, Some(param));
    }
}
