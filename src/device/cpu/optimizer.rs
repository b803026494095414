//! AdamW (spec section 7) and the gradient norm.

use super::CpuDevice;
use super::buffer::CpuTensor;
use super::par::{self, SharedMut};
use super::simd::dispatch;
use crate::Result;
use crate::device::optimizer::{AdamW, AdamWTensor, OptimizerOps, check_adamw};

impl OptimizerOps for CpuDevice {
    type Late = f64;

    fn sum_squares(&self, tensors: &[&CpuTensor]) -> Result<f64> {
        let mut sum = 0.0;
        for t in tensors {
            sum += sum_squares(t.f32("sum_squares")?);
        }
        Ok(sum)
    }

    fn adamw(&self, hyper: &AdamW, tensors: &mut [AdamWTensor<'_, Self>]) -> Result<()> {
        for t in tensors {
            let op = check_adamw(t)?.op;
            adamw(hyper, t.value.f32_mut(op)?, t.grad.f32(op)?, t.m.f32_mut(op)?, t.v.f32_mut(op)?);
        }
        Ok(())
    }

    fn adamw_clipped(
        &self,
        hyper: &AdamW,
        clip: f32,
        watched: &[&CpuTensor],
        tensors: &mut [AdamWTensor<'_, Self>],
    ) -> Result<f64> {
        let grads: Vec<&CpuTensor> = tensors.iter().map(|t| t.grad).collect();
        let norm = self.sum_squares(&grads)?.sqrt();
        if !norm.is_finite() || !self.sum_squares(watched)?.is_finite() {
            return Ok(f64::NAN);
        }
        self.adamw(&hyper.clipped(norm, clip), tensors)?;
        Ok(norm)
    }

    fn late(&self, number: &f64) -> Result<f64> {
        Ok(*number)
    }
}

/// Updates one tensor: decoupled weight decay, then the bias-corrected Adam step.
fn adamw(h: &AdamW, value: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32]) {
    let step = i32::try_from(h.step).unwrap_or(i32::MAX);
    let correct1 = (1.0 - f64::from(h.beta1).powi(step)) as f32;
    let correct2 = (1.0 - f64::from(h.beta2).powi(step)).sqrt() as f32;
    let (m, v) = (SharedMut::new(m), SharedMut::new(v));
    par::split_rows(value, 1, 4096, |first, value| {
        let at = first..first + value.len();
        // SAFETY: `split_rows` hands out disjoint ranges, and m is cut alike.
        let m = unsafe { m.slice(at.clone()) };
        // SAFETY: as above, for v.
        let v = unsafe { v.slice(at.clone()) };
        let grad = &grad[at];
        dispatch(
            #[inline(always)]
            || {
                for (((w, &g), m), v) in value.iter_mut().zip(grad).zip(m).zip(v) {
                    let g = g * h.grad_scale;
                    *m = h.beta1 * *m + (1.0 - h.beta1) * g;
                    *v = h.beta2 * *v + (1.0 - h.beta2) * g * g;
                    let update = (*m / correct1) / (v.sqrt() / correct2 + h.eps);
                    *w -= h.lr * (h.weight_decay * *w + update);
                }
            },
        );
    });
}

/// Sum of squares in float64, over blocks of a fixed size summed in order.
fn sum_squares(x: &[f32]) -> f64 {
    par::sum_blocks(x.len(), 1 << 16, |block| {
        let mut lanes = [0.0f64; 8];
        let x = &x[block];
        dispatch(
            #[inline(always)]
            || {
                let mut chunks = x.chunks_exact(8);
                for c in &mut chunks {
                    for (l, &x) in lanes.iter_mut().zip(c) {
                        *l += f64::from(x) * f64::from(x);
                    }
                }
                for (l, &x) in lanes.iter_mut().zip(chunks.remainder()) {
                    *l += f64::from(x) * f64::from(x);
                }
            },
        );
        lanes.iter().sum()
    })
}
