//! Gradients against central differences.
//!
//! For a direction d of independent normal elements, ⟨gradient, d⟩ must be the derivative of
//! f(x + h·d) at h = 0. The derivative is taken by the five-point rule
//! (8·(f(h) − f(−h)) − (f(2h) − f(−2h))) / 12h, whose error is of order h⁴, so h may be so large that
//! float32 rounding of f does not matter. A random direction sees an error Δ of the gradient as
//! ‖Δ‖, wherever it sits; so the error is measured in units of ‖gradient‖.

use colar_engine::random::Stream;

use super::host::Host;

/// Directions tried for every input.
pub const DIRECTIONS: u64 = 4;

/// A random direction of `n` elements.
pub fn direction(n: usize, seed: u64) -> Vec<f32> {
    let mut stream = Stream::new(seed, 0xd1);
    (0..n).map(|_| stream.normal()).collect()
}

/// ⟨a, b⟩ in float64.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// ‖x‖ in float64.
pub fn norm(x: &[f32]) -> f64 {
    dot(x, x).sqrt()
}

/// The derivative at 0 of `f`, which is called with multiples of `h`.
pub fn derivative(h: f64, mut f: impl FnMut(f64) -> f64) -> f64 {
    let near = f(h) - f(-h);
    let far = f(2.0 * h) - f(-2.0 * h);
    (8.0 * near - far) / (12.0 * h)
}

/// Checks the gradients of `objective` at `inputs`, one input at a time: `gradients[i]` belongs to
/// `inputs[i]`, every element of which moves by about `step`.
pub fn check(
    what: &str,
    inputs: &[Host],
    gradients: &[Vec<f32>],
    step: f64,
    tolerance: f64,
    objective: impl Fn(&[Host]) -> f64,
) {
    assert_eq!(inputs.len(), gradients.len(), "{what}: number of gradients");
    for (i, gradient) in gradients.iter().enumerate() {
        assert_eq!(gradient.len(), inputs[i].values.len(), "{what}: size of gradient {i}");
        let size = norm(gradient);
        assert!(size.is_finite() && size > 0.0, "{what}: gradient {i} has norm {size}");
        for seed in 0..DIRECTIONS {
            let d = direction(gradient.len(), seed);
            let mut moved = inputs.to_vec();
            let measured = derivative(step, |h| {
                for ((m, &x), &d) in moved[i].values.iter_mut().zip(&inputs[i].values).zip(&d) {
                    *m = x + (h * f64::from(d)) as f32;
                }
                objective(&moved)
            });
            let claimed = dot(gradient, &d);
            let error = (measured - claimed).abs() / size;
            assert!(
                error < tolerance,
                "{what}, input {i}, direction {seed}: slope {measured} but the gradient says {claimed}, \
                 error {error:.1e} of its norm"
            );
        }
    }
}

/// Σ weights · out in float64: turns an output into an objective whose gradient at the output is
/// `weights`.
pub fn weighted(weights: &Host, out: &[f32]) -> f64 {
    assert_eq!(weights.values.len(), out.len());
    dot(&weights.values, out)
}
