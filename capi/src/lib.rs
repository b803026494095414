//! The engine for programs in C, and in every language that calls C: `include/colar_engine.h` is made of this crate.
//!
//! The comments of public items are the header's, so they speak of C's names. Each function checks what it is given, runs
//! under a [guard](error::guard) that lets no panic out, and keeps to what the header says of ownership and threads; beyond
//! that it calls the engine, which can do all that is here.

// The rules for callers are said once for all functions, at the top of the header.
#![allow(clippy::missing_safety_doc)]
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

mod error;
mod event;
mod generation;
mod handle;
mod log;
mod model;
mod params;
mod request;
mod scheduler;
mod text;
