//! Options as Python gives them, and as the engine takes them.

use colar_engine::{Engine, Request};
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;

use crate::error::{Raised, option_error};
use crate::sampling::Sampling;

/// A whole number that is counted; its range is the engine's to check, but for what no unsigned number can be.
pub struct Count(Result<u64, String>);

impl<'py> FromPyObject<'_, 'py> for Count {
    type Error = PyErr;

    fn extract(number: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match number.extract::<u64>() {
            Ok(count) => Ok(Count(Ok(count))),
            Err(error) if error.is_instance_of::<PyOverflowError>(number.py()) => {
                Ok(Count(Err(number.str()?.to_string())))
            }
            Err(error) => Err(error),
        }
    }
}

impl Count {
    /// The number of a default.
    pub fn of(count: usize) -> Self {
        Count(Ok(count as u64))
    }

    /// The number of the option `name`.
    pub fn long(self, py: Python<'_>, name: &str) -> PyResult<u64> {
        self.0.map_err(|given| {
            option_error(py, format!("`{name}` takes whole numbers from 0 to 2^64 - 1, not {given}"))
        })
    }

    /// As [`long`](Count::long), where the engine counts in memory.
    pub fn get(self, py: Python<'_>, name: &str) -> PyResult<usize> {
        Ok(usize::try_from(self.long(py, name)?).unwrap_or(usize::MAX))
    }
}

/// A compression factor: a number, or a text as "2" or "auto".
#[derive(Clone, FromPyObject)]
pub enum Factor {
    /// A whole number.
    Whole(i64),
    /// A number.
    Number(f64),
    /// Its text.
    Text(String),
}

impl Factor {
    /// The text in the prompt.
    fn text(self) -> String {
        match self {
            Factor::Whole(n) => n.to_string(),
            Factor::Number(x) => x.to_string(),
            Factor::Text(text) => text,
        }
    }
}

/// How questions are asked, beside their text.
#[derive(Default)]
pub struct Asked<'a> {
    pub method: Option<&'a str>,
    pub factor: Option<Factor>,
    pub trace: bool,
}

impl Asked<'_> {
    /// The request about a text.
    pub fn request(
        &self,
        py: Python<'_>,
        engine: &Engine,
        text: String,
        sampling: Option<&Sampling>,
    ) -> PyResult<Request> {
        let factor = self.factor.clone().map(Factor::text);
        let request = engine.request(text, self.method, factor.as_deref()).raised(py)?;
        let sampling = sampling.map_or_else(Default::default, |sampling| sampling.inner);
        Ok(request.sampling(sampling).trace(self.trace))
    }
}
