//! The operands of a forward pass.

use super::columns::{Columns, ColumnsMut};
use crate::device::attention::HeadShape;
use crate::device::cpu::par::SharedMut;

/// The operands that all tasks of a forward pass share.
pub(super) struct Forward<'a> {
    pub(super) shape: HeadShape,
    pub(super) scale: f32,
    pub(super) q: Columns<'a>,
    pub(super) k: Columns<'a>,
    pub(super) v: Columns<'a>,
    pub(super) out: ColumnsMut<'a>,
    /// `[rows of q, heads]`
    pub(super) lse: Option<SharedMut<'a, f32>>,
}

impl Forward<'_> {
    /// Writes a row's log-sum-exp where it is wanted.
    pub(super) fn set_lse(&self, row: usize, head: usize, value: f32) {
        if let Some(lse) = &self.lse {
            let at = row * self.shape.heads + head;
            // SAFETY: the task that owns (row, head) of the output owns this element too.
            unsafe { lse.slice(at..at + 1)[0] = value };
        }
    }
}
