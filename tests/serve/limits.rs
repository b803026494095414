//! How much a server takes on.

use serde_json::json;

use super::client::endless;
use super::server::Server;

#[test]
fn a_full_queue_refuses_at_once() {
    let server = Server::start(&["--max-concurrency", "1", "--max-queued-requests", "2"]);
    let running = server.client.stream("One?", endless());
    server.until("colar:num_requests_running", 1.0);
    let waiting = server.client.stream("Two?", json!({"n": 2, "max_latents": 2, "max_tokens": 2, "seed": 7}));
    server.until("colar:num_requests_waiting", 2.0);
    let latents = server.client.metric("colar:prompt_tokens_total");
    let refused = server.client.ask("Three?", json!({}));
    let said = refused.fails(429, None);
    assert!(
        said.contains("2 waiting") && refused.retry_after.is_some_and(|s| (1..=60).contains(&s)),
        "{said}"
    );
    assert_eq!(server.client.metric("colar:prompt_tokens_total"), latents);
    assert_eq!(server.client.metric("colar:request_errors_total{status=\"429\"}"), 1.0);
    server.client.ask("Three?", json!({"n": 3})).fails(400, Some("n"));
    // Those that were taken have their answers.
    drop(running);
    let (events, done) = waiting.rest();
    assert!(done && events.iter().filter(|e| e["choices"][0]["finish_reason"].is_string()).count() == 2);
}

#[test]
fn tokens_that_wait_are_limited() {
    let server = Server::start(&["--max-concurrency", "1", "--max-queued-tokens", "200"]);
    let _running = server.client.stream("One?", endless());
    server.until("colar:num_requests_running", 1.0);
    // A prompt of more tokens than may wait, waits alone.
    let long = "How many? ".repeat(200);
    let _waiting = server.client.stream(&long, json!({"max_latents": 2}));
    server.until("colar:num_requests_waiting", 1.0);
    assert!(server.client.metric("colar:num_tokens_waiting") > 200.0);
    server.client.ask("Two?", json!({})).fails(429, None);
}

#[test]
fn a_request_that_takes_too_long_ends() {
    let server = Server::start(&["--request-timeout", "0.2"]);
    let said = server.client.ask("One?", endless()).fails(504, None);
    assert!(said.contains("timeout"), "{said}");
    let (events, done) = server.client.stream("One?", endless()).rest();
    assert!(!done && events.last().unwrap()["error"]["code"] == "timeout");
    server.until("colar:num_requests_running", 0.0);
}
