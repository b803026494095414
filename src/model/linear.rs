//! A linear layer with optional bias and optional LoRA adapter (spec section 7):
//! `y = W·x + b + (alpha/r)·B·(A·x)`, in training with dropout in front of A.

use super::params::{Grads, ParamId, Params};
use crate::Result;
use crate::device::{Device, Dropout, MemoryOps, TensorInfo};

/// A low-rank adapter.
#[derive(Debug, Clone, Copy)]
pub struct Lora {
    /// `[r, in]`.
    pub a: ParamId,
    /// `[out, r]`.
    pub b: ParamId,
    /// alpha / r.
    pub scale: f32,
    /// The elements of its input that it does not see in this pass; of a training pass alone.
    pub dropout: Option<Dropout>,
}

/// A linear layer: `[T, in] → [T, out]`.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: ParamId,
    /// `[1, out]`.
    pub bias: Option<ParamId>,
    /// The adapter, if one is attached.
    pub lora: Option<Lora>,
}

/// The product A·x, `[T, r]`, which a linear layer's backward pass needs beside its input.
pub type LinearSaved<D> = Option<<D as MemoryOps>::Tensor>;

/// Result of [`Linear::forward_but_bias`]: `y[T, out]`, the bias to add, and the product to keep for the backward pass.
pub type ButBias<'a, D> = (<D as MemoryOps>::Tensor, Option<&'a <D as MemoryOps>::Tensor>, LinearSaved<D>);

impl Lora {
    /// Adds `scale·B·(A·x)` to `y[T, out]`; returns A·x, `[T, r]`.
    pub(super) fn add<D: Device>(
        &self,
        device: &D,
        params: &Params<D>,
        x: &D::Tensor,
        y: &mut D::Tensor,
    ) -> Result<D::Tensor> {
        let low = self.low(device, params, x)?;
        device.matmul_nt(self.scale, &low, params.get(self.b), 1.0, y)?;
        Ok(low)
    }

    /// A·x, `[T, r]`.
    fn low<D: Device>(&self, device: &D, params: &Params<D>, x: &D::Tensor) -> Result<D::Tensor> {
        let a = params.get(self.a);
        let seen = self.seen(device, x)?;
        let mut low = device.empty(x.rows(), a.rows())?;
        device.matmul_nt(1.0, seen.as_ref().unwrap_or(x), a, 0.0, &mut low)?;
        Ok(low)
    }

    /// The input as the adapter sees it, `[T, in]`, where that is not the input itself.
    fn seen<D: Device>(&self, device: &D, x: &D::Tensor) -> Result<Option<D::Tensor>> {
        let Some(dropout) = self.dropout else { return Ok(None) };
        let mut seen = device.empty(x.rows(), x.cols())?;
        device.dropout(dropout, x, 0.0, &mut seen)?;
        Ok(Some(seen))
    }

    /// Adds the gradient that reaches the input through the adapter to `dx[T, in]`, given that of A·x, `dlow[T, r]`.
    fn add_input_gradient<D: Device>(
        &self,
        device: &D,
        params: &Params<D>,
        dlow: &D::Tensor,
        dx: &mut D::Tensor,
    ) -> Result<()> {
        let a = params.get(self.a);
        let Some(dropout) = self.dropout else { return device.matmul_nn(1.0, dlow, a, 1.0, dx) };
        let mut dseen = device.empty(dx.rows(), dx.cols())?;
        device.matmul_nn(1.0, dlow, a, 0.0, &mut dseen)?;
        device.dropout(dropout, &dseen, 1.0, dx)
    }
}

impl Linear {
    /// Whether any weight of this layer is trained.
    pub fn trained<D: Device>(&self, grads: &Grads<D>) -> bool {
        grads.trains(self.weight)
            || self.bias.is_some_and(|b| grads.trains(b))
            || self.lora.is_some_and(|l| grads.trains(l.a) || grads.trains(l.b))
    }

