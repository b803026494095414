//! How latents and tokens are drawn.

use pyo3::prelude::*;

use crate::error::Raised;
use crate::options::Count;

/// How latents and tokens are drawn. The defaults draw as the paper does; `greedy()` takes the likeliest.
///
/// latent_temperature: factor on the latents' standard deviation, 0 or more; 0 takes their mean. Default 1.
/// eol_temperature: of the draw that may end the latents, 0 or more; 0 takes the likelier. Default 1.
/// temperature: of tokens, 0 or more; 0 takes the likeliest. Default 1.
/// top_p: nucleus mass of tokens, above 0 to 1. Default 0.9.
/// max_latents: most latents, from 1 to 1048576, as of the two below. Default 64.
/// max_cot_tokens: most tokens of a reasoning in words. Default 512.
/// max_new_tokens: most tokens of the answer, the end of sequence included. Default 16.
/// seed: key of all draws, from 0 to 2^64 - 1: the same gives the same output, in any batch. Default 0.
/// separator_bias: added to the logit of the separator, which ends the reasoning. Default 0.
///
/// Raises OptionError for a value out of its range.
#[pyclass(frozen, eq, module = "colar_engine", from_py_object)]
#[derive(Clone, PartialEq)]
pub struct Sampling {
    pub inner: colar_engine::Sampling,
}

fn default() -> colar_engine::Sampling {
    colar_engine::Sampling::default()
}

#[pymethods]
impl Sampling {
    // As many as there are options.
    #[allow(clippy::too_many_arguments)]
    #[new]
    #[pyo3(signature = (
        *,
        latent_temperature = default().latent_temperature,
        eol_temperature = default().eol_temperature,
        temperature = default().temperature,
        top_p = default().top_p,
        max_latents = Count::of(default().max_latents),
        max_cot_tokens = Count::of(default().max_cot_tokens),
        max_new_tokens = Count::of(default().max_new_tokens),
        seed = Count::of(0),
        separator_bias = default().separator_bias,
    ))]
    fn new(
        py: Python<'_>,
        latent_temperature: f32,
        eol_temperature: f32,
        temperature: f32,
        top_p: f32,
        max_latents: Count,
        max_cot_tokens: Count,
        max_new_tokens: Count,
        seed: Count,
        separator_bias: f32,
    ) -> PyResult<Self> {
        let inner = default()
            .latent_temperature(latent_temperature)
            .eol_temperature(eol_temperature)
            .temperature(temperature)
            .top_p(top_p)
            .max_latents(max_latents.get(py, "max_latents")?)
            .max_cot_tokens(max_cot_tokens.get(py, "max_cot_tokens")?)
            .max_new_tokens(max_new_tokens.get(py, "max_new_tokens")?)
            .seed(seed.long(py, "seed")?)
            .separator_bias(separator_bias);
        inner.validate().raised(py)?;
        Ok(Sampling { inner })
    }

    /// The same with every temperature 0.
    fn greedy(&self) -> Self {
        Sampling { inner: self.inner.greedy() }
    }

    #[getter]
    fn latent_temperature(&self) -> f32 {
        self.inner.latent_temperature
    }

    #[getter]
    fn eol_temperature(&self) -> f32 {
        self.inner.eol_temperature
    }

    #[getter]
    fn temperature(&self) -> f32 {
        self.inner.temperature
    }

    #[getter]
    fn top_p(&self) -> f32 {
        self.inner.top_p
    }

    #[getter]
    fn max_latents(&self) -> usize {
        self.inner.max_latents
    }

    #[getter]
    fn max_cot_tokens(&self) -> usize {
        self.inner.max_cot_tokens
    }

    #[getter]
    fn max_new_tokens(&self) -> usize {
        self.inner.max_new_tokens
    }

    #[getter]
    fn seed(&self) -> u64 {
        self.inner.seed
    }

    #[getter]
    fn separator_bias(&self) -> f32 {
        self.inner.separator_bias
    }

    fn __repr__(&self) -> String {
        let s = &self.inner;
        format!(
            "Sampling(latent_temperature={}, eol_temperature={}, temperature={}, top_p={}, max_latents={}, max_cot_tokens={}, \
             max_new_tokens={}, seed={}, separator_bias={})",
            s.latent_temperature,
            s.eol_temperature,
            s.temperature,
            s.top_p,
            s.max_latents,
            s.max_cot_tokens,
            s.max_new_tokens,
            s.seed,
            s.separator_bias
        )
    }
}
