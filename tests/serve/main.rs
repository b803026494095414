//! The server as its clients have it: the real program on a free port, with a tiny model.

#[path = "../common/mod.rs"]
mod common;

mod adapters;
mod chat;
mod client;
mod completions;
mod errors;
mod life;
mod limits;
mod metrics;
mod server;
mod stream;
mod tls;
