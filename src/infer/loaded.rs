//! A model on one device, ready to generate.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::AtomicBool;

use super::adapters::{AdapterIndex, Models};
use super::context;
use super::generate;
use super::needs;
use super::request::{Event, Generation, Prompt, Request};
use super::rollout::{Recorder, Rollouts, no_density};
use super::rows;
use super::sequence::{Parts, Phase, Prepared};
use super::trace::Nearest;
use crate::device::{Device, TensorInfo};
use crate::model::loading::OnLoading;
use crate::model::lora::LoraMode;
use crate::model::open::{Additions, Opened, open_over, open_watched};
use crate::model::prompt::{self, Method};
use crate::{Error, Result};

/// A model on a device.
pub struct Loaded<D: Device> {
    /// The device.
    pub device: D,
    /// The model, its tokenizer and its checkpoint's settings.
    pub opened: Opened<D>,
    /// The most positions of a request or a sample; `None` sets no bound. [`bounded`](Loaded::bounded) has the model's.
    pub most_positions: Option<usize>,
    /// Whether a blank is put into texts of questions and samples that mean something in the prompt; else such are refused.
    pub escape_marks: bool,
    /// Models of the same decoder under other checkpoints, by name.
    adapters: Vec<(String, Loaded<D>)>,
    nearest: Nearest,
    cut_told: Once,
}

impl<D: Device> Loaded<D> {
    /// Loads a model directory, with a checkpoint over it.
    ///
    /// # Errors
    /// One line naming the file or tensor at fault.
    pub fn new(device: D, model: &Path, adapter: Option<&Path>) -> Result<Self> {
        Self::with_lora(device, model, adapter, None)
    }

    /// As [`new`](Loaded::new), with the adapter merged or kept apart.
    ///
    /// # Errors
    /// As [`new`](Loaded::new).
    pub fn with_lora(
        device: D,
        model: &Path,
        adapter: Option<&Path>,
        lora: Option<LoraMode>,
    ) -> Result<Self> {
        Self::with_choices(device, model, adapter, lora, &Additions::default())
    }

    /// As [`new`](Loaded::new), with the adapter merged or kept apart, and opened as `additions` say.
    ///
    /// # Errors
    /// As [`new`](Loaded::new).
    pub fn with_choices(
        device: D,
        model: &Path,
        adapter: Option<&Path>,
        lora: Option<LoraMode>,
        additions: &Additions,
    ) -> Result<Self> {
        Self::watched(device, model, adapter, lora, additions, &mut |_| ControlFlow::Continue(()))
    }

    /// Loads a model directory, with a checkpoint over it whose adapter, if it has one, is merged or kept
    /// apart; without a choice, [`LoraMode::best_for`] decides. It is opened as `additions` say. `on_loading` hears of each
    /// weight, and may end the loading.
    ///
    /// # Errors
    /// As [`new`](Loaded::new); [`Error::Usage`] for a template that the checkpoint was not trained with; that the loading was
    /// ended.
    pub fn watched(
        device: D,
        model: &Path,
        adapter: Option<&Path>,
        lora: Option<LoraMode>,
        additions: &Additions,
        on_loading: OnLoading,
    ) -> Result<Self> {
        let mode = lora.unwrap_or_else(|| LoraMode::best_for(&device));
        let opened = device.scope(|| open_watched(&device, model, adapter, additions, mode, on_loading))?;
        if lora == Some(LoraMode::Apart) && opened.adapter.as_ref().is_some_and(|adapter| adapter.use_dora) {
            return Err(Error::usage(
                "`lora` apart: the adapter has magnitudes of DoRA, and is always merged",
            ));
        }
        Ok(Self::from_opened(device, opened))
    }

    /// Takes a model that is already open, for instance one in training.
    pub fn from_opened(device: D, opened: Opened<D>) -> Self {
        Loaded {
            device,
            opened,
            most_positions: None,
            escape_marks: false,
            adapters: Vec::new(),
            nearest: Nearest::default(),
            cut_told: Once::new(),
        }
    }

    /// The same, held to the positions that the model was made for.
    #[must_use]
    pub fn bounded(self) -> Self {
        Loaded { most_positions: Some(self.opened.model.transformer.config.max_position_embeddings), ..self }
    }

    /// The same, which puts a blank into the marks of questions and samples ([`escape_marks`](Loaded::escape_marks)).
    #[must_use]
    pub fn escaping(self, escape_marks: bool) -> Self {
        Loaded { escape_marks, ..self }
    }

