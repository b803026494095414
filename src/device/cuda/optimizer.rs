//! Launches of `cuda/optimizer.cu`: the optimiser's step and the sum of squares, over all tensors at once.
//!
//! A clipped step is three launches over one list: the squares of all gradients, their sum, and the update, which
//! takes its factor from that sum where it is. The host learns the norm when it asks.

use bytemuck::{Pod, Zeroable};

use super::driver::{Arg, Driver, Memory};
use super::kernels::kernels;
use super::tensor::upload;
use super::{CudaDevice, CudaTensor, count32};
use crate::Result;
use crate::device::Dtype;
use crate::device::optimizer::{AdamW, AdamWTensor, OptimizerOps, check_adamw};

kernels! {
    "optimizer":
    sum_squares_chunks sum_squares_total adamw
}

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
    /// The values in bf16, which the update then writes as well; 0 where there are none.
    copy: u64,
    count: u64,
    first: u64,
}

/// Tensors cut into chunks.
#[derive(Default, Clone)]
struct Slots {
    list: Vec<Slot>,
    chunks: usize,
}

/// How an update scales its gradients beside the factor that it is given.
struct Clip<'a, M> {
    /// The sum of their squares; without, they are taken as they are.
    squares: Option<&'a M>,
    /// The largest norm; 0 never clips.
    norm: f32,
}

impl Slots {
    /// Appends a tensor of `count` elements; one without any has no chunk.
    fn push(&mut self, slot: Slot, count: usize) {
        if count > 0 {
            self.list.push(Slot { count: count as u64, first: self.chunks as u64, ..slot });
            self.chunks += count.div_ceil(CHUNK);
        }
    }

    /// Appends other slots, after all chunks of these.
    fn append(&mut self, others: Slots) {
        let before = self.chunks as u64;
        self.list.extend(others.list.into_iter().map(|slot| Slot { first: before + slot.first, ..slot }));
        self.chunks += others.chunks;
    }
}

impl<R: Driver> OptimizerOps for CudaDevice<R> {
    /// The sum of squares whose root it is, in float64.
    type Late = R::Memory;

    fn sum_squares(&self, tensors: &[&CudaTensor<R>]) -> Result<f64> {
        let slots = gradients("sum_squares", tensors)?;
        if slots.chunks == 0 {
            return Ok(0.0);
        }
        let list = upload(&self.driver, &slots.list)?;
        self.number(&self.sum(&list, &slots, slots.chunks)?)
    }

