//! The model: configuration, weights, layers with forward and backward.
//!
//! Data flows one way: a directory's files ([`config`], [`Weights`](crate::files::weights::Weights), [`tokenizer`],
//! [`adapter`]) become a [`ColarModel`], whose layers ([`transformer`], [`latent_head`], [`thoughts`]) hold numbers
//! into one list of weights ([`params`]) and run on any [`Device`].

pub mod adapter;
mod adapter_modules;
pub mod block;
pub mod chat_template;
pub mod checkpoint_dir;
pub mod codi;
pub mod codi_prompt;
pub mod colar_config;
mod complete;
pub mod config;
mod decoder;
pub mod dropout;
#[cfg(feature = "train")]
pub mod export;
pub mod footprint;
#[cfg(feature = "train")]
pub mod init;
pub mod kv_cache;
pub mod latent_head;
pub mod layout;
pub mod lightning;
pub mod linear;
pub mod loading;
pub mod lora;
mod lora_target;
pub mod marks;
pub mod merge;
pub mod open;
pub mod operations;
pub mod params;
pub mod presets;
pub mod prompt;
pub mod rope;
pub mod stored;
pub mod thoughts;
pub mod tokenizer;
mod tokenizer_outline;
pub mod transformer;
pub mod weight_spec;

use crate::device::Device;
use crate::{Error, Result};
use latent_head::LatentHead;
use merge::Merge;
use params::Params;
use prompt::Method;
use thoughts::Thoughts;
use transformer::Transformer;

/// A decoder with its latent head and all their weights.
pub struct ColarModel<D: Device> {
    /// The decoder.
    pub transformer: Transformer<D>,
    /// The latent head; a model trained for CoT, or not at all, has none.
    pub head: Option<LatentHead>,
    /// How it thinks in continuous thoughts, if it does.
    pub thoughts: Option<Thoughts>,
    /// All weights.
    pub params: Params<D>,
    /// Standard deviation of the embedding matrix: the unit of latents.
    pub embeds_std: f32,
    /// The compression merge the latents were trained on.
    pub merge: Merge,
}

impl<D: Device> ColarModel<D> {
    /// The latent head.
    ///
    /// # Errors
    /// When the model has none.
    pub fn latent_head(&self) -> Result<&LatentHead> {
        self.head.as_ref().ok_or_else(|| {
            Error::other("the model has no latent head: give a CoLaR checkpoint, or choose `method` cot")
        })
    }

    /// The continuous thoughts with which `method` reasons.
    ///
    /// # Errors
    /// When the model has none, or those of another method.
    pub fn thoughts_of(&self, method: Method) -> Result<&Thoughts> {
        let projected = method == Method::Distill;
        self.thoughts.as_ref().filter(|t| t.projector.is_some() == projected).ok_or_else(|| {
            let name = method.name();
            Error::other(format!(
                "the model has no thoughts of method {name}: give a checkpoint trained with `method` {name}, or choose \
                 another `method`"
            ))
        })
    }
}
