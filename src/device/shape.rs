//! Shapes and dtypes of matrices, and the building blocks of the operations' checks.
//!
//! Each operation has one check, beside its declaration in the file of its family; every device begins with it.

use crate::files::safetensors::Dtype;
use crate::{Error, Result};

/// Shape and dtype of a matrix, on every device.
pub trait TensorInfo: Send + Sync {
    /// Number of rows.
    fn rows(&self) -> usize;
    /// Number of columns; rows are contiguous.
    fn cols(&self) -> usize;
    /// Element type.
    fn dtype(&self) -> Dtype;
}

/// An operation whose buffers fit together: its name, for errors that follow, and the shape of the matrix that it goes
/// over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checked {
    pub op: &'static str,
    pub rows: usize,
    pub cols: usize,
}

impl Checked {
    /// The operation that goes over `t`.
    pub(super) fn of(op: &'static str, t: &impl TensorInfo) -> Self {
        Checked { op, rows: t.rows(), cols: t.cols() }
    }

    /// Fails unless `t` has the shape that the operation goes over.
    pub(super) fn same(&self, name: &str, t: &impl TensorInfo) -> Result<()> {
        check(self.op, name, t, self.rows, self.cols)
    }

    /// As `same`, for an operand that may be left out.
    pub(super) fn same_if(&self, name: &str, t: Option<&impl TensorInfo>) -> Result<()> {
        t.map_or(Ok(()), |t| self.same(name, t))
    }

    /// Fails unless `t` is one row of as many columns.
    pub(super) fn row(&self, name: &str, t: &impl TensorInfo) -> Result<()> {
        check(self.op, name, t, 1, self.cols)
    }

    /// The same elements with as many columns a row as `t` has, which must be one row and a part of these.
    pub(super) fn groups(self, name: &str, t: &impl TensorInfo) -> Result<Self> {
        let (rows, cols) = (t.rows(), t.cols());
        if rows == 1 && cols == self.cols {
            return Ok(self);
        }
        if rows == 1 && cols > 0 && self.cols.is_multiple_of(cols) {
            return Ok(Checked { op: self.op, rows: self.rows * (self.cols / cols), cols });
        }
        let what = format!("{name} is [{rows}, {cols}], needs [1, {}] or a part of it", self.cols);
        Err(Error::Shape { op: self.op, what })
    }

    /// As `row`, for an operand that may be left out.
    pub(super) fn row_if(&self, name: &str, t: Option<&impl TensorInfo>) -> Result<()> {
        t.map_or(Ok(()), |t| self.row(name, t))
    }

    /// Fails unless `t` has as many rows, of `cols` columns.
    pub(super) fn per_row(&self, name: &str, t: &impl TensorInfo, cols: usize) -> Result<()> {
        check(self.op, name, t, self.rows, cols)
    }

    /// Number of elements of the matrix.
    pub(crate) fn count(&self) -> usize {
        self.rows * self.cols
    }
}

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

/// Number of elements of a matrix; an error where no memory could hold it.
pub(crate) fn elements(op: &'static str, rows: usize, cols: usize) -> Result<usize> {
    rows.checked_mul(cols)
        .filter(|n| *n <= isize::MAX as usize / 8)
        .ok_or_else(|| Error::Shape { op, what: format!("[{rows}, {cols}] is larger than memory") })
}

/// Fails unless every index is below `limit`.
pub(crate) fn check_below(op: &'static str, name: &str, index: &[u32], limit: usize) -> Result<()> {
    match index.iter().max() {
        Some(&max) if max as usize >= limit => {
            Err(Error::Shape { op, what: format!("{name} holds {max}, the limit is {limit}") })
        }
        _ => Ok(()),
    }
}

/// Fails unless `offsets` cuts `ids` into `rows` consecutive parts.
pub(crate) fn check_offsets(op: &'static str, offsets: &[u32], rows: usize, ids: usize) -> Result<()> {
    check_len(op, "offsets", offsets.len(), rows + 1)?;
    let ordered = offsets.windows(2).all(|w| w[0] <= w[1]);
    if offsets[0] != 0 || !ordered || offsets[rows] as usize != ids {
        return Err(Error::Shape { op, what: format!("offsets do not cut {ids} ids into {rows} rows") });
    }
    Ok(())
}
