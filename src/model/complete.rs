//! From a decoder to a whole model: what a checkpoint, or a run, adds to it beside its own weights.

use std::path::{Path, PathBuf};

use super::ColarModel;
use super::adapter::AdapterConfig;
use super::chat_template::{ChatTemplate, Template};
use super::codi_prompt::CodiPrompt;
use super::colar_config::{COLAR_FILE, ColarConfig};
use super::latent_head::{LatentHead, LatentHeadConfig};
use super::lora::{LoraInit, LoraMode, attach};
use super::marks::Marks;
use super::merge::Merge;
use super::params::Params;
use super::prompt::Method;
use super::stored::Stored;
use super::thoughts::{PROJECTOR_FILE, Projector, Thoughts, ThoughtsConfig};
use super::tokenizer::{EosTokens, Tokenizer};
use super::transformer::Transformer;
use super::weight_spec::Groups;
use crate::device::Device;
use crate::files::weights::Access;
use crate::{Error, Result};

/// The parts that a run adds to a model, and how it wants it opened.
#[derive(Debug, Clone, Default)]
pub struct Additions {
    /// A new adapter, where the checkpoint has none.
    pub lora: Option<AdapterConfig>,
    /// A new latent head, where the checkpoint has none.
    pub latent_head: Option<LatentHeadConfig>,
    /// The continuous thoughts that are trained, with a new projector where the checkpoint has none. A model
    /// that is opened to run has those of its checkpoint.
    pub thoughts: Option<ThoughtsConfig>,
    /// Overrides the stored or computed standard deviation of the embeddings.
    pub embeds_std: Option<f32>,
    /// Overrides the stored merge.
    pub merge: Option<Merge>,
    /// The layout around questions, where the checkpoint does not say it. `None`: the checkpoint's, or the paper's.
    pub template: Option<Template>,
    /// How the weights come out of their files.
    pub access: Access,
    /// Key of the new parts' values.
    pub seed: u64,
}

/// A model with its tokenizer, ready to run or to train.
pub struct Opened<D: Device> {
    /// The model.
    pub model: ColarModel<D>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Tokens that end a text.
    pub eos: EosTokens,
    /// The id of the thinking separator.
    pub separator: u32,
    /// Texts that questions and samples may not hold.
    pub marks: Marks,
    /// The adapter in place or merged into the weights, if there is one.
    pub adapter: Option<AdapterConfig>,
    /// Whether the checkpoint's adapter was added to the weights because these are all trained.
    pub folded: bool,
    /// The latent head's configuration, if there is one.
    pub latent_head: Option<LatentHeadConfig>,
    /// How the checkpoint says it was trained.
    pub method: Option<Method>,
    /// The prompts of CODI, if it was trained with those.
    pub codi: Option<CodiPrompt>,
    /// Where `config.json` and the tokenizer came from.
    pub model_dir: PathBuf,
    /// The checkpoint over it, if there is one.
    pub checkpoint: Option<PathBuf>,
}

/// The use that a model is opened for.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    /// To train the weights of these groups.
    Training(Groups),
    /// To run as it is.
    Inference(LoraMode),
}

/// Where a checkpoint's adapter is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AdapterPlace {
    /// In its file alone: it goes beside the weights.
    Beside,
    /// In the weights, of which it is an adapter still.
    Merged,
    /// In the weights, which are all trained.
    Folded,
}

/// A decoder with its tokenizer.
pub(super) struct Bare<D: Device> {
    pub transformer: Transformer<D>,
    pub params: Params<D>,
    pub tokenizer: Tokenizer,
    pub eos: EosTokens,
    pub separator: u32,
    pub marks: Marks,
    pub model_dir: PathBuf,
}

