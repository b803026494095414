//! Dropout.

use colar_engine::Result;
use colar_engine::device::{Dropout, DropoutOps};
use colar_engine::random::Philox;

use super::{Float64, Float64Tensor};

impl DropoutOps for Float64 {
    fn dropout(&self, dropout: Dropout, x: &Float64Tensor, beta: f32, out: &mut Float64Tensor) -> Result<()> {
        let philox = Philox::new(dropout.key);
        let [first, second, third] = dropout.counter;
        // The factor is a float32 number on every device, and so the same here.
        let scale = f64::from(1.0 / (1.0 - dropout.p));
        for (row, (x, out)) in (first..).zip(x.row_pairs(out)) {
            for (four, (x, out)) in (0..).zip(x.chunks(4).zip(out.chunks_mut(4))) {
                let drawn = philox.uniforms([four, row, second, third]);
                for ((x, out), u) in x.iter().zip(out).zip(drawn) {
                    let kept = if u >= dropout.p { x * scale } else { 0.0 };
                    *out = if beta == 0.0 { kept } else { *out + kept };
                }
            }
        }
        Ok(())
    }
}
