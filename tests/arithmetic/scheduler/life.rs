//! How requests wait, run and end.

use std::time::{Duration, Instant};

use colar_engine::{
    Completed, Ending, Engine, EngineOptions, Error, Handle, Method, Prompt, Request, Sampling, Scheduler,
    SchedulerOptions, Update,
};

use super::{alone, assert_same, endless, loaded};
use crate::common::golden;

fn scheduler(options: SchedulerOptions) -> Scheduler {
    loaded().clone().scheduler(options).unwrap()
}

/// Reads updates up to the first that `is` the one that is looked for; how many came before it.
fn until(handle: &mut Handle, is: impl Fn(&Update) -> bool) -> usize {
    handle.position(|update| is(&update)).expect("the request ended before")
}

fn latent(handle: &mut Handle, number: usize) {
    until(handle, |u| matches!(u, Update::Latent { number: n } if *n == number));
}

/// Waits until nothing runs, which the scheduler says after a request's last update.
fn idle(scheduler: &Scheduler) {
    let begun = Instant::now();
    while scheduler.load().running > 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", scheduler.load());
        std::thread::yield_now();
    }
}

fn short(text: &str) -> Request {
    Request::question(text, "2")
        .sampling(Sampling::default().max_latents(3).max_new_tokens(3).seed(5))
        .trace(true)
}

#[test]
fn cancelled_from_another_thread_it_leaves_at_once() {
    let scheduler = scheduler(SchedulerOptions::default());
    let mut handle = scheduler.submit(&endless(3000)).unwrap();
    latent(&mut handle, 3);
    let control = handle.control();
    std::thread::spawn(move || control.cancel()).join().unwrap();
    let done = handle.wait().unwrap();
    assert_eq!(done.ending, Ending::Cancelled);
    let (latents, timings) = (done.generation.n_latents, done.timings);
    assert!((3..3000).contains(&latents) && done.generation.token_ids.is_empty(), "{latents} latents");
    assert!(
        timings.first_latent_ms.is_some_and(|at| at <= timings.total_ms) && timings.first_token_ms.is_none()
    );
    idle(&scheduler);
    assert_eq!(scheduler.load().used_positions, 0);
    // Its rows serve the next one.
    let next = endless(3100);
    assert_same(
        &scheduler.submit(&short("And now?")).unwrap().wait().unwrap().generation,
        &alone(&short("And now?")),
    );
    drop(scheduler.submit(&next).unwrap());
}

#[test]
fn a_request_is_over_when_nobody_listens() {
    let scheduler = scheduler(SchedulerOptions::default().max_running(1));
    let mut first = scheduler.submit(&endless(3000)).unwrap();
    latent(&mut first, 1);
    let waiting = scheduler.submit(&endless(3000)).unwrap();
    drop((first, waiting));
    scheduler.finish();
}

#[test]
fn a_dropped_scheduler_cancels_and_a_finished_one_does_not() {
    let one = scheduler(SchedulerOptions::default().max_running(1));
    let running = one.submit(&endless(3000)).unwrap();
    let waiting = one.submit(&short("Why?")).unwrap();
    drop(one);
    for handle in [running, waiting] {
        assert_eq!(handle.wait().unwrap().ending, Ending::Cancelled);
    }
    let one = scheduler(SchedulerOptions::default().max_running(1));
    let handles: Vec<Handle> = (0..5).map(|_| one.submit(&short("Why?")).unwrap()).collect();
    one.finish();
    for handle in handles {
        assert_same(&handle.wait().unwrap().generation, &alone(&short("Why?")));
    }
}

#[test]
fn at_its_deadline_a_request_ends_with_what_there_is() {
    let scheduler = scheduler(SchedulerOptions::default().max_running(1).cache_positions(20_000));
    let soon = Instant::now() + Duration::from_millis(200);
    let mut running = scheduler.submit_until(&endless(19_000), soon).unwrap();
    latent(&mut running, 1);
    // It waits behind the other, and its time has passed.
    let late = scheduler.submit_until(&short("Late?"), Instant::now()).unwrap().wait().unwrap();
    assert_eq!(
        (late.ending, late.generation.n_latents, late.timings.first_token_ms),
        (Ending::Deadline, 0, None)
    );
    let done = running.wait().unwrap();
    assert_eq!(done.ending, Ending::Deadline);
    assert!((1..19_000).contains(&done.generation.n_latents));
    let in_time = Instant::now() + Duration::from_secs(3600);
    let done = scheduler.submit_until(&short("In time?"), in_time).unwrap().wait().unwrap();
    assert_same(&done.generation, &alone(&short("In time?")));
}

