//! An HTTP server over a scheduler, with the interface of OpenAI's API.
//!
//! A [`Server`] opens its port at once and answers when its model is there. Requests go from JSON to an engine's request in
//! `request`, to the scheduler in `answer`, and what comes back becomes JSON or events in a file for each of the three
//! interfaces (`chat`, `completions`, `responses`).

mod admission;
mod answer;
mod app;
mod auth;
mod body;
mod chat;
mod completion;
mod completions;
mod control;
mod error;
mod events;
mod fields;
mod health;
mod metrics;
mod models;
mod openapi;
mod options;
mod page;
mod props;
mod request;
mod responses;
mod routes;
mod run;
mod running;
mod scrape;
mod text;
mod tls;
mod tokenize;
mod usage;

pub use auth::api_keys;
pub use options::{ServeOptions, TlsFiles};
pub use run::{Server, Stopper};
