//! Models that are loaded, and what they can do.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use colar_engine::files::runs::RUNS;
use colar_engine::train::ScoreOptions;
use colar_engine::{EngineOptions, Error, Method, Request};
use numpy::PyArray2;
use pyo3::prelude::*;

use crate::error::{Raised, option_error, raised};
use crate::generation::Generation;
use crate::options::{Asked, Count, Factor};
use crate::sample::Sample;
use crate::sampling::Sampling;
use crate::score::Score;
use crate::stream::Stream;
use crate::{logging, trace, work};

/// A model, loaded on a device.
///
/// model: a model directory (config.json, weights, tokenizer.json). Without it, that of `run`, or else of the newest run in
///     runs/, as `colar-engine train` leaves them.
/// adapter: a checkpoint over it, as `train` writes them, or a .ckpt of the authors' code.
/// run: the directory of a run: its model, and its best checkpoint.
/// device: "auto", "cpu", "cuda" or "cuda-host".
/// dtype: "f32" or "bf16", on CUDA devices; None is bf16 on a GPU, else f32.
/// lora: "merge" or "apart": whether a LoRA adapter goes into the weights; None is what suits the device.
/// template: "paper" or "chat", the layout around questions of a model without a checkpoint; None is the checkpoint's, or paper.
/// threads: of the CPU; 0 is one a core.
/// allow_long: whether requests and samples may take more positions than the model was made for.
/// escape_marks: whether a blank is put into texts of questions and samples that mean something in the prompt (###, special
///     tokens, in reasoning and answers also Answer:), which are refused else.
/// no_mmap: whether weights are read into memory, and not mapped; mapped files must not be overwritten meanwhile.
///
/// Engines may be used from several threads at a time. They do not survive a fork: load them in the process that uses them.
/// Raises FileError naming the file or tensor at fault, OptionError for options.
#[pyclass(frozen, module = "colar_engine")]
pub struct Engine {
    engine: colar_engine::Engine,
    /// The process that has its threads.
    process: u32,
}

/// Samplings of requests: the same for all, or each its own.
#[derive(FromPyObject)]
enum Samplings {
    One(Sampling),
    Each(Vec<Sampling>),
}

impl Engine {
    /// The engine, in the process that loaded it. Of a copy that a fork made nothing would ever answer.
    fn here(&self, py: Python<'_>) -> PyResult<&colar_engine::Engine> {
        if self.process == std::process::id() {
            return Ok(&self.engine);
        }
        let line = format!(
            "the engine was loaded by process {}, whose threads a fork does not have: load it in this process",
            self.process
        );
        Err(raised(py, &Error::other(line)))
    }

    /// Runs requests together.
    fn run(&self, py: Python<'_>, requests: Vec<Request>) -> PyResult<Vec<Generation>> {
        let engine = self.here(py)?.clone();
        let (traced, hidden_size) = (requests.iter().any(|request| request.trace), engine.hidden_size());
        let made = work::run(py, move |cancelled| engine.generate_cancellable(&requests, cancelled, |_| ()))?;
        made.into_iter().map(|made| Generation::new(py, made, false, traced, hidden_size)).collect()
    }
}

/// Goes on, unless the flag is true.
fn unless(cancelled: &AtomicBool) -> colar_engine::Result<()> {
    if cancelled.load(Ordering::Relaxed) { Err(work::interrupted()) } else { Ok(()) }
}

