//! The decoder: Llama and Qwen2 blocks over packed sequences, forward and backward.
//!
//! Rows of different sequences stand end to end, with no padding; [`Span`]s keep their attention
//! apart. A block is
//!
//! ```text
//! n1 = RMSNorm(x)         q, k, v = n1·Wq, n1·Wk, n1·Wv (+ bias)      q, k = rotary(q), rotary(k)
//! x' = x + attention(q, k, v)·Wo
//! n2 = RMSNorm(x')        x'' = x' + (silu(n2·Wgate) · (n2·Wup))·Wdown
//! ```
//!
//! The residual stream is kept at both norms, so a backward pass recomputes only what is cheap: the
//! inverse root mean squares, the attention probabilities (from their log-sum-exp) and SwiGLU. With
//! [`Transformer::recompute`] only the stream that enters a block is kept, and the block is run again.

use super::config::ModelConfig;
use super::kv_cache::{Extension, KvCache};
use super::layout::{Layout, SharedKeys};
use super::linear::{Linear, LinearSaved};
use super::params::{Grads, ParamId, Params};
use super::weights::{MappedTensor, Weights};
use crate::device::{Device, HeadShape, Span, TensorInfo};
use crate::{Error, Result};

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

/// What a layer leaves for its backward pass.
enum Kept<D: Device> {
    /// All that it needs.
    All(LayerSaved<D>),
    /// The stream that entered the layer.
    Input(D::Tensor),
}

struct LayerSaved<D: Device> {
    stream1: D::Tensor,
    n1: D::Tensor,
    q: D::Tensor,
    /// Keys and values as attention took them.
    k: D::Tensor,
    v: D::Tensor,
    attn: D::Tensor,
    lse: D::Tensor,
    n2: D::Tensor,
    gate: D::Tensor,
    up: D::Tensor,
    /// SwiGLU's output, kept only where the down projection is trained.
    act: Option<D::Tensor>,
    /// Adapter products of q, k, v, o, gate, up and down.
    low: [LinearSaved<D>; 7],
}

/// What [`Transformer::backward`] needs of a forward pass. Memory: per layer about
/// `T · (7·H + 2·kv_width + 2·I)` floats, or `T · H` where layers are [recomputed](Transformer::recompute).
pub struct ForwardSaved<D: Device> {
    layers: Vec<Kept<D>>,
    /// The stream between attention and MLP of each layer of which all is kept.
    stream2: Vec<D::Tensor>,
    /// The stream that enters the last norm.
    stream: D::Tensor,
}

enum KvTarget<'a, D: Device> {
    Fresh { shared: Option<&'a SharedKeys<D>> },
    Cache { cache: &'a mut KvCache<D>, rows: &'a D::Index },
}

/// A layer as far as its last product: what that multiplies, and what it is added to.
struct BeforeDown<D: Device> {
    stream2: D::Tensor,
    act: D::Tensor,
    /// What a backward pass needs, but for the last product's part; `None` with a cache.
    saved: Option<LayerSaved<D>>,
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

    /// Runs whole sequences: input embeddings `x[T, H]` to the final hidden states `[T, H]` (after the
    /// last RMSNorm), with what a backward pass needs.
    ///
    /// # Errors
    /// Shape mismatches and what the device says.
    pub fn forward(
        &self,
        device: &D,
        params: &Params<D>,
        x: D::Tensor,
        layout: &Layout<D>,
        grads: Option<&Grads<D>>,
    ) -> Result<(D::Tensor, Option<ForwardSaved<D>>)> {
        let target = KvTarget::Fresh { shared: layout.shared.as_ref() };
        self.run(device, params, x, &layout.positions, &layout.spans, target, grads)
    }

    /// Runs new positions of cached sequences, in the order in which they were given to
    /// [`KvCache::extend`]; returns their final hidden states.
    ///
    /// # Errors
    /// Shape mismatches and what the device says.
    pub fn forward_cached(
        &self,
        device: &D,
        params: &Params<D>,
        x: D::Tensor,
        extension: &Extension,
        cache: &mut KvCache<D>,
    ) -> Result<D::Tensor> {
        let positions = device.index(&extension.positions)?;
        let rows = device.index(&extension.rows)?;
        let target = KvTarget::Cache { cache, rows: &rows };
        Ok(self.run(device, params, x, &positions, &extension.spans, target, None)?.0)
    }

