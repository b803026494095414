//! The probabilities that a trace states are those by which the latents end.

use colar_engine::device::cpu::CpuDevice;
use colar_engine::infer::{Loaded, Request, Sampling};

use crate::common::golden;

/// Requests that differ in their seed alone.
const REQUESTS: u64 = 400;

/// The first latent is the same for every seed, so the share of the chains that end after it is that probability, within
/// five standard deviations.
#[test]
fn latents_end_as_often_as_their_trace_says() {
    let dir = golden("llama-tiny");
    let loaded = Loaded::new(CpuDevice::new(2).unwrap(), &dir, Some(&dir.join("adapter"))).unwrap();
    let sampling = Sampling::default().latent_temperature(0.0).max_latents(2).max_new_tokens(1);
    let ask = |bias: f32| {
        let request = |seed| {
            let sampling = sampling.separator_bias(bias).seed(seed);
            Request::question("Tom has 3 boxes with 24 pens each.", "2").sampling(sampling).trace(seed == 0)
        };
        let requests: Vec<Request> = (0..REQUESTS).map(request).collect();
        let answers = loaded.generate(&requests, &mut |_| ()).unwrap();
        let first = answers.first().unwrap();
        assert_eq!(first.end_probabilities.len(), first.n_latents);
        assert!(answers[1].end_probabilities.is_empty());
        let share = answers.iter().filter(|g| g.n_latents == 1).count() as f64 / REQUESTS as f64;
        (share, f64::from(first.end_probabilities[0]))
    };
    // Of random weights hardly any token is likely: the bias makes this one so.
    for bias in [3.0, 6.0] {
        let (share, p) = ask(bias);
        assert!((0.01..0.99).contains(&p), "{p} says little");
        let bound = 5.0 * (p * (1.0 - p) / REQUESTS as f64).sqrt();
        assert!((share - p).abs() < bound, "a share of {share} ended, of which the trace says {p}");
    }
}
