//! The public face of inference: load once, generate many.
//!
//! [`Loaded`] is a model on one device, generic over it; [`Engine`] hides which device that is.

use std::path::{Path, PathBuf};

use super::generate::{self, Parts, Phase, Prepared};
use super::request::{Event, Generation, Prompt, Request};
use super::rollout::{Recorder, Rollouts, no_density};
use super::trace::Nearest;
use crate::device::Device;
use crate::device::cpu::CpuDevice;
use crate::model::open::{Additions, Opened, open};
use crate::model::prompt::{self, Method};
use crate::{Error, Result};

/// Where to run.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// The best device of this machine and build.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
}

/// What to load and where.
#[derive(Debug, Clone, Default)]
pub struct EngineOptions {
    /// The model directory (spec section 8).
    pub model: PathBuf,
    /// A checkpoint over it.
    pub adapter: Option<PathBuf>,
    /// Where to run.
    pub device: DeviceKind,
    /// CPU threads; 0 means one a core.
    pub threads: usize,
}

/// A model ready to generate.
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
pub struct Engine {
    loaded: Loaded<CpuDevice>,
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
        let device = match options.device {
            DeviceKind::Auto | DeviceKind::Cpu => CpuDevice::new(options.threads)?,
        };
        Ok(Engine { loaded: Loaded::new(device, &options.model, options.adapter.as_deref())? })
    }

    /// The model on its device.
    pub fn loaded(&self) -> &Loaded<CpuDevice> {
        &self.loaded
    }

    /// How the checkpoint was trained, where it says so.
    pub fn method(&self) -> Option<Method> {
        self.loaded.opened.method
    }

    /// Runs one request.
    ///
    /// # Errors
    /// Sampling values out of range, a method the model has no head for, and what the device says.
    pub fn generate(&self, request: &Request) -> Result<Generation> {
        let mut out = self.generate_batch(std::slice::from_ref(request))?;
        out.pop().ok_or_else(|| Error::other("the batch came back empty"))
    }

    /// Runs requests together; the results are those of each alone, in order.
    ///
    /// # Errors
    /// As [`generate`](Engine::generate).
    pub fn generate_batch(&self, requests: &[Request]) -> Result<Vec<Generation>> {
        self.loaded.generate(requests, &mut |_| ())
    }

    /// Runs requests together and reports what happens as it happens.
    ///
    /// # Errors
    /// As [`generate`](Engine::generate).
    pub fn generate_streaming(
        &self,
        requests: &[Request],
        mut on_event: impl FnMut(Event) + Send,
    ) -> Result<Vec<Generation>> {
        self.loaded.generate(requests, &mut on_event)
    }

    /// The text of one token, as it stands in the middle of a text.
    ///
    /// # Errors
    /// What the tokenizer says.
    pub fn token_text(&self, id: u32) -> Result<String> {
        self.loaded.opened.tokenizer.decode(&[id], false)
    }
}

/// A model on a device.
pub struct Loaded<D: Device> {
    /// The device.
    pub device: D,
    /// The model, its tokenizer and what its checkpoint says.
    pub opened: Opened<D>,
    nearest: Nearest,
}

impl<D: Device> Loaded<D> {
    /// Loads a model directory, with a checkpoint over it.
    ///
    /// # Errors
    /// One line naming the file or tensor at fault.
    pub fn new(device: D, model: &Path, adapter: Option<&Path>) -> Result<Self> {
        let opened = open(&device, model, adapter, &Additions::default(), &|_| false)?;
        Ok(Self::from_opened(device, opened))
    }

    /// Takes a model that is already open, for instance one in training.
    pub fn from_opened(device: D, opened: Opened<D>) -> Self {
        Loaded { device, opened, nearest: Nearest::default() }
    }

    /// Runs requests together.
    ///
    /// # Errors
    /// Sampling values out of range, requests that differ in their separator bias, a method the model
    /// has no head for, and what the device says.
    pub fn generate(
        &self,
        requests: &[Request],
        on_event: &mut (dyn FnMut(Event) + Send),
    ) -> Result<Vec<Generation>> {
        let prepared = self.prepare_all(requests)?;
        if prepared.is_empty() {
            return Ok(Vec::new());
        }
        let parts = self.parts();
        self.device.scope(|| generate::generate(&parts, &prepared, None, on_event))
    }

    /// Runs requests together and keeps what a policy update needs. All must reason in latents.
    ///
    /// # Errors
    /// As [`generate`](Loaded::generate); no requests at all, requests of another kind, and a
    /// deterministic latent head.
    pub fn rollout(&self, requests: &[Request]) -> Result<Rollouts<D>> {
        let prepared = self.prepare_all(requests)?;
        if prepared.is_empty() || prepared.iter().any(|p| p.start != Phase::Latents) {
            return Err(Error::usage("rollouts need questions, answered by way of latents"));
        }
        if self.opened.model.latent_head()?.deterministic() {
            return Err(no_density());
        }
        let parts = self.parts();
        self.device.scope(|| {
            let mut recorder = Recorder::default();
            let generations = generate::generate(&parts, &prepared, Some(&mut recorder), &mut |_| ())?;
            let prompts = prepared.into_iter().map(|p| p.prompt_ids).collect();
            recorder.finish(&self.device, &self.opened.model, self.opened.separator, prompts, generations)
        })
    }

    fn prepare_all(&self, requests: &[Request]) -> Result<Vec<Prepared>> {
        if requests.windows(2).any(|w| w[0].sampling.separator_bias != w[1].sampling.separator_bias) {
            return Err(Error::usage("the requests of a batch must share their separator bias"));
        }
        requests.iter().map(|r| self.prepare(r)).collect()
    }

    fn parts(&self) -> Parts<'_, D> {
        Parts {
            device: &self.device,
            model: &self.opened.model,
            tokenizer: &self.opened.tokenizer,
            separator: self.opened.separator,
            stop: &self.opened.eos.stop,
            nearest: &self.nearest,
        }
    }

    fn prepare(&self, request: &Request) -> Result<Prepared> {
        request.sampling.validate()?;
        let (prompt_ids, start, question, cf) = match &request.prompt {
            Prompt::Plain(text) => {
                (self.opened.tokenizer.encode(text)?, Phase::Answer, text.clone(), String::new())
            }
            Prompt::Question { text, method, speed } => {
                let ids = prompt::inference(&self.opened.tokenizer, text, speed)?;
                let start = match method {
                    Method::Colar => {
                        self.opened.model.latent_head()?;
                        Phase::Latents
                    }
                    Method::Cot => Phase::Chain,
                };
                (ids, start, text.clone(), speed.clone())
            }
        };
        if prompt_ids.is_empty() {
            return Err(Error::usage("the prompt is empty"));
        }
        Ok(Prepared { prompt_ids, start, sampling: request.sampling, trace: request.trace, question, cf })
    }
}
