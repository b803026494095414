//! The words nearest to a latent: the tokens whose input embeddings point its way.

use std::sync::OnceLock;

use super::request::TraceToken;
use crate::Result;
use crate::device::{Device, TensorInfo};
use crate::model::ColarModel;
use crate::model::tokenizer::Tokenizer;

/// Tokens listed for each latent.
const NEAREST: usize = 5;

/// The lengths of all token embeddings, computed when first needed.
#[derive(Default)]
pub(super) struct Nearest {
    inverse_norms: OnceLock<Vec<f32>>,
}

impl Nearest {
    /// The tokens nearest to latent `z[D]` by cosine, nearest first.
    pub(super) fn tokens<D: Device>(
        &self,
        device: &D,
        model: &ColarModel<D>,
        tokenizer: &Tokenizer,
        z: &[f32],
    ) -> Result<Vec<TraceToken>> {
        let table = model.params.get(model.transformer.embed);
        if self.inverse_norms.get().is_none() {
            let values = device.read(table)?;
            let inverse = values.chunks_exact(table.cols()).map(inverse_norm).collect();
            // Another thread may have been first; its result is the same.
            let _ = self.inverse_norms.set(inverse);
        }
        let inverse_norms = self.inverse_norms.get().map_or(&[][..], Vec::as_slice);
        let z_inverse = inverse_norm(z);
        let z = device.upload(1, z.len(), z)?;
        // float32, as the latent just uploaded is.
        let mut products = device.zeros(1, table.rows())?;
        device.matmul_nt(1.0, &z, table, 0.0, &mut products)?;
        let mut scored: Vec<(f32, u32)> = device
            .read(&products)?
            .iter()
            .zip(inverse_norms)
            .zip(0..)
            .map(|((p, n), id)| (p * n * z_inverse, id))
            .collect();
        let most = NEAREST.min(scored.len());
        if most == 0 {
            return Ok(Vec::new());
        }
        let descending = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        scored.select_nth_unstable_by(most - 1, descending);
        scored.truncate(most);
        scored.sort_unstable_by(descending);
        scored
            .into_iter()
            .map(|(cosine, id)| Ok(TraceToken { id, text: tokenizer.decode(&[id], false)?, cosine }))
            .collect()
    }
}

/// A vector that is traced.
pub(super) struct Traced {
    /// The sequence that it is of.
    pub sequence: usize,
    /// The tokens nearest to it.
    pub tokens: Vec<TraceToken>,
    /// The vector as it is fed, `[H]`.
    pub vector: Vec<f32>,
}

/// A latent in the units of input embeddings, as it is fed.
pub(super) fn scaled(z: &[f32], embeds_std: f32) -> Vec<f32> {
    z.iter().map(|z| embeds_std * z).collect()
}

/// The probability of the token `separator` after each hidden state of `h[n, H]`, at temperature 1, with `bias` added to its
/// logit.
pub(super) fn end_probabilities<D: Device>(
    device: &D,
    model: &ColarModel<D>,
    separator: u32,
    h: &D::Tensor,
    bias: f32,
) -> Result<Vec<f32>> {
    let w = model.params.get(model.transformer.lm_head);
    // float32, whatever the hidden states are.
    let (states, vocab) = (device.read(h)?, w.rows());
    let h = device.upload(h.rows(), h.cols(), &states)?;
    let mut logits = device.zeros(h.rows(), vocab)?;
    device.matmul_nt(1.0, &h, w, 0.0, &mut logits)?;
    let logits = device.read(&logits)?;
    let probability = |row: &[f32]| {
        let of = |(id, &x): (usize, &f32)| f64::from(x + if id == separator as usize { bias } else { 0.0 });
        let most = row.iter().enumerate().map(of).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().enumerate().map(|x| (of(x) - most).exp()).sum();
        ((of((separator as usize, &row[separator as usize])) - most).exp() / sum) as f32
    };
    Ok(logits.chunks_exact(vocab).map(probability).collect())
}

/// 1 / |x|, or 0 for a zero vector, whose cosine with anything then counts as 0.
fn inverse_norm(x: &[f32]) -> f32 {
    let norm = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    if norm > 0.0 { (1.0 / norm) as f32 } else { 0.0 }
}
