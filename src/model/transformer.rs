//! The decoder: [blocks](crate::device::block) over packed sequences, forward and backward.
//!
//! Rows of different sequences stand end to end, with no padding; [spans](crate::device::Span) keep their attention
//! apart. The parts of a block are those that the configuration gives it (`block.rs` beside this file); its forward and
//! backward pass are written out in the files of this module.
//!
//! One pass runs some rows of each sequence through all blocks. Most are whole sequences at once; a cache
//! of keys and values lets later passes go on where earlier ones ended, in generation, and in a
//! [sequence with thoughts](ThoughtLayout), whose passes depend on each other and have gradients.

mod adapters;
mod backward;
mod block;
mod forward;
mod place;
mod qkv;
mod taps;
mod thoughts;

use std::collections::BTreeSet;

use super::block::Projection;
use super::config::ModelConfig;
use super::linear::Linear;
use super::params::{Grads, ParamId, Params};
use super::weight_spec::WeightSpec;
use crate::device::block::Block;
use crate::device::{Device, HeadShape};
use crate::files::json::one_line;
use crate::files::mapped::MappedTensor;
use crate::files::weights::Weights;
use crate::{Error, Result};

pub use adapters::RowAdapters;
pub use forward::ForwardSaved;
pub use taps::{TapGrads, Taps};
pub use thoughts::{ThoughtLayout, ThoughtSaved};

/// One block: numbers of its weights.
pub type Layer = Block<ParamId, Linear>;

/// The decoder's structure; its numbers are in [`Params`].
pub struct Transformer<D: Device> {
    /// The model's configuration.
    pub config: ModelConfig,
    /// `[V, H]`, the input embeddings.
    pub embed: ParamId,
    /// `[V, H]`, the output head; equal to `embed` where they are tied.
    pub lm_head: ParamId,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: ParamId,
    pub(super) inv_freq: D::Tensor,
    /// Whether a pass that gradients follow keeps of each layer its input alone, and the backward pass runs the
    /// layer again but for its last product. Gradients are the same to the bit.
    pub recompute: bool,
}

impl<D: Device> Transformer<D> {
    /// Takes the weights from `weights` into `params`, each in the form that `take` makes of it.
    ///
    /// # Errors
    /// A missing tensor, one of a block that the configuration does not give it, a wrong shape, and errors
    /// of `take` and the device.
    pub fn load(
        device: &D,
        config: &ModelConfig,
        weights: &Weights,
        params: &mut Params<D>,
        take: &mut dyn FnMut(&WeightSpec, MappedTensor) -> Result<D::Tensor>,
    ) -> Result<Self> {
        check_strays(config, weights)?;
        let mut get = |w: WeightSpec| -> Result<ParamId> {
            let value = take(&w, weights.get(&w.name, &w.shape)?)?;
            Ok(params.add(w, value))
        };
        // Weights are numbered in this order, which is that of sums over all gradients: another would give a run of
        // full fine-tuning other bits.
        let embed = get(config.embed_tokens())?;
        let block = config.block();
        let layers = (0..config.num_hidden_layers).map(|i| {
            let linear = |p: Projection| {
                Ok(Linear {
                    weight: get(p.weight(i))?,
                    bias: p.bias(i).map(&mut get).transpose()?,
                    lora: None,
                })
            };
            block.map_projections(linear).map_norms(|norm| get(norm.weight(i))).transpose()
        });
        let layers = layers.collect::<Result<Vec<Layer>>>()?;
        let norm = get(config.final_norm())?;
        let lm_head = config.lm_head().map_or(Ok(embed), get)?;
        let inv_freq = config.rope_inv_freq();
        let inv_freq = device.upload(1, inv_freq.len(), &inv_freq)?;
        Ok(Transformer { config: config.clone(), embed, lm_head, layers, norm, inv_freq, recompute: false })
    }

    /// The same decoder without adapters, over the same weights, for a checkpoint of its own.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn branch(&self, device: &D) -> Result<Self> {
        let mut layers = self.layers.clone();
        let projections = layers.iter_mut().flat_map(Block::projections_mut);
        projections.for_each(|linear| linear.lora = None);
        let inv_freq = self.config.rope_inv_freq();
        Ok(Transformer {
            config: self.config.clone(),
            embed: self.embed,
            lm_head: self.lm_head,
            layers,
            norm: self.norm,
            inv_freq: device.upload(1, inv_freq.len(), &inv_freq)?,
            recompute: false,
        })
    }

    pub(super) fn heads(&self) -> HeadShape {
        HeadShape {
            heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
        }
    }
}

