//! Latents and what they are near to, as arrays.

use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;

/// The latents or thoughts of a generation, n of them, each with its k nearest tokens. A reasoning in words has none.
#[pyclass(frozen, get_all, module = "colar_engine")]
pub struct Trace {
    /// The vectors that the model was fed, float32 [n, hidden_size], in the units of its input embeddings.
    pub latents: Py<PyArray2<f32>>,
    /// The tokens whose input embeddings point their way, uint32 [n, k], nearest first.
    pub token_ids: Py<PyArray2<u32>>,
    /// Their texts, n lists of k.
    pub tokens: Vec<Vec<String>>,
    /// The cosines between latents and those embeddings, float32 [n, k].
    pub cosines: Py<PyArray2<f32>>,
    /// The probability that the latents end after each, float32 [n], at temperature 1; [0] for thoughts, whose number is fixed.
    pub end_probabilities: Py<PyArray1<f32>>,
}

/// An array of these rows, all of the same width.
fn rows<T: numpy::Element + Copy>(
    py: Python<'_>,
    rows: impl ExactSizeIterator<Item = Vec<T>>,
    width: usize,
) -> PyResult<Py<PyArray2<T>>> {
    let shape = [rows.len(), width];
    let values: Vec<T> = rows.flatten().collect();
    Ok(PyArray1::from_vec(py, values).reshape(shape)?.unbind())
}

/// A matrix that lies end to end, in rows of this width.
pub fn matrix(py: Python<'_>, values: Vec<f32>, width: usize) -> PyResult<Py<PyArray2<f32>>> {
    let shape = [values.len() / width.max(1), width];
    Ok(PyArray1::from_vec(py, values).reshape(shape)?.unbind())
}

impl Trace {
    /// Takes the trace out of a generation.
    pub fn take(py: Python<'_>, made: &mut colar_engine::Generation, hidden_size: usize) -> PyResult<Self> {
        let (latents, nearest) = (std::mem::take(&mut made.latents), std::mem::take(&mut made.trace));
        // Each latent has as many nearest tokens as any other.
        let k = nearest.first().map_or(0, Vec::len);
        let ids = nearest.iter().map(|tokens| tokens.iter().map(|token| token.id).collect());
        let cosines = nearest.iter().map(|tokens| tokens.iter().map(|token| token.cosine).collect());
        Ok(Trace {
            latents: rows(py, latents.into_iter(), hidden_size)?,
            token_ids: rows(py, ids, k)?,
            cosines: rows(py, cosines, k)?,
            end_probabilities: PyArray1::from_vec(py, std::mem::take(&mut made.end_probabilities)).unbind(),
            tokens: nearest
                .into_iter()
                .map(|tokens| tokens.into_iter().map(|token| token.text).collect())
                .collect(),
        })
    }
}

#[pymethods]
impl Trace {
    fn __len__(&self) -> usize {
        self.tokens.len()
    }

    fn __repr__(&self) -> String {
        format!("Trace({} latents)", self.tokens.len())
    }
}
