//! The output head with cross-entropy.

use super::memory::MemoryOps;
use super::policy::{PolicyTerms, check_policy};
use super::shape::{Checked, TensorInfo, check, check_below, check_offsets};
use crate::{Error, Result};

/// Gradients that [`CrossEntropyOps::cross_entropy`] writes.
pub struct CrossEntropyGrads<'a, D: MemoryOps> {
    /// The gradient that reaches each row's loss.
    pub upstream: Upstream<'a, D>,
    /// `[N,H]`: gradient of the hidden states, overwritten.
    pub dh: &'a mut D::Tensor,
    /// `[V,H]`: gradient of the output matrix, added to; `None` where it is frozen.
    pub dw: Option<&'a mut D::Tensor>,
}

/// The objective that the rows' losses of [`CrossEntropyOps::cross_entropy`] enter.
pub enum Upstream<'a, D: MemoryOps> {
    /// A weighted sum: `[N,1]`, a factor a row.
    Scale(&'a D::Tensor),
    /// The policy objective on the log-probabilities of sampled labels.
    Policy(PolicyTerms<'a, D>),
}

/// Cross-entropy of the output head.
///
/// `N` is a number of selected rows, `H` the hidden size, `V` the vocabulary.
pub trait CrossEntropyOps: MemoryOps {
    /// Output head with cross-entropy, in chunks, so that no `[N, V]` matrix ever exists.
    ///
    /// The label of row `n` is uniform over `ids[offsets[n] .. offsets[n+1]]`: one id for a sampled
    /// label, the whole chunk for the mean form (spec section 3). `loss[n,0]` receives
    /// `logsumexp − mean(label logits)`: of a sampled label, its negative log-probability. `dh` is
    /// overwritten, `dw` added to.
    #[allow(clippy::too_many_arguments)]
    fn cross_entropy(
        &self,
        h: &Self::Tensor,
        w: &Self::Tensor,
        ids: &Self::Index,
        offsets: &Self::Index,
        loss: &mut Self::Tensor,
        grads: Option<CrossEntropyGrads<'_, Self>>,
    ) -> Result<()>;
    /// Bytes that [`cross_entropy`](CrossEntropyOps::cross_entropy) with gradients takes for the logits of its chunks
    /// and their gradient, over `rows` rows and `vocab` tokens.
    fn cross_entropy_bytes(&self, rows: usize, vocab: usize) -> usize;
}

/// An output head whose operands fit together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CrossEntropyShape {
    /// The operation, for errors that follow.
    pub op: &'static str,
    pub rows: usize,
    pub hidden: usize,
    pub vocab: usize,
}

pub(crate) fn check_cross_entropy<D: MemoryOps>(
    h: &D::Tensor,
    w: &D::Tensor,
    ids: &[u32],
    offsets: &[u32],
    loss: &D::Tensor,
    grads: Option<&CrossEntropyGrads<'_, D>>,
) -> Result<CrossEntropyShape> {
    let states = Checked::of("cross_entropy", h);
    let Checked { op, rows, cols: hidden } = states;
    let vocab = w.rows();
    check(op, "w", w, vocab.max(1), hidden)?;
    states.per_row("loss", loss, 1)?;
    check_offsets(op, offsets, rows, ids.len())?;
    check_below(op, "ids", ids, vocab)?;
    if offsets.windows(2).any(|w| w[0] == w[1]) {
        return Err(Error::Shape { op, what: "a row has no label".into() });
    }
    if let Some(grads) = grads {
        match &grads.upstream {
            Upstream::Scale(scale) => states.per_row("scale", *scale, 1)?,
            Upstream::Policy(terms) => check_policy(states, terms)?,
        }
        states.same("dh", grads.dh)?;
        grads.dw.as_deref().map_or(Ok(()), |dw| check(op, "dw", dw, vocab, hidden))?;
    }
    Ok(CrossEntropyShape { op, rows, hidden, vocab })
}
