//! The output head with cross-entropy: launches of `cuda/cross_entropy.cu` between products, chunk by chunk.
//!
//! A chunk is some rows of hidden states. Its logits come from one product, the kernel makes losses and the logits'
//! gradient of them, and two more products that of the hidden states and of the output matrix; then the next chunk
//! takes the same memory. The output matrix is read once a chunk in each product, so a chunk must have some hundreds
//! of rows for the tensor cores to set the pace and not the memory.

use super::driver::{Arg, Driver, Operand, Product, ProductForm};
use super::kernels::{by_activation, kernels};
use super::policy::policy;
use super::{CudaDevice, CudaIndex, CudaTensor, LOGITS_FLOATS, count32, row_threads};
use crate::Result;
use crate::device::Dtype;
use crate::device::cross_entropy::{
    CrossEntropyGrads, CrossEntropyOps, CrossEntropyShape, Upstream, check_cross_entropy,
};
use crate::device::shape::TensorInfo;

kernels! {
    "cross_entropy":
    cross_entropy_loss cross_entropy_gradient_f32 cross_entropy_gradient_bf16
}

/// Rows of a chunk are a multiple of this where they are more, so that each begins where wide loads can.
const CHUNK_ROWS: usize = 128;

/// The gradients' buffers, checked.
struct Wanted<'a, R: Driver> {
    /// Factors or the terms of the policy objective (one of the two is given), and the constants of the terms.
    upstream: Vec<Arg>,
    dh: &'a CudaTensor<R>,
    dw: Option<&'a CudaTensor<R>>,
}

impl<R: Driver> CrossEntropyOps for CudaDevice<R> {
    fn cross_entropy(
        &self,
        h: &CudaTensor<R>,
        w: &CudaTensor<R>,
        ids: &CudaIndex<R>,
        offsets: &CudaIndex<R>,
        loss: &mut CudaTensor<R>,
        grads: Option<CrossEntropyGrads<'_, CudaDevice<R>>>,
    ) -> Result<()> {
        let CrossEntropyShape { op, rows, hidden, vocab } =
            check_cross_entropy(h, w, &ids.values, &offsets.values, loss, grads.as_ref())?;
        let dtype = h.dtype();
        let gradient = by_activation(op, dtype, [&cross_entropy_gradient_f32, &cross_entropy_gradient_bf16])?;
        let loss = Arg::from(loss.write(op, "loss", Dtype::F32)?);
        let wanted = grads.map(|grads| wanted(op, dtype, grads)).transpose()?;
        if rows == 0 {
            return Ok(());
        }

        let floats = if wanted.is_some() { self.loss_floats } else { self.loss_floats.min(LOGITS_FLOATS) };
        let chunk = chunk_rows(floats, rows, vocab);
        let chunk = if chunk > CHUNK_ROWS { chunk - chunk % CHUNK_ROWS } else { chunk };
        let mut space = None;
        let w = Operand::from(&self.in_dtype(w, dtype, &mut space)?.memory);
        let logits = self.tensor(op, chunk, vocab, Dtype::F32)?;
        let dlogits = match wanted {
            Some(_) => Some(self.tensor(op, chunk, vocab, dtype)?),
            None => None,
        };
        let threads = row_threads(vocab);
        for start in (0..rows).step_by(chunk) {
            let n = chunk.min(rows - start);
            let product = |form, [m, n, k]: [usize; 3], beta, a, b, y, out| {
                let product = Product { form, m, n, k, alpha: 1.0, beta, a, b, y, dtype, out };
                self.driver.product(&product)
            };
            let (logits, h_part) = (&logits.memory, Operand { memory: &h.memory, from: start * hidden });
            product(ProductForm::Nt, [n, vocab, hidden], 0.0, h_part, w, logits.into(), Dtype::F32)?;
            let grid = [count32(op, n)?, 1];
            let labels = [
                Arg::from(logits),
                Arg::from(&ids.memory),
                Arg::from(&offsets.memory),
                count32(op, vocab)?.into(),
                count32(op, start)?.into(),
            ];
            let (Some(wanted), Some(dlogits)) = (&wanted, &dlogits) else {
                // SAFETY: the checks above: every label is a column of the logits, `loss` has a row for each of `h`.
                unsafe {
                    self.launch(&cross_entropy_loss, grid, threads, 0, &[&labels[..], &[loss]].concat())
                }?;
                continue;
            };
            let results = [loss, Arg::from(&dlogits.memory)];
            let args = [&labels[..], &wanted.upstream, &results].concat();
            // SAFETY: as above; the upstream has a row for each of `h`, and `dlogits` the shape of the logits.
            unsafe { self.launch(gradient, grid, threads, 0, &args) }?;
            let (dlogits, dh) = (Operand::from(&dlogits.memory), &wanted.dh.memory);
            let dh = Operand { memory: dh, from: start * hidden };
            product(ProductForm::Nn, [n, hidden, vocab], 0.0, dlogits, w, dh, dtype)?;
            if let Some(dw) = wanted.dw {
                product(
                    ProductForm::Tn,
                    [vocab, hidden, n],
                    1.0,
                    dlogits,
                    h_part,
                    (&dw.memory).into(),
                    Dtype::F32,
                )?;
            }
        }
        Ok(())
    }

    fn cross_entropy_bytes(&self, rows: usize, vocab: usize) -> usize {
        let each = Dtype::F32.size() + self.compute.size();
        chunk_rows(self.loss_floats, rows, vocab).saturating_mul(vocab * each)
    }
}

/// Rows of logits, of `rows` in all, that fit `floats` numbers, or one.
fn chunk_rows(floats: usize, rows: usize, vocab: usize) -> usize {
    rows.min((floats / vocab.max(1)).max(1))
}

/// Inputs and outputs of a gradient, in the dtypes that the kernels take.
fn wanted<'a, R: Driver>(
    op: &'static str,
    dtype: Dtype,
    grads: CrossEntropyGrads<'a, CudaDevice<R>>,
) -> Result<Wanted<'a, R>> {
    let (scale, terms) = match &grads.upstream {
        Upstream::Scale(scale) => (Some(scale.read(op, "scale", Dtype::F32)?), None),
        Upstream::Policy(terms) => (None, Some(terms)),
    };
    let upstream = [&[Arg::from(scale)][..], &policy(op, terms)?].concat();
    grads.dh.write(op, "dh", dtype)?;
    let dw = match grads.dw {
        Some(dw) => {
            dw.write(op, "dw", Dtype::F32)?;
            Some(&*dw)
        }
        None => None,
    };
    Ok(Wanted { upstream, dh: &*grads.dh, dw })
}
