//! Dropout.

use super::CpuDevice;
use super::buffer::CpuTensor;
use super::par::{self, row_grain};
use crate::Result;
use crate::device::dropout::{Dropout, DropoutOps, check_dropout};
use crate::device::shape::Checked;
use crate::random::Philox;

impl DropoutOps for CpuDevice {
    fn dropout(&self, dropout: Dropout, x: &CpuTensor, beta: f32, out: &mut CpuTensor) -> Result<()> {
        let Checked { op, cols, .. } = check_dropout(x, out)?;
        drop_out(dropout, x.f32(op)?, cols, beta, out.f32_mut(op)?);
        Ok(())
    }
}

/// `out = beta·out + kept·x/(1 − p)` over rows of `cols` elements.
fn drop_out(dropout: Dropout, x: &[f32], cols: usize, beta: f32, out: &mut [f32]) {
    let (philox, scale) = (Philox::new(dropout.key), dropout.scale());
    let [first_row, second, third] = dropout.counter;
    par::split_rows(out, cols, row_grain(cols).div_ceil(8), |first, rows| {
        for (i, row) in rows.chunks_exact_mut(cols).enumerate() {
            let r = first + i;
            let word = first_row.wrapping_add(r as u32);
            for (four, (out, x)) in row.chunks_mut(4).zip(x[r * cols..][..cols].chunks(4)).enumerate() {
                let drawn = philox.uniforms([four as u32, word, second, third]);
                for ((out, &x), u) in out.iter_mut().zip(x).zip(drawn) {
                    let kept = if u >= dropout.p { x * scale } else { 0.0 };
                    *out = if beta == 0.0 { kept } else { *out + kept };
                }
            }
        }
    });
}