    /// The same with checkpoints over it, each under a name by which requests choose it. Their adapters stay beside the
    /// weights, which all share. The model itself must have no adapter there.
    ///
    /// # Errors
    /// As [`new`](Loaded::new); [`Error::Usage`] for a name that is empty or there twice, and for a checkpoint that holds more
    /// than can stand beside the weights.
    pub fn with_adapters(mut self, adapters: &[(String, PathBuf)], additions: &Additions) -> Result<Self> {
        for (name, checkpoint) in adapters {
            if name.is_empty() || name.contains(char::is_control) {
                return Err(Error::usage(format!("`adapters`: {name:?} is no name")));
            }
            if self.adapters.iter().any(|(other, _)| other == name) {
                return Err(Error::usage(format!("`adapters`: two have the name {name:?}")));
            }
            let (device, base) = (&self.device, &mut self.opened);
            let opened = device.scope(|| open_over(device, base, checkpoint, additions))?;
            let adapted = Loaded::from_opened(device.clone(), opened);
            let Loaded { most_positions, escape_marks, .. } = self;
            let adapted = Loaded { most_positions, escape_marks, ..adapted };
            self.adapters.push((name.clone(), adapted));
        }
        Ok(self)
    }

    /// The names of its adapters.
    pub fn adapters(&self) -> impl Iterator<Item = &str> {
        self.adapters.iter().map(|(name, _)| name.as_str())
    }

    /// The place of an adapter among those there are.
    ///
    /// # Errors
    /// [`Error::Usage`] naming those there are.
    pub(crate) fn adapter(&self, name: &str) -> Result<usize> {
        self.adapters().position(|other| other == name).ok_or_else(|| {
            let all: Vec<String> = self.adapters().map(|name| format!("{name:?}")).collect();
            let all = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
            Error::usage(format!("`adapter`: there is no {name:?} among the model's adapters: {all}"))
        })
    }

    /// The model under an adapter, as it would run alone.
    pub(crate) fn under(&self, adapter: AdapterIndex) -> &Self {
        adapter.map_or(self, |i| &self.adapters[i].1)
    }

    /// Runs requests together.
    ///
    /// # Errors
    /// Sampling values out of range, requests that differ in their separator bias, a prompt that leaves no room within
    /// [`most_positions`](Loaded::most_positions), a question that holds a mark of the prompt, a method the model has no head
    /// for, an adapter that is not there, and errors of the device.
    pub fn generate(
        &self,
        requests: &[Request],
        on_event: &mut (dyn FnMut(Event) + Send),
    ) -> Result<Vec<Generation>> {
        self.generate_cancellable(requests, None, &AtomicBool::new(false), on_event)
    }

    /// Runs requests together, those that name no adapter under `own`, until they are `cancelled`, which is looked at between two
    /// passes; the generations are then those up to there.
    ///
    /// # Errors
    /// As [`generate`](Loaded::generate).
    pub fn generate_cancellable(
        &self,
        requests: &[Request],
        own: AdapterIndex,
        cancelled: &AtomicBool,
        on_event: &mut (dyn FnMut(Event) + Send),
    ) -> Result<Vec<Generation>> {
        let prepared = self.prepare_all(requests, own)?;
        if prepared.is_empty() {
            return Ok(Vec::new());
        }
        self.reserve(&prepared)?;
        let parts = self.parts();
        let made =
            self.device.scope(|| generate::generate(&parts, prepared.clone(), cancelled, None, on_event))?;
        self.tell_of_the_end(&prepared, &made);
        Ok(made)
    }

