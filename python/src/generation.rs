//! Results of requests.

use pyo3::prelude::*;

use crate::trace::Trace;

/// The result of a request.
#[pyclass(frozen, module = "colar_engine")]
pub struct Generation {
    made: colar_engine::Generation,
    cancelled: bool,
    trace: Option<Py<Trace>>,
}

impl Generation {
    /// The generation of an engine whose vectors have `hidden_size` values; `traced` if it was asked for a trace.
    pub fn new(
        py: Python<'_>,
        mut made: colar_engine::Generation,
        cancelled: bool,
        traced: bool,
        hidden_size: usize,
    ) -> PyResult<Self> {
        let trace = if traced { Some(Py::new(py, Trace::take(py, &mut made, hidden_size)?)?) } else { None };
        Ok(Generation { made, cancelled, trace })
    }
}

#[pymethods]
impl Generation {
    /// The text, without special tokens: the answer, and under any method but colar the reasoning before it.
    #[getter]
    fn text(&self) -> &str {
        &self.made.text
    }

    /// The part of it after "Answer:"; None where there is none.
    #[getter]
    fn answer(&self) -> Option<&str> {
        self.made.answer.as_deref()
    }

    /// The question, or the text that was continued.
    #[getter]
    fn question(&self) -> &str {
        &self.made.question
    }

    /// The compression factor as it stands in the prompt; empty for a text that was continued.
    #[getter]
    fn compression_factor(&self) -> &str {
        &self.made.compression_factor
    }

    /// Latents or thoughts, and tokens of a reasoning in words (#L of the paper's tables).
    #[getter]
    fn n_latents(&self) -> usize {
        self.made.n_latents
    }

    /// The tokens of the text, special ones too.
    #[getter]
    fn token_ids(&self) -> Vec<u32> {
        self.made.token_ids.clone()
    }

    /// Why it ended: "finished", the model ended its answer; "limit", of tokens or of the model's positions; "cancelled".
    #[getter]
    fn ending(&self) -> &'static str {
        match (self.made.finished, self.cancelled) {
            (true, _) => "finished",
            (false, true) => "cancelled",
            (false, false) => "limit",
        }
    }

    /// Tokens of the prompt.
    #[getter]
    fn prompt_tokens(&self) -> usize {
        self.made.prompt_tokens
    }

    /// Tokens of the answer, the end of sequence included.
    #[getter]
    fn answer_tokens(&self) -> usize {
        self.made.answer_tokens
    }

    /// Milliseconds until the prompt was read.
    #[getter]
    fn prefill_ms(&self) -> f64 {
        self.made.prefill_ms
    }

    /// Milliseconds of the reasoning.
    #[getter]
    fn latents_ms(&self) -> f64 {
        self.made.latents_ms
    }

    /// Milliseconds of the answer.
    #[getter]
    fn answer_ms(&self) -> f64 {
        self.made.answer_ms
    }

    /// The latents, and what they are near to; None unless it was asked for.
    #[getter]
    fn trace(&self, py: Python<'_>) -> Option<Py<Trace>> {
        self.trace.as_ref().map(|trace| trace.clone_ref(py))
    }

    pub fn __repr__(&self) -> String {
        format!(
            "Generation(text={:?}, n_latents={}, ending={:?})",
            self.made.text,
            self.made.n_latents,
            self.ending()
        )
    }
}
