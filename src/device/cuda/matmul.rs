//! Matrix products: few rows by `cuda/gemv.cu`, more by the driver's library.

use super::driver::{Arg, Driver, Operand, Product, ProductForm};
use super::kernels::{by_weight, kernels};
use super::{CudaDevice, CudaTensor, count32};
use crate::Result;
use crate::device::matmul::{MatmulOps, MatmulShape, check_matmul_nn, check_matmul_nt, check_matmul_tn};
use crate::device::memory::MemoryOps;
use crate::device::shape::TensorInfo;
use crate::device::{Dtype, FEW_ROWS, RowForm};

kernels! {
    "gemv":
    gemv_f32_f32_1 gemv_f32_f32_4 gemv_f32_f32_16 gemv_f32_bf16_1 gemv_f32_bf16_4 gemv_f32_bf16_16
    gemv_f32_f16_1 gemv_f32_f16_4 gemv_f32_f16_16 gemv_bf16_f32_1 gemv_bf16_f32_4 gemv_bf16_f32_16
    gemv_bf16_bf16_1 gemv_bf16_bf16_4 gemv_bf16_bf16_16 gemv_bf16_f16_1 gemv_bf16_f16_4 gemv_bf16_f16_16
}

/// Rows up to which a product is bound by reading its weights, and its own kernel reads them best.
const SKINNY_ROWS: usize = FEW_ROWS;

/// Warps of a block of `gemv`.
const WARPS: usize = 8;

impl<R: Driver> MatmulOps for CudaDevice<R> {
    fn matmul_nt(
        &self,
        alpha: f32,
        x: &CudaTensor<R>,
        w: &CudaTensor<R>,
        beta: f32,
        y: &mut CudaTensor<R>,
    ) -> Result<()> {
        let MatmulShape { op, t, n, k: inner } = check_matmul_nt(x, w, y)?;
        if t == 0 || n == 0 {
            return Ok(());
        }
        let (activation, weight) = (y.dtype(), w.dtype());
        if self.by_library(t) {
            x.read(op, "x", activation)?;
            y.write(op, "y", activation)?;
            return self.large_product(ProductForm::Nt, alpha, x, w, beta, y);
        }
        let x = x.read(op, "x", activation)?;
        let (forms, columns) = match t {
            1 => (
                [
                    [&gemv_f32_f32_1, &gemv_f32_bf16_1, &gemv_f32_f16_1],
                    [&gemv_bf16_f32_1, &gemv_bf16_bf16_1, &gemv_bf16_f16_1],
                ],
                4,
            ),
            2..=4 => (
                [
                    [&gemv_f32_f32_4, &gemv_f32_bf16_4, &gemv_f32_f16_4],
                    [&gemv_bf16_f32_4, &gemv_bf16_bf16_4, &gemv_bf16_f16_4],
                ],
                4,
            ),
            _ => (
                [
                    [&gemv_f32_f32_16, &gemv_f32_bf16_16, &gemv_f32_f16_16],
                    [&gemv_bf16_f32_16, &gemv_bf16_bf16_16, &gemv_bf16_f16_16],
                ],
                2,
            ),
        };
        let kernel = by_weight(op, activation, weight, forms)?;
        let args = [
            alpha.into(),
            Arg::from(x),
            (t as u32).into(),
            Arg::from(&w.memory),
            (n as u64).into(),
            count32(op, inner)?.into(),
            beta.into(),
            y.write(op, "y", activation)?.into(),
        ];
        let blocks = count32(op, n.div_ceil(WARPS * columns))?;
        // SAFETY: the checks above; the kernel repeats rows of `x` and `w` rather than go past their ends.
        unsafe { self.launch(kernel, [blocks, 1], 32 * WARPS as u32, 0, &args) }
    }

    fn matmul_nn(
        &self,
        alpha: f32,
        dy: &CudaTensor<R>,
        w: &CudaTensor<R>,
        beta: f32,
        dx: &mut CudaTensor<R>,
    ) -> Result<()> {
        let op = check_matmul_nn(dy, w, dx)?.op;
        dx.write(op, "dx", dy.dtype())?;
        self.large_product(ProductForm::Nn, alpha, dy, w, beta, dx)
    }