/// Adds what is stored in the checkpoint `given`, or where there is none in the model's directory, and what `additions` want.
pub(super) fn complete<D: Device>(
    device: &D,
    bare: Bare<D>,
    given: Option<PathBuf>,
    stored: Stored,
    additions: &Additions,
    purpose: Purpose,
    place: AdapterPlace,
) -> Result<Opened<D>> {
    let Bare { mut transformer, mut params, tokenizer, eos, separator, marks, model_dir } = bare;
    let checkpoint = given.as_deref().unwrap_or(&model_dir);
    let colar = stored.colar;
    let adapter = match (stored.adapter, &additions.lora) {
        (Some((stored, _)), None) if place == AdapterPlace::Merged => Some(stored),
        (Some(_), None) if place == AdapterPlace::Folded => None,
        (Some((stored, file)), wanted) => {
            if let Some(wanted) = wanted
                && (wanted.r != stored.r
                    || wanted.lora_alpha != stored.lora_alpha
                    || wanted.target_modules != stored.target_modules)
            {
                return Err(Error::usage(format!(
                    "{} holds an adapter of rank {} and alpha {} on {}; train it on with the same `lora_r`, `lora_alpha` and \
                     `lora_targets`",
                    checkpoint.display(),
                    stored.r,
                    stored.lora_alpha,
                    stored.target_modules.iter().map(|t| t.name()).collect::<Vec<_>>().join(",")
                )));
            }
            attach(device, &mut transformer, &mut params, &stored, &LoraInit::File(&file))?;
            Some(stored)
        }
        (None, Some(wanted)) => {
            attach(device, &mut transformer, &mut params, wanted, &LoraInit::Random(additions.seed))?;
            Some(wanted.clone())
        }
        (None, None) => None,
    };

    let hidden = transformer.config.hidden_size;
    let stored_head = colar.as_ref().and_then(|c| c.latent_head).zip(stored.head.as_ref());
    let (latent_head, head) = match (stored_head, &additions.latent_head) {
        (Some((stored, file)), wanted) => {
            if wanted.is_some_and(|w| w.deterministic != stored.deterministic) {
                return Err(Error::usage(format!(
                    "the latent head of {} is{} deterministic; `deterministic_head` must agree",
                    checkpoint.display(),
                    if stored.deterministic { "" } else { " not" }
                )));
            }
            (Some(stored), Some(LatentHead::load(device, &mut params, file, &stored, hidden)?))
        }
        (None, Some(wanted)) => {
            let head = LatentHead::random(device, &mut params, wanted, hidden, additions.seed)?;
            (Some(*wanted), Some(head))
        }
        (None, None) => (None, None),
    };
    let tokenizer = match template(&given, &model_dir, checkpoint, colar.as_ref(), additions.template)? {
        Some(template) => tokenizer.with_template(template),
        None => tokenizer,
    };
    let stored_thoughts = colar.as_ref().and_then(|c| c.thoughts);
    let wanted = match purpose {
        Purpose::Training(_) => additions.thoughts,
        Purpose::Inference(_) => stored_thoughts,
    };
    let thoughts = match wanted {
        None => None,
        Some(ThoughtsConfig { count, projector: None }) => Some(Thoughts { count, projector: None }),
        Some(ThoughtsConfig { count, projector: Some(new) }) => {
            let projector = if let Some(shape) = stored_thoughts.and_then(|s| s.projector) {
                let file = stored
                    .projector
                    .ok_or_else(|| Error::file(checkpoint.join(PROJECTOR_FILE), "is missing"))?;
                Projector::load(device, &mut params, &file, hidden, shape)?
            } else {
                Projector::random(device, &mut params, hidden, new, additions.seed)?
            };
            Some(Thoughts { count, projector: Some(projector) })
        }
    };
    if matches!(purpose, Purpose::Inference(_)) {
        params.freeze(device)?;
    }
    // Without a head nothing has been fitted to the stored value, and training may since have moved
    // the embeddings.
    let stored_std = colar.as_ref().filter(|_| stored_head.is_some()).map(|c| c.embeds_std);
    let embeds_std = match additions.embeds_std.or(stored_std) {
        Some(std) => std,
        None if head.is_some() => embeds_std(device, &params, &transformer)?,
        None => 1.0,
    };
    let merge = additions.merge.or(colar.as_ref().map(|c| c.merge)).unwrap_or_default();
    let method = colar.as_ref().and_then(|c| c.method);
    let codi = colar.and_then(|c| c.codi);
    if let Some(codi) = &codi {
        codi.check_fits(&checkpoint.join(COLAR_FILE), transformer.config.vocab_size)?;
    }
    Ok(Opened {
        model: ColarModel { transformer, head, thoughts, params, embeds_std, merge },
        tokenizer,
        eos,
        separator,
        marks,
        adapter,
        folded: place == AdapterPlace::Folded,
        latent_head,
        method,
        codi,
        model_dir,
        checkpoint: given,
    })
}

/// The template that prompts go through: the one that the checkpoint was trained with, or of a model that is none, the
/// one that is wanted.
fn template(
    given: &Option<PathBuf>,
    model_dir: &Path,
    checkpoint: &Path,
    colar: Option<&ColarConfig>,
    wanted: Option<Template>,
) -> Result<Option<ChatTemplate>> {
    let Some(colar) = colar else {
        // An adapter of another program says nothing of prompts either.
        return match wanted.unwrap_or_default() {
            Template::Paper => Ok(None),
            Template::Chat => ChatTemplate::of_model(model_dir).map(Some),
        };
    };
    let stored = if colar.chat_template.is_some() { Template::Chat } else { Template::Paper };
    if wanted.is_some_and(|wanted| wanted != stored) {
        return Err(Error::usage(format!(
            "{} was trained with `template` {}, which its prompts need",
            given.as_deref().unwrap_or(model_dir).display(),
            stored.name()
        )));
    }
    let text = colar.chat_template.clone();
    text.map(|text| ChatTemplate::new(&checkpoint.join(COLAR_FILE), text, model_dir)).transpose()
}

/// The standard deviation of a model's input embeddings (spec section 3).
///
/// # Errors
/// Errors of the device.
pub fn embeds_std<D: Device>(device: &D, params: &Params<D>, transformer: &Transformer<D>) -> Result<f32> {
    Ok(standard_deviation(&device.read(params.get(transformer.embed))?))
}

/// Standard deviation (with Bessel's correction, as PyTorch's default) of all values, to five digits
/// more than the published constants show.
fn standard_deviation(values: &[f32]) -> f32 {
    let n = values.len() as f64;
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let squares = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>();
    (squares / (n - 1.0).max(1.0)).sqrt() as f32
}

impl<D: Device> Opened<D> {
    /// Fails for a checkpoint whose prompts are not those of spec section 1: its samples have another layout, which is
    /// written to run and not to learn.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the checkpoint.
    pub fn check_own_prompts(&self) -> Result<()> {
        match &self.codi {
            None => Ok(()),
            Some(_) => Err(Error::usage(format!(
                "{} has the prompts of CODI: it answers questions, and is neither trained nor scored",
                self.checkpoint.as_ref().unwrap_or(&self.model_dir).display()
            ))),
        }
    }

    /// Bytes of all weights, for messages.
    pub fn weight_bytes(&self) -> usize {
        self.model.params.bytes()
    }
}
