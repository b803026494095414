//! Launches of `cuda/rotary.cu`.

use super::driver::{Arg, Driver};
use super::kernels::{by_activation, kernels};
use super::{CudaDevice, CudaIndex, CudaTensor, ROW_THREADS, count32};
use crate::Result;
use crate::device::Dtype;
use crate::device::rotary::{RotaryAppendShape, RotaryOps, RotaryShape, check_rotary, check_rotary_append};
use crate::device::shape::TensorInfo;

kernels! {
    "rotary":
    rotary_f32 rotary_bf16 rotary_append_f32 rotary_append_bf16
}

/// Most blocks that share a row, so that a few rows still fill a GPU.
const BLOCKS_A_ROW: usize = 4;

impl<R: Driver> RotaryOps for CudaDevice<R> {
    fn rotary(
        &self,
        x: &mut CudaTensor<R>,
        positions: &CudaIndex<R>,
        inv_freq: &CudaTensor<R>,
        direction: f32,
    ) -> Result<()> {
        let RotaryShape { op, rows, heads, half } = check_rotary(x, &positions.values, inv_freq)?;
        if half == 0 || heads == 0 {
            return Ok(());
        }
        let dtype = x.dtype();
        let kernel = by_activation(op, dtype, [&rotary_f32, &rotary_bf16])?;
        let args = [
            Arg::from(&positions.memory),
            Arg::from(inv_freq.read(op, "inv_freq", Dtype::F32)?),
            direction.into(),
            count32(op, heads)?.into(),
            count32(op, half)?.into(),
            x.write(op, "x", dtype)?.into(),
        ];
        let threads = half.next_multiple_of(32).min(256) as u32;
        let grid = [count32(op, rows)?, heads.min(BLOCKS_A_ROW) as u32];
        // SAFETY: the checks above: a position a row, and heads of twice `half` columns fill a row.
        unsafe { self.launch(kernel, grid, threads, 0, &args) }
    }

    /// In one launch.
    fn rotary_append(
        &self,
        [q, keys_new, values_new]: [&mut CudaTensor<R>; 3],
        biases: [Option<&CudaTensor<R>>; 3],
        positions: &CudaIndex<R>,
        inv_freq: &CudaTensor<R>,
        rows: &CudaIndex<R>,
        [keys, values]: [&mut CudaTensor<R>; 2],
    ) -> Result<()> {
        let shape = check_rotary_append(
            [&*q, &*keys_new, &*values_new],
            biases,
            &positions.values,
            inv_freq,
            &rows.values,
            [&*keys, &*values],
        )?;
        let RotaryAppendShape { op, rows: n, heads, kv_heads, half } = shape;
        let dtype = q.dtype();
        let bias = |name: &str, bias: Option<&CudaTensor<R>>| -> Result<Arg> {
            Ok(bias.map(|bias| bias.read(op, name, Dtype::F32)).transpose()?.into())
        };
        let kernel = by_activation(op, dtype, [&rotary_append_f32, &rotary_append_bf16])?;
        let args = [
            Arg::from(&positions.memory),
            Arg::from(inv_freq.read(op, "inv_freq", Dtype::F32)?),
            Arg::from(&rows.memory),
            count32(op, heads)?.into(),
            count32(op, kv_heads)?.into(),
            count32(op, half)?.into(),
            bias("the bias of q", biases[0])?,
            bias("the bias of k", biases[1])?,
            bias("the bias of v", biases[2])?,
            q.write(op, "q", dtype)?.into(),
            Arg::from(keys_new.read(op, "k", dtype)?),
            Arg::from(values_new.read(op, "v", dtype)?),
            keys.write(op, "keys", dtype)?.into(),
            values.write(op, "values", dtype)?.into(),
        ];
        let vectors = 2 * half * (heads + 3 * kv_heads) * dtype.size() / 32;
        let grid = [count32(op, n)?, vectors.div_ceil(ROW_THREADS).clamp(1, BLOCKS_A_ROW) as u32];
        let shared = count32(op, 2 * half * size_of::<f32>())?;
        // SAFETY: the checks above: q, k and v have a row for each position and for each of the cache's rows
        // that `rows` names, which lie within it; heads of twice `half` columns fill every row. The named rows
        // are distinct by the operation's contract; equal ones would leave one of them, or parts of several.
        unsafe { self.launch(kernel, grid, ROW_THREADS as u32, shared, &args) }
    }
}
