//! The one check that buffers pass when they enter an operation.

use super::TensorInfo;
use crate::{Error, Result};

/// Fails unless `t` has the shape `[rows, cols]`.
pub(crate) fn check(
    op: &'static str,
    name: &str,
    t: &impl TensorInfo,
    rows: usize,
    cols: usize,
) -> Result<()> {
    if t.rows() == rows && t.cols() == cols {
        return Ok(());
    }
    Err(Error::Shape { op, what: format!("{name} is [{}, {}], needs [{rows}, {cols}]", t.rows(), t.cols()) })
}

/// Fails unless a vector has `needed` entries.
pub(crate) fn check_len(op: &'static str, name: &str, len: usize, needed: usize) -> Result<()> {
    if len == needed {
        return Ok(());
    }
    Err(Error::Shape { op, what: format!("{name} has {len} entries, needs {needed}") })
}
