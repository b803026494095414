//! Launches of `cuda/sampling.cu`: the choice of tokens, and the end-of-latent event.

use super::draw::draw_words;
use super::driver::{Arg, Driver};
use super::kernels::{by_weight, kernels};
use super::tensor::upload;
use super::{CudaDevice, CudaTensor, LOGITS_FLOATS, count32, row_threads};
use crate::Result;
use crate::device::Dtype;
use crate::device::memory::MemoryOps;
use crate::device::rows::RowOps;
use crate::device::sampling::{
    SamplingOps, SamplingShape, TokenChoice, check_choose_tokens, check_token_event, chosen as all_chosen,
};
use crate::device::shape::TensorInfo;

kernels! {
    "sampling":
    choose_tokens token_event_decide token_event_own_f32_f32 token_event_own_f32_bf16
    token_event_own_f32_f16 token_event_own_bf16_f32 token_event_own_bf16_bf16 token_event_own_bf16_f16
    token_event_scan_f32_f32 token_event_scan_f32_bf16 token_event_scan_f32_f16 token_event_scan_bf16_f32
    token_event_scan_bf16_bf16 token_event_scan_bf16_f16
}

/// Rows of the output matrix that a block of the event's scan multiplies.
const EVENT_TILE: usize = 128;

/// Rows of hidden states that a block of the scan takes. `EVENT_ROWS` of the kernels.
const EVENT_ROWS: usize = 4;

impl<R: Driver> SamplingOps for CudaDevice<R> {
    fn choose_tokens(
        &self,
        h: &CudaTensor<R>,
        w: &CudaTensor<R>,
        choices: &[TokenChoice],
        bias: Option<(u32, f32)>,
    ) -> Result<Vec<u32>> {
        let SamplingShape { vocab, .. } = check_choose_tokens(h, w, choices, bias)?;
        let mut tokens = Vec::with_capacity(choices.len());
        self.logits_in_chunks(h, w, |start, logits| {
            let choices = &choices[start..start + logits.rows()];
            self.choose_from(&logits.memory, vocab, choices, bias, &mut tokens)
        })?;
        Ok(tokens)
    }

    fn token_event(
        &self,
        h: &CudaTensor<R>,
        w: &CudaTensor<R>,
        token: u32,
        choices: &[TokenChoice],
        bias: f32,
    ) -> Result<Vec<bool>> {
        let SamplingShape { op, rows, hidden, vocab } = check_token_event(h, w, token, choices)?;
        if rows == 0 {
            return Ok(Vec::new());
        }
        let temperatures: Vec<f32> = choices.iter().map(|c| c.temperature).collect();
        let temperatures = upload(&self.driver, &temperatures)?;
        let draws = upload(&self.driver, &draw_words(choices.iter().map(|c| c.draw)))?;
        let tiles = vocab.div_ceil(EVENT_TILE);
        let (own, lost) = (self.driver.alloc(4 * rows)?, self.driver.alloc(4 * rows)?);
        let (z, partials) = (self.driver.alloc(8 * rows)?, self.driver.alloc(8 * rows * tiles)?);
        let happened = self.driver.alloc(4 * rows)?;
        let own_forms = [
            [&token_event_own_f32_f32, &token_event_own_f32_bf16, &token_event_own_f32_f16],
            [&token_event_own_bf16_f32, &token_event_own_bf16_bf16, &token_event_own_bf16_f16],
        ];
        let scan_forms = [
            [&token_event_scan_f32_f32, &token_event_scan_f32_bf16, &token_event_scan_f32_f16],
            [&token_event_scan_bf16_f32, &token_event_scan_bf16_bf16, &token_event_scan_bf16_f16],
        ];
        let (rows32, hidden32) = (count32(op, rows)?, count32(op, hidden)?);
        let groups = count32(op, rows.div_ceil(EVENT_ROWS))?;
        let head = [
            Arg::from(&h.memory),
            rows32.into(),
            Arg::from(&w.memory),
            (vocab as u64).into(),
            hidden32.into(),
            token.into(),
        ];
        let tail = [bias.into(), Arg::from(&own), Arg::from(&z), Arg::from(&lost)];
        let kernel = by_weight(op, h.dtype(), w.dtype(), own_forms)?;
        // SAFETY: the checks above: the token is a row of `w`; a place a row of `h` in all that is written.
        unsafe { self.launch(kernel, [groups, 1], 32, 0, &[&head[..], &tail].concat()) }?;
        let tail = [
            Arg::from(&temperatures),
            Arg::from(&draws),
            Arg::from(&own),
            (EVENT_TILE as u32).into(),
            Arg::from(&z),
            Arg::from(&lost),
            Arg::from(&partials),
        ];
        let kernel = by_weight(op, h.dtype(), w.dtype(), scan_forms)?;
        let grid = [count32(op, tiles)?, groups];
        // SAFETY: as above; `partials` has a place a tile and row, of which blocks write their own.
        unsafe { self.launch(kernel, grid, 256, 0, &[&head[..], &tail].concat()) }?;
        let args = [
            Arg::from(&temperatures),
            Arg::from(&draws),
            Arg::from(&lost),
            Arg::from(&partials),
            (tiles as u32).into(),
            rows32.into(),
            Arg::from(&happened),
        ];
        // SAFETY: as above.
        unsafe { self.launch(&token_event_decide, [rows32.div_ceil(128), 1], 128, 0, &args) }?;
        let mut answers = vec![0u32; rows];
        self.driver.download(&happened, bytemuck::cast_slice_mut(&mut answers))?;
        Ok(answers.into_iter().map(|a| a != 0).collect())
    }

