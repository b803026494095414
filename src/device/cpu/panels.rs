//! The product behind large matrix products: one tile of an output, on one thread.
//!
//! The right factor is packed into *panels*, as many columns wide as the kernel's registers, in the order in
//! which the kernel reads them; 16-bit weights are widened and transposed on the way. A factor that lies the
//! wrong way round on the left is packed too. The kernel keeps a block of the output in registers: with the 32
//! registers of AVX-512 eight rows of three vectors, with 16 registers six rows of two.
//!
//! *Bits.* An element of the output is the sum over its inner index of fused multiply-adds, one after the
//! other, in blocks of [`DEPTH`] that each start from zero and are added up in order. That leaves nothing for
//! the width of vectors, the sizes of caches, the cut into tiles or the number of threads to decide.

use std::cell::RefCell;
use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use pulp::{Simd, WithSimd};

use super::par::SharedMut;
use super::product::accumulate;
use super::simd::{Element, dispatch, prefetch};
use super::transpose::transpose;

/// Terms of a sum that are added up before they meet the output. A block of panels this deep and as wide as a
/// tile stays in a second-level cache of 512 KiB.
pub(super) const DEPTH: usize = 576;

/// A cache line of scratch: vectors that straddle two lines load at half the speed.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// Floats of a cache line.
const LINE: usize = 16;

/// The first `len` floats of `lines`, which are made as many as that takes.
fn floats(lines: &mut Vec<Line>, len: usize) -> &mut [f32] {
    lines.resize(lines.len().max(len.div_ceil(LINE)), Line::zeroed());
    &mut bytemuck::cast_slice_mut(lines)[..len]
}

/// The most rows of a tile for which a right factor is read as it lies, where that can be.
const FEW_ROWS: usize = 40;

/// The most terms of a sum for which a left factor that lies the wrong way round is read as it lies.
const FEW_TERMS: usize = 64;

thread_local! {
    /// Panels of the left factor and of the right one.
    static PACKED: RefCell<[Vec<Line>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// A factor of a product as it lies in memory.
#[derive(Clone, Copy)]
pub(super) enum Factor<'a, T> {
    /// Element (i, j) is at `i * stride + j`.
    Straight { data: &'a [T], stride: usize },
    /// Element (i, j) is at `j * stride + i`.
    Turned { data: &'a [T], stride: usize },
}

impl<T: Element> Factor<'_, T> {
    /// Asserts that all elements up to the last of the given numbers of rows and columns are there.
    fn bound(&self, rows: usize, cols: usize) {
        let (last, len) = match *self {
            Factor::Straight { data, stride } => ((rows - 1) * stride + cols, data.len()),
            Factor::Turned { data, stride } => ((cols - 1) * stride + rows, data.len()),
        };
        assert!(last <= len, "{rows} by {cols} is more than {len} elements");
    }

    /// Writes a panel of the given rows and columns to `to`, in rows of `width`. Elements to the right of
    /// the last column are left as they are.
    #[inline(always)]
    fn pack(&self, rows: Range<usize>, cols: Range<usize>, width: usize, to: &mut [f32]) {
        match *self {
            Factor::Straight { data, stride } => {
                // A whole row of f32 is a few vectors to move, where the compiler knows its length. A conversion
                // it would unroll into single elements.
                if cols.len() == width && size_of::<T>() == size_of::<f32>() {
                    for (i, to) in rows.zip(to.chunks_exact_mut(width)) {
                        T::widen(&data[i * stride + cols.start..][..width], to);
                    }
                } else {
                    for (i, to) in rows.zip(to.chunks_exact_mut(width)) {
                        T::widen(&data[i * stride + cols.start..][..cols.len()], &mut to[..cols.len()]);
                    }
                }
            }
            Factor::Turned { data, stride } => {
                let from = &data[cols.start * stride + rows.start..];
                transpose(cols.len(), rows.len(), from, stride, to, width);
            }
        }
    }
}

/// One tile of `out = beta·out + alpha · left·right`; with `beta` 0 the old `out` is not read.
pub(super) struct Tile<'a, T> {
    /// Rows of `width`.
    pub out: &'a SharedMut<'a, f32>,
    pub width: usize,
    pub rows: Range<usize>,
    pub cols: Range<usize>,
    /// Terms of each sum.
    pub inner: usize,
    pub alpha: f32,
    pub beta: f32,
    pub left: Factor<'a, f32>,
    pub right: Factor<'a, T>,
}

impl<T: Element> Tile<'_, T> {
    /// Computes the tile.
    ///
    /// # Safety
    /// No other thread may reach the tile's elements of `out` meanwhile.
    ///
    /// # Panics
    /// When the tile or its factors do not lie in their slices.
    pub unsafe fn run(self) {
        if self.rows.is_empty() || self.cols.is_empty() || self.inner == 0 {
            return;
        }
        self.left.bound(self.rows.end, self.inner);
        self.right.bound(self.inner, self.cols.end);
        assert!(self.cols.end <= self.width);
        let mut packed = PACKED.take();
        dispatch(Checked { tile: self, packed: &mut packed });
        PACKED.set(packed);
    }
}

