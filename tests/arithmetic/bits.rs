//! The CPU's operations give the bits that are pinned here: with vectors of any width and any number of threads.
//!
//! The checksums hold on every processor, so two that pass agree with each other. An operation whose rounding is
//! changed on purpose needs new ones, which a failure prints.

use colar_engine::device::cpu::{CpuDevice, CpuTensor};
use colar_engine::device::prelude::*;
use colar_engine::device::{
    AdamW, AdamWTensor, CrossEntropyGrads, Draw, Dropout, Dtype, HeadShape, LatentLoss, LatentWeights, Span,
    TokenChoice, Upstream,
};

use crate::common::host::{Host, poisoned, read};
use crate::common::levels;

/// Operations and the checksums of their results.
const PINNED: [(&str, u32); 11] = [
    ("products", 0x8f5a_1a7e),
    ("attention", 0x21bf_e1e9),
    ("norms", 0xf547_3a01),
    ("activations", 0xf85d_058b),
    ("dropout", 0xd73e_bd0d),
    ("rotary", 0xb7e1_07a3),
    ("rows", 0x5bed_3472),
    ("latents", 0x5174_9ce9),
    ("cross-entropy", 0x8e58_4a9c),
    ("choices", 0x72be_7d86),
    ("optimizer", 0x7022_e3bd),
];

/// Results by operation.
struct Results {
    device: CpuDevice,
    sums: Vec<(&'static str, u32)>,
}

impl Results {
    fn add(&mut self, operation: &'static str, values: &[f32]) {
        assert!(values.iter().all(|x| x.is_finite()), "{operation}: not finite");
        let known = self.sums.iter().position(|(name, _)| *name == operation);
        let at = known.unwrap_or_else(|| {
            self.sums.push((operation, 0));
            self.sums.len() - 1
        });
        self.sums[at].1 = crc32c::crc32c_append(self.sums[at].1, bytemuck::cast_slice(values));
    }

    fn tensors(&mut self, operation: &'static str, tensors: &[&CpuTensor]) {
        for t in tensors {
            let values = read(&self.device, t);
            self.add(operation, &values);
        }
    }
}

fn products(r: &mut Results) {
    let d = r.device.clone();
    for (m, n, k) in [(1, 37, 77), (3, 40, 600), (16, 50, 33), (17, 50, 33), (45, 100, 700), (130, 70, 1300)]
    {
        let (x, dy) = (Host::normal(m, k, 1.0, 1).up(&d), Host::normal(m, n, 1.0, 2).up(&d));
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
            let (w, _) = Host::normal(n, k, 1.0, 3).adopt(&d, dtype);
            let mut y = Host::normal(m, n, 1.0, 4).up(&d);
            d.matmul_nt(0.7, &x, &w, 0.3, &mut y).unwrap();
            r.tensors("products", &[&y]);
            let mut dx = poisoned(&d, m, k);
            d.matmul_nn(0.7, &dy, &w, 0.0, &mut dx).unwrap();
            r.tensors("products", &[&dx]);
        }
        let mut dw = Host::normal(n, k, 1.0, 5).up(&d);
        d.matmul_tn(0.7, &dy, &x, 1.0, &mut dw).unwrap();
        r.tensors("products", &[&dw]);
    }
}

fn attention(r: &mut Results) {
    let d = r.device.clone();
    for (heads, kv_heads, head_dim) in [(4, 4, 32), (9, 3, 64), (2, 1, 20), (8, 1, 6)] {
        let shape = HeadShape { heads, kv_heads, head_dim };
        for (q_len, k_len) in [(1, 1), (1, 300), (2, 17), (40, 40), (19, 530)] {
            let spans = [Span { q_start: 0, q_len, k_start: 0, k_len }];
            let q = Host::normal(q_len, shape.q_width(), 1.0, 1).up(&d);
            let k = Host::normal(k_len, shape.kv_width(), 1.0, 2).up(&d);
            let v = Host::normal(k_len, shape.kv_width(), 1.0, 3).up(&d);
            let dout = Host::normal(q_len, shape.q_width(), 1.0, 4).up(&d);
            let (mut out, mut lse) = (poisoned(&d, q_len, shape.q_width()), poisoned(&d, q_len, heads));
            d.attention(shape, &spans, &q, &k, &v, &mut out, Some(&mut lse)).unwrap();
            r.tensors("attention", &[&out]);
            r.tensors("attention", &[&lse]);
            let mut dq = poisoned(&d, q_len, shape.q_width());
            let [mut dk, mut dv] = [(); 2].map(|()| poisoned(&d, k_len, shape.kv_width()));
            d.attention_backward(shape, &spans, &q, &k, &v, &out, &lse, &dout, &mut dq, &mut dk, &mut dv)
                .unwrap();
            r.tensors("attention", &[&dq, &dk, &dv]);
        }
    }
}

