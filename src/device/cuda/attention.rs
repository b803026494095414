//! Attention: spans with many rows in bf16 go to [`flash`], the others to `cuda/attention.cu`, whose launches
//! are here: the cut of spans into tiles, and of tiles into parts. Gradients in bf16 that the tensor cores take go to
//! `flash_backward`, the others to `attention_backward`.

use super::driver::{Arg, Driver};
use super::kernels::{by_activation, kernels};
use super::tensor::upload;
use super::tiles::{check_head_dim, on_tensor_cores};
use super::{CudaDevice, CudaTensor, count32, flash};
use crate::Result;
use crate::device::attention::{AttentionOps, HeadShape, Span, check_attention, check_attention_backward};
use crate::device::shape::TensorInfo;
use crate::device::{Dtype, RowForm};

kernels! {
    "attention":
    attention_f32 attention_bf16 attention_merge_f32 attention_merge_bf16
}

/// Rows of a tile: pairs of a query and a head. `ROWS` of the kernel.
const ROWS: usize = 16;

/// Keys that pass through shared memory together. `KEYS` of the kernel.
const KEYS: usize = 32;

/// Threads of a block.
const THREADS: u32 = 128;

/// Keys of a part, where a span has so few rows that its tiles alone would leave a GPU idle.
const PART_KEYS: usize = 256;

/// Tiles of a span up to which its keys are cut into parts.
const FEW_TILES: usize = 4;

/// The work of each block, ten words a tile as `Tile` of the kernel reads them.
struct Tiling {
    tiles: Vec<u32>,
    /// The tiles that were cut: their first parts.
    cut: Vec<u32>,
    /// Parts of all cut tiles.
    parts: usize,
}

/// The cut of spans; without `cuts`, no tile's keys are cut into parts.
fn plan(op: &'static str, group: usize, spans: &[Span], cuts: bool) -> Result<Tiling> {
    let mut plan = Tiling { tiles: Vec::new(), cut: Vec::new(), parts: 0 };
    for s in spans.iter().filter(|s| s.q_len > 0) {
        let rows = s.q_len * group;
        let tiles = rows.div_ceil(ROWS);
        let parts = if cuts && tiles <= FEW_TILES { s.k_len.div_ceil(PART_KEYS) } else { 1 };
        for first in (0..rows).step_by(ROWS) {
            let span = [s.q_start, s.q_len, s.k_start, s.k_len, first];
            for part in 0..parts {
                let keys = if parts == 1 { s.k_len } else { PART_KEYS };
                let (from, to) = (part * keys, ((part + 1) * keys).min(s.k_len));
                let words = span.into_iter().chain([from, to, part, parts, plan.parts + part]);
                let words = words.map(|x| count32(op, x)).collect::<Result<Vec<u32>>>()?;
                if parts > 1 && part == 0 {
                    plan.cut.extend(&words);
                }
                plan.tiles.extend(words);
            }
            if parts > 1 {
                plan.parts += parts;
            }
        }
    }
    Ok(plan)
}

impl<R: Driver> AttentionOps for CudaDevice<R> {
    fn attention(
        &self,
        shape: HeadShape,
        spans: &[Span],
        q: &CudaTensor<R>,
        k: &CudaTensor<R>,
        v: &CudaTensor<R>,
        out: &mut CudaTensor<R>,
        lse: Option<&mut CudaTensor<R>>,
    ) -> Result<()> {
        let op = check_attention(shape, spans, [q, k, v], out, lse.as_deref())?.op;
        check_head_dim(op, shape.head_dim)?;
        let lse = lse.map(|lse| lse.write(op, "lse", Dtype::F32)).transpose()?;
        let dtype = q.dtype();
        let operands = [
            shape.scale().into(),
            (shape.kv_heads as u32).into(),
            (shape.group() as u32).into(),
            (shape.head_dim as u32).into(),
            Arg::from(&q.memory),
            Arg::from(k.read(op, "k", dtype)?),
            Arg::from(v.read(op, "v", dtype)?),
            Arg::from(out.write(op, "out", dtype)?),
            Arg::from(lse),
        ];
        let (long, short): (Vec<Span>, Vec<Span>) =
            spans.iter().partition(|s| flash::takes(self.form, dtype, shape, s));
        self.flash(op, shape, &long, &operands)?;
        self.attention_in_parts(op, dtype, shape, &short, &operands)
    }

