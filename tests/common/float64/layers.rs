//! Norms, rotary embedding, activations.

use super::Float64Tensor;

/// `out = x / sqrt(mean(x²) + eps) · w` for every group of `w.cols` columns.
pub fn rms_norm(x: &Float64Tensor, w: &Float64Tensor, eps: f64, out: &mut Float64Tensor) {
    assert_eq!((w.rows, x.cols % w.cols), (1, 0));
    assert_eq!((x.rows, x.cols), (out.rows, out.cols));
    for (x, out) in x.values.chunks_exact(w.cols).zip(out.values.chunks_exact_mut(w.cols)) {
        let r = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + eps).sqrt();
        for ((out, x), w) in out.iter_mut().zip(x).zip(&w.values) {
            *out = x * r * w;
        }
    }
}

/// LayerNorm with weight and bias.
pub fn layer_norm(
    x: &Float64Tensor,
    w: &Float64Tensor,
    b: &Float64Tensor,
    eps: f64,
    out: &mut Float64Tensor,
) {
    assert_eq!((w.cols, b.cols), (x.cols, x.cols));
    for (x, out) in x.row_pairs(out) {
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let r = 1.0 / (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n + eps).sqrt();
        for (((out, x), w), b) in out.iter_mut().zip(x).zip(&w.values).zip(&b.values) {
            *out = (x - mean) * r * w + b;
        }
    }
}

/// Turns element i of each head's first half with element i of its second half by `position · inv_freq[i]`: a float32
/// product on every device, as in Hugging Face's models.
pub fn rotary(x: &mut Float64Tensor, positions: &[u32], inv_freq: &Float64Tensor, direction: f64) {
    let half = inv_freq.cols;
    assert_eq!((positions.len(), x.cols % (2 * half)), (x.rows, 0));
    for (row, &position) in positions.iter().enumerate() {
        for head in x.row_mut(row).chunks_exact_mut(2 * half) {
            let (first, second) = head.split_at_mut(half);
            for ((a, b), &f) in first.iter_mut().zip(second).zip(&inv_freq.values) {
                let angle = f64::from(position as f32 * f as f32);
                let (sin, cos) = (direction * angle).sin_cos();
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}

/// `out = silu(gate) · up`.
pub fn swiglu(gate: &Float64Tensor, up: &Float64Tensor, out: &mut Float64Tensor) {
    gate.like(up);
    gate.like(out);
    for ((out, g), u) in out.values.iter_mut().zip(&gate.values).zip(&up.values) {
        *out = g / (1.0 + (-g).exp()) * u;
    }
}

/// `out = x · Φ(x)`.
pub fn gelu(x: &Float64Tensor, out: &mut Float64Tensor) {
    x.like(out);
    for (out, x) in out.values.iter_mut().zip(&x.values) {
        *out = x * 0.5 * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2));
    }
}
