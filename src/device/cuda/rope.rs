//! Launches of `cuda/rope.cu`.

use super::driver::{Arg, Driver};
use super::kernels::{self as k, by_activation};
use super::{CudaDevice, CudaIndex, CudaTensor, ROW_THREADS, count32};
use crate::device::{Dtype, TensorInfo, check, check_below, check_len};
use crate::{Error, Result};

/// Most blocks that share a row, so that a few rows still fill a GPU.
const BLOCKS_A_ROW: usize = 4;

impl<R: Driver> CudaDevice<R> {
    pub(super) fn rotate(
        &self,
        x: &mut CudaTensor<R>,
        positions: &CudaIndex<R>,
        inv_freq: &CudaTensor<R>,
        direction: f32,
    ) -> Result<()> {
        const OP: &str = "rotary";
        let (rows, cols, half, dtype) = (x.rows(), x.cols(), inv_freq.cols(), x.dtype());
        check_len(OP, "positions", positions.values.len(), rows)?;
        if inv_freq.rows() != 1 || !cols.is_multiple_of(2 * half.max(1)) {
            let what = format!("{half} frequencies do not fit rows of {cols}");
            return Err(Error::Shape { op: OP, what });
        }
        if half == 0 || cols == 0 {
            return Ok(());
        }
        let heads = cols / (2 * half);
        let kernel = by_activation(OP, dtype, [&k::rotary_f32, &k::rotary_bf16])?;
        let args = [
            Arg::from(&positions.memory),
            Arg::from(inv_freq.read(OP, "inv_freq", Dtype::F32)?),
            direction.into(),
            count32(OP, heads)?.into(),
            count32(OP, half)?.into(),
            x.write(OP, "x", dtype)?.into(),
        ];
        let threads = half.next_multiple_of(32).min(256) as u32;
        let grid = [count32(OP, rows)?, heads.min(BLOCKS_A_ROW) as u32];
        // SAFETY: the checks above: a position a row, and heads of twice `half` columns fill a row.
        unsafe { self.launch(kernel, grid, threads, 0, &args) }
    }

    /// Biases, rotation and the append to a cache, in one launch.
    pub(super) fn rotate_and_append(
        &self,
        [q, keys_new, values_new]: [&mut CudaTensor<R>; 3],
        biases: [Option<&CudaTensor<R>>; 3],
        positions: &CudaIndex<R>,
        inv_freq: &CudaTensor<R>,
        rows: &CudaIndex<R>,
        [keys, values]: [&mut CudaTensor<R>; 2],
    ) -> Result<()> {
        const OP: &str = "rotary_append";
        let (n, width, half, dtype) = (q.rows(), keys_new.cols(), inv_freq.cols(), q.dtype());
        check(OP, "inv_freq", inv_freq, 1, half)?;
        let fits = |cols: usize| half > 0 && cols > 0 && cols.is_multiple_of(2 * half);
        if !fits(q.cols()) || !fits(width) {
            let what = format!("{half} frequencies do not fit rows of {} and {width}", q.cols());
            return Err(Error::Shape { op: OP, what });
        }
        check(OP, "k", keys_new, n, width)?;
        check(OP, "v", values_new, n, width)?;
        check_len(OP, "positions", positions.values.len(), n)?;
        check_len(OP, "rows", rows.values.len(), n)?;
        check(OP, "keys", keys, keys.rows(), width)?;
        check(OP, "values", values, values.rows(), width)?;
        check_below(OP, "rows", &rows.values, keys.rows().min(values.rows()))?;
        let bias = |name: &str, of: Option<&CudaTensor<R>>, cols: usize| -> Result<Arg> {
            let Some(bias) = of else { return Ok(Arg::Pointer(0)) };
            check(OP, name, bias, 1, cols)?;
            Ok(Arg::from(bias.read(OP, name, Dtype::F32)?))
        };
        let (heads, kv_heads) = (q.cols() / (2 * half), width / (2 * half));
        let kernel = by_activation(OP, dtype, [&k::rotary_append_f32, &k::rotary_append_bf16])?;
        let args = [
            Arg::from(&positions.memory),
            Arg::from(inv_freq.read(OP, "inv_freq", Dtype::F32)?),
            Arg::from(&rows.memory),
            count32(OP, heads)?.into(),
            count32(OP, kv_heads)?.into(),
            count32(OP, half)?.into(),
            bias("the bias of q", biases[0], q.cols())?,
            bias("the bias of k", biases[1], width)?,
            bias("the bias of v", biases[2], width)?,
            q.write(OP, "q", dtype)?.into(),
            Arg::from(keys_new.read(OP, "k", dtype)?),
            Arg::from(values_new.read(OP, "v", dtype)?),
            keys.write(OP, "keys", dtype)?.into(),
            values.write(OP, "values", dtype)?.into(),
        ];
        let vectors = (q.cols() + 3 * width) * dtype.size() / 32;
        let grid = [count32(OP, n)?, vectors.div_ceil(ROW_THREADS).clamp(1, BLOCKS_A_ROW) as u32];
        let shared = count32(OP, 2 * half * size_of::<f32>())?;
        // SAFETY: the checks above: q, k and v have a row for each position and for each of the cache's rows
        // that `rows` names, which lie within it; heads of twice `half` columns fill every row. The named rows
        // are distinct by the operation's contract; equal ones would leave one of them, or parts of several.
        unsafe { self.launch(kernel, grid, ROW_THREADS as u32, shared, &args) }
    }
}
