//! The public face: load once, then generate, evaluate and score many times.
//!
//! A [`Loaded`] model is generic over its device; an [`Engine`] hides which device that is.

mod options;

pub use options::EngineOptions;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::data::Sample;
use crate::device::{Device, DeviceTask, run_on_device};
use crate::eval::{self, EvalOptions, Evaluation};
use crate::files::json::one_line;
use crate::files::weights::Access;
use crate::infer::{Event, Generation, Loaded, Prompt, Request, Scheduler, SchedulerOptions, Served};
use crate::model::loading::{Loading, OnLoading};
use crate::model::lora::LoraMode;
use crate::model::open::Additions;
use crate::model::prompt::Method;
use crate::model::tokenizer::Tokenizer;
#[cfg(feature = "train")]
use crate::train::score::{self, Score, ScoreOptions};
use crate::{Error, Result};

/// A model ready to generate. A clone is the same model, and costs nothing.
///
/// ```no_run
/// use colar_engine::{Engine, Request};
///
/// # fn main() -> colar_engine::Result<()> {
/// let engine = Engine::load("models/SmolLM2-135M", Some("runs/sft/best"))?;
/// let out = engine.generate(&Request::question("Tom has 3 boxes of 24 pens. How many pens?", "2"))?;
/// println!("{} after {} latents", out.text, out.n_latents);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Engine {
    model: Arc<dyn OnDevice>,
    /// The adapter of requests that name none.
    own: Option<usize>,
}

/// The name that stands in the place of a method's for a text that is continued.
const PLAIN: &str = "plain";

