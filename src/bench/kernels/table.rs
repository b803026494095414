//! The table: each operation of the device interface that inference uses, at a model's shapes.
//!
//! A row gives the least bytes it moves and the operations it takes, a multiply-add counting as two; operands
//! are counted once, even if the operation reads them twice. Rows of activations are 1 for decoding one sequence, up
//! to 16 for a batch, 512 and 2048 for prompts.

use std::sync::Arc;

use super::operands::{activations, draws, floats, rotating, scattered, sets, weight};
use crate::Result;
use crate::bench::timer::Work;
use crate::device::{Device, Draw, Dtype, HeadShape, LatentLoss, LatentWeights, Span, TokenChoice};
use crate::model::config::ModelConfig;

/// Makes so many sets of operands and gives the call on them.
type Make<D> = Box<dyn Fn(&D, usize) -> Result<Work<D>> + Send>;

/// An operation at one shape.
pub struct Case<D: Device> {
    /// The operation, as [`Device`] calls it, with its form where it has several.
    pub operation: &'static str,
    /// Shapes.
    pub shape: String,
    /// Bytes that are read and written at least.
    pub bytes: u64,
    /// Floating-point operations, where they may take more time than the bytes; else 0.
    pub operations: u64,
    make: Make<D>,
}

impl<D: Device> Case<D> {
    /// Operation and shape, which a filter is matched against.
    pub fn name(&self) -> String {
        format!("{} {}", self.operation, self.shape)
    }

    /// A row of another table.
    pub(super) fn new(
        operation: &'static str,
        shape: String,
        bytes: u64,
        operations: usize,
        make: impl Fn(&D, usize) -> Result<Work<D>> + Send + 'static,
    ) -> Self {
        Case { operation, shape, bytes, operations: operations as u64, make: Box::new(make) }
    }

    /// Makes the operands, as many sets of them as timings take.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn work(&self, device: &D) -> Result<Work<D>> {
        self.work_on(device, sets(self.bytes))
    }

    /// The same with so many sets of operands.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn work_on(&self, device: &D, sets: usize) -> Result<Work<D>> {
        (self.make)(device, sets)
    }
}

/// Builds the table.
struct Table<'a, D: Device> {
    config: &'a ModelConfig,
    /// Bytes of an activation and of a weight.
    width: usize,
    weight_width: usize,
    weights: Dtype,
    latent_head: Dtype,
    cases: Vec<Case<D>>,
}

/// Every row for a model of this configuration.
pub fn table<D: Device>(device: &D, config: &ModelConfig) -> Vec<Case<D>> {
    // The form that `MemoryOps::freeze` gives: matrices of a mapped file, and the latent head's in float32, or
    // all in the compute dtype.
    let compute = device.compute_dtype();
    let [weights, latent_head] = match device.maps_weights() {
        true => [config.torch_dtype.unwrap_or(Dtype::Bf16), Dtype::F32],
        false => [compute; 2],
    };
    let (width, weight_width) = (compute.size(), weights.size());
    let mut t = Table { config, width, weight_width, weights, latent_head, cases: Vec::new() };
    t.products();
    t.rows();
    t.norms();
    t.rotary();
    t.attention();
    t.activations();
    t.latents();
    t.output();
    t.cases
}

const FEW: [usize; 5] = [1, 2, 4, 8, 16];
const MANY: [usize; 2] = [512, 2048];
const SOME: [usize; 4] = [1, 8, 512, 2048];

