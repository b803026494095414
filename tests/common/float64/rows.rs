//! Operations on whole rows: the merge, gathers and scatters.

use super::Float64Tensor;

/// `out[r] = scale[r] · Σ table[ids[i]]` over `i` in `offsets[r]..offsets[r + 1]`.
pub fn gather_merge(
    table: &Float64Tensor,
    ids: &[u32],
    offsets: &[u32],
    scale: &Float64Tensor,
    out: &mut Float64Tensor,
) {
    assert_eq!((out.cols, scale.rows, offsets.len()), (table.cols, out.rows, out.rows + 1));
    for (r, &scale) in scale.values.iter().enumerate() {
        let out = out.row_mut(r);
        out.fill(0.0);
        for &id in &ids[offsets[r] as usize..offsets[r + 1] as usize] {
            out.iter_mut().zip(table.row(id as usize)).for_each(|(o, x)| *o += scale * x);
        }
    }
}

/// `out[n] = alpha · src[rows[n]]`.
pub fn gather_rows(alpha: f64, src: &Float64Tensor, rows: &[u32], out: &mut Float64Tensor) {
    assert_eq!((out.rows, out.cols), (rows.len(), src.cols));
    for (n, &row) in rows.iter().enumerate() {
        out.row_mut(n).iter_mut().zip(src.row(row as usize)).for_each(|(o, x)| *o = alpha * x);
    }
}

/// `dst[rows[n]] = alpha · src[n]`.
pub fn scatter_rows(alpha: f64, src: &Float64Tensor, rows: &[u32], dst: &mut Float64Tensor) {
    assert_eq!((src.rows, src.cols), (rows.len(), dst.cols));
    for (n, &row) in rows.iter().enumerate() {
        dst.row_mut(row as usize).iter_mut().zip(src.row(n)).for_each(|(d, x)| *d = alpha * x);
    }
}

/// `y += x`.
pub fn add(x: &Float64Tensor, y: &mut Float64Tensor) {
    x.like(y);
    y.values.iter_mut().zip(&x.values).for_each(|(y, x)| *y += x);
}