#[pymethods]
impl Engine {
    // As many as there are options.
    #[allow(clippy::too_many_arguments)]
    #[new]
    #[pyo3(signature = (
        model = None,
        adapter = None,
        *,
        run = None,
        device = "auto",
        dtype = None,
        lora = None,
        template = None,
        threads = Count::of(0),
        allow_long = false,
        escape_marks = false,
        no_mmap = false,
    ))]
    fn new(
        py: Python<'_>,
        model: Option<PathBuf>,
        adapter: Option<PathBuf>,
        run: Option<PathBuf>,
        device: &str,
        dtype: Option<&str>,
        lora: Option<&str>,
        template: Option<&str>,
        threads: Count,
        allow_long: bool,
        escape_marks: bool,
        no_mmap: bool,
    ) -> PyResult<Self> {
        logging::install();
        let options = match (model, run) {
            (Some(_), Some(_)) => {
                return Err(option_error(py, "`run` has a model of its own, and goes without `model`"));
            }
            (None, _) if adapter.is_some() => return Err(option_error(py, "`adapter` goes with `model`")),
            (Some(model), None) => EngineOptions::new(model),
            (None, Some(run)) => EngineOptions::of_run(run).raised(py)?,
            (None, None) => EngineOptions::of_newest_run(RUNS).raised(py)?,
        };
        let options = match adapter {
            Some(adapter) => options.adapter(adapter),
            None => options,
        };
        let options = options
            .device(device.parse().raised(py)?)
            .dtype(dtype.map(str::parse).transpose().raised(py)?)
            .lora(lora.map(str::parse).transpose().raised(py)?)
            .template(template.map(str::parse).transpose().raised(py)?)
            .threads(threads.get(py, "threads")?)
            .allow_long(allow_long)
            .escape_marks(escape_marks)
            .no_mmap(no_mmap);
        let engine = work::run(py, move |cancelled| {
            colar_engine::Engine::with_progress(&options, |_| {
                if cancelled.load(Ordering::Relaxed) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
        })?;
        Ok(Engine { engine, process: std::process::id() })
    }

    /// Answers a question, or continues a text where the method is "plain".
    ///
    /// method: "colar", "cot", "icot", "coconut", "distill" or "plain"; None is as the checkpoint was trained.
    /// compression_factor: how many words of reasoning a latent stands for, above 0 to 1024, or "auto"; None is 2, or the
    ///     method's own.
    /// sampling: how latents and tokens are drawn; None is Sampling().
    /// trace: whether to report the latents, and the tokens nearest to them.
    ///
    /// Raises OptionError for a method that the model has no head for, and for prompts beyond its positions.
    #[pyo3(signature = (text, *, method = None, compression_factor = None, sampling = None, trace = false))]
    fn generate(
        &self,
        py: Python<'_>,
        text: String,
        method: Option<&str>,
        compression_factor: Option<Factor>,
        sampling: Option<Sampling>,
        trace: bool,
    ) -> PyResult<Generation> {
        let asked = Asked { method, factor: compression_factor, trace };
        let request = asked.request(py, &self.engine, text, sampling.as_ref())?;
        let made = self.run(py, vec![request])?.pop();
        made.ok_or_else(|| raised(py, &Error::other("the batch came back empty")))
    }

    /// As generate(), of several texts together, which share the passes through the weights: each gives what it gives alone.
    ///
    /// sampling: the same for all, or a list with that of each.
    #[pyo3(signature = (texts, *, method = None, compression_factor = None, sampling = None, trace = false))]
    fn generate_batch(
        &self,
        py: Python<'_>,
        texts: Vec<String>,
        method: Option<&str>,
        compression_factor: Option<Factor>,
        sampling: Option<Samplings>,
        trace: bool,
    ) -> PyResult<Vec<Generation>> {
        let asked = Asked { method, factor: compression_factor, trace };
        if let Some(Samplings::Each(each)) = &sampling
            && each.len() != texts.len()
        {
            return Err(option_error(
                py,
                format!("`sampling` has {} entries for {} texts", each.len(), texts.len()),
            ));
        }
        let of = |place: usize| match &sampling {
            None => None,
            Some(Samplings::One(one)) => Some(one),
            Some(Samplings::Each(each)) => each.get(place),
        };
        let requests: Vec<Request> = texts
            .into_iter()
            .enumerate()
            .map(|(place, text)| asked.request(py, &self.engine, text, of(place)))
            .collect::<PyResult<_>>()?;
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        self.run(py, requests)
    }

    /// Starts a request, with the options of generate(), and returns its events as they happen.
    #[pyo3(signature = (text, *, method = None, compression_factor = None, sampling = None, trace = false))]
    fn stream(
        &self,
        py: Python<'_>,
        text: String,
        method: Option<&str>,
        compression_factor: Option<Factor>,
        sampling: Option<Sampling>,
        trace: bool,
    ) -> PyResult<Stream> {
        let asked = Asked { method, factor: compression_factor, trace };
        let request = asked.request(py, &self.engine, text, sampling.as_ref())?;
        Stream::start(py, self.here(py)?, request)
    }

    /// The teacher-forced losses of samples: how well the model predicts them when their steps are given. Nothing is sampled,
    /// so the same samples give the same figures.
    ///
    /// method: as of generate(); None is as the checkpoint was trained, or "cot" for a bare model.
    /// compression_factor: tokens of a chunk; 1 under any method but colar.
    /// batch_tokens: most positions of a forward pass.
    ///
    /// Raises OptionError where these do not fit the model, NumericalError or ColarError for a loss that is no number.
    #[pyo3(signature = (
        samples,
        *,
        method = None,
        compression_factor = Count::of(1),
        batch_tokens = Count::of(ScoreOptions::default().batch_tokens),
    ))]
    fn score(
        &self,
        py: Python<'_>,
        samples: Vec<Sample>,
        method: Option<&str>,
        compression_factor: Count,
        batch_tokens: Count,
    ) -> PyResult<Score> {
        let engine = self.here(py)?.clone();
        let method = match method {
            Some(name) => name.parse().raised(py)?,
            None => engine.default_method().unwrap_or(Method::Cot),
        };
        let options = ScoreOptions::default()
            .method(method)
            .compression_factor(compression_factor.get(py, "compression_factor")?)
            .batch_tokens(batch_tokens.get(py, "batch_tokens")?);
        let samples: Vec<_> = samples.into_iter().map(|sample| sample.inner).collect();
        let score =
            work::run(py, move |cancelled| engine.score(&samples, &options, &mut |_| unless(cancelled)))?;
        Score::of(py, score)
    }

    /// The tokens of a text, without special ones around it.
    fn tokens(&self, py: Python<'_>, text: &str) -> PyResult<Vec<u32>> {
        self.engine.tokens(text).raised(py)
    }

    /// The text of tokens, special ones left out.
    fn text(&self, py: Python<'_>, ids: Vec<u32>) -> PyResult<String> {
        self.engine.text(&ids).raised(py)
    }

    /// The text of one token, as it stands in the middle of a text.
    fn token_text(&self, py: Python<'_>, id: u32) -> PyResult<String> {
        self.engine.token_text(id).raised(py)
    }

    /// The input embeddings of tokens, float32 [len(ids), hidden_size].
    ///
    /// Raises OptionError for an id beyond the vocabulary.
    fn embeddings(&self, py: Python<'_>, ids: Vec<u32>) -> PyResult<Py<PyArray2<f32>>> {
        let engine = self.here(py)?.clone();
        let hidden_size = engine.hidden_size();
        let values = work::run(py, move |_| engine.embeddings(&ids))?;
        trace::matrix(py, values, hidden_size)
    }

    /// How it reasons unless it is told otherwise, as "colar"; None for a bare model, which continues texts (method "plain").
    #[getter]
    fn method(&self) -> Option<&'static str> {
        self.engine.default_method().map(Method::name)
    }

    /// Values of a latent or of a token's embedding.
    #[getter]
    fn hidden_size(&self) -> usize {
        self.engine.hidden_size()
    }

    /// Ids of tokens are below this number.
    #[getter]
    fn vocab_size(&self) -> usize {
        self.engine.vocab_size()
    }

    /// A line on what was loaded: model, checkpoint and its method, device and arithmetic.
    #[getter]
    fn description(&self) -> String {
        self.engine.loaded()
    }

    fn __repr__(&self) -> String {
        format!("<Engine {}>", self.engine.loaded())
    }
}
