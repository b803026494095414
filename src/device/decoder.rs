//! Decoding as one operation: a device may run whole steps, and all latents of a sequence, without coming back
//! between the parts of a layer.
//!
//! [`DecoderOps::decoder`] gives such a decoder for a model where the device has one. It does what the model's layers
//! do one by one (`src/model/transformer.rs`, `src/model/latent_head.rs`), on the same cache, and draws the same
//! numbers of a seed; results agree up to rounding.

use super::attention::HeadShape;
use super::block::Block;
use super::memory::MemoryOps;
use super::sampling::TokenChoice;
use crate::Result;

/// A linear layer of a block.
pub struct Projection<'a, D: MemoryOps> {
    /// `[out, in]`.
    pub weight: &'a D::Tensor,
    /// `[1, out]`.
    pub bias: Option<&'a D::Tensor>,
}

/// One block's weights.
pub type DecoderLayer<'a, D> = Block<&'a <D as MemoryOps>::Tensor, Projection<'a, D>>;

/// The latent head's weights (spec section 4), all with bias.
pub struct DecoderHead<'a, D: MemoryOps> {
    /// `[I', H]` and bias.
    pub fc0: [&'a D::Tensor; 2],
    /// `[I', I']` and bias.
    pub fc2: [&'a D::Tensor; 2],
    /// LayerNorm's weight and bias.
    pub norm: [&'a D::Tensor; 2],
    /// `[H, I']` and bias.
    pub mean: [&'a D::Tensor; 2],
    /// `[H, I']` and bias; a deterministic head has none.
    pub log_std: Option<[&'a D::Tensor; 2]>,
}

/// A model without adapters, as a decoder takes it.
pub struct DecoderModel<'a, D: MemoryOps> {
    /// Attention's geometry.
    pub heads: HeadShape,
    /// RMSNorm's epsilon.
    pub rms_norm_eps: f32,
    /// Standard deviation of the embeddings: the unit of latents.
    pub embeds_std: f32,
    /// `[V, H]`.
    pub embed: &'a D::Tensor,
    /// `[V, H]`.
    pub lm_head: &'a D::Tensor,
    /// `[1, H]`, the last norm.
    pub norm: &'a D::Tensor,
    /// `[1, head_dim / 2]`.
    pub inv_freq: &'a D::Tensor,
    /// The blocks, first to last.
    pub layers: Vec<DecoderLayer<'a, D>>,
    /// The latent head, if there is one.
    pub head: Option<DecoderHead<'a, D>>,
}

/// Keys and values of all layers, a row a position.
pub struct CacheMut<'a, D: MemoryOps> {
    /// Per layer, `[rows, kv_width]`.
    pub keys: &'a mut [D::Tensor],
    /// Per layer, `[rows, kv_width]`.
    pub values: &'a mut [D::Tensor],
}

/// Where a sequence stands in the cache: rows `first .. first + len` are its positions `0 .. len`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CachedRows {
    /// First row.
    pub first: usize,
    /// Positions held.
    pub len: usize,
}

/// A sequence that draws latents.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatentSequence {
    /// Its place in the cache.
    pub rows: CachedRows,
    /// Philox key: the request's seed.
    pub key: u64,
    /// Latents drawn so far: word 2 of the draws' counters.
    pub drawn: usize,
    /// Latents after which it ends whatever is drawn; above `drawn`.
    pub limit: usize,
    /// Factor on the latents' standard deviation; 0 takes the mean.
    pub latent_temperature: f32,
    /// Temperature of the draw that ends the latents; 0 takes the likeliest.
    pub eol_temperature: f32,
}

/// The rule that ends the latents of a sequence (spec section 5, 2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatentEnd {
    /// The separator.
    pub token: u32,
    /// Added to its logit.
    pub bias: f32,
    /// Word 1 of the counter of a latent's draw.
    pub latent_purpose: u32,
    /// Word 1 of the counter of the event's draw.
    pub event_purpose: u32,
}

/// Draws of [`Decoder::latents`].
pub struct Drawn<D: MemoryOps> {
    /// `[steps · B, H]`, step by step: latents in units of `embeds_std`. Sequences whose latents had ended leave
    /// their rows undefined.
    pub latents: D::Tensor,
    /// `[(steps + 1) · B, H]`: the hidden states before each latent, and after the last; undefined likewise.
    pub hidden: D::Tensor,
    /// Per sequence, latents drawn now.
    pub counts: Vec<usize>,
    /// Per sequence, whether its latents ended.
    pub ended: Vec<bool>,
}

/// Decodes a few sequences of one model.
pub trait Decoder<D: MemoryOps> {
    /// Most sequences of a call; at least 1, and perhaps fewer than were asked for.
    fn max_rows(&self) -> usize;

    /// Draws up to `steps` latents of each sequence, from the hidden states `hidden[B, H]`, until their end. The host
    /// waits once, for all of them.
    ///
    /// # Errors
    /// Shapes that do not fit, and errors of the device.
    fn latents(
        &mut self,
        cache: CacheMut<'_, D>,
        sequences: &[LatentSequence],
        end: LatentEnd,
        steps: usize,
        hidden: &D::Tensor,
    ) -> Result<Drawn<D>>;

    /// Feeds a token to each sequence; returns the hidden states `[B, H]` and the tokens chosen from them.
    ///
    /// # Errors
    /// As [`latents`](Decoder::latents).
    fn tokens(
        &mut self,
        cache: CacheMut<'_, D>,
        fed: &[(CachedRows, u32)],
        choices: &[TokenChoice],
        bias: Option<(u32, f32)>,
    ) -> Result<(D::Tensor, Vec<u32>)>;
}

/// A device's own decoder, where it has one.
pub trait DecoderOps: MemoryOps {
    /// Decodes a few sequences faster than the other families' operations one by one.
    type Decoder<'a>: Decoder<Self>;

    /// A decoder of a model for `rows` sequences, or as many of them as it takes at a time, where the device has one.
    ///
    /// # Errors
    /// Weights that do not fit each other, and errors of the device.
    fn decoder<'a>(&'a self, model: DecoderModel<'a, Self>, rows: usize)
    -> Result<Option<Self::Decoder<'a>>>;

    /// Bytes that a [`decoder`](DecoderOps::decoder) takes, with the results of up to `steps` latents of each
    /// sequence; 0 where there is no decoder.
    fn decoder_bytes(&self, _model: &DecoderModel<'_, Self>, _rows: usize, _steps: usize) -> usize {
        0
    }
}

/// The decoder of a device that has none.
pub enum NoDecoder {}

impl<D: MemoryOps> Decoder<D> for NoDecoder {
    fn max_rows(&self) -> usize {
        match *self {}
    }

    fn latents(
        &mut self,
        _: CacheMut<'_, D>,
        _: &[LatentSequence],
        _: LatentEnd,
        _: usize,
        _: &D::Tensor,
    ) -> Result<Drawn<D>> {
        match *self {}
    }

    fn tokens(
        &mut self,
        _: CacheMut<'_, D>,
        _: &[(CachedRows, u32)],
        _: &[TokenChoice],
        _: Option<(u32, f32)>,
    ) -> Result<(D::Tensor, Vec<u32>)> {
        match *self {}
    }
}
