//! A request as it runs: an iterator of its events.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use colar_engine::error::caught;
use colar_engine::{Detokenizer, Error, Event, Request, Result};
use pyo3::prelude::*;

use crate::error::raised;
use crate::event::{Done, Latent, Prefilled, Token};
use crate::generation::Generation;
use crate::work::{HEARING, start};

/// A request as it runs: an iterator of `Prefilled`, `Latent` and `Token` events, of which the last is `Done`. The request is
/// cancelled by `cancel()`, from any thread, by leaving a `with` block, and when nobody has the stream any more, as after a
/// `break` or Ctrl-C in `for event in engine.stream(...)`; one that is kept goes on, heard or not. It ends after its next latent or token at the latest; on a GPU, after the next
/// 64 latents.
#[pyclass(frozen, module = "colar_engine")]
pub struct Stream {
    news: Mutex<Receiver<News>>,
    cancelled: Arc<AtomicBool>,
    traced: bool,
    hidden_size: usize,
    generation: Mutex<Option<Py<Generation>>>,
}

/// An event, and what goes with it.
enum News {
    Prefilled,
    Latent { number: usize },
    Token { id: u32, text: String },
    Ended(Box<Result<(colar_engine::Generation, String)>>),
}

/// Runs the request, and tells what happens.
fn produce(
    engine: &colar_engine::Engine,
    request: Request,
    cancelled: &AtomicBool,
    news: &Sender<News>,
) -> Result<(colar_engine::Generation, String)> {
    let (mut detokenizer, mut failure) = (Detokenizer::default(), None);
    let made = engine.generate_cancellable(&[request], cancelled, |event| {
        let event = match event {
            Event::Prefilled { .. } => News::Prefilled,
            Event::Latent { number, .. } => News::Latent { number },
            Event::Token { id, .. } => match detokenizer.push(engine, id) {
                Ok(text) => News::Token { id, text },
                Err(error) => {
                    failure = Some(error);
                    cancelled.store(true, Ordering::Relaxed);
                    return;
                }
            },
            _ => return,
        };
        // Whoever left has cancelled.
        let _ = news.send(event);
    })?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    let made = made.into_iter().next().ok_or_else(|| Error::other("the batch came back empty"))?;
    Ok((made, detokenizer.finish(engine)?))
}

impl Stream {
    /// Starts a request.
    pub fn start(py: Python<'_>, engine: &colar_engine::Engine, request: Request) -> PyResult<Self> {
        let (sender, receiver) = channel();
        let cancelled = Arc::new(AtomicBool::new(false));
        let (traced, hidden_size) = (request.trace, engine.hidden_size());
        let (engine, flag) = (engine.clone(), Arc::clone(&cancelled));
        start(py, move || {
            let ended = caught(|| produce(&engine, request, &flag, &sender));
            let _ = sender.send(News::Ended(Box::new(ended)));
        })?;
        let generation = Mutex::new(None);
        Ok(Stream { news: Mutex::new(receiver), cancelled, traced, hidden_size, generation })
    }

    fn end(&self, py: Python<'_>, made: colar_engine::Generation, text: String) -> PyResult<Py<PyAny>> {
        let cancelled = self.cancelled.load(Ordering::Relaxed);
        let generation = Py::new(py, Generation::new(py, made, cancelled, self.traced, self.hidden_size)?)?;
        let mut place = self.generation.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Some(generation.clone_ref(py));
        drop(place);
        Ok(Py::new(py, Done { text, generation })?.into_any())
    }
}

#[pymethods]
impl Stream {
    /// Ends the request: after events that have happened already, the next is `Done`. From any thread, and at any time.
    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// The result, once `Done` was given; None before that.
    #[getter]
    fn generation(&self, py: Python<'_>) -> Option<Py<Generation>> {
        let place = self.generation.lock().unwrap_or_else(PoisonError::into_inner);
        place.as_ref().map(|generation| generation.clone_ref(py))
    }

    fn __iter__(stream: PyRef<'_, Self>) -> PyRef<'_, Self> {
        stream
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        loop {
            // Several threads may wait; each event goes to one of them.
            let received =
                py.detach(|| self.news.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(HEARING));
            match received {
                Ok(News::Prefilled) => return Ok(Some(Py::new(py, Prefilled)?.into_any())),
                Ok(News::Latent { number }) => return Ok(Some(Py::new(py, Latent { number })?.into_any())),
                Ok(News::Token { id, text }) => return Ok(Some(Py::new(py, Token { id, text })?.into_any())),
                Ok(News::Ended(ended)) => {
                    let (made, text) = ended.map_err(|error| raised(py, &error))?;
                    return self.end(py, made, text).map(Some);
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => py.check_signals().inspect_err(|_| self.cancel())?,
            }
        }
    }

    fn __enter__(stream: PyRef<'_, Self>) -> PyRef<'_, Self> {
        stream
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, pyo3::types::PyTuple>) {
        self.cancel();
    }

    fn __repr__(&self) -> &'static str {
        if self.cancelled.load(Ordering::Relaxed) { "<Stream, cancelled>" } else { "<Stream>" }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}