    fn choose_tokens_bytes(&self, rows: usize, vocab: usize) -> usize {
        let row = vocab * Dtype::F32.size();
        rows.saturating_mul(row).min((LOGITS_FLOATS * Dtype::F32.size()).max(row))
    }
}

impl<R: Driver> CudaDevice<R> {
    /// Calls `f` with logits of some rows of `h` and the first of them, until all have had their turn.
    fn logits_in_chunks(
        &self,
        h: &CudaTensor<R>,
        w: &CudaTensor<R>,
        mut f: impl FnMut(usize, CudaTensor<R>) -> Result<()>,
    ) -> Result<()> {
        let chunk = (LOGITS_FLOATS / w.rows().max(1)).max(1);
        if h.rows() <= chunk {
            return f(0, self.logits(h, w)?);
        }
        for start in (0..h.rows()).step_by(chunk) {
            let rows: Vec<u32> = (start as u32..(start + chunk).min(h.rows()) as u32).collect();
            let mut part = self.tensor("logits", rows.len(), h.cols(), h.dtype())?;
            self.gather_rows(1.0, h, &self.index(&rows)?, &mut part)?;
            f(start, self.logits(&part, w)?)?;
        }
        Ok(())
    }

    /// Appends a token for each of `choices`, from the rows of logits `[choices, vocab]`, which are overwritten. The
    /// biased token is below `vocab`.
    pub(super) fn choose_from(
        &self,
        logits: &R::Memory,
        vocab: usize,
        choices: &[TokenChoice],
        bias: Option<(u32, f32)>,
        tokens: &mut Vec<u32>,
    ) -> Result<()> {
        let op = "choose_tokens";
        let (biased, bias) = bias.unwrap_or((u32::MAX, 0.0));
        let temperatures: Vec<f32> = choices.iter().map(|c| c.temperature).collect();
        let top_ps: Vec<f32> = choices.iter().map(|c| c.top_p).collect();
        let temperatures = upload(&self.driver, &temperatures)?;
        let top_ps = upload(&self.driver, &top_ps)?;
        let draws = upload(&self.driver, &draw_words(choices.iter().map(|c| c.draw)))?;
        let out = self.driver.alloc(4 * choices.len())?;
        let args = [
            Arg::from(logits),
            Arg::from(&temperatures),
            Arg::from(&top_ps),
            Arg::from(&draws),
            count32(op, vocab)?.into(),
            biased.into(),
            bias.into(),
            Arg::from(&out),
        ];
        let threads = row_threads(vocab);
        let grid = [count32(op, choices.len())?, 1];
        // SAFETY: a temperature, a top-p, a draw and a token a row of logits.
        unsafe { self.launch(&choose_tokens, grid, threads, 0, &args) }?;
        let mut chosen = vec![0u32; choices.len()];
        self.driver.download(&out, bytemuck::cast_slice_mut(&mut chosen))?;
        all_chosen(tokens.len(), &chosen)?;
        tokens.extend(chosen);
        Ok(())
    }
}