/// A tile that has elements, with factors that are long enough.
struct Checked<'a, T> {
    tile: Tile<'a, T>,
    packed: &'a mut [Vec<Line>; 2],
}

impl<T: Element> WithSimd for Checked<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if S::REGISTER_COUNT >= 32 { self.run::<S, 8, 3>(simd) } else { self.run::<S, 6, 2>(simd) }
    }
}

impl<T: Element> Checked<'_, T> {
    /// The whole tile, with a kernel of `R` rows and `C` vectors.
    #[inline(always)]
    fn run<S: Simd, const R: usize, const C: usize>(self, simd: S) {
        let Tile { out, width, rows, cols, inner, alpha, beta, left, right } = self.tile;
        let (panel, [left_lines, right_lines]) = (C * S::F32_LANES, self.packed);
        let first = out.as_ptr_at(rows.start * width + cols.start..(rows.end - 1) * width + cols.end);
        let even = inner.div_ceil(inner.div_ceil(DEPTH));
        for start in (0..inner).step_by(even) {
            let depth = (inner - start).min(even);
            let terms = start..start + depth;
            // The first block of a sum is added to the old output, the others to the sum of the blocks before them.
            let beta = if start == 0 { beta } else { 1.0 };

            let right_packed = floats(right_lines, cols.len().div_ceil(panel) * panel * depth);
            // A factor that lies as the kernel reads it need not be packed for few rows: the rest of the last
            // vector must be, as the kernel reads whole ones.
            let lies = match right {
                Factor::Straight { data, stride } if rows.len() <= FEW_ROWS => {
                    T::as_f32(data).map(|data| (&data[start * stride + cols.start..], stride))
                }
                _ => None,
            };
            let lies =
                |col: usize| lies.filter(|_| (cols.len() - col).min(panel).is_multiple_of(S::F32_LANES));
            for (i, to) in right_packed.chunks_exact_mut(panel * depth).enumerate() {
                let col = cols.start + i * panel;
                if lies(i * panel).is_none() {
                    right.pack(terms.clone(), col..(col + panel).min(cols.end), panel, to);
                }
            }
            // From one panel of the left factor to the next: not a power of two, which would crowd the lines
            // that are written one after the other into a few sets of the cache.
            let left_stride = R * depth + LINE;
            let left_packed: &[f32] = match left {
                Factor::Turned { data, stride } if inner > FEW_TERMS => {
                    let to = floats(left_lines, rows.len().div_ceil(R) * left_stride);
                    for (p, term) in terms.enumerate() {
                        let from = &data[term * stride + rows.start..term * stride + rows.end];
                        let (whole, rest) = from.as_chunks::<R>();
                        for (i, from) in whole.iter().enumerate() {
                            to[i * left_stride + p * R..][..R].copy_from_slice(from);
                        }
                        if !rest.is_empty() {
                            to[whole.len() * left_stride + p * R..][..rest.len()].copy_from_slice(rest);
                        }
                    }
                    to
                }
                _ => &[],
            };
            for row in (0..rows.len()).step_by(R) {
                let (a, a_row, a_col) = match left {
                    Factor::Straight { data, stride } => {
                        (&data[(rows.start + row) * stride + start..], stride, 1)
                    }
                    Factor::Turned { .. } if inner > FEW_TERMS => {
                        (&left_packed[row / R * left_stride..], 1, R)
                    }
                    Factor::Turned { data, stride } => {
                        (&data[start * stride + rows.start + row..], 1, stride)
                    }
                };
                for (i, packed) in right_packed.chunks_exact(panel * depth).enumerate() {
                    let col = i * panel;
                    if let (Factor::Straight { data, stride }, true) = (left, i < R) {
                        // One of the rows that come next: they may lie in memory, one far from the other.
                        let next = data.as_ptr().wrapping_add((rows.start + row + R + i) * stride + start);
                        for at in (0..depth).step_by(LINE) {
                            prefetch(next.wrapping_add(at));
                        }
                    }
                    let (b, b_row) =
                        lies(col).map_or((packed, panel), |(data, stride)| (&data[col..], stride));
                    let block = Block {
                        depth,
                        rows: (rows.len() - row).min(R),
                        cols: (cols.len() - col).min(panel),
                        a: a.as_ptr(),
                        a_row,
                        a_col,
                        b: b.as_ptr(),
                        b_row,
                        c: first.wrapping_add(row * width + col),
                        c_row: width,
                        alpha,
                        beta,
                    };
                    // SAFETY: the rows from `row` and the columns from `col` on, as many as the block has, are
                    // in the tile, and that in `out`, as `as_ptr_at` has checked; the caller of `Tile::run`
                    // vouches that they are this thread's. The left factor has these rows, as `Tile::run` has
                    // checked, or its panel has them; b is a whole panel, or has these terms and these columns, a
                    // whole number of vectors, in the right factor.
                    unsafe { block.run::<S, R, C>(simd) };
                }
            }
        }
    }
}