fn layers(r: &mut Results) {
    let d = r.device.clone();
    for (rows, cols) in [(1, 7), (5, 64), (33, 131), (150, 600)] {
        let [x, dout, other] = [1, 2, 3].map(|seed| Host::normal(rows, cols, 2.0, seed).up(&d));
        let (w, b) = (Host::normal(1, cols, 1.0, 4).up(&d), Host::normal(1, cols, 1.0, 5).up(&d));
        let mut out = poisoned(&d, rows, cols);
        d.rms_norm(&x, &w, 1e-5, &mut out).unwrap();
        r.tensors("norms", &[&out]);
        let mut sum = poisoned(&d, rows, cols);
        d.add_rms_norm(&x, &other, &w, 1e-5, &mut sum, &mut out).unwrap();
        r.tensors("norms", &[&out]);
        let (mut dx, mut dw) = (copy(&d, &other), d.zeros(1, cols).unwrap());
        d.rms_norm_backward(&dout, &x, &w, 1e-5, &mut dx, Some(&mut dw)).unwrap();
        r.tensors("norms", &[&dx, &dw]);
        d.layer_norm(&x, &w, &b, &mut out).unwrap();
        r.tensors("norms", &[&out]);
        let (mut dw, mut db) = (d.zeros(1, cols).unwrap(), d.zeros(1, cols).unwrap());
        d.layer_norm_backward(&dout, &x, &w, &mut dx, Some((&mut dw, &mut db))).unwrap();
        r.tensors("norms", &[&dx, &dw, &db]);

        d.swiglu(&x, &other, &mut out).unwrap();
        r.tensors("activations", &[&out]);
        let (mut gate, mut up) = (copy(&d, &x), copy(&d, &other));
        d.swiglu_backward(&dout, &mut gate, &mut up).unwrap();
        r.tensors("activations", &[&gate, &up]);
        d.gelu(&x, &mut out).unwrap();
        r.tensors("activations", &[&out]);
        d.gelu_backward(&dout, &x, &mut dx).unwrap();
        r.tensors("activations", &[&dx]);
        d.dropout(Dropout { p: 0.3, key: 9, counter: [1, 2, 0x100] }, &x, 1.0, &mut dx).unwrap();
        r.tensors("dropout", &[&dx]);
    }
    let frequencies: Vec<f32> = (0..16).map(|i| 0.3 / (1 + i) as f32).collect();
    let frequencies = d.upload(1, 16, &frequencies).unwrap();
    for positions in [vec![70_000, 3], (0..90).map(|i| i % 9).collect()] {
        let mut x = Host::normal(positions.len(), 64, 1.0, 6).up(&d);
        d.rotary(&mut x, &d.index(&positions).unwrap(), &frequencies, 1.0).unwrap();
        r.tensors("rotary", &[&x]);
    }
}

/// Another tensor of the same values.
fn copy(d: &CpuDevice, t: &CpuTensor) -> CpuTensor {
    let mut copy = d.empty(t.rows(), t.cols()).unwrap();
    d.copy(t, &mut copy).unwrap();
    copy
}

fn rows(r: &mut Results) {
    let d = r.device.clone();
    let (rows, cols, vocab) = (40, 77, 30);
    let (table, _) = Host::normal(vocab, cols, 1.0, 1).adopt(&d, Dtype::Bf16);
    let ids: Vec<u32> = (0..3 * rows as u32).map(|i| i * 7 % vocab as u32).collect();
    let offsets: Vec<u32> = (0..=rows as u32).map(|i| 3 * i).collect();
    let (ids, offsets) = (d.index(&ids).unwrap(), d.index(&offsets).unwrap());
    let scale = Host::normal(rows, 1, 1.0, 2).up(&d);
    let mut out = poisoned(&d, rows, cols);
    d.gather_merge(&table, &ids, &offsets, &scale, &mut out).unwrap();
    r.tensors("rows", &[&out]);
    let mut dtable = Host::normal(vocab, cols, 1.0, 3).up(&d);
    d.gather_merge_backward(&out, &ids, &offsets, &scale, &mut dtable).unwrap();
    r.tensors("rows", &[&dtable]);
    let some = d.index(&(0..20).rev().collect::<Vec<_>>()).unwrap();
    let mut few = poisoned(&d, 20, cols);
    d.gather_rows(0.3, &table, &some, &mut few).unwrap();
    r.tensors("rows", &[&few]);
    d.scatter_add_rows(0.3, &few, &some, &mut dtable).unwrap();
    r.tensors("rows", &[&dtable]);
    let mut db = Host::normal(1, cols, 1.0, 4).up(&d);
    d.add_bias_backward(&out, &mut db).unwrap();
    d.add_bias(&mut out, &db).unwrap();
    r.tensors("rows", &[&out]);
}

