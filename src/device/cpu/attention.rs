//! temp
use crate::device::{HeadShape, Span};
#[allow(clippy::too_many_arguments)]
pub fn attention(
    s: HeadShape,
    scale: f32,
    spans: &[Span],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    mut lse: Option<&mut [f32]>,
) {
    let (qw, kw, d) = (s.q_width(), s.kv_width(), s.head_dim);
    for sp in spans {
        for h in 0..s.heads {
            let kh = h / (s.heads / s.kv_heads);
            for i in 0..sp.q_len {
                let r = sp.q_start + i;
                let n = sp.k_len - sp.q_len + i + 1;
                let qr = &q[r * qw + h * d..][..d];
                let mut p: Vec<f32> = (0..n)
                    .map(|j| scale * super::math::dot(qr, &k[(sp.k_start + j) * kw + kh * d..][..d]))
                    .collect();
                let l = super::math::log_sum_exp(&p);
                p.iter_mut().for_each(|x| *x = (*x - l).exp());
                let o = &mut out[r * qw + h * d..][..d];
                o.fill(0.0);
                for j in 0..n {
                    for (o, v) in o.iter_mut().zip(&v[(sp.k_start + j) * kw + kh * d..]) {
                        *o += p[j] * v;
                    }
                }
                if let Some(x) = &mut lse {
                    x[r * s.heads + h] = l;
                }
            }
        }
    }
}
#[allow(clippy::too_many_arguments)]
pub fn attention_backward(
    s: HeadShape,
    scale: f32,
    spans: &[Span],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &[f32],
    lse: &[f32],
    dout: &[f32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let (qw, kw, d) = (s.q_width(), s.kv_width(), s.head_dim);
    dq.fill(0.0);
    dk.fill(0.0);
    dv.fill(0.0);
    for sp in spans {
        for h in 0..s.heads {
            let kh = h / (s.heads / s.kv_heads);
            for i in 0..sp.q_len {
                let r = sp.q_start + i;
                let n = sp.k_len - sp.q_len + i + 1;
                let qi = r * qw + h * d;
                let l = lse[r * s.heads + h];
                let del = super::math::dot(&dout[qi..qi + d], &out[qi..qi + d]);
                for j in 0..n {
                    let ki = (sp.k_start + j) * kw + kh * d;
                    let p = (scale * super::math::dot(&q[qi..qi + d], &k[ki..ki + d]) - l).exp();
                    let dp = super::math::dot(&dout[qi..qi + d], &v[ki..ki + d]);
                    let ds = p * (dp - del) * scale;
                    for e in 0..d {
                        dv[ki + e] += p * dout[qi + e];
                        dq[qi + e] += ds * k[ki + e];
                        dk[ki + e] += ds * q[qi + e];
                    }
                }
            }
        }
    }
}