/// A loaded model, whichever device it is on: the operations of an [`Engine`], with the same errors.
trait OnDevice: Served {
    fn adapters(&self) -> Vec<&str>;
    fn adapter(&self, name: &str) -> Result<usize>;
    /// The model under an adapter, as it would run alone.
    fn under(&self, adapter: Option<usize>) -> &dyn OnDevice;
    fn loaded(&self) -> String;
    fn tokenizer(&self) -> &Tokenizer;
    fn hidden_size(&self) -> usize;
    fn embeddings(&self, ids: &[u32]) -> Result<Vec<f32>>;
    fn has_latent_head(&self) -> bool;
    fn method(&self) -> Option<Method>;
    fn reasoning_end(&self, method: Method) -> Option<u32>;
    fn generate(
        &self,
        requests: &[Request],
        own: Option<usize>,
        cancelled: &AtomicBool,
        on_event: &mut (dyn FnMut(Event) + Send),
    ) -> Result<Vec<Generation>>;
    fn check_questions(&self, samples: &[Sample], options: &EvalOptions) -> Result<()>;
    fn evaluate(
        &self,
        samples: &[Sample],
        options: &EvalOptions,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Evaluation>;
    #[cfg(feature = "train")]
    fn score(
        &self,
        samples: &[Sample],
        options: &ScoreOptions,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Score>;
}

impl<D: Device> OnDevice for Loaded<D> {
    fn adapters(&self) -> Vec<&str> {
        self.adapters().collect()
    }

    fn adapter(&self, name: &str) -> Result<usize> {
        self.adapter(name)
    }

    fn under(&self, adapter: Option<usize>) -> &dyn OnDevice {
        self.under(adapter)
    }

    fn loaded(&self) -> String {
        let opened = &self.opened;
        let dtype = self.device.compute_dtype();
        let checkpoint = match (&opened.checkpoint, opened.method) {
            (Some(dir), Some(method)) => format!(" with {} ({})", dir.display(), method.name()),
            (Some(dir), None) => format!(" with {}", dir.display()),
            (None, Some(method)) => format!(" ({})", method.name()),
            (None, None) => String::new(),
        };
        let base = opened.adapter.as_ref().and_then(|adapter| adapter.other_base(&opened.model_dir));
        let base = base.map_or(String::new(), |base| format!(", an adapter of {}", one_line(base)));
        let hardware = self.device.description().hardware;
        let template = if opened.tokenizer.template().is_some() { ", in its chat template" } else { "" };
        format!(
            "{}{checkpoint}{base}{template}, on {}: {hardware}, {dtype}",
            opened.model_dir.display(),
            self.device.name()
        )
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.opened.tokenizer
    }

    fn hidden_size(&self) -> usize {
        self.opened.model.transformer.config.hidden_size
    }

    fn embeddings(&self, ids: &[u32]) -> Result<Vec<f32>> {
        Loaded::embeddings(self, ids)
    }

    fn has_latent_head(&self) -> bool {
        self.opened.model.head.is_some()
    }

    fn method(&self) -> Option<Method> {
        self.opened.method
    }

    fn reasoning_end(&self, method: Method) -> Option<u32> {
        match method {
            Method::Colar => None,
            Method::Distill if self.opened.codi.is_some() => None,
            Method::Cot | Method::Icot | Method::Coconut | Method::Distill => Some(self.opened.separator),
        }
    }

    fn generate(
        &self,
        requests: &[Request],
        own: Option<usize>,
        cancelled: &AtomicBool,
        on_event: &mut (dyn FnMut(Event) + Send),
    ) -> Result<Vec<Generation>> {
        self.generate_cancellable(requests, own, cancelled, on_event)
    }

    fn check_questions(&self, samples: &[Sample], options: &EvalOptions) -> Result<()> {
        eval::accuracy::prompt_tokens(self, samples, options).map(drop)
    }

    fn evaluate(
        &self,
        samples: &[Sample],
        options: &EvalOptions,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Evaluation> {
        eval::evaluate(self, samples, options, progress)
    }

    #[cfg(feature = "train")]
    fn score(
        &self,
        samples: &[Sample],
        options: &ScoreOptions,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Score> {
        score::score(self, samples, options, progress)
    }
}

/// Loads a model on the device it is given.
struct Load<'a> {
    options: &'a EngineOptions,
    on_loading: OnLoading<'a>,
}

impl DeviceTask for Load<'_> {
    type Output = Arc<dyn OnDevice>;

    fn run<D: Device>(self, device: D) -> Result<Self::Output> {
        let Load { options, on_loading } = self;
        let (template, access) = (options.template, Access::unless(options.no_mmap));
        let additions = Additions { template, access, ..Additions::default() };
        let adapter = options.adapter.as_deref();
        // Beside an adapter that the model itself has another would add to it.
        let lora = if options.adapters.is_empty() { options.lora } else { Some(LoraMode::Merge) };
        let loaded = Loaded::watched(device, &options.model, adapter, lora, &additions, on_loading)?;
        let loaded = loaded.escaping(options.escape_marks);
        let loaded = if options.allow_long { loaded } else { loaded.bounded() };
        Ok(Arc::new(loaded.with_adapters(&options.adapters, &additions)?))
    }
}

impl Engine {
    /// Loads a model directory, with a checkpoint over it, on the default device.
    ///
    /// # Errors
    /// One line naming the file or tensor at fault.
    pub fn load(model: impl AsRef<Path>, adapter: Option<impl AsRef<Path>>) -> Result<Self> {
        Self::with_options(&EngineOptions {
            model: model.as_ref().to_owned(),
            adapter: adapter.map(|a| a.as_ref().to_owned()),
            ..EngineOptions::default()
        })
    }

    /// Loads as the options say.
    ///
    /// # Errors
    /// As [`load`](Engine::load).
    pub fn with_options(options: &EngineOptions) -> Result<Self> {
        Self::with_progress(options, |_| ControlFlow::Continue(()))
    }

    /// Loads as the options say; `on_loading` hears how far it is, and ends it by [`ControlFlow::Break`].
    ///
    /// ```
    /// use std::ops::ControlFlow;
    ///
    /// use colar_engine::{Engine, EngineOptions};
    ///
    /// # fn main() -> colar_engine::Result<()> {
    /// # let model = "tests/golden/llama-tiny";
    /// let engine = Engine::with_progress(&EngineOptions::new(model), |loading| {
    ///     print!("\r{} of {} bytes", loading.bytes, loading.total);
    ///     ControlFlow::Continue(())
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`load`](Engine::load), and that loading was stopped.
    pub fn with_progress(
        options: &EngineOptions,
        mut on_loading: impl FnMut(Loading) -> ControlFlow<()> + Send,
    ) -> Result<Self> {
        options.check_adapters()?;
        let load = Load { options, on_loading: &mut on_loading };
        let model = run_on_device(options.device, options.dtype, options.threads, load)?;
        Ok(Engine { model, own: None })
    }

    /// The names of [`EngineOptions::adapters`].
    pub fn adapters(&self) -> Vec<&str> {
        self.model.adapters()
    }

    /// The same model, whose own adapter is the one of this name: it answers requests that name none, is evaluated and scored,
    /// and is what the engine tells about itself. It costs nothing.
    ///
    /// ```
    /// use colar_engine::{Engine, EngineOptions, Request};
    ///
    /// # fn main() -> colar_engine::Result<()> {
    /// # let (model, sums, pens) = ("tests/golden/llama-tiny", "tests/golden/llama-tiny/adapter", "tests/golden/llama-tiny/adapter");
    /// let options = EngineOptions::new(model).named_adapter("sums", sums).named_adapter("pens", pens);
    /// let engine = Engine::with_options(&options)?;
    /// let question = "Tom has 3 boxes of 24 pens. How many pens?";
    /// let both = ["sums", "pens"].map(|name| Request::question(question, "2").adapter(Some(name.to_owned())));
    /// let answers = engine.generate_batch(&both)?;
    /// assert_eq!(engine.with_adapter("pens")?.generate(&Request::question(question, "2"))?.text, answers[1].text);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that no adapter has.
    pub fn with_adapter(&self, name: &str) -> Result<Self> {
        let own = Some(self.model.adapter(name)?);
        Ok(Engine { model: Arc::clone(&self.model), own })
    }

    /// The model under the engine's own adapter.
    fn own(&self) -> &dyn OnDevice {
        self.model.under(self.own)
    }

    /// A line on what was loaded: model, checkpoint and its method, device and arithmetic.
    pub fn loaded(&self) -> String {
        self.own().loaded()
    }

    /// Whether the model has a latent head.
    pub fn has_latent_head(&self) -> bool {
        self.own().has_latent_head()
    }

    /// How the checkpoint was trained, where it says so.
    pub fn method(&self) -> Option<Method> {
        self.own().method()
    }

    /// The token that ends a reasoning in words under a method; `None` under one that writes no words but the answer's.
    pub fn reasoning_end(&self, method: Method) -> Option<u32> {
        self.own().reasoning_end(method)
    }

    /// How it reasons unless it is told otherwise: as the checkpoint was trained, or else in latents if it has the head for
    /// them. `None` for a bare model, which continues texts.
    pub fn default_method(&self) -> Option<Method> {
        self.method().or(self.has_latent_head().then_some(Method::Colar))
    }

    /// A request about a text, with default sampling: a question that is answered by the method of this name, or under
    /// `plain` a text that is continued. Without a name it is the [default](Engine::default_method). The compression factor
    /// is 2 unless it is given, or the method has a fixed one.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that no method has, a compression factor other than the method's fixed one or of a plain
    /// text, and a model without a method where none is named.
    pub fn request(
        &self,
        text: impl Into<String>,
        method: Option<&str>,
        compression_factor: Option<&str>,
    ) -> Result<Request> {
        let method = match method {
            Some(PLAIN) if compression_factor.is_some() => {
                return Err(Error::usage("`compression_factor` goes with `method` colar"));
            }
            Some(PLAIN) => return Ok(Request::new(Prompt::Plain(text.into()))),
            Some(name) => name.parse()?,
            None => self.default_method().ok_or_else(|| {
                Error::usage(
                    "the model has no latent head: to have the text continued, set `method` to plain",
                )
            })?,
        };
        let compression_factor = method.compression_factor(compression_factor)?.to_owned();
        Ok(Request::new(Prompt::Question { text: text.into(), method, compression_factor }))
    }

    /// Runs one request.
    ///
    /// # Errors
    /// Sampling values out of range, a prompt that leaves no room within the model's positions, a method the model has no
    /// head for, and errors of the device.
    pub fn generate(&self, request: &Request) -> Result<Generation> {
        let mut out = self.generate_batch(std::slice::from_ref(request))?;
        out.pop().ok_or_else(|| Error::other("the batch came back empty"))
    }

    /// Runs requests together; the results are those of each alone, in order.
    ///
    /// # Errors
    /// As [`generate`](Engine::generate).
    pub fn generate_batch(&self, requests: &[Request]) -> Result<Vec<Generation>> {
        self.model.generate(requests, self.own, &AtomicBool::new(false), &mut |_| ())
    }

    /// Runs requests together and reports events as they happen.
    ///
    /// # Errors
    /// As [`generate`](Engine::generate).
    pub fn generate_streaming(
        &self,
        requests: &[Request],
        mut on_event: impl FnMut(Event) + Send,
    ) -> Result<Vec<Generation>> {
        self.model.generate(requests, self.own, &AtomicBool::new(false), &mut on_event)
    }

    /// As [`generate_streaming`](Engine::generate_streaming), and ends early once `cancelled` is true, from `on_event` or
    /// another thread: between two passes of the model, so after its next latent or token at the latest (on a GPU, after
    /// the next 64 latents). Generations are then what there is, and have no [`Event::Done`].
    ///
    /// # Errors
    /// As [`generate`](Engine::generate).
    pub fn generate_cancellable(
        &self,
        requests: &[Request],
        cancelled: &AtomicBool,
        mut on_event: impl FnMut(Event) + Send,
    ) -> Result<Vec<Generation>> {
        self.model.generate(requests, self.own, cancelled, &mut on_event)
    }

    /// Starts a scheduler, which runs requests together that come one by one. It has its own cache, and keeps the model
    /// when the engine is dropped.
    ///
    /// ```
    /// use colar_engine::{Engine, Request, SchedulerOptions, Update};
    ///
    /// # fn main() -> colar_engine::Result<()> {
    /// # let (model, checkpoint) = ("tests/golden/llama-tiny", "tests/golden/llama-tiny/adapter");
    /// let engine = Engine::load(model, Some(checkpoint))?;
    /// let scheduler = engine.scheduler(SchedulerOptions::default())?;
    /// let pens = scheduler.submit(&Request::question("Tom has 3 boxes of 24 pens. How many pens?", "2"))?;
    /// let hens = scheduler.submit(&Request::question("Ann has 4 hens and buys 5. How many hens?", "2"))?;
    /// for update in pens {
    ///     match update {
    ///         Update::Latent { .. } => print!("·"),
    ///         Update::Token { id } => print!("{}", engine.token_text(id)?),
    ///         Update::Done(done) => println!(" after {:.0} ms", done.timings.total_ms),
    ///         _ => {}
    ///     }
    /// }
    /// println!("{}", hens.wait()?.generation.text);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Options out of range, and too little memory for the cache.
    pub fn scheduler(&self, options: SchedulerOptions) -> Result<Scheduler> {
        Scheduler::start(Arc::clone(&self.model) as Arc<dyn Served>, self.own, options)
    }

    /// Fails where an [`evaluate`](Engine::evaluate) of these samples would before its first question.
    ///
    /// # Errors
    /// As [`evaluate`](eval::evaluate).
    #[doc(hidden)]
    pub fn check_questions(&self, samples: &[Sample], options: &EvalOptions) -> Result<()> {
        self.own().check_questions(samples, options)
    }

    /// Answers every question of `samples` and counts; `progress` hears how many are done after each batch, and ends
    /// the evaluation by an error.
    ///
    /// # Errors
    /// As [`evaluate`](eval::evaluate).
    pub fn evaluate(
        &self,
        samples: &[Sample],
        options: &EvalOptions,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Evaluation> {
        self.own().evaluate(samples, options, progress)
    }

    /// The teacher-forced losses of `samples`; `progress` hears how many are done after each forward pass, and ends the
    /// scoring by an error.
    ///
    /// # Errors
    /// As [`score`](score::score()).
    #[cfg(feature = "train")]
    pub fn score(
        &self,
        samples: &[Sample],
        options: &ScoreOptions,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Score> {
        self.own().score(samples, options, progress)
    }

    /// The tokens of a text, without special ones around it.
    ///
    /// # Errors
    /// Errors of the tokenizer.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        self.model.tokenizer().encode(text)
    }

    /// Tokens that the tokenizer knows: their ids are below this number.
    pub fn vocab_size(&self) -> usize {
        self.model.tokenizer().vocab_size()
    }

    /// Values of a latent, a thought or a token's embedding.
    pub fn hidden_size(&self) -> usize {
        self.model.hidden_size()
    }

    /// The input embeddings of tokens, end to end: `[ids, hidden_size]`, what [`Generation::latents`] are near to.
    ///
    /// # Errors
    /// [`Error::Usage`] for an id that is beyond the model's vocabulary; errors of the device.
    pub fn embeddings(&self, ids: &[u32]) -> Result<Vec<f32>> {
        self.model.embeddings(ids)
    }

    /// The text of one token, as it stands in the middle of a text.
    ///
    /// # Errors
    /// Errors of the tokenizer.
    pub fn token_text(&self, id: u32) -> Result<String> {
        self.model.tokenizer().decode(&[id], false)
    }

    /// The text of tokens that begin one, special ones left out.
    ///
    /// # Errors
    /// Errors of the tokenizer.
    pub fn text(&self, ids: &[u32]) -> Result<String> {
        self.model.tokenizer().decode(ids, true)
    }
}