/// Ended early, latents give the answer that a limit at the same place gives; and so does reasoning in text.
#[test]
fn the_answer_follows_from_the_reasoning_so_far() {
    let scheduler = scheduler(SchedulerOptions::default());
    let request = endless(3000).trace(true);
    let mut handle = scheduler.submit(&request).unwrap();
    latent(&mut handle, 4);
    handle.end_reasoning();
    let done = handle.wait().unwrap();
    let latents = done.generation.n_latents;
    assert!((4..3000).contains(&latents) && done.generation.answer_tokens > 0, "{done:?}");
    let sampling = request.sampling.max_latents(latents);
    assert_same(&done.generation, &alone(&request.clone().sampling(sampling)));

    let sampling = Sampling::default().separator_bias(-1e4).max_cot_tokens(3000).max_new_tokens(3).seed(3);
    let prompt = Prompt::Question {
        text: "How many?".to_owned(),
        method: Method::Cot,
        compression_factor: "1".to_owned(),
    };
    let request = Request::new(prompt).sampling(sampling);
    let mut handle = scheduler.submit(&request).unwrap();
    until(&mut handle, |u| matches!(u, Update::Token { .. }));
    handle.end_reasoning();
    let done = handle.wait().unwrap();
    let tokens = done.generation.n_latents;
    assert!((1..3000).contains(&tokens), "{done:?}");
    let sampling = request.sampling.max_cot_tokens(tokens);
    assert_same(&done.generation, &alone(&request.clone().sampling(sampling)));

    // Before the first latent it ends after that one.
    let handle = scheduler.submit(&endless(3000)).unwrap();
    handle.end_reasoning();
    assert!(handle.wait().unwrap().generation.n_latents >= 1);
}

/// The first in the queue waits for its room, and no smaller one overtakes it.
#[test]
fn first_come_is_first_served() {
    let scheduler = scheduler(SchedulerOptions::default().cache_positions(512).kept_prompts(0));
    let begun = |submitted: Instant, done: &Completed| {
        submitted + Duration::from_secs_f64(done.timings.queued_ms * 1e-3)
    };
    let ended = |submitted: Instant, done: &Completed| {
        submitted + Duration::from_secs_f64(done.timings.total_ms * 1e-3)
    };
    let mut handles = Vec::new();
    // The first leaves no room for the second, and both would for each of the small ones.
    for latents in [300, 400, 3, 3, 3] {
        let at = Instant::now();
        handles.push((at, scheduler.submit(&endless(latents)).unwrap()));
    }
    let done: Vec<(Instant, Completed)> =
        handles.into_iter().map(|(at, h)| (at, h.wait().unwrap())).collect();
    let begins: Vec<Instant> = done.iter().map(|(at, d)| begun(*at, d)).collect();
    // A submission's clock starts within `submit`, a little after `at`.
    let slack = Duration::from_millis(50);
    assert!(ended(done[0].0, &done[0].1) <= begins[1] + slack, "it did not wait for room");
    for pair in begins.windows(2) {
        assert!(pair[0] <= pair[1] + slack, "{begins:?}");
    }
}

#[test]
fn a_request_that_never_fits_and_a_full_queue_are_refused() {
    let scheduler = scheduler(SchedulerOptions::default().cache_positions(256).max_running(1).max_queued(2));
    let error = scheduler.submit(&endless(300)).unwrap_err();
    assert!(error.to_string().contains("`cache_positions` has 256") && error.exit_code() == 2, "{error}");
    let mut running = scheduler.submit(&endless(200)).unwrap();
    until(&mut running, |u| matches!(u, Update::Prefilled));
    let waiting = [scheduler.submit(&short("One?")).unwrap(), scheduler.submit(&short("Two?")).unwrap()];
    assert!(matches!(scheduler.submit(&short("Three?")), Err(Error::QueueFull { queued: 2 })));
    assert_eq!(scheduler.load().queued, 2);
    running.cancel();
    for handle in waiting {
        assert_eq!(handle.wait().unwrap().generation.n_latents, 3);
    }
    for bad in [
        SchedulerOptions::default().max_running(0),
        SchedulerOptions::default().prefill_tokens(0),
        SchedulerOptions::default().cache_positions(15),
    ] {
        assert_eq!(loaded().clone().scheduler(bad).unwrap_err().exit_code(), 2);
    }
    let bad = short("Hot?").sampling(Sampling::default().temperature(-1.0));
    assert_eq!(scheduler.submit(&bad).unwrap_err().exit_code(), 2);
}

