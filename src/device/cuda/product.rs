//! Matrix products: few rows by `cuda/gemv.cu`, more by the driver's library.

use super::driver::{Arg, Driver, Product};
use super::kernels::{self as k, by_weight};
use super::{CudaDevice, CudaTensor, count32};
use crate::Result;
use crate::device::{Dtype, TensorInfo, check};

/// Rows up to which a product is bound by reading its weights, and its own kernel reads them best.
const SKINNY_ROWS: usize = 16;

/// Warps of a block of `gemv`.
const WARPS: usize = 8;

impl<R: Driver> CudaDevice<R> {
    /// `y = beta·y + alpha·x·wᵀ`.
    pub(super) fn product(
        &self,
        alpha: f32,
        x: &CudaTensor<R>,
        w: &CudaTensor<R>,
        beta: f32,
        y: &mut CudaTensor<R>,
    ) -> Result<()> {
        const OP: &str = "matmul_nt";
        let (m, n, inner) = (x.rows(), w.rows(), x.cols());
        check(OP, "w", w, n, inner)?;
        check(OP, "y", y, m, n)?;
        if m == 0 || n == 0 {
            return Ok(());
        }
        let (activation, weight) = (y.dtype(), w.dtype());
        if m > SKINNY_ROWS {
            x.read(OP, "x", activation)?;
            y.write(OP, "y", activation)?;
            return self.large_product(alpha, x, w, beta, y);
        }
        let x = x.read(OP, "x", activation)?;
        let (forms, columns) = match m {
            1 => (
                [
                    [&k::gemv_f32_f32_1, &k::gemv_f32_bf16_1, &k::gemv_f32_f16_1],
                    [&k::gemv_bf16_f32_1, &k::gemv_bf16_bf16_1, &k::gemv_bf16_f16_1],
                ],
                4,
            ),
            2..=4 => (
                [
                    [&k::gemv_f32_f32_4, &k::gemv_f32_bf16_4, &k::gemv_f32_f16_4],
                    [&k::gemv_bf16_f32_4, &k::gemv_bf16_bf16_4, &k::gemv_bf16_f16_4],
                ],
                4,
            ),
            _ => (
                [
                    [&k::gemv_f32_f32_16, &k::gemv_f32_bf16_16, &k::gemv_f32_f16_16],
                    [&k::gemv_bf16_f32_16, &k::gemv_bf16_bf16_16, &k::gemv_bf16_f16_16],
                ],
                2,
            ),
        };
        let kernel = by_weight(OP, activation, weight, forms)?;
        let args = [
            alpha.into(),
            Arg::from(x),
            (m as u32).into(),
            Arg::from(&w.memory),
            (n as u64).into(),
            count32(OP, inner)?.into(),
            beta.into(),
            y.write(OP, "y", activation)?.into(),
        ];
        let blocks = count32(OP, n.div_ceil(WARPS * columns))?;
        // SAFETY: the checks above; the kernel repeats rows of `x` and `w` rather than go past their ends.
        unsafe { self.launch(kernel, [blocks, 1], 32 * WARPS as u32, 0, &args) }
    }

    /// A product by the driver's library, which wants `x` and `w` in one dtype. Where they differ, as in
    /// training with bf16 activations, it is formed in float32 of copies.
    fn large_product(
        &self,
        alpha: f32,
        x: &CudaTensor<R>,
        w: &CudaTensor<R>,
        beta: f32,
        y: &mut CudaTensor<R>,
    ) -> Result<()> {
        let (m, n, k) = (x.rows(), w.rows(), x.cols());
        let (dtype, out) = (x.dtype(), y.dtype());
        if w.dtype() == dtype {
            let (x, w, y) = (&x.memory, &w.memory, &y.memory);
            return self.driver.product(&Product { m, n, k, alpha, beta, x, w, y, dtype, out });
        }
        let float = Dtype::F32;
        let wide_w;
        let w = if w.dtype() == float {
            w
        } else {
            wide_w = self.converted(w, float)?;
            &wide_w
        };
        if dtype == float {
            let (x, w, y) = (&x.memory, &w.memory, &y.memory);
            return self.driver.product(&Product { m, n, k, alpha, beta, x, w, y, dtype, out });
        }
        let (wide_x, wide_y) = (self.converted(x, float)?, self.converted(y, float)?);
        let (x, w, wide) = (&wide_x.memory, &w.memory, &wide_y.memory);
        self.driver.product(&Product { m, n, k, alpha, beta, x, w, y: wide, dtype: float, out: float })?;
        self.convert_into(&wide_y, y)
    }

    /// `x·wᵀ` in float32, whatever the activations' dtype.
    pub(super) fn logits(&self, x: &CudaTensor<R>, w: &CudaTensor<R>) -> Result<CudaTensor<R>> {
        let mut y = self.tensor("logits", x.rows(), w.rows(), Dtype::F32)?;
        if x.dtype() == w.dtype() && x.rows() > SKINNY_ROWS {
            self.large_product(1.0, x, w, 0.0, &mut y)?;
        } else if x.dtype() == Dtype::F32 {
            self.product(1.0, x, w, 0.0, &mut y)?;
        } else {
            self.product(1.0, &self.converted(x, Dtype::F32)?, w, 0.0, &mut y)?;
        }
        Ok(y)
    }
}