fn latents(r: &mut Results) {
    let d = r.device.clone();
    let (rows, cols) = (9, 67);
    let [mu, target, log_sigma] = [1, 2, 3].map(|seed| Host::normal(rows, cols, 1.0, seed).up(&d));
    let draws: Vec<Draw> = (0..rows as u32).map(|i| Draw { key: 5, counter: [1, i] }).collect();
    let mut eps = poisoned(&d, rows, cols);
    d.normal(&draws, &mut eps).unwrap();
    r.tensors("latents", &[&eps]);
    let mut z = poisoned(&d, rows, cols);
    d.reparameterise(&mu, Some(&log_sigma), &eps, 0.8, &mut z).unwrap();
    r.tensors("latents", &[&z]);
    for loss in [LatentLoss::Nll, LatentLoss::Mse, LatentLoss::MseExpected] {
        let weights = LatentWeights { loss, loss_scale: 0.3, entropy_scale: 0.1 };
        let mut per_row = poisoned(&d, rows, 3);
        let [mut dmu, mut dls] = [(); 2].map(|()| poisoned(&d, rows, cols));
        let grads = Some((&mut dmu, Some(&mut dls)));
        d.latent_loss(weights, &mu, Some(&log_sigma), Some(&eps), &target, &mut per_row, grads).unwrap();
        r.tensors("latents", &[&per_row, &dmu, &dls]);
        d.reparameterise_backward(&z, Some(&log_sigma), &eps, &mut dmu, Some(&mut dls)).unwrap();
        r.tensors("latents", &[&dmu, &dls]);
    }
    let mut per_row = poisoned(&d, rows, 3);
    d.latent_logprob(&mu, &log_sigma, &z, &mut per_row, None).unwrap();
    r.tensors("latents", &[&per_row]);
}

fn outputs(r: &mut Results) {
    let d = r.device.clone();
    let (rows, hidden, vocab) = (21, 45, 997);
    let h = Host::normal(rows, hidden, 1.0, 1).up(&d);
    let (w, _) = Host::normal(vocab, hidden, 0.5, 2).adopt(&d, Dtype::Bf16);
    let ids = d.index(&(0..rows as u32).map(|i| i * 31 % vocab as u32).collect::<Vec<_>>()).unwrap();
    let offsets = d.index(&(0..=rows as u32).collect::<Vec<_>>()).unwrap();
    let scale = Host::normal(rows, 1, 1.0, 3).up(&d);
    let (mut loss, mut dh) = (poisoned(&d, rows, 1), poisoned(&d, rows, hidden));
    let mut dw = d.zeros(vocab, hidden).unwrap();
    let grads = CrossEntropyGrads { upstream: Upstream::Scale(&scale), dh: &mut dh, dw: Some(&mut dw) };
    d.cross_entropy(&h, &w, &ids, &offsets, &mut loss, Some(grads)).unwrap();
    r.tensors("cross-entropy", &[&loss, &dh, &dw]);

    let choices = |temperature, top_p| -> Vec<TokenChoice> {
        let draw = |i| Draw { key: 7, counter: [2, i] };
        (0..rows as u32).map(|i| TokenChoice { temperature, top_p, draw: draw(i) }).collect()
    };
    for (temperature, top_p) in [(0.0, 1.0), (1.0, 1.0), (0.7, 0.9)] {
        let choices = choices(temperature, top_p);
        let tokens = d.choose_tokens(&h, &w, &choices, Some((5, 0.3))).unwrap();
        r.add("choices", &tokens.iter().map(|&t| t as f32).collect::<Vec<_>>());
        let events = d.token_event(&h, &w, 40, &choices, 6.0).unwrap();
        r.add("choices", &events.iter().map(|&e| f32::from(u8::from(e))).collect::<Vec<_>>());
    }
}

fn optimizer(r: &mut Results) {
    let d = r.device.clone();
    let (rows, cols) = (97, 131);
    let [mut value, grad, mut m] = [1, 2, 3].map(|seed| Host::normal(rows, cols, 1.0, seed).up(&d));
    let mut v = Host::normal(rows, cols, 1.0, 4);
    v.values.iter_mut().for_each(|x| *x *= *x);
    let mut v = v.up(&d);
    let hyper = AdamW::new(1e-2, 0.1, 7);
    let mut tensors = [AdamWTensor { value: &mut value, grad: &grad, m: &mut m, v: &mut v }];
    let norm = d.adamw_clipped(&hyper, 1.0, &[], &mut tensors).unwrap();
    let norm = d.late(&norm).unwrap();
    // Both halves of the float64.
    r.add("optimizer", &[norm as f32, (norm - f64::from(norm as f32)) as f32]);
    r.tensors("optimizer", &[&value, &m, &v]);
}

fn results(threads: usize) -> Vec<(&'static str, u32)> {
    let device = CpuDevice::new(threads).unwrap();
    let mut r = Results { device: device.clone(), sums: Vec::new() };
    device.scope(|| {
        for operations in [products, attention, layers, rows, latents, outputs, optimizer] {
            operations(&mut r);
        }
        r.sums
    })
}

#[test]
fn operations_give_the_pinned_bits_on_any_number_of_threads() {
    for threads in [1, 2, 3, 7] {
        let got = results(threads);
        assert!(got == PINNED, "{threads} threads, {}: {got:#x?}", levels::in_force());
    }
}

#[test]
fn operations_give_the_pinned_bits_at_every_level() {
    levels::others("bits::operations_give_the_pinned_bits_on_any_number_of_threads");
}
