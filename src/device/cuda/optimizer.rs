//! Launches of `cuda/adamw.cu`: the optimiser's step and the sum of squares, over all tensors at once.

use bytemuck::{Pod, Zeroable};

use super::driver::{Arg, Driver, Memory};
use super::kernels as k;
use super::tensor::upload;
use super::{CudaDevice, CudaTensor, count32};
use crate::Result;
use crate::device::{AdamW, AdamWTensor, Dtype, TensorInfo, check};

/// Elements of a tensor that a block takes. `CHUNK` of the kernels.
const CHUNK: usize = 8192;

/// Threads of a block.
const THREADS: u32 = 256;

/// A tensor in the list that the kernels read, with the number of its first chunk. `Slot` of the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
struct Slot {
    value: u64,
    grad: u64,
    m: u64,
    v: u64,
    count: u64,
    first: u64,
}

/// Tensors cut into chunks.
#[derive(Default)]
struct Slots {
    list: Vec<Slot>,
    chunks: usize,
}

impl Slots {
    /// Appends a tensor of `count` elements; one without any has no chunk.
    fn push(&mut self, slot: Slot, count: usize) {
        if count > 0 {
            self.list.push(Slot { count: count as u64, first: self.chunks as u64, ..slot });
            self.chunks += count.div_ceil(CHUNK);
        }
    }
}

impl<R: Driver> CudaDevice<R> {
    pub(super) fn squares(&self, tensors: &[&CudaTensor<R>]) -> Result<f64> {
        const OP: &str = "sum_squares";
        let mut slots = Slots::default();
        for t in tensors {
            let grad = t.read(OP, "a tensor", Dtype::F32)?.address();
            slots.push(Slot { grad, ..Slot::default() }, t.count());
        }
        if slots.chunks == 0 {
            return Ok(0.0);
        }
        let list = upload(&self.driver, &slots.list)?;
        let (partials, total) = (self.driver.alloc(8 * slots.chunks)?, self.driver.alloc(8)?);
        let args = [Arg::from(&list), count32(OP, slots.list.len())?.into(), Arg::from(&partials)];
        let grid = [count32(OP, slots.chunks)?, 1];
        // SAFETY: the list says where the tensors are, all float32, and how long; a place a chunk in `partials`.
        unsafe { self.launch(&k::chunk_squares, grid, THREADS, 0, &args) }?;
        let args = [Arg::from(&partials), (slots.chunks as u64).into(), Arg::from(&total)];
        // SAFETY: all of `partials` is written.
        unsafe { self.launch(&k::total_squares, [1, 1], THREADS, 0, &args) }?;
        let mut sum = 0.0f64;
        self.driver.download(&total, bytemuck::bytes_of_mut(&mut sum))?;
        Ok(sum)
    }

    pub(super) fn optimizer_step(
        &self,
        hyper: &AdamW,
        tensors: &mut [AdamWTensor<'_, CudaDevice<R>>],
    ) -> Result<()> {
        const OP: &str = "adamw";
        let mut slots = Slots::default();
        for t in tensors {
            let (rows, cols, count) = (t.value.rows(), t.value.cols(), t.value.count());
            check(OP, "grad", t.grad, rows, cols)?;
            check(OP, "m", t.m, rows, cols)?;
            check(OP, "v", t.v, rows, cols)?;
            let slot = Slot {
                value: t.value.write(OP, "value", Dtype::F32)?.address(),
                grad: t.grad.read(OP, "grad", Dtype::F32)?.address(),
                m: t.m.write(OP, "m", Dtype::F32)?.address(),
                v: t.v.write(OP, "v", Dtype::F32)?.address(),
                ..Slot::default()
            };
            slots.push(slot, count);
        }
        let list = upload(&self.driver, &slots.list)?;
        // As on `cpu`: powers in float64, and steps beyond count change nothing any more.
        let step = i32::try_from(hyper.step).unwrap_or(i32::MAX);
        let left = |beta: f32| 1.0 - f64::from(beta).powi(step);
        let args = [
            Arg::from(&list),
            count32(OP, slots.list.len())?.into(),
            hyper.lr.into(),
            hyper.beta1.into(),
            hyper.beta2.into(),
            hyper.eps.into(),
            hyper.weight_decay.into(),
            (left(hyper.beta1) as f32).into(),
            (left(hyper.beta2).sqrt() as f32).into(),
            hyper.grad_scale.into(),
        ];
        let grid = [count32(OP, slots.chunks)?, 1];
        // SAFETY: the list says where the tensors are, all float32, and how long; those that are written are borrowed
        // for that, and so are no others. The list lives until the launch, after which it is freed in its order.
        unsafe { self.launch(&k::adamw, grid, THREADS, 0, &args) }
    }
}
