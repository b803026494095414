//! Launches of `cuda/attention_backward.cu`.

use super::driver::{Arg, Driver};
use super::kernels::{by_activation, kernels};
use super::tensor::upload;
use super::tiles::{Side, plan};
use super::{CudaDevice, count32};
use crate::Result;
use crate::device::Dtype;
use crate::device::attention::{HeadShape, Span};

kernels! {
    "attention_backward":
    attention_backward_dots_f32 attention_backward_dots_bf16 attention_backward_dq_f32
    attention_backward_dq_bf16 attention_backward_dkv_f32 attention_backward_dkv_bf16
}

/// Keys, or pairs of a query and a head, that a block owns. `OWN` of the kernels.
const OWN: usize = 16;

/// Rows of the other side that pass through shared memory together. `STEP` of the kernels.
const STEP: usize = 32;

/// Threads of a block.
const THREADS: u32 = 128;

/// Bytes of shared memory: two vectors for each of the rows owned and of a step's, then two numbers for each pair
/// of them.
fn shared(dim: usize) -> u32 {
    let fours = dim.div_ceil(4);
    ((2 * OWN * 4 * fours + 2 * STEP * 4 * (fours | 1) + 2 * OWN * STEP) * size_of::<f32>()) as u32
}

impl<R: Driver> CudaDevice<R> {
    /// The products of `out` and its gradient, each of `pairs` vectors of a query and a head.
    pub(super) fn attention_backward_dots(
        &self,
        op: &'static str,
        dtype: Dtype,
        pairs: usize,
        head_dim: usize,
        [out, dout]: [Arg; 2],
        dots: &R::Memory,
    ) -> Result<()> {
        let kernel = by_activation(op, dtype, [&attention_backward_dots_f32, &attention_backward_dots_bf16])?;
        let args = [out, dout, (pairs as u64).into(), (head_dim as u32).into(), Arg::from(dots)];
        // SAFETY: by the caller's checks `out` and `dout` have `pairs` vectors, and `dots` a float for each. A warp
        // takes a pair.
        unsafe { self.launch_elements(kernel, pairs * 32, &args) }
    }

    /// Gradients of attention over spans that lie within the operands and meet in no query and no key; `operands` are
    /// the kernels' parameters from `scale` to `dots`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn attention_backward_in_tiles(
        &self,
        op: &'static str,
        dtype: Dtype,
        shape: HeadShape,
        spans: &[Span],
        operands: &[Arg],
        dq: Arg,
        dkv: [Arg; 2],
    ) -> Result<()> {
        let of_queries = by_activation(op, dtype, [&attention_backward_dq_f32, &attention_backward_dq_bf16])?;
        let of_keys = by_activation(op, dtype, [&attention_backward_dkv_f32, &attention_backward_dkv_bf16])?;
        for (side, kernel, results) in [(Side::Pairs, of_queries, &[dq][..]), (Side::Keys, of_keys, &dkv[..])]
        {
            let words = plan(op, side, OWN, shape.group(), spans)?;
            let tiles = upload(&self.driver, &words)?;
            let args = [&[Arg::from(&tiles)], operands, results].concat();
            let grid = [count32(op, words.len() / 5)?, shape.kv_heads as u32];
            // SAFETY: by the caller's checks the spans lie within the operands and meet in no query and no key, so
            // every row of a result is in one tile. Buffers of this function are freed in the order of launches.
            unsafe { self.launch(kernel, grid, THREADS, shared(shape.head_dim), &args) }?;
        }
        Ok(())
    }
}
