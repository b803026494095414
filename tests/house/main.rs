//! The rules of the house that a compiler does not check: what comments and documents refer to exists.
//!
//! One file a check. A check reads the repository's files, so it fails in `cargo test` wherever that runs; each has
//! tests on texts that break its rule.

mod citations;
mod links;
mod mentions;
mod prose;
mod repository;
