//! The output head with cross-entropy.

use colar_engine::Result;
use colar_engine::device::CrossEntropyGrads;
use colar_engine::device::prelude::*;

use super::matmul::matmul_nt;
use super::{Float64, Float64Tensor, forward_only};

impl CrossEntropyOps for Float64 {
    fn cross_entropy(
        &self,
        h: &Float64Tensor,
        w: &Float64Tensor,
        ids: &Vec<u32>,
        offsets: &Vec<u32>,
        loss: &mut Float64Tensor,
        grads: Option<CrossEntropyGrads<'_, Self>>,
    ) -> Result<()> {
        forward_only("cross_entropy", grads)?;
        cross_entropy(h, w, ids, offsets, loss);
        Ok(())
    }

    fn cross_entropy_bytes(&self, rows: usize, vocab: usize) -> usize {
        rows * vocab * size_of::<f64>()
    }
}

/// `loss[n] = logsumexp − mean(label logits)` of the logits `h·wᵀ`.
fn cross_entropy(
    h: &Float64Tensor,
    w: &Float64Tensor,
    ids: &[u32],
    offsets: &[u32],
    loss: &mut Float64Tensor,
) {
    assert_eq!((loss.rows, loss.cols, offsets.len()), (h.rows, 1, h.rows + 1));
    let mut logits = Float64Tensor::poisoned(h.rows, w.rows);
    matmul_nt(1.0, h, w, 0.0, &mut logits);
    for (n, loss) in loss.values.iter_mut().enumerate() {
        let logits = logits.row(n);
        let label = &ids[offsets[n] as usize..offsets[n + 1] as usize];
        let largest = logits.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x));
        let sum = logits.iter().map(|x| (x - largest).exp()).sum::<f64>();
        let mean = label.iter().map(|&t| logits[t as usize]).sum::<f64>() / label.len() as f64;
        *loss = largest + sum.ln() - mean;
    }
}