/// Refuses a tensor of a part that the model has, but the configuration does not give this part, for it would then compute
/// something else than the file was made for; warns by name of others that nothing reads.
fn check_strays(config: &ModelConfig, weights: &Weights) -> Result<()> {
    let known: BTreeSet<String> = config.weights().into_iter().map(|w| w.name).collect();
    // Some writers store what follows from the rest: frequencies, and the matrix of a tied output head.
    let redundant = |name: &str| name.ends_with("rotary_emb.inv_freq") || name == "lm_head.weight";
    let strays: Vec<&str> =
        weights.names().filter(|name| !known.contains(*name) && !redundant(name)).collect();
    let layer = |name: &str| name.strip_prefix("model.layers.")?.split('.').next()?.parse::<usize>().ok();
    let of_block = |name: &str| layer(name).is_some_and(|layer| layer < config.num_hidden_layers);
    let of_ends =
        |name: &str| ["model.embed_tokens.", "model.norm.", "lm_head."].iter().any(|p| name.starts_with(p));
    if let Some(stray) = strays.iter().find(|name| of_block(name) || of_ends(name)) {
        let part = if of_block(stray) { "block" } else { "model" };
        let what =
            format!("is no part of a {} {part} with this configuration", config.model_type.model_type());
        return Err(Error::tensor(weights.path(), one_line(stray), what));
    }
    const NAMED: usize = 8;
    if !strays.is_empty() {
        let names = strays.iter().take(NAMED).map(|name| one_line(name)).collect::<Vec<_>>().join(", ");
        let more = match strays.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        tracing::warn!("{}: nothing reads the tensors {names}{more}", weights.path().display());
    }
    Ok(())
}

/// Whether any weight of the block is trained.
fn trained<D: Device>(layer: &Layer, grads: &Grads<D>) -> bool {
    layer.norms().any(|&norm| grads.trains(norm)) || layer.projections().iter().any(|l| l.trained(grads))
}

/// The error of a backward pass whose forward pass left less than it needs.
pub(super) fn nothing_kept() -> Error {
    Error::other("a layer kept nothing to go back by")
}

/// Blocks below the lowest one with a trained weight.
pub(super) fn untrained<D: Device>(layers: &[Layer], grads: &Grads<D>) -> usize {
    layers.iter().take_while(|layer| !trained(layer, grads)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryOps;
    use crate::device::cpu::CpuDevice;
    use crate::files::safetensors::{Dtype, TensorData, save_safetensors};
    use crate::files::weights::WEIGHTS_FILE;
    use crate::model::init::{RandomInit, write_random_weights};
    use crate::model::presets::Preset;

    /// Loads weights made for one configuration with another.
    fn load(written: &ModelConfig, read: &ModelConfig) -> Result<usize> {
        load_with(written, read, &[])
    }

    /// The same with more tensors of these names, each of one element.
    fn load_with(written: &ModelConfig, read: &ModelConfig, more: &[&str]) -> Result<usize> {
        let dir = tempfile::tempdir().unwrap();
        let init = RandomInit { dtype: Dtype::F32, std: 0.1, seed: 1 };
        write_random_weights(dir.path(), written, &init, u64::MAX).unwrap();
        if !more.is_empty() {
            let made = Weights::open(dir.path())?;
            let kept: Vec<_> =
                made.names().map(|name| (name.to_owned(), made.tensor(name).unwrap())).collect();
            let one = [1.0];
            let mut tensors: Vec<_> =
                kept.iter().map(|(name, t)| (name.clone(), t.shape().to_vec(), t.data())).collect();
            tensors.extend(more.iter().map(|&name| (name.to_owned(), vec![1], TensorData::F32(&one))));
            save_safetensors(&dir.path().join(WEIGHTS_FILE), &tensors, &[])?;
        }
        let device = CpuDevice::new(1).unwrap();
        let mut params = Params::default();
        Transformer::load(&device, read, &Weights::open(dir.path())?, &mut params, &mut |_, t| {
            device.adopt(t)
        })?;
        Ok(params.iter().count())
    }

    #[test]
    fn weights_are_those_of_the_configuration() {
        let tiny = ModelConfig { num_hidden_layers: 2, ..Preset::Tiny.config() };
        assert_eq!(load(&tiny, &tiny).unwrap(), tiny.weights().len());
        let biased = ModelConfig { attention_bias: true, ..tiny.clone() };
        let error = load(&tiny, &biased).unwrap_err().to_string();
        assert!(error.ends_with("model.layers.0.self_attn.q_proj.bias: is missing"), "{error}");
        // A bias that would not be added.
        let error = load(&biased, &tiny).unwrap_err().to_string();
        let what =
            "model.layers.0.self_attn.k_proj.bias: is no part of a llama block with this configuration";
        assert!(error.ends_with(what), "{error}");
        // The same at the model's end.
        for name in ["model.norm.bias", "lm_head.bias"] {
            let error = load_with(&tiny, &tiny, &[name]).unwrap_err().to_string();
            let what = format!("tensor {name}: is no part of a llama model with this configuration");
            assert!(error.ends_with(&what), "{error}");
        }
        assert!(load_with(&tiny, &tiny, &["vision.patch.weight", "model.rotary_emb.inv_freq"]).is_ok());
        // A head that is the embeddings, and a layer that is not run.
        let whole = ModelConfig { tie_word_embeddings: false, ..tiny.clone() };
        assert!(load(&whole, &tiny).is_ok() && load(&tiny, &whole).is_err());
        let one = ModelConfig { num_hidden_layers: 1, ..tiny.clone() };
        assert!(load(&tiny, &one).is_ok() && load(&one, &tiny).is_err());
    }
}
