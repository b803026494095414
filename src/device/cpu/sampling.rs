//! The output head with a draw: token choice, and the end-of-latent event.

use super::CpuDevice;
use super::buffer::CpuTensor;
use super::mat::Mat;
use super::math::exp_in_place;
use super::matmul::matmul_nt;
use super::par::{self, SharedMut};
use crate::Result;
use crate::device::draw::Draw;
use crate::device::sampling::{
    NO_TOKEN, SamplingOps, SamplingShape, TokenChoice, check_choose_tokens, check_token_event, chosen,
};
use crate::random::Philox;

/// Rows of the output matrix that the end-of-latent scan multiplies before it looks again.
const EVENT_TILE: usize = 2048;

impl SamplingOps for CpuDevice {
    fn choose_tokens(
        &self,
        h: &CpuTensor,
        w: &CpuTensor,
        choices: &[TokenChoice],
        bias: Option<(u32, f32)>,
    ) -> Result<Vec<u32>> {
        let SamplingShape { op, hidden, vocab, .. } = check_choose_tokens(h, w, choices, bias)?;
        let tokens = choose_tokens(hidden, vocab, h.f32(op)?, w.mat(), choices, bias);
        chosen(0, &tokens)?;
        Ok(tokens)
    }

    fn token_event(
        &self,
        h: &CpuTensor,
        w: &CpuTensor,
        token: u32,
        choices: &[TokenChoice],
        bias: f32,
    ) -> Result<Vec<bool>> {
        let SamplingShape { op, hidden, vocab, .. } = check_token_event(h, w, token, choices)?;
        Ok(token_event(hidden, vocab, h.f32(op)?, w.mat(), token, choices, bias))
    }

    fn choose_tokens_bytes(&self, rows: usize, vocab: usize) -> usize {
        rows * vocab * size_of::<f32>()
    }
}

/// Some of a matrix's elements.
fn slice(w: Mat<'_>, range: std::ops::Range<usize>) -> Mat<'_> {
    match w {
        Mat::F32(w) => Mat::F32(&w[range]),
        Mat::Bf16(w) => Mat::Bf16(&w[range]),
        Mat::F16(w) => Mat::F16(&w[range]),
    }
}

/// The uniform number in (0, 1) of a draw: the first word of counter `[0, c0, c1, 1]`.
fn uniform(draw: Draw) -> f32 {
    Philox::new(draw.key).uniforms([0, draw.counter[0], draw.counter[1], 1])[0]
}

/// See [`SamplingOps::choose_tokens`].
fn choose_tokens(
    hidden: usize,
    vocab: usize,
    h: &[f32],
    w: Mat<'_>,
    choices: &[TokenChoice],
    bias: Option<(u32, f32)>,
) -> Vec<u32> {
    let mut logits = vec![0.0; choices.len() * vocab];
    matmul_nt(choices.len(), vocab, hidden, 1.0, h, w, 0.0, &mut logits);
    let mut tokens = vec![0u32; choices.len()];
    let logits = SharedMut::new(&mut logits);
    par::split_rows(&mut tokens, 1, 1, |first, tokens| {
        for (i, token) in (first..).zip(tokens) {
            // SAFETY: row i belongs to this task alone.
            let row = unsafe { logits.slice(i * vocab..(i + 1) * vocab) };
            if let Some((t, b)) = bias {
                row[t as usize] += b;
            }
            *token = choose(row, &choices[i]);
        }
    });
    tokens
}

/// Index of the largest value; the first of equals.
fn arg_max(row: &[f32]) -> u32 {
    let mut best = 0;
    for (i, &x) in row.iter().enumerate() {
        if x > row[best] {
            best = i;
        }
    }
    best as u32
}

/// Replaces each logit by exp((l − origin) / temperature). The difference is taken first: at a low
/// temperature the quotients alone overflow, and equals would no longer be equal.
fn scaled_exp(row: &mut [f32], origin: f32, temperature: f32) {
    let inverse = temperature.recip().min(f32::MAX);
    row.iter_mut().for_each(|x| *x = (*x - origin) * inverse);
    exp_in_place(row, 0.0, 1.0);
}

/// Draws from softmax(row / temperature), restricted to the smallest set of most likely tokens whose
/// mass reaches top-p; [`NO_TOKEN`] where a logit is not finite. `row` is used as scratch.
fn choose(row: &mut [f32], choice: &TokenChoice) -> u32 {
    if row.iter().any(|l| !l.is_finite()) {
        return NO_TOKEN;
    }
    if choice.temperature <= 0.0 {
        return arg_max(row);
    }
    let top = row.iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x));
    scaled_exp(row, top, choice.temperature);
    let total: f64 = row.iter().map(|&p| f64::from(p)).sum();
    let u = f64::from(uniform(choice.draw));
    if choice.top_p >= 1.0 {
        let at = u * total;
        let mut sum = 0.0;
        for (i, &p) in row.iter().enumerate() {
            sum += f64::from(p);
            if at < sum {
                return i as u32;
            }
        }
        return arg_max(row);
    }
    // A token below this probability cannot be in the nucleus: all such tokens together weigh less
    // than 1 − top_p. It spares the sort most of a large vocabulary.
    let least = ((1.0 - f64::from(choice.top_p)) / row.len() as f64 * total) as f32;
    let mut nucleus: Vec<(f32, u32)> =
        row.iter().enumerate().filter(|&(_, &p)| p >= least).map(|(i, &p)| (p, i as u32)).collect();
    nucleus.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut mass = 0.0;
    let kept = nucleus
        .iter()
        .position(|&(p, _)| {
            mass += f64::from(p);
            mass >= f64::from(choice.top_p) * total
        })
        .map_or(nucleus.len(), |last| last + 1);
    let at = u * mass;
    let mut sum = 0.0;
    for &(p, t) in &nucleus[..kept] {
        sum += f64::from(p);
        if at < sum {
            return t;
        }
    }
    nucleus[kept.saturating_sub(1)].1
}