/// Prompts that begin alike share the rows of their beginning, whether it is a running request's or one's that has left.
#[test]
fn a_beginning_is_computed_once() {
    let instruction = "Read the question twice, think about what is asked, and answer with one number only.";
    let ask = |text: &str| short(&format!("{instruction} {text}"));
    let scheduler = scheduler(SchedulerOptions::default());
    let first = scheduler.submit(&ask("How many pens?")).unwrap().wait().unwrap();
    assert_eq!(first.usage.shared_prompt_tokens, 0);
    idle(&scheduler);
    assert!(scheduler.load().kept_positions >= first.usage.prompt_tokens);
    let other = scheduler.submit(&ask("How many hens?")).unwrap().wait().unwrap();
    let shared = other.usage.shared_prompt_tokens;
    assert!((16..other.usage.prompt_tokens).contains(&shared), "{:?}", other.usage);
    assert_same(&other.generation, &alone(&ask("How many hens?")));
    let again = scheduler.submit(&ask("How many pens?")).unwrap().wait().unwrap();
    assert_eq!(again.usage.shared_prompt_tokens, first.usage.prompt_tokens);
    assert_same(&again.generation, &first.generation);
    // Those that come together wait for the first to have read it.
    let handles: Vec<Handle> = (0..4).map(|_| scheduler.submit(&ask("How many men?")).unwrap()).collect();
    let shared: Vec<usize> =
        handles.into_iter().map(|h| h.wait().unwrap().usage.shared_prompt_tokens).collect();
    assert!(shared[1..].iter().all(|&s| s == shared[1] && s > shared[0]), "{shared:?}");
}

/// A long prompt is read in pieces, and those that run make a step after each.
#[test]
fn a_long_prompt_holds_up_nobody_by_more_than_a_piece() {
    let scheduler = scheduler(SchedulerOptions::default().prefill_tokens(8));
    let mut running = scheduler.submit(&endless(3000)).unwrap();
    latent(&mut running, 1);
    while running.try_next().is_some() {}
    let text = "Tom has 3 boxes of 24 pens each. ".repeat(12);
    let mut long = scheduler.submit(&short(&text)).unwrap();
    until(&mut long, |u| matches!(u, Update::Prefilled));
    let steps = std::iter::from_fn(|| running.try_next()).count();
    let done = long.wait().unwrap();
    let pieces = done.usage.prompt_tokens.div_ceil(8);
    assert!(pieces > 5 && steps + 1 >= pieces, "{steps} steps beside {pieces} pieces");
    assert_same(&done.generation, &alone(&short(&text)));
}

/// While others run, a short prompt waits for company, and no longer than it is told to.
#[test]
fn prompts_are_read_together() {
    let scheduler = scheduler(SchedulerOptions::default().gather_steps(20).prefill_tokens(500));
    // Nothing runs that it could hold up.
    let mut running = scheduler.submit(&endless(3000)).unwrap();
    latent(&mut running, 1);
    while running.try_next().is_some() {}
    let mut waiting = scheduler.submit(&short("How many pens?")).unwrap();
    until(&mut waiting, |u| matches!(u, Update::Prefilled));
    let steps = std::iter::from_fn(|| running.try_next()).count();
    assert!(steps >= 20, "{steps} steps");
    assert_same(&waiting.wait().unwrap().generation, &alone(&short("How many pens?")));
}

/// A request whose logits stop being numbers fails alone.
#[test]
fn a_fault_is_of_the_request_that_has_it() {
    let scheduler = scheduler(SchedulerOptions::default());
    let hot = short("Too hot?");
    let sampling = hot.sampling.latent_temperature(f32::MAX);
    let hot = hot.sampling(sampling);
    let alone_it_fails = loaded().generate(std::slice::from_ref(&hot), &mut |_| ()).unwrap_err();
    assert!(alone_it_fails.to_string().contains("not finite"), "{alone_it_fails}");
    let requests = [short("One?"), hot, short("Two?"), short("Three?")];
    let handles: Vec<Handle> = requests.iter().map(|r| scheduler.submit(r).unwrap()).collect();
    for (i, (request, handle)) in requests.iter().zip(handles).enumerate() {
        match handle.wait() {
            Ok(done) => assert_same(&done.generation, &alone(request)),
            Err(error) => assert!(i == 1 && error.to_string().contains("latent_temperature"), "{i}: {error}"),
        }
    }
}

#[test]
fn requests_come_from_any_number_of_threads() {
    let model = golden("llama-tiny");
    let adapter = model.join("adapter");
    let options = EngineOptions::new(model).adapter(adapter).threads(2);
    let engine = Engine::with_options(&options).unwrap();
    let scheduler = engine.scheduler(SchedulerOptions::default().max_running(3)).unwrap();
    // The scheduler keeps the model.
    drop(engine);
    std::thread::scope(|scope| {
        for i in 0..4 {
            let scheduler = &scheduler;
            scope.spawn(move || {
                for j in 0..3 {
                    let request = short(&format!("How many are {i} and {j}?"));
                    let done = scheduler.submit(&request).unwrap().wait().unwrap();
                    assert_same(&done.generation, &alone(&request));
                }
            });
        }
    });
}
