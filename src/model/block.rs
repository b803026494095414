//! The weights of a model, from its configuration: the one list that loading, random weights, adapters, checkpoints,
//! memory and operation counts follow.
//!
//! All architectures have the block of [`Block`]; the differences between them (biases, norms of heads, sizes, a tied
//! output head) are in the configuration, and become here a shape or its absence.

use super::config::ModelConfig;
use super::lora_target::LoraTarget;
use super::weight_spec::{Group, WeightSpec};
use crate::device::block::{Block, BlockPart};

/// The input embeddings, `[vocab_size, hidden_size]`.
pub const EMBED_TOKENS: &str = "model.embed_tokens.weight";
/// The output head, `[vocab_size, hidden_size]`, where it is not the input embeddings.
pub const LM_HEAD: &str = "lm_head.weight";

/// A norm of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Norm {
    /// Its name within the block.
    pub name: &'static str,
    /// Elements that it normalises together, and of its weight.
    pub size: usize,
}

/// A linear layer of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Projection {
    /// The layer, as adapters name it.
    pub target: LoraTarget,
    /// Rows of its weight.
    pub out: usize,
    /// Columns of its weight.
    pub input: usize,
    /// Whether it has a bias.
    pub bias: bool,
}

impl Norm {
    /// The weight in layer `layer`.
    pub fn weight(&self, layer: usize) -> WeightSpec {
        WeightSpec::norm(format!("model.layers.{layer}.{}.weight", self.name), self.size, Group::Decoder)
    }
}

impl Projection {
    /// The weight in layer `layer`.
    pub fn weight(&self, layer: usize) -> WeightSpec {
        let name = format!("{}.weight", self.target.module(layer));
        WeightSpec::matrix(name, [self.out, self.input], Group::Decoder)
    }

    /// The bias in layer `layer`, where there is one.
    pub fn bias(&self, layer: usize) -> Option<WeightSpec> {
        let name = || format!("{}.bias", self.target.module(layer));
        self.bias.then(|| WeightSpec::bias(name(), self.out, Group::Decoder))
    }

    /// The matrices A `[r, in]` and B `[out, r]` of an adapter in layer `layer`.
    pub fn adapter(&self, layer: usize, r: usize) -> [WeightSpec; 2] {
        [("lora_A", [r, self.input]), ("lora_B", [self.out, r])].map(|(which, shape)| {
            let name = format!("{}.{which}.weight", self.target.module(layer));
            WeightSpec::matrix(name, shape, Group::Adapter)
        })
    }

    /// Elements of the weight: the multiply-adds of a row.
    pub fn elements(&self) -> usize {
        self.out * self.input
    }

    /// Elements of an adapter's two matrices.
    pub fn adapter_elements(&self, r: usize) -> usize {
        r * (self.input + self.out)
    }
}

impl ModelConfig {
    /// The parts of a block.
    pub fn block(&self) -> Block<Norm, Projection> {
        let (h, inner, q, kv) = (self.hidden_size, self.intermediate_size, self.q_size(), self.kv_size());
        let norm = |name, size| Norm { name, size };
        let linear = |target, [out, input]: [usize; 2]| Projection { target, out, input, bias: false };
        let biased = |projection| Projection { bias: self.attention_bias, ..projection };
        Block {
            input_norm: norm("input_layernorm", h),
            q: biased(linear(LoraTarget::QProj, [q, h])),
            k: biased(linear(LoraTarget::KProj, [kv, h])),
            v: biased(linear(LoraTarget::VProj, [kv, h])),
            q_norm: self.qk_norm.then(|| norm("self_attn.q_norm", self.head_dim)),
            k_norm: self.qk_norm.then(|| norm("self_attn.k_norm", self.head_dim)),
            o: linear(LoraTarget::OProj, [h, q]),
            post_norm: norm("post_attention_layernorm", h),
            gate: linear(LoraTarget::GateProj, [inner, h]),
            up: linear(LoraTarget::UpProj, [inner, h]),
            down: linear(LoraTarget::DownProj, [h, inner]),
        }
    }

    /// The linear layer of a block that `target` names.
    pub fn projection(&self, target: LoraTarget) -> Projection {
        *self.block().projections()[target as usize]
    }

    /// Numbers that a block keeps of a row for its backward pass: the stream before and after attention, both norms,
    /// queries, attention's output, gate and up, and with `act` their product; and queries and keys before
    /// their norms. Of keys and values it keeps [`kept_of_key`](Self::kept_of_key).
    pub fn kept_of_row(&self, act: bool) -> usize {
        let mlp = if act { 3 } else { 2 } * self.intermediate_size;
        4 * self.hidden_size + 2 * self.q_size() + mlp + self.before_head_norms()
    }

    /// Numbers of a row of queries and one of keys, if they are normalised.
    fn before_head_norms(&self) -> usize {
        if self.qk_norm { self.q_size() + self.kv_size() } else { 0 }
    }

    /// Numbers that a block keeps of a row of keys and values.
    pub fn kept_of_key(&self) -> usize {
        2 * self.kv_size()
    }

    /// The most numbers of a row that exist together while a block runs forward, without those it keeps: both streams
    /// and norms, the outputs of `o` and `down`; queries, keys, values and attention's output; gate, up and their
    /// product.
    pub fn passing_forward(&self) -> usize {
        let attention = 2 * (self.q_size() + self.kv_size()) + self.before_head_norms();
        6 * self.hidden_size + attention + 3 * self.intermediate_size
    }

    /// As [`passing_forward`](Self::passing_forward) backward: the gradients of stream and norm, of gate and up's
    /// product, of attention's result and of the queries, and of queries and keys before their norms. Gate and up pass
    /// into their own gradients. Keys and values have [`kept_of_key`](Self::kept_of_key).
    pub fn passing_backward(&self) -> usize {
        2 * self.hidden_size + self.intermediate_size + 2 * self.q_size() + self.before_head_norms()
    }

    /// The input embeddings.
    pub fn embed_tokens(&self) -> WeightSpec {
        WeightSpec::matrix(EMBED_TOKENS, [self.vocab_size, self.hidden_size], Group::Embedding)
    }

    /// The weight of the last norm.
    pub fn final_norm(&self) -> WeightSpec {
        WeightSpec::norm("model.norm.weight", self.hidden_size, Group::Decoder)
    }

    /// The output head, unless the embeddings are that too.
    pub fn lm_head(&self) -> Option<WeightSpec> {
        let shape = [self.vocab_size, self.hidden_size];
        (!self.tie_word_embeddings).then(|| WeightSpec::matrix(LM_HEAD, shape, Group::Decoder))
    }

    /// Every tensor of the weights file, in the order of the computation.
    pub fn weights(&self) -> Vec<WeightSpec> {
        let block = self.block();
        let layers = (0..self.num_hidden_layers).flat_map(|layer| {
            block.parts().flat_map(move |part| match part {
                BlockPart::Norm(norm) => [Some(norm.weight(layer)), None],
                BlockPart::Projection(p) => [Some(p.weight(layer)), p.bias(layer)],
            })
        });
        let ends = [Some(self.final_norm()), self.lm_head()];
        [Some(self.embed_tokens())].into_iter().chain(layers).chain(ends).flatten().collect()
    }

    /// Number of weights.
    pub fn num_parameters(&self) -> u64 {
        self.weights().iter().map(|w| w.shape.iter().map(|&n| n as u64).product::<u64>()).sum()
    }
}