    fn matmul_tn(
        &self,
        alpha: f32,
        dy: &CudaTensor<R>,
        x: &CudaTensor<R>,
        beta: f32,
        dw: &mut CudaTensor<R>,
    ) -> Result<()> {
        let op = check_matmul_tn(dy, x, dw)?.op;
        x.read(op, "x", dy.dtype())?;
        dw.write(op, "dw", Dtype::F32)?;
        self.large_product(ProductForm::Tn, alpha, dy, x, beta, dw)
    }
}

impl<R: Driver> CudaDevice<R> {
    /// Whether a product with so many rows of activations is the library's.
    fn by_library(&self, rows: usize) -> bool {
        rows > SKINNY_ROWS || self.form == RowForm::Many
    }

    /// A product by the driver's library, which wants both operands in one dtype: that of `a`, the activations. So
    /// weights of another are rounded or widened to it, as [`freeze`](MemoryOps::freeze) does once for
    /// all where they never change, and where they are trained once a step. Shapes are checked by the caller.
    fn large_product(
        &self,
        form: ProductForm,
        alpha: f32,
        a: &CudaTensor<R>,
        b: &CudaTensor<R>,
        beta: f32,
        y: &mut CudaTensor<R>,
    ) -> Result<()> {
        let (m, n) = (y.rows(), y.cols());
        let k = if form == ProductForm::Tn { a.rows() } else { a.cols() };
        if m == 0 || n == 0 {
            return Ok(());
        }
        let (dtype, out) = (a.dtype(), y.dtype());
        if k == 0 {
            // Nothing is added to beta·y, and neither is it by a column of zeros.
            let (a, b) = (self.zeros(m, 1)?, self.zeros(n, 1)?);
            let (a, b, y) = (Operand::from(&a.memory), Operand::from(&b.memory), Operand::from(&y.memory));
            let zeros =
                Product { form: ProductForm::Nt, m, n, k: 1, alpha, beta, a, b, y, dtype: Dtype::F32, out };
            return self.driver.product(&zeros);
        }
        let mut space = None;
        let b = self.in_dtype(b, dtype, &mut space)?;
        let (a, b, y) = (Operand::from(&a.memory), Operand::from(&b.memory), Operand::from(&y.memory));
        self.driver.product(&Product { form, m, n, k, alpha, beta, a, b, y, dtype, out })
    }

    /// The matrix itself where it has the dtype, else a copy: of a weight the one that it keeps, or one in `space`.
    pub(super) fn in_dtype<'t>(
        &self,
        t: &'t CudaTensor<R>,
        dtype: Dtype,
        space: &'t mut Option<CudaTensor<R>>,
    ) -> Result<&'t CudaTensor<R>> {
        match &t.rounded {
            _ if t.dtype() == dtype => Ok(t),
            Some(rounded) if dtype == Dtype::Bf16 => {
                let make = || self.kept("convert", t.rows(), t.cols(), dtype);
                rounded.get(make, |copy| self.convert_to(t, copy))
            }
            _ => Ok(space.insert(self.converted(t, dtype)?)),
        }
    }

    /// `x·wᵀ` in float32, whatever the activations' dtype.
    pub(super) fn logits(&self, x: &CudaTensor<R>, w: &CudaTensor<R>) -> Result<CudaTensor<R>> {
        let mut y = self.tensor("logits", x.rows(), w.rows(), Dtype::F32)?;
        if x.dtype() == w.dtype() && self.by_library(x.rows()) {
            self.large_product(ProductForm::Nt, 1.0, x, w, 0.0, &mut y)?;
        } else if x.dtype() == Dtype::F32 {
            self.matmul_nt(1.0, x, w, 0.0, &mut y)?;
        } else {
            self.matmul_nt(1.0, &self.converted(x, Dtype::F32)?, w, 0.0, &mut y)?;
        }
        Ok(y)
    }
}
