//! From directories to a model that can run: a model directory, and perhaps a checkpoint over it.
//!
//! A checkpoint (spec section 8) is an adapter over the model's weights, or weights of its own after
//! full fine-tuning; it may hold a latent head, and then says in `colar.json` how its latents are
//! scaled, or think in continuous thoughts, and then says there how many. After full fine-tuning it also
//! holds `config.json` and the tokenizer, so that it can stand in the place of the model directory itself. A file in the place of a
//! checkpoint directory is one of the authors' code.

use std::ops::ControlFlow;
use std::path::Path;

use super::adapter::{AdapterConfig, Whole};
use super::block::{EMBED_TOKENS, LM_HEAD};
use super::checkpoint_dir;
use super::complete::{AdapterPlace, Bare, Purpose, complete};
use super::config::ModelConfig;
use super::footprint;
use super::loading::{Meter, OnLoading};
use super::lora::{LoraMode, merge};
use super::marks::Marks;
use super::params::Params;
use super::prompt::SEPARATOR;
use super::stored::Stored;
use super::tokenizer::Tokenizer;
use super::transformer::Transformer;
use super::weight_spec::{Group, Groups, Role, WeightSpec};
use crate::device::{Device, Dtype, Need, Stay};
use crate::files::mapped::MappedTensor;
use crate::files::weights::{INDEX_FILE, WEIGHTS_FILE, Weights};
use crate::{Error, Result};

pub use super::complete::{Additions, Opened, embeds_std};

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
    let transformer = Transformer::load(device, &config, &weights, &mut params, &mut counted)?;
    let place = match (merged, folded) {
        (true, _) => AdapterPlace::Merged,
        (false, true) => AdapterPlace::Folded,
        (false, false) => AdapterPlace::Beside,
    };
    let stored = Stored { adapter: stored, colar, head: head_weights, projector: projector_weights };
    let model_dir = model_dir.to_owned();
    let bare = Bare { transformer, params, tokenizer, eos, separator, marks, model_dir };
    complete(device, bare, given, stored, additions, purpose, place)
}

/// Opens `checkpoint` over the decoder of a model that is open to run and has no adapter beside its weights. The adapter stands
/// apart, and all other weights of the decoder are in memory once for both.
///
/// # Errors
/// As [`open`], and [`Error::Usage`] for a checkpoint with more than an adapter, a latent head or thoughts: weights of its own,
/// or an adapter that must be merged.
pub fn open_over<D: Device>(
    device: &D,
    base: &mut Opened<D>,
    checkpoint: &Path,
    additions: &Additions,
) -> Result<Opened<D>> {
    let given = checkpoint_dir::find(checkpoint)?;
    let refuse = |what: &str| {
        let given = given.display();
        Err(Error::usage(format!("{given} {what}: it runs alone, and not beside other adapters")))
    };
    if has_weights(&given) {
        return refuse("holds the weights of a whole model");
    }
    let config = base.model.transformer.config.clone();
    let stored = checkpoint_dir::read(&given, &base.model_dir, &config, additions.embeds_std)?
        .accessed(additions.access);
    if let Some((adapter, file)) = &stored.adapter {
        match adapter.stored_whole(file, &config).as_slice() {
            [first, ..] => return refuse(&format!("holds {} whole (modules_to_save, biases)", first.name)),
            [] if adapter.use_dora => return refuse("has magnitudes of DoRA"),
            [] => {}
        }
    }
    let bare = Bare {
        transformer: base.model.transformer.branch(device)?,
        params: base.model.params.branch(),
        tokenizer: base.tokenizer.bare(),
        eos: base.eos.clone(),
        separator: base.separator,
        marks: Marks::new(&base.tokenizer, base.eos.append)?,
        model_dir: base.model_dir.clone(),
    };
    let purpose = Purpose::Inference(LoraMode::Apart);
    complete(device, bare, Some(given), stored, additions, purpose, AdapterPlace::Beside)
}

fn has_weights(dir: &Path) -> bool {
    dir.join(WEIGHTS_FILE).exists() || dir.join(INDEX_FILE).exists()
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
