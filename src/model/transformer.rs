//! The decoder: Llama and Qwen2 blocks over packed sequences, forward and backward.
//!
//! Rows of different sequences stand end to end, with no padding; [spans](crate::device::Span) keep their attention
//! apart. A block is
//!
//! ```text
//! n1 = RMSNorm(x)         q, k, v = n1·Wq, n1·Wk, n1·Wv (+ bias)      q, k = rotary(q), rotary(k)
//! x' = x + attention(q, k, v)·Wo
//! n2 = RMSNorm(x')        x'' = x' + (silu(n2·Wgate) · (n2·Wup))·Wdown
//! ```
//!
//! One pass runs some rows of each sequence through all blocks. Most are whole sequences at once; a cache
//! of keys and values lets later passes go on where earlier ones ended, in generation, and in a
//! [chain of thoughts](ChainLayout), whose passes depend on each other and have gradients.

mod backward;
mod block;
mod chain;
mod forward;
mod place;
mod taps;

use super::config::ModelConfig;
use super::linear::Linear;
use super::params::{Grads, ParamId, Params};
use crate::Result;
use crate::device::{Device, HeadShape};
use crate::files::mapped::MappedTensor;
use crate::files::weights::Weights;

pub use chain::{ChainLayout, ChainSaved};
pub use forward::ForwardSaved;
pub use taps::{TapGrads, Taps};

/// One block's weights.
#[derive(Debug, Clone)]
pub struct Layer {
    pub(super) input_norm: ParamId,
    pub(super) q: Linear,
    pub(super) k: Linear,
    pub(super) v: Linear,
    pub(super) o: Linear,
    pub(super) post_norm: ParamId,
    pub(super) gate: Linear,
    pub(super) up: Linear,
    pub(super) down: Linear,
}

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
    /// Takes the weights from `weights` into `params`, each in the form that `take` makes of its name
    /// and values.
    ///
    /// # Errors
    /// A missing tensor, a wrong shape, or what `take` and the device say.
    pub fn load(
        device: &D,
        config: &ModelConfig,
        weights: &Weights,
        params: &mut Params<D>,
        take: &dyn Fn(&str, MappedTensor) -> Result<D::Tensor>,
    ) -> Result<Self> {
        let mut get = |name: String, shape: &[usize]| -> Result<ParamId> {
            let value = take(&name, weights.get(&name, shape)?)?;
            Ok(params.add(name, shape, value))
        };
        let c = config;
        let (q_width, kv_width) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
        let embed = get("model.embed_tokens.weight".into(), &[c.vocab_size, c.hidden_size])?;
        let mut layers = Vec::with_capacity(c.num_hidden_layers);
        for i in 0..c.num_hidden_layers {
            let p = format!("model.layers.{i}");
            let mut linear = |part: &str, out: usize, input: usize, bias: bool| -> Result<Linear> {
                let weight = get(format!("{p}.{part}.weight"), &[out, input])?;
                let bias = if bias { Some(get(format!("{p}.{part}.bias"), &[out])?) } else { None };
                Ok(Linear { weight, bias, lora: None })
            };
            let (h, inner) = (c.hidden_size, c.intermediate_size);
            let q = linear("self_attn.q_proj", q_width, h, c.attention_bias)?;
            let k = linear("self_attn.k_proj", kv_width, h, c.attention_bias)?;
            let v = linear("self_attn.v_proj", kv_width, h, c.attention_bias)?;
            let o = linear("self_attn.o_proj", h, q_width, false)?;
            let gate = linear("mlp.gate_proj", inner, h, false)?;
            let up = linear("mlp.up_proj", inner, h, false)?;
            let down = linear("mlp.down_proj", h, inner, false)?;
            let input_norm = get(format!("{p}.input_layernorm.weight"), &[h])?;
            let post_norm = get(format!("{p}.post_attention_layernorm.weight"), &[h])?;
            layers.push(Layer { input_norm, q, k, v, o, post_norm, gate, up, down });
        }
        let norm = get("model.norm.weight".into(), &[c.hidden_size])?;
        let lm_head = if c.tie_word_embeddings {
            embed
        } else {
            get("lm_head.weight".into(), &[c.vocab_size, c.hidden_size])?
        };
        let inv_freq = c.rope_inv_freq();
        let inv_freq = device.upload(1, inv_freq.len(), &inv_freq)?;
        Ok(Transformer { config: c.clone(), embed, lm_head, layers, norm, inv_freq, recompute: false })
    }

    pub(super) fn heads(&self) -> HeadShape {
        HeadShape {
            heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
        }
    }
}

impl Layer {
    /// The seven projections, in the order q, k, v, o, gate, up, down.
    pub(super) fn projections(&self) -> [&Linear; 7] {
        [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down]
    }

    pub(super) fn trained<D: Device>(&self, grads: &Grads<D>) -> bool {
        grads.trains(self.input_norm)
            || grads.trains(self.post_norm)
            || self.projections().iter().any(|l| l.trained(grads))
    }
}
