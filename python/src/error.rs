//! Errors of the engine as exceptions.

use colar_engine::Error;
use pyo3::prelude::*;
use pyo3::types::PyType;

/// Where the classes are: in Python, since one of them has two bases.
const MODULE: &str = "colar_engine._errors";

/// The exception for an error.
pub fn raised(py: Python<'_>, error: &Error) -> PyErr {
    let line = error.to_string();
    let (class, path) = match error {
        Error::Usage(_) => ("OptionError", None),
        Error::Io { path, .. }
        | Error::File { path, .. }
        | Error::Line { path, .. }
        | Error::Tensor { path, .. } => ("FileError", Some(path.to_string_lossy().into_owned())),
        Error::NonFinite { .. } | Error::Diverged { .. } | Error::Logits { .. } => ("NumericalError", None),
        _ => ("ColarError", None),
    };
    let class = py.import(MODULE).and_then(|module| Ok(module.getattr(class)?.cast_into::<PyType>()?));
    match (class, path) {
        (Ok(class), Some(path)) => PyErr::from_type(class, (line, path)),
        (Ok(class), None) => PyErr::from_type(class, (line,)),
        // Without the package there is the reason for that.
        (Err(error), _) => error,
    }
}

/// An `OptionError` that says so.
pub fn option_error(py: Python<'_>, line: impl Into<String>) -> PyErr {
    raised(py, &Error::usage(line))
}

/// Results of the engine as those of Python.
pub trait Raised<T> {
    /// The value, or the exception for the error.
    fn raised(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> Raised<T> for colar_engine::Result<T> {
    fn raised(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| raised(py, &error))
    }
}