    /// Computes `y[T, out]` from `x[T, in]`.
    ///
    /// # Errors
    /// Shape mismatches and errors of the device.
    pub fn forward<D: Device>(
        &self,
        device: &D,
        params: &Params<D>,
        x: &D::Tensor,
    ) -> Result<(D::Tensor, LinearSaved<D>)> {
        let w = params.get(self.weight);
        let mut y = device.empty(x.rows(), w.rows())?;
        device.matmul_nt(1.0, x, w, 0.0, &mut y)?;
        if let Some(bias) = self.bias {
            device.add_bias(&mut y, params.get(bias))?;
        }
        let low = self.lora.map(|lora| lora.add(device, params, x, &mut y)).transpose()?;
        Ok((y, low))
    }

    /// A·x, `[T, r]`, where there is an adapter.
    pub(super) fn low<D: Device>(
        &self,
        device: &D,
        params: &Params<D>,
        x: &D::Tensor,
    ) -> Result<LinearSaved<D>> {
        self.lora.map(|lora| lora.low(device, params, x)).transpose()
    }

    /// As [`forward`](Linear::forward), but leaves the addition of the bias that it returns to the caller, who
    /// may have a pass over `y` to join it to. Where an adapter follows the bias nothing is left.
    ///
    /// # Errors
    /// Shape mismatches and errors of the device.
    pub fn forward_but_bias<'a, D: Device>(
        &self,
        device: &D,
        params: &'a Params<D>,
        x: &D::Tensor,
    ) -> Result<ButBias<'a, D>> {
        if self.lora.is_some() {
            let (y, low) = self.forward(device, params, x)?;
            return Ok((y, None, low));
        }
        let (y, low) = Linear { bias: None, ..*self }.forward(device, params, x)?;
        Ok((y, self.bias.map(|bias| params.get(bias)), low))
    }

    /// Adds to the gradients of the trained weights, and puts or adds (`beta` 0 or 1) the gradient
    /// of the input into `dx` where given.
    ///
    /// # Errors
    /// Shape mismatches and errors of the device.
    #[allow(clippy::too_many_arguments)]
    pub fn backward<D: Device>(
        &self,
        device: &D,
        params: &Params<D>,
        grads: &mut Grads<D>,
        x: &D::Tensor,
        saved: &LinearSaved<D>,
        dy: &D::Tensor,
        dx: Option<(&mut D::Tensor, f32)>,
    ) -> Result<()> {
        if let Some(dw) = grads.get_mut(self.weight) {
            device.matmul_tn(1.0, dy, x, 1.0, dw)?;
        }
        if let Some(db) = self.bias.and_then(|b| grads.get_mut(b)) {
            device.add_bias_backward(dy, db)?;
        }
        let mut low_grad = None;
        if let (Some(lora), Some(low)) = (self.lora, saved)
            && (dx.is_some() || grads.trains(lora.a) || grads.trains(lora.b))
        {
            let b = params.get(lora.b);
            let mut dlow = device.empty(dy.rows(), b.cols())?;
            device.matmul_nn(lora.scale, dy, b, 0.0, &mut dlow)?;
            if let Some(db) = grads.get_mut(lora.b) {
                device.matmul_tn(lora.scale, dy, low, 1.0, db)?;
            }
            if let Some(da) = grads.get_mut(lora.a) {
                let seen = lora.seen(device, x)?;
                device.matmul_tn(1.0, &dlow, seen.as_ref().unwrap_or(x), 1.0, da)?;
            }
            low_grad = Some((lora, dlow));
        }
        if let Some((dx, beta)) = dx {
            device.matmul_nn(1.0, dy, params.get(self.weight), beta, dx)?;
            if let Some((lora, dlow)) = low_grad {
                lora.add_input_gradient(device, params, &dlow, dx)?;
            }
        }
        Ok(())
    }
}
