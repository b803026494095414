//! A trace states what there is: the probabilities by which the latents end, and the latents that were fed.

use colar_engine::device::cpu::CpuDevice;
use colar_engine::infer::{Loaded, Request, Sampling, SchedulerOptions};
use colar_engine::{Engine, Error};

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

/// The latents of a trace are what was fed: their cosines with the embeddings are those that the trace states, and there is one
/// a latent or thought; by whatever way they are generated.
#[test]
fn latents_of_a_trace_are_near_to_its_tokens() {
    let dir = golden("llama-tiny");
    let engine = Engine::load(&dir, Some(dir.join("adapter"))).unwrap();
    let request = Request::question("Tom has 3 boxes with 24 pens each.", "2");
    let request = request.sampling(Sampling::default().max_latents(5).max_new_tokens(2)).trace(true);
    let scheduler = engine.scheduler(SchedulerOptions::default()).unwrap();
    let served = scheduler.submit(&request).unwrap().wait().unwrap().generation;
    let made = engine.generate(&request).unwrap();
    assert_eq!(made.latents, served.latents);
    assert_eq!(made.latents.len(), made.n_latents);
    let norm = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    for (vector, tokens) in made.latents.iter().zip(&made.trace) {
        assert_eq!(vector.len(), engine.hidden_size());
        let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
        let embeddings = engine.embeddings(&ids).unwrap();
        for (token, embedding) in tokens.iter().zip(embeddings.chunks(vector.len())) {
            let product: f64 = vector.iter().zip(embedding).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let cosine = product / (norm(vector) * norm(embedding));
            // A float32 sum of `hidden_size` products, and two factors of it.
            let bound = f64::from(f32::EPSILON) * (vector.len() + 4) as f64;
            assert!((cosine - f64::from(token.cosine)).abs() < bound, "{cosine} and {token}");
        }
    }
    assert!(engine.generate(&request.trace(false)).unwrap().latents.is_empty());
}

#[test]
fn embeddings_of_tokens_that_are_not_there_are_refused() {
    let dir = golden("llama-tiny");
    let engine = Engine::load(&dir, None::<&str>).unwrap();
    assert_eq!(engine.embeddings(&[0, 1]).unwrap().len(), 2 * engine.hidden_size());
    assert!(engine.embeddings(&[]).unwrap().is_empty());
    let error = engine.embeddings(&[0, u32::MAX]).unwrap_err();
    assert!(matches!(&error, Error::Usage(_)), "{error}");
    assert!(error.to_string().starts_with("`ids`: 4294967295 is beyond the vocabulary"), "{error}");
}
