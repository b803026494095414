//! Parse and dispatch, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    colar_engine::cli::main()
}