/// One row's state in the scan of [`token_event`].
struct Scan {
    /// The token's own logit.
    own: f32,
    /// Uniform number; unused when greedy.
    u: f64,
    /// Σ exp((l − own) / temperature) over the tiles seen, the token's own 1 included.
    z: f64,
    /// Whether it is certain that the event did not happen.
    lost: bool,
}

/// See [`SamplingOps::token_event`]: the event is
/// `u < exp(own) / Z`, and Z only grows, so a row is decided against as soon as `u · Z ≥ exp(own)`.
///
/// The tile that holds the token goes first: its own logit is then rounded as its rivals' are, so
/// that equals stay equal.
fn token_event(
    hidden: usize,
    vocab: usize,
    h: &[f32],
    w: Mat<'_>,
    token: u32,
    choices: &[TokenChoice],
    bias: f32,
) -> Vec<bool> {
    let rows = choices.len();
    let token = token as usize;
    let mut scans: Vec<Scan> = choices
        .iter()
        .map(|c| Scan { own: f32::NAN, u: f64::from(uniform(c.draw)), z: 1.0, lost: false })
        .collect();
    let mut logits = vec![0.0; rows * EVENT_TILE.min(vocab)];
    let home = token / EVENT_TILE;
    let others = (0..vocab.div_ceil(EVENT_TILE)).filter(|&tile| tile != home);
    for tile in std::iter::once(home).chain(others) {
        if scans.iter().all(|s| s.lost) {
            break;
        }
        let start = tile * EVENT_TILE;
        let end = (start + EVENT_TILE).min(vocab);
        let n = end - start;
        let logits = &mut logits[..rows * n];
        matmul_nt(rows, n, hidden, 1.0, h, slice(w, start * hidden..end * hidden), 0.0, logits);
        for ((scan, choice), row) in scans.iter_mut().zip(choices).zip(logits.chunks_exact_mut(n)) {
            if tile == home {
                scan.own = row[token - start] + bias;
                row[token - start] = f32::NEG_INFINITY;
            }
            if scan.lost {
                continue;
            }
            if choice.temperature <= 0.0 {
                scan.lost = row
                    .iter()
                    .enumerate()
                    .any(|(i, &l)| l > scan.own || (l == scan.own && start + i < token));
            } else {
                scaled_exp(row, scan.own, choice.temperature);
                scan.z += row.iter().map(|&p| f64::from(p)).sum::<f64>();
                scan.lost = scan.u * scan.z >= 1.0;
            }
        }
    }
    scans.iter().map(|s| !s.lost).collect()
}
