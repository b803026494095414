//! The public face of inference: load once, generate many.
//!
//! [`Loaded`] is a model on one device, generic over it; [`Engine`] hides which device that is, behind
//! [`LoadedOn`].

use std::path::{Path, PathBuf};

use super::devices::ComputeDtype;
use super::generate;
use super::needs;
use super::request::{Event, Generation, Prompt, Request};
use super::rollout::{Recorder, Rollouts, no_density};
use super::sequence::{Parts, Phase, Prepared};
use super::trace::Nearest;
use crate::device::Device;
use crate::device::cpu::CpuDevice;
#[cfg(cuda_host)]
use crate::device::cuda::CudaHostDevice;
#[cfg(cuda_kernels)]
use crate::device::cuda::GpuDevice;
use crate::model::lora::LoraMode;
use crate::model::open::{Additions, Opened, open_frozen};
use crate::model::prompt::{self, Method};
use crate::{Error, Result};

/// Where to run.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// A GPU if there is one that serves, else the CPU; to train, the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first GPU.
    Cuda,
    /// The CUDA kernels, run on the CPU: for tests of them where no GPU is.
    CudaHost,
}

impl DeviceKind {
    /// Where training runs: as asked for, and by itself on the CPU, until the kernels' speed at it is measured.
    pub fn for_training(self) -> Self {
        match self {
            DeviceKind::Auto => DeviceKind::Cpu,
            chosen => chosen,
        }
    }
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
    /// Arithmetic of a CUDA device; `None` is bf16 on a GPU and float32 on `cuda-host`. The CPU has float32
    /// alone.
    pub dtype: Option<ComputeDtype>,
    /// Whether the checkpoint's adapter is merged into the weights; `None` is what [`LoraMode::best_for`] says.
    pub lora: Option<LoraMode>,
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
    loaded: LoadedOn,
}

/// A model on the device that was asked for.
#[non_exhaustive]
pub enum LoadedOn {
    /// On the CPU.
    Cpu(Loaded<CpuDevice>),
    /// On a GPU.
    #[cfg(cuda_kernels)]
    Cuda(Loaded<GpuDevice>),
    /// On the CUDA kernels, run on the CPU.
    #[cfg(cuda_host)]
    CudaHost(Loaded<CudaHostDevice>),
}

/// Evaluates an expression of the model that a [`LoadedOn`] holds, whatever its device.
macro_rules! on_device {
    ($loaded:expr, $model:ident => $e:expr) => {
        match $loaded {
            $crate::infer::LoadedOn::Cpu($model) => $e,
            #[cfg(cuda_kernels)]
            $crate::infer::LoadedOn::Cuda($model) => $e,
            #[cfg(cuda_host)]
            $crate::infer::LoadedOn::CudaHost($model) => $e,
        }
    };
}
pub(crate) use on_device;

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
        Ok(Engine { loaded: LoadedOn::open(options)? })
    }

    /// The model on its device.
    pub fn loaded(&self) -> &LoadedOn {
        &self.loaded
    }

    /// The model, if it is on the CPU.
    pub fn on_cpu(&self) -> Option<&Loaded<CpuDevice>> {
        match &self.loaded {
            LoadedOn::Cpu(loaded) => Some(loaded),
            #[allow(unreachable_patterns)]
            _ => None,
        }
    }

    /// Whether the model has a latent head.
    pub fn has_latent_head(&self) -> bool {
        on_device!(&self.loaded, loaded => loaded.opened.model.head.is_some())
    }

    /// How the checkpoint was trained, where it says so.
    pub fn method(&self) -> Option<Method> {
        on_device!(&self.loaded, loaded => loaded.opened.method)
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
        on_device!(&self.loaded, loaded => loaded.generate(requests, &mut |_| ()))
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
        on_device!(&self.loaded, loaded => loaded.generate(requests, &mut on_event))
    }

    /// The text of one token, as it stands in the middle of a text.
    ///
    /// # Errors
    /// What the tokenizer says.
    pub fn token_text(&self, id: u32) -> Result<String> {
        on_device!(&self.loaded, loaded => loaded.opened.tokenizer.decode(&[id], false))
    }

    /// The text of tokens that begin one, special ones left out.
    ///
    /// # Errors
    /// What the tokenizer says.
    pub fn text(&self, ids: &[u32]) -> Result<String> {
        on_device!(&self.loaded, loaded => loaded.opened.tokenizer.decode(ids, true))
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
        Self::with_lora(device, model, adapter, None)
    }

    /// Loads a model directory, with a checkpoint over it whose adapter, if it has one, is merged or kept
    /// apart; without a choice, what [`LoraMode::best_for`] says.
    ///
    /// # Errors
    /// As [`new`](Loaded::new).
    pub fn with_lora(
        device: D,
        model: &Path,
        adapter: Option<&Path>,
        lora: Option<LoraMode>,
    ) -> Result<Self> {
        let lora = lora.unwrap_or_else(|| LoraMode::best_for(&device));
        let opened = device.scope(|| open_frozen(&device, model, adapter, &Additions::default(), lora))?;
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
        self.reserve(&prepared)?;
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
        self.reserve(&prepared)?;
        let parts = self.parts();
        self.device.scope(|| {
            let mut recorder = Recorder::default();
            let generations = generate::generate(&parts, &prepared, Some(&mut recorder), &mut |_| ())?;
            let prompts = prepared.into_iter().map(|p| p.prompt_ids).collect();
            recorder.finish(&self.device, &self.opened.model, self.opened.separator, prompts, generations)
        })
    }

    /// Sets aside what a batch needs, or says what does not fit.
    fn reserve(&self, requests: &[Prepared]) -> Result<()> {
        self.device.reserve(&needs::generation(&self.device, &self.opened.model, requests))
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
                    Method::Cot | Method::Icot => Phase::Chain,
                    Method::Coconut | Method::Distill => {
                        Phase::Thoughts(self.opened.model.thoughts_of(*method)?.count)
                    }
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
