//! Some columns of a row-major matrix, such as the keys in a buffer of queries, keys and values side by side.

use std::marker::PhantomData;
use std::ops::Range;

/// Columns to read.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    data: &'a [f32],
    stride: usize,
}

impl<'a> Columns<'a> {
    /// The columns that begin at `data[0]` in rows `stride` apart. To begin at column c of a matrix, give
    /// the matrix from its c-th element on.
    pub fn new(data: &'a [f32], stride: usize) -> Self {
        Columns { data, stride }
    }

    /// From one row to the next.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// Everything from one element on.
    pub(super) fn from(&self, row: usize, col: usize) -> &'a [f32] {
        &self.data[row * self.stride + col..]
    }

    /// Part of a row.
    pub(super) fn row(&self, row: usize, cols: Range<usize>) -> &'a [f32] {
        &self.data[row * self.stride + cols.start..row * self.stride + cols.end]
    }

    /// Asserts that `rows` rows from `start` on have `width` columns.
    pub(super) fn check(&self, start: usize, rows: usize, width: usize) {
        check(self.data.len(), self.stride, start, rows, width);
    }
}

/// Columns to write, from several threads at a time.
#[derive(Debug)]
pub struct ColumnsMut<'a> {
    data: *mut f32,
    len: usize,
    stride: usize,
    width: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: it hands out `&mut f32` to other threads, never two to one element (the contract of `row` and `at`).
unsafe impl Sync for ColumnsMut<'_> {}
// SAFETY: as for `&mut [f32]`.
unsafe impl Send for ColumnsMut<'_> {}

impl<'a> ColumnsMut<'a> {
    /// All columns of a matrix with rows of `stride`.
    pub fn new(data: &'a mut [f32], stride: usize) -> Self {
        let [all] = Self::split(data, stride, [stride]);
        all
    }

    /// Cuts a matrix with rows of `stride` into neighbouring groups of columns of the given widths.
    ///
    /// # Panics
    /// When the widths exceed the stride.
    pub fn split<const N: usize>(data: &'a mut [f32], stride: usize, widths: [usize; N]) -> [Self; N] {
        assert!(widths.iter().sum::<usize>() <= stride, "{widths:?} columns in rows of {stride}");
        let mut first = 0;
        widths.map(|width| {
            let at = first.min(data.len());
            first += width;
            // The groups share no element: each reaches `width` columns and no more.
            let rest = &mut data[at..];
            ColumnsMut { len: rest.len(), data: rest.as_mut_ptr(), stride, width, borrow: PhantomData }
        })
    }

    /// From one row to the next.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// Part of a row.
    ///
    /// # Safety
    /// No one else may reach these elements while the slice lives.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn row(&self, row: usize, cols: Range<usize>) -> &mut [f32] {
        self.check(row, 1, cols.end);
        // SAFETY: within the matrix, as just checked; unshared by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.stride + cols.start), cols.len()) }
    }

    /// A pointer to the first of `rows` rows of some columns, good for all of them at this matrix's stride.
    pub(super) fn at(&self, row: usize, rows: usize, cols: Range<usize>) -> *mut f32 {
        self.check(row, rows, cols.end);
        self.data.wrapping_add(row * self.stride + cols.start)
    }

    /// Asserts that `rows` rows from `start` on have `width` columns.
    pub(super) fn check(&self, start: usize, rows: usize, width: usize) {
        assert!(width <= self.width, "{width} columns of {}", self.width);
        check(self.len, self.stride, start, rows, width);
    }
}

fn check(len: usize, stride: usize, start: usize, rows: usize, width: usize) {
    assert!(width <= stride, "{width} columns in rows of {stride}");
    let last = start.checked_add(rows).and_then(|end| end.checked_sub(1)?.checked_mul(stride));
    let end = last.and_then(|last| last.checked_add(width));
    assert!(rows == 0 || end.is_some_and(|end| end <= len), "rows {start}+{rows} of {stride} in {len}");
}
