//! Gradients against slopes of a float64 loss.
//!
//! For a direction d, ⟨gradient, d⟩ must be the derivative of f(x + h·d) at h = 0. Two central differences
//! D(h) = (f(h) − f(−h)) / 2h give it as (4·D(h) − D(2h)) / 3, whose error is of order h⁴ (Richardson). Its distance
//! from D(h), whose error is of order h², is the uncertainty. With float64 losses that is far below the tolerance of
//! a float32 gradient, which [`check`] makes sure of.
//!
//! A direction of ±1 sees an error Δ of one element of the gradient as |Δ|, wherever it sits, and one that is spread
//! over many as about ‖Δ‖; so errors are measured in units of ‖gradient‖. Two such directions are tried, and the
//! element in which the gradient is largest alone, whose error is measured in units of that element.

use colar_engine::device::TensorInfo;
use colar_engine::random::Stream;

use super::float64::Float64Tensor;
use super::host::Host;

/// Largest error of a gradient along a direction, of its norm along it. A gradient is float32 sums of products of
/// float32 activations, each with a relative error of about 1e-7, some ten operations deep: the checks of this
/// repository see 6.5e-6 at most. Another order of sums has other errors of that size, not ten times as large.
const TOLERANCE: f64 = 5e-5;

/// Largest uncertainty of a slope, in the same unit.
const UNCERTAINTY: f64 = 1e-6;

/// The error put into one element, of the gradient's norm, to show that each check can fail.
const FALSIFIED: f64 = 1e-4;

/// The change of the loss that a step should make: far above its rounding, about 1e-15 of it.
const CHANGE: f64 = 1e-6;

/// Elements move at most by this part of their size, so that the loss is nearly a parabola.
const LARGEST_STEP: f64 = 1e-3;

/// Where the elements of a gradient's tensor move.
#[derive(Debug, Clone, Copy)]
enum Direction {
    /// Each by ±1, drawn from this seed.
    Dense(u64),
    /// One by 1.
    Element(usize),
}

impl Direction {
    fn of(self, n: usize) -> Vec<f64> {
        match self {
            Direction::Dense(seed) => {
                let mut stream = Stream::new(seed, 0xd1);
                (0..n).map(|_| f64::from(stream.next_u32() & 1) * 2.0 - 1.0).collect()
            }
            Direction::Element(e) => (0..n).map(|i| f64::from(u8::from(i == e))).collect(),
        }
    }

    /// The norm of the gradient's elements that move.
    fn norm(self, gradient: &[f32]) -> f64 {
        match self {
            Direction::Dense(_) => norm(gradient),
            Direction::Element(e) => f64::from(gradient[e].abs()),
        }
    }
}

/// The derivative of a loss along a direction.
struct Slope {
    direction: Direction,
    value: f64,
    /// The norm of the gradient along the direction, in units of which errors count.
    unit: f64,
}

impl Slope {
    /// Measures it with steps of `step` and twice that.
    fn measure(
        what: &str,
        direction: Direction,
        gradient: &[f32],
        size: f64,
        mut loss: impl FnMut(&[f64]) -> f64,
    ) -> Self {
        let (d, unit) = (direction.of(gradient.len()), direction.norm(gradient));
        let step = (CHANGE / unit).min(LARGEST_STEP * size);
        let mut at = |h: f64| loss(&d.iter().map(|d| h * d).collect::<Vec<f64>>());
        let mut central = |h: f64| (at(h) - at(-h)) / (2.0 * h);
        let (near, far) = (central(step), central(2.0 * step));
        let value = (4.0 * near - far) / 3.0;
        let uncertainty = (value - near).abs() / unit;
        assert!(
            uncertainty < UNCERTAINTY,
            "{what}, {direction:?}: the slope is known to {uncertainty:.1e} only"
        );
        Slope { direction, value, unit }
    }

    /// By how much a gradient contradicts it.
    fn error(&self, gradient: &[f32]) -> f64 {
        (dot_wide(gradient, &self.direction.of(gradient.len())) - self.value).abs() / self.unit
    }
}

/// ⟨a, b⟩ in float64.
fn dot_wide(a: &[f32], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(&a, b)| f64::from(a) * b).sum()
}

/// ‖x‖ in float64.
pub fn norm(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// Root mean square of a tensor's elements.
pub fn rms(x: &[f64]) -> f64 {
    (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64).sqrt()
}

/// Checks the gradient of a tensor with elements of about `size`. `loss` is a function of what is added to each
/// element. The same check must reject the gradient with one element falsified.
pub fn check(what: &str, gradient: &[f32], size: f64, mut loss: impl FnMut(&[f64]) -> f64) {
    let (n, norm) = (gradient.len(), norm(gradient));
    assert!(norm.is_finite() && norm > 0.0, "{what}: the gradient's norm is {norm}");
    let largest = (0..n).max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs())).unwrap();
    let directions = [Direction::Dense(0), Direction::Dense(1), Direction::Element(largest)];
    let slopes = directions.map(|direction| Slope::measure(what, direction, gradient, size, &mut loss));
    for slope in &slopes {
        let Slope { direction, value, .. } = slope;
        let error = slope.error(gradient);
        assert!(
            error < TOLERANCE,
            "{what}, {direction:?}: slope {value}, the gradient is off by {error:.1e}"
        );
    }
    let mut falsified = gradient.to_vec();
    let element = Stream::new(n as u64, 0xfa).below(n as u64) as usize;
    falsified[element] += (FALSIFIED * norm) as f32;
    assert!(
        slopes.iter().any(|slope| slope.error(&falsified) > TOLERANCE),
        "{what}: nothing tells that element {element} is off by {FALSIFIED} of the gradient's norm"
    );
}

/// Checks the gradients of `objective` at `inputs`, whose elements are of order one: `gradients[i]` belongs to
/// `inputs[i]`.
pub fn check_inputs(
    what: &str,
    inputs: &[Host],
    gradients: &[Vec<f32>],
    objective: impl Fn(&[Float64Tensor]) -> f64,
) {
    assert_eq!(inputs.len(), gradients.len(), "{what}: number of gradients");
    let at: Vec<Float64Tensor> = inputs.iter().map(Float64Tensor::from).collect();
    let mut moved = at.clone();
    for (i, gradient) in gradients.iter().enumerate() {
        assert_eq!(gradient.len(), at[i].values.len(), "{what}: size of gradient {i}");
        check(&format!("{what}, input {i}"), gradient, 1.0, |by| {
            moved[i].shift(&at[i], by);
            objective(&moved)
        });
        moved[i].clone_from(&at[i]);
    }
}

/// Σ weights · out: turns an output into an objective whose gradient at the output is `weights`.
pub fn weighted(weights: &Host, out: &Float64Tensor) -> f64 {
    assert_eq!((weights.rows, weights.cols), (out.rows(), out.cols()));
    dot_wide(&weights.values, &out.values)
}
