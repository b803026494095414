//! The loss between the student's hidden states and the teacher's: smooth-L1 at one position a sample, in all layers.
//!
//! The states are few (`layers · samples · H` numbers), so this is computed on the host.

/// The distance of `student` from `teacher`: of each of `samples` samples the mean over layers and H of
/// smooth-L1 (beta 1), and the gradient with respect to the student of `scale` times the sum over all elements.
/// States and gradients are per layer `[samples, H]`.
pub(super) fn smooth_l1(
    student: &[Vec<f32>],
    teacher: &[Vec<f32>],
    samples: usize,
    scale: f32,
) -> (Vec<f32>, Vec<Vec<f32>>) {
    let mut sums = vec![0f64; samples];
    let mut elements = 0;
    let grads = student.iter().zip(teacher).map(|(student, teacher)| {
        let width = student.len() / samples.max(1);
        elements += width;
        let pairs = student.iter().zip(teacher).enumerate();
        let grad = pairs.map(|(i, (s, t))| {
            let d = s - t;
            sums[i / width] += f64::from(if d.abs() < 1.0 { 0.5 * d * d } else { d.abs() - 0.5 });
            scale * d.clamp(-1.0, 1.0)
        });
        grad.collect()
    });
    let grads = grads.collect();
    (sums.iter().map(|sum| (sum / elements.max(1) as f64) as f32).collect(), grads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quadratic_near_and_linear_far() {
        let student = [vec![0.5, 3.0, 0.0, 0.0], vec![1.0, -2.0, 0.0, -1.0]];
        let teacher = [vec![0.0, 1.0, 0.0, 0.0], vec![1.0, 1.0, 0.5, -1.0]];
        let (losses, grads) = smooth_l1(&student, &teacher, 2, 10.0);
        assert_eq!(losses, [(0.125 + 1.5 + 0.0 + 2.5) / 4.0, 0.125 / 4.0]);
        assert_eq!(grads, [vec![5.0, 10.0, 0.0, 0.0], vec![0.0, -10.0, -5.0, 0.0]]);
    }
}