    fn adamw(&self, hyper: &AdamW, tensors: &mut [AdamWTensor<'_, CudaDevice<R>>]) -> Result<()> {
        let slots = trained(tensors)?;
        let list = upload(&self.driver, &slots.list)?;
        self.update(hyper, &list, &slots, &Clip { squares: None, norm: 0.0 }, tensors)
    }

    fn adamw_clipped(
        &self,
        hyper: &AdamW,
        clip: f32,
        watched: &[&CudaTensor<R>],
        tensors: &mut [AdamWTensor<'_, CudaDevice<R>>],
    ) -> Result<R::Memory> {
        let slots = trained(tensors)?;
        let mut all = slots.clone();
        all.append(gradients("adamw_clipped", watched)?);
        let list = upload(&self.driver, &all.list)?;
        let squares = self.sum(&list, &all, slots.chunks)?;
        self.update(hyper, &list, &slots, &Clip { squares: Some(&squares), norm: clip }, tensors)?;
        Ok(squares)
    }

    fn late(&self, number: &R::Memory) -> Result<f64> {
        Ok(self.number(number)?.sqrt())
    }
}

impl<R: Driver> CudaDevice<R> {
    /// Waits for a float64.
    fn number(&self, at: &R::Memory) -> Result<f64> {
        let mut number = 0.0f64;
        self.driver.download(at, bytemuck::bytes_of_mut(&mut number))?;
        Ok(number)
    }

    /// The sum of the squares of the first `counted` chunks of a list, or NaN where any of its numbers is not finite.
    fn sum(&self, list: &R::Memory, slots: &Slots, counted: usize) -> Result<R::Memory> {
        const OP: &str = "sum_squares";
        let (partials, total) = (self.driver.alloc(8 * slots.chunks)?, self.driver.alloc(8)?);
        let args = [Arg::from(list), count32(OP, slots.list.len())?.into(), Arg::from(&partials)];
        let grid = [count32(OP, slots.chunks)?, 1];
        // SAFETY: the list says where the tensors are, all float32, and how long; a place a chunk in `partials`.
        unsafe { self.launch(&sum_squares_chunks, grid, THREADS, 0, &args) }?;
        let [counted, all] = [counted, slots.chunks].map(|n| Arg::from(n as u64));
        let args = [Arg::from(&partials), counted, all, Arg::from(&total)];
        // SAFETY: all of `partials` is written.
        unsafe { self.launch(&sum_squares_total, [1, 1], THREADS, 0, &args) }?;
        Ok(total)
    }

    /// Updates the tensors that the slots, the first of the list, are of.
    fn update(
        &self,
        hyper: &AdamW,
        list: &R::Memory,
        slots: &Slots,
        clip: &Clip<'_, R::Memory>,
        tensors: &mut [AdamWTensor<'_, CudaDevice<R>>],
    ) -> Result<()> {
        const OP: &str = "adamw";
        let with_copy: Vec<bool> = tensors.iter().map(|t| t.value.fresh_copy().is_some()).collect();
        for t in tensors.iter_mut() {
            t.value.write(OP, "value", Dtype::F32)?;
            t.m.write(OP, "m", Dtype::F32)?;
            t.v.write(OP, "v", Dtype::F32)?;
        }
        // As on `cpu`: powers in float64, and steps beyond count change nothing any more.
        let step = i32::try_from(hyper.step).unwrap_or(i32::MAX);
        let left = |beta: f32| 1.0 - f64::from(beta).powi(step);
        let args = [
            Arg::from(list),
            count32(OP, slots.list.len())?.into(),
            hyper.lr.into(),
            hyper.beta1.into(),
            hyper.beta2.into(),
            hyper.eps.into(),
            hyper.weight_decay.into(),
            (left(hyper.beta1) as f32).into(),
            (left(hyper.beta2).sqrt() as f32).into(),
            hyper.grad_scale.into(),
            clip.squares.into(),
            clip.norm.into(),
        ];
        let grid = [count32(OP, slots.chunks)?, 1];
        // SAFETY: the list says where the tensors are, all float32, and how long; those that are written are borrowed
        // for that, and so are no others; copies in bf16 are as long. The list lives until the launch, after which it
        // is freed in its order.
        unsafe { self.launch(&adamw, grid, THREADS, 0, &args) }?;
        for (t, _) in tensors.iter_mut().zip(with_copy).filter(|(_, with_copy)| *with_copy) {
            t.value.copy_is_fresh();
        }
        Ok(())
    }
}

/// The slots of tensors to be squared.
fn gradients<R: Driver>(op: &'static str, tensors: &[&CudaTensor<R>]) -> Result<Slots> {
    let mut slots = Slots::default();
    for t in tensors {
        let grad = t.read(op, "a tensor", Dtype::F32)?.address();
        slots.push(Slot { grad, ..Slot::default() }, t.count());
    }
    Ok(slots)
}

/// The slots of tensors to be updated.
fn trained<R: Driver>(tensors: &[AdamWTensor<'_, CudaDevice<R>>]) -> Result<Slots> {
    let mut slots = Slots::default();
    for t in tensors {
        let checked = check_adamw(t)?;
        let op = checked.op;
        let slot = Slot {
            value: t.value.read(op, "value", Dtype::F32)?.address(),
            grad: t.grad.read(op, "grad", Dtype::F32)?.address(),
            m: t.m.read(op, "m", Dtype::F32)?.address(),
            v: t.v.read(op, "v", Dtype::F32)?.address(),
            copy: t.value.fresh_copy().map_or(0, Memory::address),
            ..Slot::default()
        };
        slots.push(slot, checked.count());
    }
    Ok(slots)
}
