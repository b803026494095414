//! Samples of data sets.

use std::path::PathBuf;

use colar_engine::data;
use pyo3::prelude::*;

use crate::work;

/// A question, its reasoning steps and its answer.
#[pyclass(frozen, eq, module = "colar_engine", from_py_object)]
#[derive(Clone, PartialEq)]
pub struct Sample {
    pub inner: data::Sample,
}

#[pymethods]
impl Sample {
    #[new]
    fn new(question: String, steps: Vec<String>, answer: String) -> Self {
        Sample { inner: data::Sample { question, steps, answer } }
    }

    /// The question as asked.
    #[getter]
    fn question(&self) -> &str {
        &self.inner.question
    }

    /// The reasoning, one step an entry.
    #[getter]
    fn steps(&self) -> Vec<String> {
        self.inner.steps.clone()
    }

    /// The gold answer.
    #[getter]
    fn answer(&self) -> &str {
        &self.inner.answer
    }

    fn __repr__(&self) -> String {
        let data::Sample { question, steps, answer } = &self.inner;
        format!("Sample(question={question:?}, steps={steps:?}, answer={answer:?})")
    }
}

/// Reads a data set in any form that `colar-engine data convert` reads, its own JSON lines among them.
///
/// Raises FileError for a file that cannot be read, naming the line that is at fault.
#[pyfunction]
pub fn load_samples(py: Python<'_>, path: PathBuf) -> PyResult<Vec<Sample>> {
    let samples = work::run(py, move |_| data::load(path, None))?;
    Ok(samples.into_iter().map(|inner| Sample { inner }).collect())
}
