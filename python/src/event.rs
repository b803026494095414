//! Events of a stream, a class each.

use pyo3::prelude::*;

use crate::generation::Generation;

/// The prompt has been read.
#[pyclass(frozen, module = "colar_engine")]
pub struct Prefilled;

#[pymethods]
impl Prefilled {
    fn __repr__(&self) -> &'static str {
        "Prefilled()"
    }
}

/// A latent was drawn, or a thought formed.
#[pyclass(frozen, get_all, module = "colar_engine")]
pub struct Latent {
    /// Its number, counted from 1.
    pub number: usize,
}

#[pymethods]
impl Latent {
    fn __repr__(&self) -> String {
        format!("Latent(number={})", self.number)
    }
}

/// A token was chosen.
#[pyclass(frozen, get_all, module = "colar_engine")]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The text that it adds, in whole characters; empty while a character is not complete.
    pub text: String,
}

#[pymethods]
impl Token {
    fn __repr__(&self) -> String {
        format!("Token(id={}, text={:?})", self.id, self.text)
    }
}

/// The end; nothing follows.
#[pyclass(frozen, get_all, module = "colar_engine")]
pub struct Done {
    /// The text that was left of it: that of characters which are not complete.
    pub text: String,
    /// All that there is; its `ending` says why it ended.
    pub generation: Py<Generation>,
}

#[pymethods]
impl Done {
    fn __repr__(&self) -> String {
        format!("Done(text={:?}, generation={})", self.text, self.generation.get().__repr__())
    }
}
