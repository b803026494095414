//! RMSNorm and LayerNorm.

use super::memory::MemoryOps;
use super::shape::{Checked, TensorInfo};
use crate::Result;

/// Added to the variance in LayerNorm (spec section 4).
pub(crate) const LAYER_NORM_EPS: f32 = 1e-5;

/// Normalisation of rows. `T` is the number of packed rows, `H` their width; weights are `[1, H]`, float32.
pub trait NormOps: MemoryOps {
    /// RMSNorm: `out[t,:] = x[t,:] / sqrt(mean(x[t,:]²) + eps) · w`. Where `w` is narrower than a row, as that of one
    /// head is, every group of so many columns is normalised by itself.
    fn rms_norm(&self, x: &Self::Tensor, w: &Self::Tensor, eps: f32, out: &mut Self::Tensor) -> Result<()>;
    /// Fused residual addition and RMSNorm: `sum = x + delta`, `out = RMSNorm(sum)`.
    fn add_rms_norm(
        &self,
        x: &Self::Tensor,
        delta: &Self::Tensor,
        w: &Self::Tensor,
        eps: f32,
        sum: &mut Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;
    /// Adds the gradient of [`rms_norm`](NormOps::rms_norm) at `x` to `dx`, and that of the weight
    /// to `dw` where given.
    fn rms_norm_backward(
        &self,
        dout: &Self::Tensor,
        x: &Self::Tensor,
        w: &Self::Tensor,
        eps: f32,
        dx: &mut Self::Tensor,
        dw: Option<&mut Self::Tensor>,
    ) -> Result<()>;
    /// LayerNorm with affine parameters, eps 1e-5.
    fn layer_norm(
        &self,
        x: &Self::Tensor,
        w: &Self::Tensor,
        b: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;
    /// Gradient of [`layer_norm`](NormOps::layer_norm): `dx` is overwritten, `dw` and `db` are added to.
    fn layer_norm_backward(
        &self,
        dout: &Self::Tensor,
        x: &Self::Tensor,
        w: &Self::Tensor,
        dx: &mut Self::Tensor,
        params: Option<(&mut Self::Tensor, &mut Self::Tensor)>,
    ) -> Result<()>;
}

pub(crate) fn check_rms_norm<T: TensorInfo>(x: &T, w: &T, out: &T) -> Result<Checked> {
    let all = Checked::of("rms_norm", x);
    all.same("out", out)?;
    all.groups("w", w)
}

pub(crate) fn check_add_rms_norm<T: TensorInfo>(
    x: &T,
    delta: &T,
    w: &T,
    sum: &T,
    out: &T,
) -> Result<Checked> {
    let all = Checked::of("add_rms_norm", x);
    all.row("w", w)?;
    all.same("delta", delta)?;
    all.same("sum", sum)?;
    all.same("out", out)?;
    Ok(all)
}

pub(crate) fn check_rms_norm_backward<T: TensorInfo>(
    dout: &T,
    x: &T,
    w: &T,
    dx: &T,
    dw: Option<&T>,
) -> Result<Checked> {
    let all = Checked::of("rms_norm_backward", x);
    all.same("dout", dout)?;
    all.same("dx", dx)?;
    let groups = all.groups("w", w)?;
    groups.row_if("dw", dw)?;
    Ok(groups)
}

pub(crate) fn check_layer_norm<T: TensorInfo>(x: &T, w: &T, b: &T, out: &T) -> Result<Checked> {
    let all = Checked::of("layer_norm", x);
    all.row("w", w)?;
    all.row("b", b)?;
    all.same("out", out)?;
    Ok(all)
}

pub(crate) fn check_layer_norm_backward<T: TensorInfo>(
    dout: &T,
    x: &T,
    w: &T,
    dx: &T,
    params: Option<(&T, &T)>,
) -> Result<Checked> {
    let all = Checked::of("layer_norm_backward", x);
    all.row("w", w)?;
    all.same("dout", dout)?;
    all.same("dx", dx)?;
    if let Some((dw, db)) = params {
        all.row("dw", dw)?;
        all.row("db", db)?;
    }
    Ok(all)
}
