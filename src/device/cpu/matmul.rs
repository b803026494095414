//! temp
#[derive(Clone, Copy)]
pub enum Mat<'a> {
    F32(&'a [f32]),
    Bf16(&'a [half::bf16]),
    F16(&'a [half::f16]),
}
impl<'a> Mat<'a> {
    pub fn slice(self, r: std::ops::Range<usize>) -> Mat<'a> {
        match self {
            Mat::F32(x) => Mat::F32(&x[r]),
            Mat::Bf16(x) => Mat::Bf16(&x[r]),
            Mat::F16(x) => Mat::F16(&x[r]),
        }
    }
    fn f(self) -> Vec<f32> {
        match self {
            Mat::F32(x) => x.to_vec(),
            Mat::Bf16(x) => x.iter().map(|x| x.to_f32()).collect(),
            Mat::F16(x) => x.iter().map(|x| x.to_f32()).collect(),
        }
    }
}
#[allow(clippy::too_many_arguments)]
fn g(
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    a: &[f32],
    ars: usize,
    acs: usize,
    b: &[f32],
    brs: usize,
    bcs: usize,
    beta: f32,
    c: &mut [f32],
) {
    if m * n == 0 {
        return;
    }
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            beta != 0.0,
            a.as_ptr(),
            acs as isize,
            ars as isize,
            b.as_ptr(),
            bcs as isize,
            brs as isize,
            beta,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(2),
        )
    }
}
#[allow(clippy::too_many_arguments)]
pub fn matmul_nt(m: usize, n: usize, k: usize, alpha: f32, x: &[f32], w: Mat, beta: f32, y: &mut [f32]) {
    let w = w.f();
    g(m, n, k, alpha, x, k, 1, &w, 1, k, beta, y)
}
#[allow(clippy::too_many_arguments)]
pub fn matmul_nn(m: usize, n: usize, k: usize, alpha: f32, dy: &[f32], w: Mat, beta: f32, dx: &mut [f32]) {
    let w = w.f();
    g(m, k, n, alpha, dy, n, 1, &w, k, 1, beta, dx)
}
#[allow(clippy::too_many_arguments)]
pub fn matmul_tn(m: usize, n: usize, k: usize, alpha: f32, dy: &[f32], x: &[f32], beta: f32, dw: &mut [f32]) {
    g(n, k, m, alpha, dy, 1, n, x, k, 1, beta, dw)
}
