//! A server's start and end.

use std::time::{Duration, Instant};

use serde_json::json;

use super::client::endless;
use super::server::{LONG, Server};
use crate::common::golden;

/// The address answers at once, and says that the model is not there yet.
#[cfg(unix)]
#[test]
fn a_server_that_loads_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let model = golden("llama-tiny");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(model.join(file), dir.path().join(file)).unwrap();
    }
    // Whoever reads this file waits for somebody to write it.
    let tokenizer = dir.path().join("tokenizer.json");
    let path = std::ffi::CString::new(tokenizer.to_str().unwrap()).unwrap();
    // SAFETY: the path ends in a zero byte and lives through the call.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    let server = Server::begin(dir.path(), &[]);
    let loading =
        json!({"code": 503, "message": "Loading model", "type": "unavailable_error", "param": null});
    for reply in
        [server.client.get("/health"), server.client.get("/v1/models"), server.client.ask("One?", json!({}))]
    {
        assert_eq!((reply.status, &reply.json()["error"]), (503, &loading));
    }
    std::fs::write(&tokenizer, std::fs::read(model.join("tokenizer.json")).unwrap()).unwrap();
    let begun = Instant::now();
    while server.client.get("/health").status != 200 {
        assert!(begun.elapsed() < LONG);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(server.client.get("/health").ok(), json!({"status": "ok"}));
}

#[test]
fn a_model_that_is_not_there_ends_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::begin(dir.path(), &[]);
    let (status, said) = server.ended();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.starts_with("error: ") && said.contains("config.json") && said.lines().count() == 1,
        "{said}"
    );
}

#[cfg(unix)]
fn signal(server: &Server, signal: i32) {
    // SAFETY: it sends a signal to a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(server.id(), signal) }, 0);
}

/// Requests that run when it is asked to stop have their answers; new ones are told that it stops.
#[cfg(unix)]
#[test]
fn a_server_that_stops_ends_what_runs() {
    let mut server = Server::start(&[]);
    let running = server.client.stream("One?", endless());
    server.until("colar:num_requests_running", 1.0);
    let begun = Instant::now();
    signal(&server, libc::SIGTERM);
    while server.client.get("/health").status == 200 {
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    assert_eq!(server.client.ask("Two?", json!({})).status, 503);
    let (events, done) = running.rest();
    assert!(done && events.last().unwrap()["choices"][0]["finish_reason"].is_string(), "{events:?}");
    let (status, said) = server.ended();
    assert_eq!(status.code(), Some(0), "{said}");
}

/// Those that do not end within the grace period are told so.
#[cfg(unix)]
#[test]
fn the_grace_period_ends() {
    let mut server = Server::start(&["--grace-period", "0.1"]);
    let running = server.client.stream("One?", endless());
    server.until("colar:num_requests_running", 1.0);
    signal(&server, libc::SIGINT);
    let (events, done) = running.rest();
    assert!(!done && events.last().unwrap()["error"]["code"] == 503, "{:?}", events.last());
    let (status, said) = server.ended();
    assert_eq!(status.code(), Some(0), "{said}");
}

/// A second signal does not wait.
#[cfg(unix)]
#[test]
fn a_second_signal_ends_it_at_once() {
    let mut server = Server::start(&[]);
    let _running = server.client.stream("One?", endless());
    server.until("colar:num_requests_running", 1.0);
    signal(&server, libc::SIGTERM);
    while server.client.get("/health").status == 200 {}
    signal(&server, libc::SIGTERM);
    assert_eq!(server.ended().0.code(), Some(128 + libc::SIGTERM));
}

/// Everybody on the network is let in without a key, so that is said.
#[test]
fn an_open_door_is_warned_of() {
    let model = golden("llama-tiny");
    let mut server = Server::begin(&model, &["--host", "0.0.0.0"]);
    while server.client.get("/health").status != 200 {}
    signal(&server, libc::SIGTERM);
    let (_, said) = server.ended();
    assert!(said.contains("--api-key-file"), "{said}");
}
