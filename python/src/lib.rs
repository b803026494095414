//! The engine for Python: the module `colar_engine._native`, whose names the package `colar_engine` hands on.
//!
//! Arguments are checked here only as far as their types go: the engine checks the rest, and can do all that is here. Long
//! work runs under [`work::run`], without the interpreter's lock. The docstrings are the comments of what is exported.

mod engine;
mod error;
mod event;
mod generation;
mod logging;
mod options;
mod sample;
mod sampling;
mod score;
mod stream;
mod trace;
mod work;

use std::ffi::OsString;

use pyo3::prelude::*;

/// Runs the command line with these arguments, of which the first is the program, and returns the exit code: 0, 2 for bad usage,
/// 1 for anything else. It takes over the process, whose last work it should be.
#[pyfunction]
fn run_command(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    py.detach(|| colar_engine::cli::run(arguments))
}

#[pymodule(name = "_native")]
mod native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::engine::Engine;
    #[pymodule_export]
    use super::event::{Done, Latent, Prefilled, Token};
    #[pymodule_export]
    use super::generation::Generation;
    #[pymodule_export]
    use super::run_command;
    #[pymodule_export]
    use super::sample::{Sample, load_samples};
    #[pymodule_export]
    use super::sampling::Sampling;
    #[pymodule_export]
    use super::score::{Losses, SampleScore, Score};
    #[pymodule_export]
    use super::stream::Stream;
    #[pymodule_export]
    use super::trace::Trace;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
