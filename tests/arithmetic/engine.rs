//! The engine as a user of the crate has it: loading that is watched, requests that are cancelled, requests by names.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use colar_engine::{Engine, EngineOptions, Event, Loading, Method, Prompt, Request, Sampling};

use crate::common::golden;

fn options() -> EngineOptions {
    let dir = golden("llama-tiny");
    EngineOptions::new(&dir).adapter(dir.join("adapter")).threads(2)
}

#[test]
fn loading_is_told_weight_by_weight_and_ends_when_it_is_to() {
    let mut heard: Vec<Loading> = Vec::new();
    Engine::with_progress(&options(), |loading| {
        heard.push(loading);
        ControlFlow::Continue(())
    })
    .unwrap();
    let total = heard[0].total;
    assert!(heard[0].bytes == 0 && total > 0 && heard.len() > 10, "{heard:?}");
    assert!(heard.windows(2).all(|pair| pair[0].bytes < pair[1].bytes && pair[1].total == total));
    assert_eq!(heard.last().unwrap().bytes, total);

    for most in [1, 5] {
        let mut calls = 0;
        let stopped = Engine::with_progress(&options(), |_| {
            calls += 1;
            if calls < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        assert_eq!((stopped.err().unwrap().to_string().as_str(), calls), ("loading was stopped", most));
    }
}

#[test]
fn what_is_cancelled_gives_what_there_is() {
    let engine = Engine::with_options(&options()).unwrap();
    // Latents that do not end by themselves.
    let sampling = Sampling::default().separator_bias(-1e4).max_latents(12).max_new_tokens(6).seed(5);
    let request = Request::question("How many pens?", "2").sampling(sampling).trace(true);
    let whole = engine.generate(&request).unwrap();
    assert_eq!(whole.n_latents, 12);
    assert!(whole.token_ids.len() >= 3, "{whole:?}");

    let until = |ends: &(dyn Fn(Event) -> bool + Sync)| {
        let (cancelled, mut done) = (AtomicBool::new(false), false);
        let made = engine.generate_cancellable(std::slice::from_ref(&request), &cancelled, |event| {
            done |= matches!(event, Event::Done { .. });
            if ends(event) {
                cancelled.store(true, Ordering::Relaxed);
            }
        });
        (made.unwrap().remove(0), done)
    };
    let (made, done) = until(&|event| matches!(event, Event::Latent { number: 3, .. }));
    assert_eq!((made.n_latents, made.token_ids.len(), made.finished, done), (3, 0, false, false));
    assert_eq!(made.trace, whole.trace[..3]);
    let (made, done) = until(&|event| matches!(event, Event::Token { .. }));
    assert_eq!((made.n_latents, &made.token_ids[..]), (12, &whole.token_ids[..1]));
    assert!(!done && !made.finished);
    let (made, done) = until(&|_| false);
    assert_eq!((&made.token_ids, &made.trace, done), (&whole.token_ids, &whole.trace, true));

    // Before it begins.
    let made = engine.generate_cancellable(std::slice::from_ref(&request), &AtomicBool::new(true), |event| {
        panic!("nothing has happened: {event:?}");
    });
    let made = made.unwrap().remove(0);
    assert_eq!((made.n_latents, made.text.as_str(), made.finished), (0, "", false));
}

#[test]
fn requests_are_made_by_names() {
    let engine = Engine::with_options(&options()).unwrap();
    let prompt = |method, factor| engine.request("How many?", method, factor).map(|request| request.prompt);
    let question = |method, factor: &str| Prompt::Question {
        text: "How many?".to_owned(),
        method,
        compression_factor: factor.to_owned(),
    };
    assert_eq!(prompt(None, None).unwrap(), question(Method::Colar, "2"));
    assert_eq!(prompt(Some("colar"), Some("auto")).unwrap(), question(Method::Colar, "auto"));
    assert_eq!(prompt(Some("cot"), None).unwrap(), question(Method::Cot, "1"));
    assert_eq!(prompt(Some("icot"), Some("auto")).unwrap(), question(Method::Icot, "auto"));
    assert_eq!(prompt(Some("plain"), None).unwrap(), Prompt::Plain("How many?".to_owned()));
    for (method, factor, part) in [
        (Some("cot"), Some("2"), "`compression_factor` 2: method cot compresses nothing"),
        (Some("plain"), Some("2"), "`compression_factor` goes with `method` colar"),
        (Some("none"), None, "`method`: unknown variant `none`"),
    ] {
        let error = prompt(method, factor).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().starts_with(part), "{error}");
    }
    let bare = Engine::load(golden("qwen3-tiny"), None::<&str>).unwrap();
    let error = bare.request("How many?", None, None).unwrap_err();
    assert!(error.to_string().starts_with("the model has no latent head"), "{error}");
}