    /// Runs requests together and keeps the data of a policy update. All must reason in latents.
    ///
    /// # Errors
    /// As [`generate`](Loaded::generate); no requests at all, requests of another kind, and a
    /// deterministic latent head.
    pub fn rollout(&self, requests: &[Request]) -> Result<Rollouts<D>> {
        let prepared = self.prepare_all(requests, None)?;
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
            let prompts = prepared.iter().map(|p| p.prompt_ids.clone()).collect();
            let (never, kept) = (AtomicBool::new(false), Some(&mut recorder));
            let generations = generate::generate(&parts, prepared, &never, kept, &mut |_| ())?;
            recorder.finish(&self.device, &self.opened.model, self.opened.separator, prompts, generations)
        })
    }

    /// Sets memory aside for a batch; an error names the parts that do not fit.
    fn reserve(&self, requests: &[Prepared]) -> Result<()> {
        self.device.reserve(&needs::generation(&self.device, &self.models(), requests))
    }

    /// Warns, once, of generations that ended with the model's positions.
    fn tell_of_the_end(&self, requests: &[Prepared], made: &[Generation]) {
        let Some(most) = self.most_positions else { return };
        if requests.iter().zip(made).any(|(request, made)| context::met_the_end(request, made)) {
            self.cut_told.call_once(|| {
                tracing::warn!(
                    "reasoning or answers end at the {most} positions that the model was made for (max_position_embeddings)"
                );
            });
        }
    }

    /// The input embeddings of tokens, end to end: `[ids, H]`.
    ///
    /// # Errors
    /// [`Error::Usage`] for an id that has none; errors of the device.
    pub(crate) fn embeddings(&self, ids: &[u32]) -> Result<Vec<f32>> {
        let model = &self.opened.model;
        let rows = model.params.get(model.transformer.embed).rows();
        if let Some(id) = ids.iter().find(|&&id| id as usize >= rows) {
            return Err(Error::usage(format!("`ids`: {id} is beyond the vocabulary, of {rows} tokens")));
        }
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.device.scope(|| self.device.read(&rows::embed(&self.device, model, ids)?))
    }

    /// Tokens of a request's prompt.
    ///
    /// # Errors
    /// Those with which the request would end before it runs.
    pub(crate) fn prompt_tokens(&self, request: &Request) -> Result<usize> {
        Ok(self.fitted(request, None)?.prompt_ids.len())
    }

    fn prepare_all(&self, requests: &[Request], own: AdapterIndex) -> Result<Vec<Prepared>> {
        if requests.windows(2).any(|w| w[0].sampling.separator_bias != w[1].sampling.separator_bias) {
            return Err(Error::usage("the requests of a batch must share their separator bias"));
        }
        requests.iter().map(|r| self.fitted(r, own)).collect()
    }

    pub(super) fn parts(&self) -> Parts<'_, D> {
        Parts {
            device: &self.device,
            model: &self.opened.model,
            models: self.models(),
            tokenizer: &self.opened.tokenizer,
            separator: self.opened.separator,
            stop: &self.opened.eos.stop,
            nearest: &self.nearest,
        }
    }

    pub(super) fn models(&self) -> Models<'_, D> {
        let adapted = self.adapters.iter().map(|(name, adapted)| (name.as_str(), &adapted.opened.model));
        Models { base: &self.opened.model, adapted: adapted.collect() }
    }

    /// A request as it will run, under `own` if it names no adapter, within the positions there are.
    pub(super) fn fitted(&self, request: &Request, own: AdapterIndex) -> Result<Prepared> {
        let named = request.adapter.as_deref().map(|name| self.adapter(name)).transpose()?;
        let adapter = named.or(own);
        let mut prepared = Prepared { adapter, ..self.under(adapter).prepare(request)? };
        if let Some(most) = self.most_positions {
            context::fit(&mut prepared, most)?;
        }
        Ok(prepared)
    }

    fn prepare(&self, request: &Request) -> Result<Prepared> {
        request.sampling.validate()?;
        let mut after_thoughts = None;
        let (prompt_ids, start, question, compression_factor) = match &request.prompt {
            Prompt::Plain(text) => {
                (self.opened.tokenizer.encode(text)?, Phase::Answer, text.clone(), String::new())
            }
            Prompt::Question { text, method, compression_factor } => {
                let factor = prompt::parse_compression_factor(compression_factor)
                    .map_err(|e| Error::usage(format!("`compression_factor` {compression_factor:?}: {e}")))?;
                let tokenizer = &self.opened.tokenizer;
                let asked = &self.opened.marks.of_question(text, self.escape_marks)?;
                let ids = match &self.opened.codi {
                    Some(codi) if *method == Method::Distill => {
                        after_thoughts = Some(codi.end);
                        codi.tokens(tokenizer, asked)?
                    }
                    _ => prompt::inference(tokenizer, self.opened.separator, asked, &factor)?,
                };
                let start = match method {
                    Method::Colar => {
                        self.opened.model.latent_head()?;
                        Phase::Latents
                    }
                    Method::Cot | Method::Icot => Phase::Reasoning,
                    Method::Coconut | Method::Distill => {
                        Phase::Thoughts(self.opened.model.thoughts_of(*method)?.count)
                    }
                };
                (ids, start, text.clone(), factor)
            }
        };
        if prompt_ids.is_empty() {
            return Err(Error::usage("the prompt is empty"));
        }
        Ok(Prepared {
            adapter: None,
            prompt_ids,
            start,
            after_thoughts,
            sampling: request.sampling,
            cut: false,
            trace: request.trace,
            question,
            compression_factor,
        })
    }
}
