//! From directories to a model that can run: a model directory, and perhaps a checkpoint over it.
//!
//! A checkpoint (spec section 8) is an adapter over the model's weights, or weights of its own after
//! full fine-tuning; it may hold a latent head, and then says in `colar.json` how its latents are
//! scaled, or think in continuous thoughts, and then says there how many. After full fine-tuning it also
//! holds `config.json` and the tokenizer, so that it can stand in the place of the model directory itself. A file in the place of a
//! checkpoint directory is one of the authors' code.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::ColarModel;
use super::adapter::{AdapterConfig, Whole};
use super::block::{EMBED_TOKENS, LM_HEAD};
use super::chat_template::{ChatTemplate, Template};
use super::checkpoint_dir;
use super::codi_prompt::CodiPrompt;
use super::colar_config::{COLAR_FILE, ColarConfig};
use super::config::ModelConfig;
use super::footprint;
use super::latent_head::{LatentHead, LatentHeadConfig};
use super::loading::{Meter, OnLoading};
use super::lora::{LoraInit, LoraMode, attach, merge};
use super::marks::Marks;
use super::merge::Merge;
use super::params::Params;
use super::prompt::{Method, SEPARATOR};
use super::stored::Stored;
use super::thoughts::{PROJECTOR_FILE, Projector, Thoughts, ThoughtsConfig};
use super::tokenizer::{EosTokens, Tokenizer};
use super::transformer::Transformer;
use super::weight_spec::{Group, Groups, Role, WeightSpec};
use crate::device::{Device, Dtype, Need, Stay};
use crate::files::mapped::MappedTensor;
use crate::files::weights::{Access, INDEX_FILE, WEIGHTS_FILE, Weights};
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

/// Opens `model_dir`, with `checkpoint` over it, for training. Weights of the groups `trained`, adapters and
/// latent head become float32 copies; the others have the dtype of the file. Where the decoder's own weights are trained,
/// the checkpoint's adapter is added to them and is no more: trained beside them, it would belong to weights that no file
/// but the checkpoint's own has.
///
/// # Errors
/// A missing or malformed file, a tensor that does not fit the configuration, a tokenizer without
/// `###` as one token: one line naming the file.
pub fn open<D: Device>(
    device: &D,
    model_dir: &Path,
    checkpoint: Option<&Path>,
    additions: &Additions,
    trained: Groups,
) -> Result<Opened<D>> {
    let unwatched: OnLoading = &mut |_| ControlFlow::Continue(());
    open_for(device, model_dir, checkpoint, additions, Purpose::Training(trained), unwatched)
}

/// Opens `model_dir`, with `checkpoint` over it, to run as it is: every matrix in the form that the device
/// multiplies best ([`MemoryOps::freeze`](crate::device::MemoryOps::freeze)), the adapter as `lora` says.
///
/// # Errors
/// As [`open`].
pub fn open_frozen<D: Device>(
    device: &D,
    model_dir: &Path,
    checkpoint: Option<&Path>,
    additions: &Additions,
    lora: LoraMode,
) -> Result<Opened<D>> {
    open_watched(device, model_dir, checkpoint, additions, lora, &mut |_| ControlFlow::Continue(()))
}

/// As [`open_frozen`]; `on_loading` hears of each weight, and may end the loading.
///
/// # Errors
/// As [`open`], and that the loading was ended.
pub fn open_watched<D: Device>(
    device: &D,
    model_dir: &Path,
    checkpoint: Option<&Path>,
    additions: &Additions,
    lora: LoraMode,
    on_loading: OnLoading,
) -> Result<Opened<D>> {
    open_for(device, model_dir, checkpoint, additions, Purpose::Inference(lora), on_loading)
}

/// The use that a model is opened for.
#[derive(Clone, Copy)]
enum Purpose {
    /// To train the weights of these groups.
    Training(Groups),
    /// To run as it is.
    Inference(LoraMode),
}

