//! Greedy decoding of one sequence, token by token, the end of sequence ignored.

use std::time::Instant;

use serde::Serialize;

use super::opened::weight_bytes;
use crate::device::decoder::Decoder;
use crate::device::{Device, Draw, TensorInfo, TokenChoice};
use crate::infer::Loaded;
use crate::model::kv_cache::KvCache;
use crate::{Error, Result};

/// Settings of a timed decoding.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodeOptions {
    /// The prompt, continued without a template.
    pub prompt: String,
    /// Tokens to produce, at least 3.
    pub new_tokens: usize,
}

/// Timings of a decoded sequence.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DecodeTiming {
    /// Whether the device's decoder produced the tokens after the first, not its operations one by one.
    pub by_decoder: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens produced.
    pub new_tokens: usize,
    /// Ids of these tokens.
    pub token_ids: Vec<u32>,
    /// Prompt tokens a second; the first token's choice included.
    pub prefill_tokens_per_s: f64,
    /// Tokens a second after the second token: the first decoding step may load code that later ones find loaded.
    pub decode_tokens_per_s: f64,
    /// Bytes of weights read for a token, a tied matrix counted once.
    pub weight_bytes: usize,
    /// Weight bytes times tokens a second, in 1e9 bytes a second.
    pub weight_gb_per_s: f64,
}

/// Times one sequence; `first` runs when its first token is there.
///
/// # Errors
/// An empty prompt, and errors of the device.
pub fn decode<D: Device>(
    loaded: &Loaded<D>,
    options: &DecodeOptions,
    first: &mut (dyn FnMut() + Send),
) -> Result<DecodeTiming> {
    let (device, opened) = (&loaded.device, &loaded.opened);
    let prompt = opened.tokenizer.encode(&options.prompt)?;
    if prompt.is_empty() || options.new_tokens < 3 {
        return Err(Error::usage("the prompt must not be empty, and the new tokens at least 3"));
    }
    device.scope(|| {
        let (transformer, params) = (&opened.model.transformer, &opened.model.params);
        let capacity = prompt.len() + options.new_tokens;
        let mut cache = KvCache::new(device, &transformer.config, 1, capacity)?;
        let greedy = TokenChoice { temperature: 0.0, top_p: 1.0, draw: Draw { key: 0, counter: [0, 0] } };
        let mut token_ids = Vec::with_capacity(options.new_tokens);
        // By the device's decoder where it has one, as generation does.
        let mut decoder = match opened.model.for_decoder() {
            Some(model) => device.decoder(model, 1)?,
            None => None,
        };
        let by_decoder = decoder.is_some();
        let mut step = |ids: &[u32]| -> Result<u32> {
            if let (Some(decoder), &[token], 1..) = (&mut decoder, ids, cache.len(0)) {
                let fed = [(cache.rows(0), token)];
                let (_, chosen) = decoder.tokens(cache.lend(), &fed, &[greedy], None)?;
                cache.grow(0, 1)?;
                return Ok(chosen[0]);
            }
            let table = params.get(transformer.embed);
            let mut x = device.empty(ids.len(), table.cols())?;
            device.gather_rows(1.0, table, &device.index(ids)?, &mut x)?;
            let extension = cache.extend(&[(0, ids.len())])?;
            let h = transformer.forward_cached(device, params, x, &extension, &mut cache)?;
            let mut last = device.empty(1, h.cols())?;
            device.gather_rows(1.0, &h, &device.index(&[ids.len() as u32 - 1])?, &mut last)?;
            let head = params.get(transformer.lm_head);
            Ok(device.choose_tokens(&last, head, &[greedy], None)?[0])
        };
        let start = Instant::now();
        let mut token = step(&prompt)?;
        let prefilled = Instant::now();
        first();
        token_ids.push(token);
        token = step(&[token])?;
        token_ids.push(token);
        let ready = Instant::now();
        for _ in 2..options.new_tokens {
            token = step(&[token])?;
            token_ids.push(token);
        }
        let rate = (options.new_tokens - 2) as f64 / ready.elapsed().as_secs_f64();
        let weight_bytes = weight_bytes(opened, false);
        Ok(DecodeTiming {
            by_decoder,
            prompt_tokens: prompt.len(),
            new_tokens: options.new_tokens,
            token_ids,
            prefill_tokens_per_s: prompt.len() as f64 / (prefilled - start).as_secs_f64(),
            decode_tokens_per_s: rate,
            weight_bytes,
            weight_gb_per_s: weight_bytes as f64 * rate / 1e9,
        })
    })
}
