//! temp
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut l = [0.0f32; 16];
    let mut i = 0;
    while i + 16 <= a.len() {
        for j in 0..16 {
            l[j] += a[i + j] * b[i + j];
        }
        i += 16;
    }
    let mut s: f32 = l.iter().sum();
    while i < a.len() {
        s += a[i] * b[i];
        i += 1;
    }
    s
}
pub fn sum_squares(a: &[f32]) -> f32 {
    dot(a, a)
}
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
pub fn vexp(x: &mut [f32], shift: f32) {
    x.iter_mut().for_each(|x| *x = (*x + shift).exp())
}
pub fn log_sum_exp(x: &[f32]) -> f32 {
    let m = x.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    m + x.iter().map(|x| (x - m).exp()).sum::<f32>().ln()
}
