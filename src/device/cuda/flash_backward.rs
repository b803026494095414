//! Launches of `cuda/flash_backward.cu`.

use super::driver::{Arg, Driver};
use super::kernels::{Kernel, kernels};
use super::tensor::upload;
use super::tiles::{Side, plan};
use super::{CudaDevice, count32};
use crate::Result;
use crate::device::attention::{HeadShape, Span};

kernels! {
    "flash_backward":
    flash_backward_dq_64 flash_backward_dkv_64 flash_backward_dq_128 flash_backward_dkv_128
}

/// Threads of a block. `THREADS` of the kernels.
const THREADS: u32 = 128;

/// Rows of the other side in a step. `STEP` of the kernels.
const STEP: usize = 32;

/// The kernels for a width of head.
struct FlashBackwardKernels {
    of_queries: &'static Kernel,
    of_keys: &'static Kernel,
    /// Widest head; narrower ones are filled up in shared memory.
    dim: usize,
    /// Rows that a block owns.
    own: usize,
}

impl FlashBackwardKernels {
    /// Bytes of shared memory: two vectors for each of the rows owned and of two steps', and two numbers for each
    /// of the latter.
    fn shared(&self) -> usize {
        2 * (self.own + 2 * STEP) * self.dim * size_of::<u16>() + 4 * STEP * size_of::<f32>()
    }
}

static FORMS: [FlashBackwardKernels; 2] = [
    FlashBackwardKernels {
        of_queries: &flash_backward_dq_64,
        of_keys: &flash_backward_dkv_64,
        dim: 64,
        own: 128,
    },
    FlashBackwardKernels {
        of_queries: &flash_backward_dq_128,
        of_keys: &flash_backward_dkv_128,
        dim: 128,
        own: 64,
    },
];

impl<R: Driver> CudaDevice<R> {
    /// Gradients of attention of heads that are [`on_tensor_cores`](super::tiles::on_tensor_cores), over spans that
    /// lie within the operands and meet in no query and no key; `operands` are the kernels' parameters from `scale`
    /// to `dots`.
    pub(super) fn flash_backward(
        &self,
        op: &'static str,
        shape: HeadShape,
        spans: &[Span],
        operands: &[Arg],
        dq: Arg,
        dkv: [Arg; 2],
    ) -> Result<()> {
        let form = &FORMS[usize::from(shape.head_dim > 64)];
        for (side, kernel, results) in
            [(Side::Pairs, form.of_queries, &[dq][..]), (Side::Keys, form.of_keys, &dkv[..])]
        {
            let words = plan(op, side, form.own, shape.group(), spans)?;
            let tiles = upload(&self.driver, &words)?;
            let args = [&[Arg::from(&tiles)], operands, results].concat();
            let grid = [count32(op, words.len() / 5 * shape.kv_heads)?, 1];
            // SAFETY: by the caller's checks every row of a tile lies within the operands, and no two tiles of a
            // side have one in common. The table of tiles is freed in the order of launches.
            unsafe { self.launch(kernel, grid, THREADS, form.shared() as u32, &args) }?;
        }
        Ok(())
    }
}
