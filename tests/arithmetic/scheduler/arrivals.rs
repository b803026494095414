//! Requests that arrive at random.

use std::collections::VecDeque;

use colar_engine::{Ending, Handle, Method, Prompt, Request, Sampling, SchedulerOptions, TraceToken, Update};
use proptest::prelude::*;

use super::{alone, assert_same, loaded};

const WORDS: [&str; 8] = ["Tom", "has", "3", "boxes", "of", "24", "pens", "each"];

/// Beginnings that prompts share: none, one of a few tokens, and one that takes more than a block of the cache.
const BEGINNINGS: [&str; 3] =
    ["", "Answer. ", "Read the question twice, think about what is asked, and answer with one number only. "];

/// A request, what happens between it and the next one, and whether it is cancelled.
#[derive(Debug, Clone)]
struct Arrival {
    request: Request,
    /// Updates of earlier requests that are read before the next one is submitted.
    between: usize,
    /// Cancelled after so many of its own updates.
    cancelled: Option<usize>,
}

fn request() -> impl Strategy<Value = Request> {
    let text = (0..BEGINNINGS.len(), prop::collection::vec(prop::sample::select(&WORDS[..]), 1..30));
    let text = text.prop_map(|(beginning, words)| format!("{}{}", BEGINNINGS[beginning], words.join(" ")));
    let temperature = || prop::sample::select(vec![0.0f32, 0.5, 1.0]);
    let temperatures = (temperature(), temperature(), temperature());
    let limits = (1usize..7, 1usize..7, 1usize..7);
    let rest = (any::<u64>(), prop::sample::select(vec![0.0f32, 3.0, -3.0]), any::<bool>(), 0..6u8);
    (text, temperatures, limits, rest).prop_map(
        |(text, (latent, eol, token), (latents, reasoning, tokens), (seed, bias, trace, kind))| {
            let method = if kind == 0 { Method::Cot } else { Method::Colar };
            let prompt = match kind {
                1 => Prompt::Plain(text),
                _ => Prompt::Question { text, method, compression_factor: "2".to_owned() },
            };
            let sampling = Sampling::default()
                .latent_temperature(latent)
                .eol_temperature(eol)
                .temperature(token)
                .max_latents(latents)
                .max_cot_tokens(reasoning)
                .max_new_tokens(tokens)
                .seed(seed)
                .separator_bias(bias);
            Request::new(prompt).sampling(sampling).trace(trace)
        },
    )
}

fn arrival() -> impl Strategy<Value = Arrival> {
    let cancelled = prop_oneof![4 => Just(None), 1 => (0usize..6).prop_map(Some)];
    (request(), 0usize..12, cancelled).prop_map(|(request, between, cancelled)| Arrival {
        request,
        between,
        cancelled,
    })
}

fn options() -> impl Strategy<Value = SchedulerOptions> {
    // The longest request needs some 160 positions; 20 requests run in more than one pass.
    let ranges = (1usize..21, 192usize..2000, 1usize..80, 0usize..3, 0usize..4);
    ranges.prop_map(|(running, positions, tokens, gather, kept)| {
        SchedulerOptions::default()
            .max_running(running)
            .cache_positions(positions)
            .prefill_tokens(tokens)
            .gather_steps(gather)
            .kept_prompts(kept)
    })
}

/// A request on its way, and what it was told.
struct Watched {
    arrival: Arrival,
    handle: Handle,
    latents: usize,
    traced: Vec<Vec<TraceToken>>,
    tokens: Vec<u32>,
    heard: usize,
}

impl Watched {
    /// Hears one update; whether it was the last, which is checked.
    fn hear(&mut self) -> bool {
        if self.arrival.cancelled == Some(self.heard) {
            self.handle.cancel();
        }
        self.heard += 1;
        match self.handle.next().expect("there is a last update") {
            Update::Queued { .. } => assert_eq!(self.heard, 1),
            Update::Prefilled => assert_eq!(self.heard, 2),
            Update::Latent { number } => {
                self.latents += 1;
                assert_eq!(number, self.latents);
            }
            Update::Traced { number, tokens } => {
                self.traced.push(tokens);
                assert_eq!(number, self.traced.len());
            }
            Update::Token { id } => self.tokens.push(id),
            Update::Done(done) => {
                let want = alone(&self.arrival.request);
                let got = &done.generation;
                assert_eq!(self.tokens, got.token_ids);
                assert_eq!(self.traced, got.trace);
                assert_eq!(done.usage.answer_tokens, got.answer_tokens);
                assert!(done.usage.shared_prompt_tokens <= done.usage.prompt_tokens);
                if done.ending == Ending::Cancelled {
                    assert!(self.arrival.cancelled.is_some());
                    assert!(got.n_latents <= want.n_latents && want.token_ids.starts_with(&got.token_ids));
                } else {
                    assert_eq!(done.usage.prompt_tokens, want.prompt_tokens);
                    assert_same(got, &want);
                }
                return true;
            }
            other => panic!("{other:?}"),
        }
        false
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Every request gives, to the bit, what it gives alone, in any company and any order of arrival.
    #[test]
    fn company_changes_nothing(arrivals in prop::collection::vec(arrival(), 1..24), options in options()) {
        let scheduler = loaded().clone().scheduler(options).unwrap();
        let mut watched: VecDeque<Watched> = VecDeque::new();
        for arrival in arrivals {
            let handle = scheduler.submit(&arrival.request).unwrap();
            let between = arrival.between;
            watched.push_back(Watched { arrival, handle, latents: 0, traced: Vec::new(), tokens: Vec::new(), heard: 0 });
            for _ in 0..between {
                let Some(mut next) = watched.pop_front() else { break };
                if !next.hear() {
                    watched.push_back(next);
                }
            }
        }
        for mut rest in watched {
            while !rest.hear() {}
        }
        let load = scheduler.load();
        prop_assert_eq!(load.queued, 0);
        scheduler.finish();
    }
}

/// A closed batch of up to as many requests as devices take as few gives the bits of each alone, too.
#[test]
fn a_closed_batch_changes_nothing() {
    let mut requests: Vec<Request> = (0..16)
        .map(|i| {
            let text = format!("{}{}", BEGINNINGS[i % 3], WORDS[..1 + i % 8].join(" "));
            let sampling = Sampling::default().seed(i as u64).separator_bias(3.0).max_latents(6);
            Request::question(text, "2").sampling(sampling).trace(true)
        })
        .collect();
    requests[7] = requests[2].clone();
    let together = loaded().generate(&requests, &mut |_| ()).unwrap();
    for (request, got) in requests.iter().zip(&together) {
        assert_same(got, &alone(request));
    }
}
