//! Rules of the house that a compiler does not check: every section, file and heading that a text refers to
//! exists, errors of the library name no flags, and nothing is compiled twice.
//!
//! One file a check. A check reads the repository's files, so it fails in `cargo test` wherever that runs; each has
//! tests on texts that break its rule.

mod citations;
mod imports;
mod links;
mod machine_code;
mod mentions;
mod options;
mod prose;
#[cfg(unix)]
mod rebuilds;
mod repository;
mod sources;