    fn attention_backward(
        &self,
        shape: HeadShape,
        spans: &[Span],
        q: &CudaTensor<R>,
        k: &CudaTensor<R>,
        v: &CudaTensor<R>,
        out: &CudaTensor<R>,
        lse: &CudaTensor<R>,
        dout: &CudaTensor<R>,
        dq: &mut CudaTensor<R>,
        dk: &mut CudaTensor<R>,
        dv: &mut CudaTensor<R>,
    ) -> Result<()> {
        let op = check_attention_backward(shape, spans, [q, k, v, out], lse, dout, [&*dq, &*dk, &*dv])?.op;
        let HeadShape { heads, kv_heads, head_dim } = shape;
        check_head_dim(op, head_dim)?;
        let dtype = q.dtype();
        let dout = Arg::from(dout.read(op, "dout", dtype)?);
        let out = Arg::from(out.read(op, "out", dtype)?);
        let dots = self.driver.alloc(q.rows() * heads * size_of::<f32>())?;
        let operands = [
            shape.scale().into(),
            (kv_heads as u32).into(),
            (shape.group() as u32).into(),
            (head_dim as u32).into(),
            Arg::from(&q.memory),
            Arg::from(k.read(op, "k", dtype)?),
            Arg::from(v.read(op, "v", dtype)?),
            dout,
            Arg::from(lse.read(op, "lse", Dtype::F32)?),
            Arg::from(&dots),
        ];
        let dq = Arg::from(dq.write(op, "dq", dtype)?);
        let dkv = [Arg::from(dk.write(op, "dk", dtype)?), Arg::from(dv.write(op, "dv", dtype)?)];

        self.attention_backward_dots(op, dtype, q.rows() * heads, head_dim, [out, dout], &dots)?;
        if on_tensor_cores(dtype, shape) {
            return self.flash_backward(op, shape, spans, &operands, dq, dkv);
        }
        self.attention_backward_in_tiles(op, dtype, shape, spans, &operands, dq, dkv)
    }
}

impl<R: Driver> CudaDevice<R> {
    /// Attention of any spans, which lie within the operands and meet in no query; `operands` are the
    /// parameters of `attention_*` from `scale` to `lse`.
    fn attention_in_parts(
        &self,
        op: &'static str,
        dtype: Dtype,
        shape: HeadShape,
        spans: &[Span],
        operands: &[Arg; 9],
    ) -> Result<()> {
        let HeadShape { kv_heads, head_dim, .. } = shape;
        let plan = plan(op, shape.group(), spans, self.form != RowForm::Many)?;
        if plan.tiles.is_empty() {
            return Ok(());
        }
        let tiles = upload(&self.driver, &plan.tiles)?;
        let partials = plan.parts * kv_heads * ROWS * (head_dim + 2);
        let partials = self.driver.alloc(partials * size_of::<f32>())?;
        let kernel = by_activation(op, dtype, [&attention_f32, &attention_bf16])?;
        let [scale, heads, group, dim, q, keys, values, out, lse] = *operands;
        let (cut_into, parts) = (Arg::from(&tiles), Arg::from(&partials));
        let args = [cut_into, scale, heads, group, dim, q, keys, values, out, lse, parts];
        let shared = ROWS * head_dim + KEYS * (head_dim + 1) + KEYS * head_dim + ROWS * KEYS;
        let shared = (shared * size_of::<f32>()) as u32;
        let grid = [count32(op, plan.tiles.len() / 10)?, kv_heads as u32];
        // SAFETY: by the caller's checks the spans lie within q, k and v and meet in no query, so blocks write
        // rows of their own; every part has its place in `partials`. Both buffers of this function are freed in
        // the order of launches.
        unsafe { self.launch(kernel, grid, THREADS, shared, &args) }?;
        if plan.cut.is_empty() {
            return Ok(());
        }
        let cut = upload(&self.driver, &plan.cut)?;
        let kernel = by_activation(op, dtype, [&attention_merge_f32, &attention_merge_bf16])?;
        let args = [Arg::from(&cut), heads, group, dim, parts, out, lse];
        let grid = [count32(op, plan.cut.len() / 10)?, kv_heads as u32];
        // SAFETY: as above; the parts of these tiles were written by the launch before.
        unsafe { self.launch(kernel, grid, THREADS, 0, &args) }
    }
}
