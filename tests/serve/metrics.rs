//! Numbers for Prometheus, and what they show of clients that come and go.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use super::client::asked;
use super::server::Server;

#[test]
fn what_was_done_is_counted() {
    let server = Server::start(&[]);
    let fields = json!({"max_latents": 4, "max_tokens": 6, "seed": 1});
    let usage = server.client.ask("How many?", fields).ok()["usage"].clone();
    let reasoning = usage["completion_tokens_details"]["reasoning_tokens"].as_f64().unwrap();
    let metric = |name: &str| server.client.metric(name);
    assert_eq!(metric("colar:prompt_tokens_total"), usage["prompt_tokens"].as_f64().unwrap());
    assert_eq!(metric("colar:latents_total"), reasoning);
    let tokens = usage["completion_tokens"].as_f64().unwrap() - reasoning;
    assert_eq!(metric("colar:generation_tokens_total"), tokens);
    assert_eq!(metric("colar:latent_step_seconds_count"), reasoning);
    assert_eq!(metric("colar:inter_token_latency_seconds_count"), tokens - 1.0);
    for stem in ["time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"] {
        assert_eq!(metric(&format!("colar:{stem}_count")), 1.0, "{stem}");
    }
    // Every 100 µs of the first millisecond has a bucket.
    for bound in ["0.0001", "0.0002", "0.0009", "0.001"] {
        metric(&format!("colar:latent_step_seconds_bucket{{le=\"{bound}\"}}"));
    }
    server.until("colar:num_requests_running", 0.0);
    assert_eq!(metric("colar:num_requests_waiting"), 0.0);
}

/// Connections that are opened, send some of a request or all, read some of the answer or nothing, and are dropped.
#[test]
fn clients_that_come_and_go_leave_nothing() {
    let server = Server::start(&["--max-concurrency", "4", "--max-queued-requests", "16"]);
    let fields =
        json!({"stream": true, "trace": true, "max_latents": 200, "eol_temperature": 0, "max_tokens": 4});
    let body = asked("How many?", fields).to_string();
    let whole = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let address = server.address.strip_prefix("http://").unwrap();
    let mut random = 1u64;
    let mut next = |below: usize| {
        // Numerical Recipes' generator: any spread of moments will do.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    let tasks = server.client.metric("colar:tasks");
    let mut open = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let sent = if next(3) == 0 { next(whole.len()) } else { whole.len() };
        stream.write_all(&whole.as_bytes()[..sent]).unwrap();
        // A refusal is as good as an answer here, and so is none in that time.
        let _ = stream.read(&mut vec![0; 1 + next(2000)]);
        open.push(stream);
        if open.len() > next(8) {
            open.swap_remove(next(open.len()));
        }
    }
    drop(open);
    server.until("colar:num_requests_running", 0.0);
    server.until("colar:num_requests_waiting", 0.0);
    assert_eq!(server.client.metric("colar:kv_cache_usage"), 0.0);
    server.until("colar:tasks", tasks);
    // It serves as before.
    server.client.ask("How many?", json!({"max_latents": 2, "max_tokens": 2})).ok();
}
