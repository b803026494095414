//! The output head with cross-entropy, in chunks of rows.

use super::buffer::CpuTensor;
use super::mat::Mat;
use super::math::{exp_in_place, log_sum_exp};
use super::matmul::{matmul_nn, matmul_nt, matmul_tn};
use super::par::{self, SharedMut};
use super::policy::{Policy, policy};
use super::{CpuDevice, CpuIndex};
use crate::Result;
use crate::device::cross_entropy::{
    CrossEntropyGrads, CrossEntropyOps, CrossEntropyShape, Upstream, check_cross_entropy,
};

/// Floats of logits that a chunk of rows may take: 16 MiB.
const CHUNK_FLOATS: usize = 4 << 20;

impl CrossEntropyOps for CpuDevice {
    fn cross_entropy(
        &self,
        h: &CpuTensor,
        w: &CpuTensor,
        ids: &CpuIndex,
        offsets: &CpuIndex,
        loss: &mut CpuTensor,
        grads: Option<CrossEntropyGrads<'_, Self>>,
    ) -> Result<()> {
        let CrossEntropyShape { op, hidden, vocab, .. } =
            check_cross_entropy(h, w, ids, offsets, loss, grads.as_ref())?;
        let grads = match grads {
            Some(g) => Some(Grads {
                upstream: match &g.upstream {
                    Upstream::Scale(scale) => Factor::Scale(scale.f32(op)?),
                    Upstream::Policy(terms) => Factor::Policy(policy(op, terms)?),
                },
                dh: g.dh.f32_mut(op)?,
                dw: g.dw.map(|dw| dw.f32_mut(op)).transpose()?,
            }),
            None => None,
        };
        cross_entropy(hidden, vocab, h.f32(op)?, w.mat(), ids, offsets, loss.f32_mut(op)?, grads);
        Ok(())
    }

    fn cross_entropy_bytes(&self, rows: usize, vocab: usize) -> usize {
        chunk_rows(rows, vocab) * vocab * size_of::<f32>()
    }
}

/// Rows of a chunk.
fn chunk_rows(rows: usize, vocab: usize) -> usize {
    (CHUNK_FLOATS / vocab.max(1)).clamp(1, rows.max(1))
}

/// The gradients that reach the rows' losses.
enum Factor<'a> {
    /// `[N]`
    Scale(&'a [f32]),
    /// `[N]` elements.
    Policy(Policy<'a>),
}

impl Factor<'_> {
    /// The gradient that reaches the loss of a row.
    fn at(&self, row: usize, loss: f32) -> f32 {
        match self {
            Factor::Scale(scale) => scale[row],
            Factor::Policy(policy) => -policy.gradient(row, -loss),
        }
    }
}

/// Gradients of the cross-entropy.
struct Grads<'a> {
    upstream: Factor<'a>,
    /// `[N,H]`, overwritten.
    dh: &'a mut [f32],
    /// `[V,H]`, added to.
    dw: Option<&'a mut [f32]>,
}

/// See [`CrossEntropyOps::cross_entropy`].
#[allow(clippy::too_many_arguments)]
fn cross_entropy(
    hidden: usize,
    vocab: usize,
    h: &[f32],
    w: Mat<'_>,
    ids: &[u32],
    offsets: &[u32],
    loss: &mut [f32],
    mut grads: Option<Grads<'_>>,
) {
    let rows = loss.len();
    let chunk = chunk_rows(rows, vocab);
    let mut logits = vec![0.0; chunk * vocab];
    for start in (0..rows).step_by(chunk) {
        let end = (start + chunk).min(rows);
        let n = end - start;
        let h = &h[start * hidden..end * hidden];
        let logits = &mut logits[..n * vocab];
        matmul_nt(n, vocab, hidden, 1.0, h, w, 0.0, logits);
        let upstream = grads.as_ref().map(|g| &g.upstream);
        let loss = SharedMut::new(&mut loss[start..end]);
        par::split_rows(logits, vocab, 1, |first, block| {
            for (i, logits) in block.chunks_exact_mut(vocab).enumerate() {
                let r = first + i;
                let label = &ids[offsets[start + r] as usize..offsets[start + r + 1] as usize];
                let share = 1.0 / label.len() as f32;
                let lse = log_sum_exp(logits);
                let mean = label.iter().map(|&t| logits[t as usize] * share).sum::<f32>();
                // SAFETY: row r belongs to this task alone.
                let own = unsafe { loss.slice(r..r + 1) };
                own[0] = lse - mean;
                if let Some(upstream) = upstream {
                    let scale = upstream.at(start + r, own[0]);
                    exp_in_place(logits, lse, scale);
                    for &t in label {
                        logits[t as usize] -= scale * share;
                    }
                }
            }
        });
        if let Some(g) = &mut grads {
            matmul_nn(n, vocab, hidden, 1.0, logits, w, 0.0, &mut g.dh[start * hidden..end * hidden]);
            if let Some(dw) = &mut g.dw {
                matmul_tn(n, vocab, hidden, 1.0, logits, h, 1.0, dw);
            }
        }
    }
}