impl<D: Device> Table<'_, D> {
    fn add(
        &mut self,
        operation: &'static str,
        shape: String,
        bytes: usize,
        operations: usize,
        make: impl Fn(&D, usize) -> Result<Work<D>> + Send + 'static,
    ) {
        self.cases.push(Case::new(operation, shape, bytes as u64, operations, make));
    }

    /// A row whose operands are matrices of activations `[m, cols]`, `reads` of them read and one or more written.
    fn elementwise(
        &mut self,
        operation: &'static str,
        [m, cols]: [usize; 2],
        moved: usize,
        run: impl Fn(&D, &mut [D::Tensor; 5]) -> Result<()> + Copy + Send + 'static,
    ) {
        let bytes = moved * m * cols * self.width;
        self.add(operation, format!("[{m}, {cols}]"), bytes, 0, move |d, sets| {
            let make = |set| {
                Ok([
                    activations(d, m, cols, set)?,
                    activations(d, m, cols, set + 1)?,
                    floats(d, 1, cols, set)?,
                    d.empty(m, cols)?,
                    d.empty(m, cols)?,
                ])
            };
            rotating(sets, make, run)
        });
    }

    fn product(&mut self, part: &str, m: usize, [n, k]: [usize; 2], dtype: Dtype) {
        let bytes = n * k * dtype.size() + m * (n + k) * self.width;
        let shape = format!("{part} [{m}, {k}] x [{n}, {k}] {dtype}");
        self.add("matmul_nt", shape, bytes, 2 * m * n * k, move |d, sets| {
            let make = |set| Ok((activations(d, m, k, set)?, weight(d, n, k, dtype, set)?, d.empty(m, n)?));
            rotating(sets, make, |d: &D, (x, w, y)| d.matmul_nt(1.0, x, w, 0.0, y))
        });
    }

    fn products(&mut self) {
        let c = self.config;
        let h = c.hidden_size;
        let mut seen = Vec::new();
        for p in c.block().projections() {
            let (part, shape) = (p.target.name(), [p.out, p.input]);
            // Where two layers have one shape, the first stands for both.
            if seen.contains(&shape) {
                continue;
            }
            seen.push(shape);
            for m in FEW.into_iter().chain(MANY) {
                self.product(part, m, shape, self.weights);
            }
        }
        for m in FEW {
            self.product("lm_head", m, [c.vocab_size, h], self.weights);
        }
        for m in [1, 8] {
            self.product("latent_head", m, [h, h], self.latent_head);
        }
    }

    fn rows(&mut self) {
        let c = self.config;
        let (h, vocab, kv, dtype) = (c.hidden_size, c.vocab_size, c.kv_size(), self.weights);
        let (width, weight_width) = (self.width, self.weight_width);
        for m in [1, 8, 512] {
            let bytes = m * h * (weight_width + width);
            let shape = format!("[{m}, {h}] of [{vocab}, {h}] {dtype}");
            self.add("gather_rows", shape, bytes, 0, move |d, sets| {
                let table = Arc::new(weight(d, vocab, h, dtype, 0)?);
                let make =
                    |set| Ok((Arc::clone(&table), d.index(&scattered(m, vocab, set))?, d.empty(m, h)?));
                rotating(sets, make, |d: &D, (table, ids, out)| d.gather_rows(1.0, table, ids, out))
            });
            let bytes = m * h * (2 * weight_width + width);
            let shape = format!("[{m}, {h}] of [{vocab}, {h}] {dtype}, 2 tokens a row");
            self.add("gather_merge", shape, bytes, 0, move |d, sets| {
                let table = Arc::new(weight(d, vocab, h, dtype, 0)?);
                let offsets: Vec<u32> = (0..=m as u32).map(|r| 2 * r).collect();
                let offsets = Arc::new(d.index(&offsets)?);
                let make = |set| {
                    let ids = d.index(&scattered(2 * m, vocab, set))?;
                    let (table, offsets) = (Arc::clone(&table), Arc::clone(&offsets));
                    Ok((table, ids, offsets, floats(d, m, 1, set)?, d.empty(m, h)?))
                };
                rotating(sets, make, |d: &D, (table, ids, offsets, scale, out)| {
                    d.gather_merge(table, ids, offsets, scale, out)
                })
            });
            let shape = format!("[{m}, {kv}], to a cache");
            self.add("scatter_rows", shape, 2 * m * kv * width, 0, move |d, sets| {
                let make = |set| {
                    let rows: Vec<u32> = (0..m as u32).map(|r| 2 * r).collect();
                    Ok((activations(d, m, kv, set)?, d.index(&rows)?, d.empty(2 * m, kv)?))
                };
                rotating(sets, make, |d: &D, (src, rows, cache)| d.scatter_rows(1.0, src, rows, cache))
            });
            self.elementwise("add_bias", [m, h], 2, |d, [_, y, bias, ..]| d.add_bias(y, bias));
        }
    }

    fn norms(&mut self) {
        let (h, eps) = (self.config.hidden_size, self.config.rms_norm_eps);
        for m in SOME {
            self.elementwise("rms_norm", [m, h], 2, move |d, [x, _, w, out, _]| d.rms_norm(x, w, eps, out));
            self.elementwise("add_rms_norm", [m, h], 4, move |d, [x, delta, w, sum, out]| {
                d.add_rms_norm(x, delta, w, eps, sum, out)
            });
        }
    }

    fn rotary(&mut self) {
        let q = self.config.q_size();
        for m in SOME {
            let frequencies = self.config.rope_inv_freq();
            let shape = format!("[{m}, {q}], heads of {}", self.config.head_dim);
            self.add("rotary", shape, 2 * m * q * self.width, 0, move |d, sets| {
                let positions: Vec<u32> = (0..m as u32).collect();
                let positions = Arc::new(d.index(&positions)?);
                let frequencies = Arc::new(d.upload(1, frequencies.len(), &frequencies)?);
                let make =
                    |set| Ok((activations(d, m, q, set)?, Arc::clone(&positions), Arc::clone(&frequencies)));
                rotating(sets, make, |d: &D, (x, positions, inv_freq)| d.rotary(x, positions, inv_freq, 1.0))
            });
            self.rotary_append(m);
        }
    }

    /// The rotary embedding of queries and keys, and keys and values to a cache.
    fn rotary_append(&mut self, m: usize) {
        let (q, kv) = (self.config.q_size(), self.config.kv_size());
        let frequencies = self.config.rope_inv_freq();
        let bytes = 2 * m * (q + 2 * kv) * self.width;
        self.add("rotary_append", format!("[{m}, {q} + 2 x {kv}], to a cache"), bytes, 0, move |d, sets| {
            let positions: Vec<u32> = (0..m as u32).collect();
            let shared = Arc::new((d.index(&positions)?, d.upload(1, frequencies.len(), &frequencies)?));
            let make = |set| {
                let [k, v] = [0, 1].map(|i| activations(d, m, kv, set + i));
                let cache = [d.empty(m, kv)?, d.empty(m, kv)?];
                Ok((Arc::clone(&shared), [activations(d, m, q, set)?, k?, v?], cache))
            };
            rotating(sets, make, |d: &D, (shared, qkv, cache)| {
                let (positions, inv_freq) = &**shared;
                d.rotary_append(qkv.each_mut(), [None; 3], positions, inv_freq, positions, cache.each_mut())
            })
        });
    }

    /// Spans of `q` queries each, the last of `k` positions.
    fn attend(&mut self, operation: &'static str, sequences: usize, q: usize, k: usize) {
        let c = self.config;
        let heads =
            HeadShape { heads: c.num_attention_heads, kv_heads: c.num_key_value_heads, head_dim: c.head_dim };
        let (q_width, kv_width) = (heads.q_width(), heads.kv_width());
        let span = |i| Span { q_start: i * q, q_len: q, k_start: i * k, k_len: k };
        let spans: Vec<Span> = (0..sequences).map(span).collect();
        let seen: usize = (0..q).map(|i| spans[0].sees(i)).sum();
        // A score and its share of the sum for every pair, in every head.
        let operations = 4 * sequences * seen * q_width;
        let bytes = 2 * sequences * (q * q_width + k * kv_width) * self.width;
        let shape = format!(
            "{sequences} of {q} after {}, heads {}/{}x{}",
            k - q,
            heads.heads,
            heads.kv_heads,
            heads.head_dim
        );
        self.add(operation, shape, bytes, operations, move |d, sets| {
            let spans = spans.clone();
            let make = |set| {
                let [k, v] = [0, 1].map(|i| activations(d, sequences * k, kv_width, 2 * set + i));
                let q = activations(d, sequences * q, q_width, set)?;
                let out = d.empty(spans[0].q_len * sequences, q_width)?;
                Ok((spans.clone(), q, k?, v?, out))
            };
            rotating(sets, make, move |d: &D, (spans, q, k, v, out)| {
                d.attention(heads, spans, q, k, v, out, None)
            })
        });
    }

    fn attention(&mut self) {
        self.attend("attention prefill", 1, 512, 512);
        self.attend("attention prefill", 4, 512, 512);
        self.attend("attention prefill", 1, 2048, 2048);
        for (sequences, keys) in [(1, 512), (1, 4096), (8, 512), (16, 2048)] {
            self.attend("attention decode", sequences, 1, keys);
        }
    }

    fn activations(&mut self) {
        for m in SOME {
            let inner = self.config.intermediate_size;
            self.elementwise("swiglu", [m, inner], 3, |d, [gate, up, _, out, _]| d.swiglu(gate, up, out));
        }
        let h = self.config.hidden_size;
        self.elementwise("add", [512, h], 3, |d, [x, y, ..]| d.add(x, y));
    }

    fn latents(&mut self) {
        let h = self.config.hidden_size;
        for m in [1, 8, 512] {
            self.elementwise("gelu", [m, h], 2, |d, [x, _, _, out, _]| d.gelu(x, out));
            self.elementwise("layer_norm", [m, h], 2, |d, [x, _, w, out, _]| d.layer_norm(x, w, w, out));
            self.elementwise("normal", [m, h], 1, move |d, [_, _, _, out, _]| d.normal(&draws(m), out));
            self.elementwise("reparameterise", [m, h], 4, |d, [mu, log_sigma, _, eps, out]| {
                d.reparameterise(mu, Some(log_sigma), eps, 1.0, out)
            });
        }
        let n = 512;
        self.add("latent_loss", format!("[{n}, {h}] nll"), 3 * n * h * self.width, 0, move |d, sets| {
            let make = |set| {
                let [mu, log_sigma, target] = [0, 1, 2].map(|i| activations(d, n, h, set + i));
                Ok((mu?, log_sigma?, target?, d.zeros(n, 3)?))
            };
            rotating(sets, make, |d: &D, (mu, log_sigma, target, per_row)| {
                let weights = LatentWeights { loss: LatentLoss::Nll, loss_scale: 1.0, entropy_scale: 0.0 };
                d.latent_loss(weights, mu, Some(log_sigma), None, target, per_row, None)
            })
        });
    }

    /// A row about hidden states `[m, H]` and the output matrix.
    fn head(
        &mut self,
        operation: &'static str,
        m: usize,
        run: impl Fn(&D, &D::Tensor, &D::Tensor) -> Result<()> + Copy + Send + 'static,
    ) {
        let (h, vocab, dtype) = (self.config.hidden_size, self.config.vocab_size, self.weights);
        let bytes = vocab * h * self.weight_width + m * h * self.width;
        let shape = format!("[{m}, {h}] x [{vocab}, {h}] {dtype}");
        self.add(operation, shape, bytes, 2 * m * h * vocab, move |d, sets| {
            let make = |set| Ok((activations(d, m, h, set)?, weight(d, vocab, h, dtype, set)?));
            rotating(sets, make, move |d: &D, (h, w)| run(d, h, w))
        });
    }

    fn output(&mut self) {
        fn choices(m: usize, temperature: f32, top_p: f32) -> Vec<TokenChoice> {
            let draw = |i| Draw { key: 3, counter: [0x12, i] };
            (0..m as u32).map(|i| TokenChoice { temperature, top_p, draw: draw(i) }).collect()
        }
        for m in [1, 8, 16] {
            self.head("choose_tokens greedy", m, move |d, h, w| {
                d.choose_tokens(h, w, &choices(m, 0.0, 1.0), None).map(drop)
            });
            self.head("choose_tokens top-p", m, move |d, h, w| {
                d.choose_tokens(h, w, &choices(m, 1.0, 0.9), None).map(drop)
            });
            // The scan for a likely token sees the whole vocabulary, that for another ends early.
            self.head("token_event, likely", m, move |d, h, w| {
                d.token_event(h, w, 42, &choices(m, 1.0, 1.0), 60.0).map(drop)
            });
            self.head("token_event, unlikely", m, move |d, h, w| {
                d.token_event(h, w, 42, &choices(m, 1.0, 1.0), -10.0).map(drop)
            });
        }
        let m = 512;
        let (h, vocab, dtype) = (self.config.hidden_size, self.config.vocab_size, self.weights);
        let bytes = vocab * h * self.weight_width + m * h * self.width;
        let shape = format!("[{m}, {h}] x [{vocab}, {h}] {dtype}");
        self.add("cross_entropy", shape, bytes, 2 * m * h * vocab, move |d, sets| {
            let offsets: Vec<u32> = (0..=m as u32).collect();
            let make = |set| {
                let (ids, offsets) = (d.index(&scattered(m, vocab, set))?, d.index(&offsets)?);
                let (h, w) = (activations(d, m, h, set)?, weight(d, vocab, h, dtype, set)?);
                Ok((h, w, ids, offsets, d.zeros(m, 1)?))
            };
            rotating(sets, make, |d: &D, (h, w, ids, offsets, loss)| {
                d.cross_entropy(h, w, ids, offsets, loss, None)
            })
        });
    }
}
