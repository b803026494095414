//! The output head with cross-entropy: launches of `cuda/cross_entropy.cu` between products, chunk by chunk.
//!
//! A chunk is some rows of hidden states. Its logits come from one product, the kernel makes losses and the logits'
//! gradient of them, and two more products that of the hidden states and of the output matrix; then the next chunk
//! takes the same memory. The output matrix is read once a chunk in each product, so a chunk must have some hundreds
//! of rows for the tensor cores to set the pace and not the memory.

use super::driver::{Arg, Driver, Form, Part, Product};
use super::kernels::{self as k, by_activation};
use super::{CudaDevice, CudaIndex, CudaTensor, count32, output};
use crate::device::{
    CrossEntropyGrads, Dtype, PolicyTerms, TensorInfo, Upstream, check, check_below, check_offsets,
};
use crate::{Error, Result};

/// Floats of logits that a chunk of rows may take where gradients are wanted: 512 MiB, a thousand rows of the largest
/// vocabularies. Their gradient takes as much again, or half of it in bf16.
pub(crate) const CHUNK_FLOATS: usize = 128 << 20;

/// Rows of a chunk are a multiple of this where they are more, so that each begins where wide loads can.
const CHUNK_ROWS: usize = 128;

/// The gradients' buffers, checked.
struct Wanted<'a, R: Driver> {
    /// Factors, terms of the policy objective and what these share: one of the first two is given.
    upstream: Vec<Arg>,
    dh: &'a CudaTensor<R>,
    dw: Option<&'a CudaTensor<R>>,
}

/// The arguments of a policy objective over `rows` rows: the terms, 0 without, and what they share.
pub(super) fn policy<R: Driver>(
    op: &'static str,
    terms: Option<&PolicyTerms<'_, CudaDevice<R>>>,
    rows: usize,
) -> Result<[Arg; 3]> {
    let Some(terms) = terms else { return Ok([Arg::Pointer(0), 0.0.into(), 0.0.into()]) };
    check(op, "policy terms", terms.rows, rows, 4)?;
    let elements = Arg::from(terms.rows.read(op, "policy terms", Dtype::F32)?);
    Ok([elements, terms.objective.clip_eps.into(), terms.objective.kl_weight.into()])
}

impl<R: Driver> CudaDevice<R> {
    pub(super) fn label_losses(
        &self,
        h: &CudaTensor<R>,
        w: &CudaTensor<R>,
        ids: &CudaIndex<R>,
        offsets: &CudaIndex<R>,
        loss: &mut CudaTensor<R>,
        grads: Option<CrossEntropyGrads<'_, CudaDevice<R>>>,
    ) -> Result<()> {
        const OP: &str = "cross_entropy";
        let (rows, hidden, vocab, dtype) = (h.rows(), h.cols(), w.rows(), h.dtype());
        check(OP, "w", w, vocab.max(1), hidden)?;
        check(OP, "loss", loss, rows, 1)?;
        check_offsets(OP, &offsets.values, rows, ids.values.len())?;
        check_below(OP, "ids", &ids.values, vocab)?;
        if offsets.values.windows(2).any(|w| w[0] == w[1]) {
            return Err(Error::Shape { op: OP, what: "a row has no label".into() });
        }
        let gradient = by_activation(OP, dtype, [&k::label_gradient_f32, &k::label_gradient_bf16])?;
        let loss = Arg::from(loss.write(OP, "loss", Dtype::F32)?);
        let wanted = match grads {
            Some(grads) => Some(self.wanted(OP, h, vocab, grads)?),
            None => None,
        };
        if rows == 0 {
            return Ok(());
        }

        let floats =
            if wanted.is_some() { self.loss_floats } else { self.loss_floats.min(output::CHUNK_FLOATS) };
        let chunk = (floats / vocab).clamp(1, rows);
        let chunk = if chunk > CHUNK_ROWS { chunk - chunk % CHUNK_ROWS } else { chunk };
        let mut space = None;
        let w = Part::from(&self.in_dtype(w, dtype, &mut space)?.memory);
        let logits = self.tensor(OP, chunk, vocab, Dtype::F32)?;
        let dlogits = match wanted {
            Some(_) => Some(self.tensor(OP, chunk, vocab, dtype)?),
            None => None,
        };
        let threads = output::row_threads(vocab);
        for start in (0..rows).step_by(chunk) {
            let n = chunk.min(rows - start);
            let product = |form, [m, n, k]: [usize; 3], beta, a, b, y, out| {
                let product = Product { form, m, n, k, alpha: 1.0, beta, a, b, y, dtype, out };
                self.driver.product(&product)
            };
            let (logits, h_part) = (&logits.memory, Part { memory: &h.memory, from: start * hidden });
            product(Form::Nt, [n, vocab, hidden], 0.0, h_part, w, logits.into(), Dtype::F32)?;
            let grid = [count32(OP, n)?, 1];
            let labels = [
                Arg::from(logits),
                Arg::from(&ids.memory),
                Arg::from(&offsets.memory),
                count32(OP, vocab)?.into(),
                count32(OP, start)?.into(),
            ];
            let (Some(wanted), Some(dlogits)) = (&wanted, &dlogits) else {
                // SAFETY: the checks above: every label is a column of the logits, `loss` has a row for each of `h`.
                unsafe { self.launch(&k::label_loss, grid, threads, 0, &[&labels[..], &[loss]].concat()) }?;
                continue;
            };
            let results = [loss, Arg::from(&dlogits.memory)];
            let args = [&labels[..], &wanted.upstream, &results].concat();
            // SAFETY: as above; the upstream has a row for each of `h`, and `dlogits` the shape of the logits.
            unsafe { self.launch(gradient, grid, threads, 0, &args) }?;
            let (dlogits, dh) = (Part::from(&dlogits.memory), &wanted.dh.memory);
            let dh = Part { memory: dh, from: start * hidden };
            product(Form::Nn, [n, hidden, vocab], 0.0, dlogits, w, dh, dtype)?;
            if let Some(dw) = wanted.dw {
                product(Form::Tn, [vocab, hidden, n], 1.0, dlogits, h_part, (&dw.memory).into(), Dtype::F32)?;
            }
        }
        Ok(())
    }

    /// Checks what a gradient is made of and written to.
    fn wanted<'a>(
        &self,
        op: &'static str,
        h: &CudaTensor<R>,
        vocab: usize,
        grads: CrossEntropyGrads<'a, CudaDevice<R>>,
    ) -> Result<Wanted<'a, R>> {
        let (rows, hidden) = (h.rows(), h.cols());
        let (scale, terms) = match &grads.upstream {
            Upstream::Scale(scale) => {
                check(op, "scale", *scale, rows, 1)?;
                (Some(scale.read(op, "scale", Dtype::F32)?), None)
            }
            Upstream::Policy(terms) => (None, Some(terms)),
        };
        let upstream = [&[Arg::from(scale)][..], &policy(op, terms, rows)?].concat();
        check(op, "dh", grads.dh, rows, hidden)?;
        grads.dh.write(op, "dh", h.dtype())?;
        let dw = match grads.dw {
            Some(dw) => {
                check(op, "dw", dw, vocab, hidden)?;
                dw.write(op, "dw", Dtype::F32)?;
                Some(&*dw)
            }
            None => None,
        };
        Ok(Wanted { upstream, dh: &*grads.dh, dw })
    }
}
