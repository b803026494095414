//! Matrix products: the forward of a linear layer and its two backwards.

use super::memory::MemoryOps;
use super::shape::{TensorInfo, check};
use crate::Result;

/// Products of activations with weights and of gradients with either.
///
/// `T` is the number of packed rows, `K` the inputs and `N` the outputs of a linear layer.
pub trait MatmulOps: MemoryOps {
    /// `y[T,N] = beta·y + alpha · x[T,K] · w[N,K]ᵀ`: a linear layer forward.
    fn matmul_nt(
        &self,
        alpha: f32,
        x: &Self::Tensor,
        w: &Self::Tensor,
        beta: f32,
        y: &mut Self::Tensor,
    ) -> Result<()>;
    /// `dx[T,K] = beta·dx + alpha · dy[T,N] · w[N,K]`: gradient of a linear layer's input.
    fn matmul_nn(
        &self,
        alpha: f32,
        dy: &Self::Tensor,
        w: &Self::Tensor,
        beta: f32,
        dx: &mut Self::Tensor,
    ) -> Result<()>;
    /// `dw[N,K] = beta·dw + alpha · dy[T,N]ᵀ · x[T,K]`: gradient of a linear layer's weight.
    fn matmul_tn(
        &self,
        alpha: f32,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        beta: f32,
        dw: &mut Self::Tensor,
    ) -> Result<()>;
}

/// A product whose operands fit together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MatmulShape {
    /// The operation, for errors that follow.
    pub op: &'static str,
    pub t: usize,
    pub n: usize,
    pub k: usize,
}

pub(crate) fn check_matmul_nt<T: TensorInfo>(x: &T, w: &T, y: &T) -> Result<MatmulShape> {
    let (op, t, n, k) = ("matmul_nt", x.rows(), w.rows(), x.cols());
    check(op, "w", w, n, k)?;
    check(op, "y", y, t, n)?;
    Ok(MatmulShape { op, t, n, k })
}

pub(crate) fn check_matmul_nn<T: TensorInfo>(dy: &T, w: &T, dx: &T) -> Result<MatmulShape> {
    let (op, t, n, k) = ("matmul_nn", dy.rows(), w.rows(), w.cols());
    check(op, "dy", dy, t, n)?;
    check(op, "dx", dx, t, k)?;
    Ok(MatmulShape { op, t, n, k })
}

pub(crate) fn check_matmul_tn<T: TensorInfo>(dy: &T, x: &T, dw: &T) -> Result<MatmulShape> {
    let (op, t, n, k) = ("matmul_tn", dy.rows(), dy.cols(), x.cols());
    check(op, "x", x, t, k)?;
    check(op, "dw", dw, n, k)?;
    Ok(MatmulShape { op, t, n, k })
}
