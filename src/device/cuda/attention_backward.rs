//! The gradients of attention: those in bf16 that the tensor cores take go to `flash_backward`, the others to
//! `cuda/attention_backward.cu`, whose launches are here.

use super::driver::{Arg, Driver};
use super::kernels::{self as k, by_activation};
use super::tensor::upload;
use super::tiles::{Side, check_head_dim, on_tensor_cores, plan};
use super::{CudaDevice, CudaTensor, count32};
use crate::Result;
use crate::device::{Dtype, HeadShape, Span, TensorInfo, check, check_attention, check_disjoint};

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
    /// Gradients of [`attend`](Self::attend), overwriting the rows of the spans; `inputs` are q, k, v and out.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn attend_backward(
        &self,
        shape: HeadShape,
        spans: &[Span],
        [q, keys, values, out]: [&CudaTensor<R>; 4],
        lse: &CudaTensor<R>,
        dout: &CudaTensor<R>,
        [dq, dk, dv]: [&mut CudaTensor<R>; 3],
    ) -> Result<()> {
        const OP: &str = "attention_backward";
        check_attention(OP, shape, spans, q, keys, values)?;
        check(OP, "out", out, q.rows(), shape.q_width())?;
        check(OP, "dout", dout, q.rows(), shape.q_width())?;
        check(OP, "dq", dq, q.rows(), shape.q_width())?;
        check(OP, "dk", dk, keys.rows(), shape.kv_width())?;
        check(OP, "dv", dv, keys.rows(), shape.kv_width())?;
        check(OP, "lse", lse, q.rows(), shape.heads)?;
        check_disjoint(OP, "keys", spans.iter().map(|s| (s.k_start, s.k_len)).collect())?;
        let HeadShape { heads, kv_heads, head_dim } = shape;
        check_head_dim(OP, head_dim)?;
        let dtype = q.dtype();
        let dout = Arg::from(dout.read(OP, "dout", dtype)?);
        let out = Arg::from(out.read(OP, "out", dtype)?);
        let dots = self.driver.alloc(q.rows() * heads * size_of::<f32>())?;
        let operands = [
            Arg::from(1.0 / (head_dim as f32).sqrt()),
            (kv_heads as u32).into(),
            (shape.group() as u32).into(),
            (head_dim as u32).into(),
            Arg::from(&q.memory),
            Arg::from(keys.read(OP, "k", dtype)?),
            Arg::from(values.read(OP, "v", dtype)?),
            dout,
            Arg::from(lse.read(OP, "lse", Dtype::F32)?),
            Arg::from(&dots),
        ];
        let dq = Arg::from(dq.write(OP, "dq", dtype)?);
        let dkv = [Arg::from(dk.write(OP, "dk", dtype)?), Arg::from(dv.write(OP, "dv", dtype)?)];

        let pairs = q.rows() * heads;
        let kernel = by_activation(OP, dtype, [&k::attention_dots_f32, &k::attention_dots_bf16])?;
        let args = [out, dout, (pairs as u64).into(), (head_dim as u32).into(), Arg::from(&dots)];
        // SAFETY: by the checks above `out` and `dout` have `pairs` vectors, and `dots` a float for each. A warp
        // takes a pair.
        unsafe { self.launch_elements(kernel, pairs * 32, &args) }?;

        if on_tensor_cores(dtype, shape) {
            return self.flash_backward(OP, shape, spans, &operands, dq, dkv);
        }
        let of_queries = by_activation(OP, dtype, [&k::attention_dq_f32, &k::attention_dq_bf16])?;
        let of_keys = by_activation(OP, dtype, [&k::attention_dkv_f32, &k::attention_dkv_bf16])?;
        for (side, kernel, results) in [(Side::Pairs, of_queries, &[dq][..]), (Side::Keys, of_keys, &dkv[..])]
        {
            let words = plan(OP, side, OWN, shape.group(), spans)?;
            let tiles = upload(&self.driver, &words)?;
            let args = [&[Arg::from(&tiles)], &operands[..], results].concat();
            let grid = [count32(OP, words.len() / 5)?, kv_heads as u32];
            // SAFETY: the spans lie within the operands and meet in no query and no key, so every row of a result
            // is in one tile. What this function allocated is freed in the order of launches.
            unsafe { self.launch(kernel, grid, THREADS, shared(head_dim), &args) }?;
        }
        Ok(())
    }
}
