//! The subcommands as a user runs them.

#[path = "../common/mod.rs"]
mod common;

mod bench;
mod data;
mod environment;
mod experiment;
mod export;
mod generate;
mod import;
mod init;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod kills;
mod long;
mod marks;
mod methods;
mod predictions;
#[cfg(unix)]
mod readme;
mod rl;
#[cfg(unix)]
mod terminal;
mod train;
