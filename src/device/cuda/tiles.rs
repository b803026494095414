//! The launches of attention's kernels: which heads they take, and the cut of spans into tiles.

use super::count32;
use crate::device::Dtype;
use crate::device::attention::{HeadShape, Span};
use crate::{Error, Result};

/// Widest head. `MAX_DIM` of the kernels.
const MAX_DIM: usize = 128;

/// Fails for heads that are wider than any kernel takes.
pub(super) fn check_head_dim(op: &'static str, head_dim: usize) -> Result<()> {
    if head_dim <= MAX_DIM {
        return Ok(());
    }
    Err(Error::Shape { op, what: format!("heads of width {head_dim}, the widest are {MAX_DIM}") })
}

/// Whether heads of this shape are for the tensor cores: `cuda/flash.cu` and `cuda/flash_backward.cu`.
pub(super) fn on_tensor_cores(dtype: Dtype, shape: HeadShape) -> bool {
    let dim = shape.head_dim;
    dtype == Dtype::Bf16 && dim.is_multiple_of(16) && (32..=MAX_DIM).contains(&dim)
}

/// The side that is cut into tiles.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Side {
    /// Pairs of a query and a head.
    Pairs,
    /// Keys.
    Keys,
}

/// Tiles of `own` rows, five words a tile as `Tile` of the kernels reads them, those with the most work first.
pub(super) fn plan(
    op: &'static str,
    side: Side,
    own: usize,
    group: usize,
    spans: &[Span],
) -> Result<Vec<u32>> {
    let mut tiles = Vec::new();
    for s in spans {
        let rows = if side == Side::Keys { s.k_len } else { s.q_len * group };
        for first in (0..rows).step_by(own) {
            let work = match side {
                Side::Pairs => s.sees((first + own).min(rows).div_ceil(group) - 1),
                Side::Keys => s.q_len - first.saturating_sub(s.k_len - s.q_len),
            };
            tiles.push((work, [s.q_start, s.q_len, s.k_start, s.k_len, first]));
        }
    }
    tiles.sort_by_key(|&(work, _)| std::cmp::Reverse(work));
    tiles.into_iter().flat_map(|(_, words)| words).map(|x| count32(op, x)).collect()
}