    #[allow(clippy::too_many_arguments)]
    fn run(
        &self,
        device: &D,
        params: &Params<D>,
        x: D::Tensor,
        positions: &D::Index,
        spans: &[Span],
        mut target: KvTarget<'_, D>,
        grads: Option<&Grads<D>>,
    ) -> Result<(D::Tensor, Option<ForwardSaved<D>>)> {
        let eps = self.config.rms_norm_eps;
        let (mut saved, mut streams2) = (Vec::new(), Vec::new());
        // The stream before a layer, and what the layer before it adds.
        let (mut stream, mut delta): (D::Tensor, Option<D::Tensor>) = (x, None);
        for (i, layer) in self.layers.iter().enumerate() {
            let Normalised { stream: stream1, norm: n1, before } =
                normalise(device, stream, delta, params.get(layer.input_norm), eps)?;
            if grads.is_some() && !self.recompute {
                streams2.extend(before);
            }
            let pass = self.before_down(
                device,
                params,
                i,
                stream1,
                n1,
                positions,
                spans,
                &mut target,
                grads.is_some(),
            )?;
            let (down, down_low) = layer.down.forward(device, params, &pass.act)?;
            if let (Some(grads), Some(mut all)) = (grads, pass.saved) {
                saved.push(if self.recompute {
                    Kept::Input(all.stream1)
                } else {
                    all.keep_down(layer, grads, pass.act, down_low);
                    Kept::All(all)
                });
            }
            (stream, delta) = (pass.stream2, Some(down));
        }
        let Normalised { stream, norm: hidden, before } =
            normalise(device, stream, delta, params.get(self.norm), eps)?;
        if !self.recompute {
            streams2.extend(before);
        }
        Ok((hidden, grads.map(|_| ForwardSaved { layers: saved, stream2: streams2, stream })))
    }

    /// Runs layer `i` from its input, normalised in `n1`, as far as its last product. Where gradients follow, what
    /// they need is the same whether it is kept or computed again.
    #[allow(clippy::too_many_arguments)]
    fn before_down(
        &self,
        device: &D,
        params: &Params<D>,
        i: usize,
        stream1: D::Tensor,
        n1: D::Tensor,
        positions: &D::Index,
        spans: &[Span],
        target: &mut KvTarget<'_, D>,
        with_grads: bool,
    ) -> Result<BeforeDown<D>> {
        let (eps, heads, layer) = (self.config.rms_norm_eps, self.heads(), &self.layers[i]);
        let (t, h) = (stream1.rows(), stream1.cols());
        let mut attn = device.empty(t, heads.q_width())?;
        let mut lse = if with_grads { Some(device.zeros(t, heads.heads)?) } else { None };
        let projected = match target {
            KvTarget::Fresh { shared } => {
                let (mut q, q_low) = layer.q.forward(device, params, &n1)?;
                let (mut k, k_low) = layer.k.forward(device, params, &n1)?;
                let (mut v, v_low) = layer.v.forward(device, params, &n1)?;
                device.rotary(&mut q, positions, &self.inv_freq, 1.0)?;
                device.rotary(&mut k, positions, &self.inv_freq, 1.0)?;
                if let Some(shared) = shared {
                    (k, v) = (shared.spread(device, &k)?, shared.spread(device, &v)?);
                }
                device.attention(heads, spans, &q, &k, &v, &mut attn, lse.as_mut())?;
                Some((q, k, v, [q_low, k_low, v_low]))
            }
            KvTarget::Cache { cache, rows } => {
                let (mut q, q_bias) = layer.q.forward_but_bias(device, params, &n1)?;
                let (mut k, k_bias) = layer.k.forward_but_bias(device, params, &n1)?;
                let (mut v, v_bias) = layer.v.forward_but_bias(device, params, &n1)?;
                let (keys, values) = (&mut cache.keys[i], &mut cache.values[i]);
                let (qkv, biases) = ([&mut q, &mut k, &mut v], [q_bias, k_bias, v_bias]);
                device.rotary_append(qkv, biases, positions, &self.inv_freq, rows, [keys, values])?;
                device.attention(heads, spans, &q, &cache.keys[i], &cache.values[i], &mut attn, None)?;
                None
            }
        };
        let (o, o_low) = layer.o.forward(device, params, &attn)?;
        let mut stream2 = device.empty(t, h)?;
        let mut n2 = device.empty(t, h)?;
        device.add_rms_norm(&stream1, &o, params.get(layer.post_norm), eps, &mut stream2, &mut n2)?;
        let (gate, gate_low) = layer.gate.forward(device, params, &n2)?;
        let (up, up_low) = layer.up.forward(device, params, &n2)?;
        let mut act = device.empty(t, self.config.intermediate_size)?;
        device.swiglu(&gate, &up, &mut act)?;
        let saved = match (lse, projected) {
            (Some(lse), Some((q, k, v, [q_low, k_low, v_low]))) => {
                let low = [q_low, k_low, v_low, o_low, gate_low, up_low, None];
                Some(LayerSaved { stream1, n1, q, k, v, attn, lse, n2, gate, up, act: None, low })
            }
            _ => None,
        };
        Ok(BeforeDown { stream2, act, saved })
    }