/// A block of the output as large as the kernel's registers, or the part of one that remains at an edge.
struct Block {
    /// Terms of each sum.
    depth: usize,
    rows: usize,
    cols: usize,
    /// Element (i, p) of the left factor is at `i * a_row + p * a_col`.
    a: *const f32,
    a_row: usize,
    a_col: usize,
    /// Element (p, j) of the right factor is at `p * b_row + j`.
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
    alpha: f32,
    beta: f32,
}

/// A block for a kernel of `R` rows and `C` vectors, whose pointers are good.
struct Kernel<const R: usize, const C: usize>(Block);

impl Block {
    /// Computes the block, with a kernel of at most `R` rows and `C` vectors.
    ///
    /// # Safety
    /// `rows` (at most `R`) rows of `depth` elements of a, and `depth` rows of whole vectors up to `cols` (at
    /// most `C` vectors) of b must be good for reading, and `rows` rows of `cols` elements of c for reading and
    /// writing. No other thread may reach those meanwhile.
    #[inline(always)]
    unsafe fn run<S: Simd, const R: usize, const C: usize>(self, simd: S) {
        // A call of its own, so that the code exists once for each kind of vector.
        simd.vectorize(Kernel::<R, C>(self));
    }
}

impl<const R: usize, const C: usize> WithSimd for Kernel<R, C> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.0.cols.div_ceil(S::F32_LANES) {
            vectors if vectors >= C => self.columns::<S, C>(simd),
            2 => self.columns::<S, 2>(simd),
            _ => self.columns::<S, 1>(simd),
        }
    }
}

impl<const R: usize, const C: usize> Kernel<R, C> {
    /// All rows of `V` vectors of columns.
    #[inline(always)]
    fn columns<S: Simd, const V: usize>(&self, simd: S) {
        let mut row = 0;
        while row < self.0.rows {
            row += match self.0.rows - row {
                rest if rest >= R => self.tile::<S, R, V>(simd, row),
                4.. => self.tile::<S, 4, V>(simd, row),
                2.. => self.tile::<S, 2, V>(simd, row),
                _ => self.tile::<S, 1, V>(simd, row),
            }
        }
    }

    /// `N` rows of `V` vectors of columns from `row` on. Returns `N`.
    #[inline(always)]
    fn tile<S: Simd, const N: usize, const V: usize>(&self, simd: S, row: usize) -> usize {
        let Block { depth, cols, a, a_row, a_col, b, b_row, c, c_row, alpha, beta, .. } = self.0;
        let (a, c) = (a.wrapping_add(row * a_row), c.wrapping_add(row * c_row));
        for r in 0..N {
            for at in (0..cols).step_by(LINE) {
                prefetch(c.wrapping_add(r * c_row + at));
            }
        }
        // SAFETY: the caller of `Block::run` vouches for these rows of a and all of b.
        let sums: [[S::f32s; V]; N] = unsafe { accumulate(simd, depth, a, a_row, a_col, b, b_row, None) };
        let (alphas, betas) = (simd.splat_f32s(alpha), simd.splat_f32s(beta));
        for (r, sums) in sums.into_iter().enumerate() {
            for (i, sum) in sums.into_iter().enumerate() {
                let at = c.wrapping_add(r * c_row + i * S::F32_LANES);
                // The last vector may be there in part.
                let here = (cols - i * S::F32_LANES).min(S::F32_LANES);
                // SAFETY: as above, for `cols` elements of this row of c, where the mask ends.
                unsafe {
                    if here == S::F32_LANES {
                        let at = at.cast::<S::f32s>();
                        at.write_unaligned(match beta {
                            0.0 => simd.mul_f32s(alphas, sum),
                            _ => simd.mul_add_f32s(alphas, sum, simd.mul_f32s(betas, at.read_unaligned())),
                        });
                    } else {
                        let mask = simd.mask_between_m32s(0, here as u32);
                        let new = match beta {
                            0.0 => simd.mul_f32s(alphas, sum),
                            _ => {
                                let old = simd.mask_load_ptr_f32s(mask, at);
                                simd.mul_add_f32s(alphas, sum, simd.mul_f32s(betas, old))
                            }
                        };
                        simd.mask_store_ptr_f32s(mask, at, new);
                    }
                }
            }
        }
        N
    }
}
