//! The output head: cross-entropy in chunks, token choice, and the end-of-latent event.

use super::math::{exp, log_sum_exp};
use super::matmul::{Mat, matmul_nn, matmul_nt, matmul_tn};
use super::par::{self, SharedMut};
use super::policy::Policy;
use crate::device::{Draw, TokenChoice};
use crate::random::Philox;

/// Floats of logits that a chunk of rows may take: 16 MiB.
const CHUNK_FLOATS: usize = 4 << 20;

/// Rows of the output matrix that the end-of-latent scan multiplies before it looks again.
const EVENT_TILE: usize = 2048;

/// What reaches the rows' losses.
pub(super) enum Upstream<'a> {
    /// `[N]`
    Scale(&'a [f32]),
    /// `[N]` elements.
    Policy(Policy<'a>),
}

impl Upstream<'_> {
    /// The gradient that reaches the loss of a row.
    fn at(&self, row: usize, loss: f32) -> f32 {
        match self {
            Upstream::Scale(scale) => scale[row],
            Upstream::Policy(policy) => -policy.gradient(row, -loss),
        }
    }
}

/// Gradients of the cross-entropy.
pub(super) struct Grads<'a> {
    pub upstream: Upstream<'a>,
    /// `[N,H]`, overwritten.
    pub dh: &'a mut [f32],
    /// `[V,H]`, added to.
    pub dw: Option<&'a mut [f32]>,
}

/// See [`Device::cross_entropy`](crate::device::Device::cross_entropy).
#[allow(clippy::too_many_arguments)]
pub(super) fn cross_entropy(
    hidden: usize,
    vocab: usize,
    h: &[f32],
    w: Mat<'_>,
    ids: &[u32],
    offsets: &[u32],
    loss: &mut [f32],
    mut grads: Option<Grads<'_>>,
) {
    let rows = loss.len();
    let chunk = (CHUNK_FLOATS / vocab).clamp(1, rows.max(1));
    let mut logits = vec![0.0; chunk * vocab];
    for start in (0..rows).step_by(chunk) {
        let end = (start + chunk).min(rows);
        let n = end - start;
        let h = &h[start * hidden..end * hidden];
        let logits = &mut logits[..n * vocab];
        matmul_nt(n, vocab, hidden, 1.0, h, w, 0.0, logits);
        let upstream = grads.as_ref().map(|g| &g.upstream);
        let loss = SharedMut::new(&mut loss[start..end]);
        par::split_rows(logits, vocab, 1, |first, block| {
            for (i, logits) in block.chunks_exact_mut(vocab).enumerate() {
                let r = first + i;
                let label = &ids[offsets[start + r] as usize..offsets[start + r + 1] as usize];
                let share = 1.0 / label.len() as f32;
                let lse = log_sum_exp(logits);
                let mean = label.iter().map(|&t| logits[t as usize] * share).sum::<f32>();
                // SAFETY: row r belongs to this task alone.
                let own = unsafe { loss.slice(r..r + 1) };
                own[0] = lse - mean;
                if let Some(upstream) = upstream {
                    let scale = upstream.at(start + r, own[0]);
                    exp_in_place(logits, lse, scale);
                    for &t in label {
                        logits[t as usize] -= scale * share;
                    }
                }
            }
        });
        if let Some(g) = &mut grads {
            matmul_nn(n, vocab, hidden, 1.0, logits, w, 0.0, &mut g.dh[start * hidden..end * hidden]);
            if let Some(dw) = &mut g.dw {
                matmul_tn(n, vocab, hidden, 1.0, logits, h, 1.0, dw);
            }
        }
    }
}

/// `x = scale · e^(x − shift)`, by way of a block that stays in the first-level cache.
fn exp_in_place(x: &mut [f32], shift: f32, scale: f32) {
    let mut block = [0.0; 1024];
    for part in x.chunks_mut(block.len()) {
        let from = &mut block[..part.len()];
        from.copy_from_slice(part);
        exp(from, shift, scale, part);
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

/// See [`Device::choose_tokens`](crate::device::Device::choose_tokens).
pub(super) fn choose_tokens(
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
/// mass reaches top-p. `row` is used as scratch.
fn choose(row: &mut [f32], choice: &TokenChoice) -> u32 {
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

/// See [`Device::token_event`](crate::device::Device::token_event): the event is
/// `u < exp(own) / Z`, and Z only grows, so a row is decided against as soon as `u · Z ≥ exp(own)`.
///
/// The tile that holds the token goes first: its own logit is then rounded as its rivals' are, so
/// that equals stay equal.
pub(super) fn token_event(
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