    /// What layer `i` would have kept, computed again from its input, with the stream between attention and MLP.
    fn again(
        &self,
        device: &D,
        params: &Params<D>,
        grads: &Grads<D>,
        i: usize,
        input: D::Tensor,
        layout: &Layout<D>,
    ) -> Result<(LayerSaved<D>, D::Tensor)> {
        let layer = &self.layers[i];
        let input_norm = params.get(layer.input_norm);
        let Normalised { stream, norm, .. } =
            normalise(device, input, None, input_norm, self.config.rms_norm_eps)?;
        let mut target = KvTarget::Fresh { shared: layout.shared.as_ref() };
        let (positions, spans) = (&layout.positions, &layout.spans);
        let pass = self.before_down(device, params, i, stream, norm, positions, spans, &mut target, true)?;
        let Some(mut saved) = pass.saved else {
            return Err(Error::other("a layer kept nothing to go back by"));
        };
        let low = layer.down.low(device, params, &pass.act)?;
        saved.keep_down(layer, grads, pass.act, low);
        Ok((saved, pass.stream2))
    }

    /// Adds to the gradients of the trained weights, given that of the final hidden states
    /// (`dhidden[T, H]`). Returns the gradient of the input embeddings `[T, H]` where `want_input`.
    ///
    /// # Errors
    /// Shape mismatches and what the device says.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        device: &D,
        params: &Params<D>,
        grads: &mut Grads<D>,
        mut saved: ForwardSaved<D>,
        dhidden: &D::Tensor,
        layout: &Layout<D>,
        want_input: bool,
    ) -> Result<Option<D::Tensor>> {
        let eps = self.config.rms_norm_eps;
        let (t, h) = (dhidden.rows(), dhidden.cols());
        // The gradient of the residual stream, carried down through the layers.
        let mut d = device.cleared(t, h)?;
        let norm = params.get(self.norm);
        device.rms_norm_backward(dhidden, &saved.stream, norm, eps, &mut d, grads.get_mut(self.norm))?;
        // Below the lowest layer with a trained weight there is nothing to compute.
        let lowest =
            if want_input { 0 } else { self.layers.iter().take_while(|l| !l.trained(grads)).count() };
        while let (Some(kept), i) = (saved.layers.pop(), saved.layers.len())
            && i >= lowest
        {
            let (s, stream2) = match kept {
                Kept::Input(input) => self.again(device, params, grads, i, input, layout)?,
                Kept::All(s) => match saved.stream2.pop() {
                    Some(stream2) => (s, stream2),
                    None => return Err(Error::other("a layer kept nothing to go back by")),
                },
            };
            let (layer, below) = (&self.layers[i], want_input || i > lowest);
            self.backward_layer(device, params, grads, layer, s, &stream2, layout, &mut d, below)?;
        }
        Ok(want_input.then_some(d))
    }

    /// Takes `d`, the gradient of the stream after a layer, to that before it; where nothing below
    /// is wanted, `d` is left somewhere between.
    #[allow(clippy::too_many_arguments)]
    fn backward_layer(
        &self,
        device: &D,
        params: &Params<D>,
        grads: &mut Grads<D>,
        layer: &Layer,
        s: LayerSaved<D>,
        stream2: &D::Tensor,
        layout: &Layout<D>,
        d: &mut D::Tensor,
        below: bool,
    ) -> Result<()> {
        let (eps, heads) = (self.config.rms_norm_eps, self.heads());
        let (t, h) = (d.rows(), d.cols());
        let LayerSaved { stream1, n1, q, k, v, attn, lse, n2, mut gate, mut up, act, low } = s;
        let [q_low, k_low, v_low, o_low, gate_low, up_low, down_low] = low;

        let mut dact = device.empty(t, self.config.intermediate_size)?;
        let act = act.as_ref().unwrap_or(&gate); // read only where down is trained, and then kept
        layer.down.backward(device, params, grads, act, &down_low, d, Some((&mut dact, 0.0)))?;
        device.swiglu_backward(&dact, &mut gate, &mut up)?;
        let mut dn = device.empty(t, h)?;
        layer.gate.backward(device, params, grads, &n2, &gate_low, &gate, Some((&mut dn, 0.0)))?;
        layer.up.backward(device, params, grads, &n2, &up_low, &up, Some((&mut dn, 1.0)))?;
        let post_norm = params.get(layer.post_norm);
        device.rms_norm_backward(&dn, stream2, post_norm, eps, d, grads.get_mut(layer.post_norm))?;

        let mut dattn = device.empty(t, heads.q_width())?;
        layer.o.backward(device, params, grads, &attn, &o_low, d, Some((&mut dattn, 0.0)))?;
        let mut dq = device.empty(t, heads.q_width())?;
        let mut dk = device.empty(k.rows(), heads.kv_width())?;
        let mut dv = device.empty(k.rows(), heads.kv_width())?;
        device.attention_backward(
            heads,
            &layout.spans,
            &q,
            &k,
            &v,
            &attn,
            &lse,
            &dattn,
            &mut dq,
            &mut dk,
            &mut dv,
        )?;
        if let Some(shared) = &layout.shared {
            (dk, dv) = (shared.collect(device, &dk, t)?, shared.collect(device, &dv, t)?);
        }
        device.rotary(&mut dq, &layout.positions, &self.inv_freq, -1.0)?;
        device.rotary(&mut dk, &layout.positions, &self.inv_freq, -1.0)?;
        let input = below || grads.trains(layer.input_norm);
        for (linear, low, dy, beta) in
            [(&layer.q, &q_low, &dq, 0.0), (&layer.k, &k_low, &dk, 1.0), (&layer.v, &v_low, &dv, 1.0)]
        {
            let dx = if input { Some((&mut dn, beta)) } else { None };
            linear.backward(device, params, grads, &n1, low, dy, dx)?;
        }
        if input {
            let input_norm = params.get(layer.input_norm);
            device.rms_norm_backward(&dn, &stream1, input_norm, eps, d, grads.get_mut(layer.input_norm))?;
        }
        Ok(())
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

impl<D: Device> LayerSaved<D> {
    /// Adds what the backward pass of the down projection needs.
    fn keep_down(&mut self, layer: &Layer, grads: &Grads<D>, act: D::Tensor, low: LinearSaved<D>) {
        self.act = layer.down.trained(grads).then_some(act);
        self.low[6] = low;
    }
}

/// What [`normalise`] returns.
struct Normalised<D: Device> {
    /// The stream that was normalised.
    stream: D::Tensor,
    /// Its norm.
    norm: D::Tensor,
    /// The stream before the addition, where there was one.
    before: Option<D::Tensor>,
}

/// Adds `delta` to the stream, if there is one, and normalises.
fn normalise<D: Device>(
    device: &D,
    stream: D::Tensor,
    delta: Option<D::Tensor>,
    w: &D::Tensor,
    eps: f32,
) -> Result<Normalised<D>> {
    let mut norm = device.empty(stream.rows(), stream.cols())?;
    let Some(delta) = delta else {
        device.rms_norm(&stream, w, eps, &mut norm)?;
        return Ok(Normalised { stream, norm, before: None });
    };
    let mut sum = device.empty(stream.rows(), stream.cols())?;
    device.add_rms_norm(&stream, &delta, w, eps, &mut sum, &mut norm)?;
    Ok(Normalised { stream: sum, norm, before: Some(stream) })
}
