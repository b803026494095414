//! Losses of given answers.

use colar_engine::train;
use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Mean losses, in nats. Those of latents are None under any method but colar, and the last two under any but distill.
#[pyclass(frozen, get_all, eq, module = "colar_engine")]
#[derive(Clone, PartialEq)]
pub struct Losses {
    /// Cross-entropy of the labels, those of a chunk in the mean form.
    pub ce: f64,
    /// (mu - target)^2 + sigma^2, mean over the latent dimension.
    pub latent_mse: Option<f64>,
    /// -log N(target; mu, sigma), mean over the latent dimension.
    pub latent_nll: Option<f64>,
    /// Entropy of the predicted distributions, mean over the latent dimension.
    pub entropy: Option<f64>,
    /// Labelled positions.
    pub ce_positions: usize,
    /// Positions that predict a latent.
    pub latent_positions: usize,
    /// Cross-entropy of the reasoning text that was distilled.
    pub teacher_ce: Option<f64>,
    /// Smooth-L1 distance of the hidden states before the answer from those of the reasoning text.
    pub distill: Option<f64>,
}

impl Losses {
    fn of(losses: &train::Losses) -> Self {
        let train::Losses {
            ce,
            latent_mse,
            latent_nll,
            entropy,
            ce_positions,
            latent_positions,
            teacher_ce,
            distill,
        } = *losses;
        Losses { ce, latent_mse, latent_nll, entropy, ce_positions, latent_positions, teacher_ce, distill }
    }

    /// Its name and value, of each that may be a column.
    fn columns(&self) -> [(&'static str, Option<f64>); 6] {
        [
            ("ce", Some(self.ce)),
            ("latent_mse", self.latent_mse),
            ("latent_nll", self.latent_nll),
            ("entropy", self.entropy),
            ("teacher_ce", self.teacher_ce),
            ("distill", self.distill),
        ]
    }
}

#[pymethods]
impl Losses {
    fn __repr__(&self) -> String {
        let all = self.columns().into_iter().filter_map(|(name, loss)| Some(format!("{name}={}", loss?)));
        format!("Losses({})", all.collect::<Vec<_>>().join(", "))
    }
}

/// The losses of one sample, each a mean over its own positions.
#[pyclass(frozen, get_all, module = "colar_engine")]
pub struct SampleScore {
    /// The question as asked.
    pub question: String,
    /// The losses.
    pub losses: Py<Losses>,
}

#[pymethods]
impl SampleScore {
    fn __repr__(&self) -> String {
        format!("SampleScore(question={:?}, losses={})", self.question, self.losses.get().__repr__())
    }
}

/// The losses of a data set.
#[pyclass(frozen, get_all, module = "colar_engine")]
pub struct Score {
    /// Sample by sample, in their order.
    pub samples: Vec<Py<SampleScore>>,
    /// Means over all positions of all samples.
    pub total: Py<Losses>,
}

impl Score {
    pub fn of(py: Python<'_>, score: train::Score) -> PyResult<Self> {
        let sample = |sample: train::SampleScore| {
            Py::new(
                py,
                SampleScore { question: sample.question, losses: Py::new(py, Losses::of(&sample.losses))? },
            )
        };
        let samples = score.samples.into_iter().map(sample).collect::<PyResult<_>>()?;
        Ok(Score { samples, total: Py::new(py, Losses::of(&score.total))? })
    }
}

#[pymethods]
impl Score {
    /// The losses as columns, float64 [samples] each, by name: those that the method has.
    fn columns<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let columns = PyDict::new(py);
        for (place, (name, total)) in self.total.get().columns().into_iter().enumerate() {
            if total.is_some() {
                let of = |sample: &Py<SampleScore>| {
                    sample.get().losses.get().columns()[place].1.unwrap_or(f64::NAN)
                };
                columns.set_item(name, PyArray1::from_iter(py, self.samples.iter().map(of)))?;
            }
        }
        Ok(columns)
    }

    fn __repr__(&self) -> String {
        format!("Score({} samples, total={})", self.samples.len(), self.total.get().__repr__())
    }
}
