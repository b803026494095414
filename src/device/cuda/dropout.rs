//! Launches of `cuda/dropout.cu`.

use super::driver::{Arg, Driver};
use super::kernels::{by_activation, kernels};
use super::{CudaDevice, CudaTensor, count32};
use crate::Result;
use crate::device::dropout::{Dropout, DropoutOps, check_dropout};
use crate::device::shape::{Checked, TensorInfo};

kernels! {
    "dropout":
    dropout_f32 dropout_bf16
}

impl<R: Driver> DropoutOps for CudaDevice<R> {
    fn dropout(&self, dropout: Dropout, x: &CudaTensor<R>, beta: f32, out: &mut CudaTensor<R>) -> Result<()> {
        let Checked { op, rows, cols } = check_dropout(x, out)?;
        let dtype = x.dtype();
        let kernel = by_activation(op, dtype, [&dropout_f32, &dropout_bf16])?;
        let [first_row, second, third] = dropout.counter;
        let args = [
            (dropout.key as u32).into(),
            ((dropout.key >> 32) as u32).into(),
            first_row.into(),
            second.into(),
            third.into(),
            dropout.p.into(),
            dropout.scale().into(),
            Arg::from(&x.memory),
            count32(op, cols)?.into(),
            u32::from(beta != 0.0).into(),
            out.write(op, "out", dtype)?.into(),
        ];
        // SAFETY: both have `rows` rows of `cols` elements of one dtype, and a block takes a row. Buffers begin at
        // multiples of 16 bytes, so rows of whole fours do at multiples of four elements.
        unsafe { self.launch_rows(op, kernel, rows, cols.div_ceil(4), &args) }
    }
}