fn open_for<D: Device>(
    device: &D,
    model_dir: &Path,
    checkpoint: Option<&Path>,
    additions: &Additions,
    purpose: Purpose,
    on_loading: OnLoading,
) -> Result<Opened<D>> {
    if !model_dir.is_dir() {
        return Err(Error::file(model_dir, "no such directory"));
    }
    let given = checkpoint.map(checkpoint_dir::find).transpose()?;
    let mut config = ModelConfig::load(model_dir)?;
    let tokenizer = Tokenizer::load(model_dir)?;
    tokenizer.check_fits(config.vocab_size)?;
    let separator = tokenizer.separator(SEPARATOR)?;
    let eos = tokenizer.eos(&config)?;
    let marks = Marks::new(&tokenizer, eos.append)?;
    // A model directory that is itself a checkpoint needs no second one.
    let checkpoint = given.as_deref().unwrap_or(model_dir);
    let has_weights = |dir: &Path| dir.join(WEIGHTS_FILE).exists() || dir.join(INDEX_FILE).exists();
    let access = additions.access;
    let mut weights =
        Weights::open(if has_weights(checkpoint) { checkpoint } else { model_dir })?.accessed(access);

    let Stored { adapter: stored, colar, head: head_weights, projector: projector_weights } =
        checkpoint_dir::read(checkpoint, model_dir, &config, additions.embeds_std)?.accessed(access);
    if let Some((adapter, file)) = &stored {
        let whole = adapter.stored_whole(file, &config);
        if matches!(purpose, Purpose::Training(_)) {
            refuse_to_train(checkpoint, adapter, &whole)?;
        }
        take_whole(&mut config, &mut weights, adapter, file, &whole)?;
    }
    let merged = match purpose {
        Purpose::Training(_) => false,
        Purpose::Inference(lora) => {
            lora == LoraMode::Merge || stored.as_ref().is_some_and(|(a, _)| a.use_dora)
        }
    };
    let full = matches!(purpose, Purpose::Training(trained) if trained.contains(Group::Decoder));
    let folded = full && stored.is_some();
    let take = |spec: &WeightSpec, weight: MappedTensor| match purpose {
        Purpose::Training(trained) if trained.contains(spec.group) => device.widen(match &stored {
            Some((adapter, file)) => merge(device, &spec.name, weight, adapter, file)?,
            None => device.adopt(weight)?,
        }),
        Purpose::Training(_) => device.adopt(weight),
        Purpose::Inference(_) => {
            let w = match &stored {
                Some((adapter, file)) if merged => merge(device, &spec.name, weight, adapter, file)?,
                _ => device.adopt(weight)?,
            };
            // Here and not at the end, so that no two copies of all weights are ever in memory.
            if spec.role == Role::Matrix { device.freeze(w) } else { Ok(w) }
        }
    };
    if matches!(purpose, Purpose::Inference(_)) {
        let less = match device.compute_dtype() {
            Dtype::F32 => "a smaller model, or `dtype` bf16,",
            _ => "a smaller model",
        };
        let bytes = footprint::weight_bytes(&config, device.compute_dtype());
        device.reserve(&[Need { what: "the weights".into(), bytes, stay: Stay::Kept, less }])?;
    }
    let mut params = Params::default();
    let mut meter = Meter::new(&config, device.compute_dtype(), on_loading)?;
    let mut counted = |spec: &WeightSpec, weight: MappedTensor| {
        meter.goes_on()?;
        let taken = take(spec, weight)?;
        meter.count(spec)?;
        Ok(taken)
    };
    let mut transformer = Transformer::load(device, &config, &weights, &mut params, &mut counted)?;
    let adapter = match (stored, &additions.lora) {
        (Some((stored, _)), None) if merged => Some(stored),
        (Some(_), None) if folded => None,
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

    let hidden = config.hidden_size;
    let stored_head = colar.as_ref().and_then(|c| c.latent_head).zip(head_weights.as_ref());
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
    let tokenizer = match template(&given, model_dir, checkpoint, colar.as_ref(), additions.template)? {
        Some(template) => tokenizer.with_template(template),
        None => tokenizer,
    };
    let stored = colar.as_ref().and_then(|c| c.thoughts);
    let wanted = match purpose {
        Purpose::Training(_) => additions.thoughts,
        Purpose::Inference(_) => stored,
    };
    let thoughts = match wanted {
        None => None,
        Some(ThoughtsConfig { count, projector: None }) => Some(Thoughts { count, projector: None }),
        Some(ThoughtsConfig { count, projector: Some(new) }) => {
            let projector = if let Some(shape) = stored.and_then(|s| s.projector) {
                let file = projector_weights
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
        codi.check_fits(&checkpoint.join(COLAR_FILE), config.vocab_size)?;
    }
    Ok(Opened {
        model: ColarModel { transformer, head, thoughts, params, embeds_std, merge },
        tokenizer,
        eos,
        separator,
        marks,
        adapter,
        folded,
        latent_head,
        method,
        codi,
        model_dir: model_dir.to_owned(),
        checkpoint: given,
    })
}

/// Fails for an adapter that runs but is not trained on: of what it holds beside A and B nothing would be kept.
fn refuse_to_train(checkpoint: &Path, adapter: &AdapterConfig, whole: &[Whole]) -> Result<()> {
    let what = match whole {
        [] if adapter.use_dora => "has magnitudes of DoRA".to_owned(),
        [] => return Ok(()),
        [first, ..] => format!("holds {} whole (modules_to_save, biases)", first.name),
    };
    Err(Error::usage(format!(
        "the adapter of {} {what}, and is not trained on: merge it into the model in Python, and give that as `model`",
        checkpoint.display()
    )))
}

/// Puts the weights that an adapter's file holds whole into the place of the model's. Output head and embeddings part where
/// PEFT parts them: a stored head is another than the embeddings, and stored embeddings of `modules_to_save` are a copy
/// that the head does not follow.
pub(super) fn take_whole(
    config: &mut ModelConfig,
    weights: &mut Weights,
    adapter: &AdapterConfig,
    file: &Weights,
    whole: &[Whole],
) -> Result<()> {
    let holds = |name: &str| whole.iter().any(|w| w.name == name);
    let embeddings_apart = holds(EMBED_TOKENS) && adapter.saves("model.embed_tokens");
    if config.tie_word_embeddings && (holds(LM_HEAD) || embeddings_apart) {
        config.tie_word_embeddings = false;
        weights.alias(EMBED_TOKENS, LM_HEAD);
    }
    for Whole { name, stored } in whole {
        weights.replace(name, file, stored)?;
    }
    Ok(())
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
