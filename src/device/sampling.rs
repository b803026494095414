//! The output head with a draw: the next token, and the event that it is a given one.

use super::draw::Draw;
use super::memory::MemoryOps;
use super::shape::{TensorInfo, check, check_below, check_len};
use crate::{Error, Result};

/// How a token is chosen from its logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenChoice {
    /// Softmax temperature; 0 takes the arg max.
    pub temperature: f32,
    /// Nucleus mass kept, in (0, 1]; 1 keeps everything.
    pub top_p: f32,
    /// Source of the uniform number.
    pub draw: Draw,
}

/// Draws from the output head's distribution.
///
/// `B` is a number of sequences, `H` the hidden size, `V` the vocabulary; the output matrix `w` is `[V, H]`.
pub trait SamplingOps: MemoryOps {
    /// Chooses one token a row of `h[B,H]` from the logits `h·wᵀ`; `bias` is added to one token's
    /// logit in every row.
    ///
    /// # Errors
    /// [`Error::Logits`] where a logit is NaN or infinite; shapes that do not fit.
    fn choose_tokens(
        &self,
        h: &Self::Tensor,
        w: &Self::Tensor,
        choices: &[TokenChoice],
        bias: Option<(u32, f32)>,
    ) -> Result<Vec<u32>>;
    /// Draws, per row of `h[B,H]`, only the event "the token is `token`" (spec section 5, 2), with
    /// the same distribution as [`choose_tokens`](SamplingOps::choose_tokens) at top-p 1. The scan of the
    /// vocabulary stops as soon as the event is decided.
    fn token_event(
        &self,
        h: &Self::Tensor,
        w: &Self::Tensor,
        token: u32,
        choices: &[TokenChoice],
        bias: f32,
    ) -> Result<Vec<bool>>;
    /// Bytes that [`choose_tokens`](SamplingOps::choose_tokens) takes for logits, over `rows` rows and `vocab` tokens.
    fn choose_tokens_bytes(&self, rows: usize, vocab: usize) -> usize;
}

/// Stands in the place of a token where the logits are not finite.
pub(crate) const NO_TOKEN: u32 = u32::MAX;

/// The tokens of [`SamplingOps::choose_tokens`], if there is one for every row; `first` is the number of the first row.
pub(crate) fn chosen(first: usize, tokens: &[u32]) -> Result<()> {
    match tokens.iter().position(|&token| token == NO_TOKEN) {
        Some(row) => Err(Error::Logits { row: first + row }),
        None => Ok(()),
    }
}

/// An output head whose operands fit together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SamplingShape {
    /// The operation, for errors that follow.
    pub op: &'static str,
    pub rows: usize,
    pub hidden: usize,
    pub vocab: usize,
}

fn check_head<T: TensorInfo>(op: &'static str, h: &T, w: &T, choices: usize) -> Result<SamplingShape> {
    let (rows, hidden, vocab) = (h.rows(), h.cols(), w.rows());
    check(op, "w", w, vocab, hidden)?;
    check_len(op, "choices", choices, rows)?;
    Ok(SamplingShape { op, rows, hidden, vocab })
}

pub(crate) fn check_choose_tokens<T: TensorInfo>(
    h: &T,
    w: &T,
    choices: &[TokenChoice],
    bias: Option<(u32, f32)>,
) -> Result<SamplingShape> {
    let head = check_head("choose_tokens", h, w, choices.len())?;
    check_below(head.op, "bias token", bias.map(|b| b.0).as_slice(), head.vocab)?;
    if head.vocab == 0 {
        return Err(Error::Shape { op: head.op, what: "there is no token to choose from".into() });
    }
    Ok(head)
}

pub(crate) fn check_token_event<T: TensorInfo>(
    h: &T,
    w: &T,
    token: u32,
    choices: &[TokenChoice],
) -> Result<SamplingShape> {
    let head = check_head("token_event", h, w, choices.len())?;
    check_below(head.op, "token", &[token], head.vocab)?;
    Ok(head)
}
