//! The cost of the scheduler, and the time of requests that come one by one.
//!
//! All is measured in pairs, closed batches and the scheduler in turn on the same requests, since a shared machine's
//! speed changes from minute to minute. Every request has a question of its own and draws a fixed number of latents: the
//! separator is never drawn before. Nothing is taken over from earlier prompts.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::processor;
use super::timer::median;
use crate::device::Device;
use crate::infer::{Completed, Generation, Loaded, Request, Sampling, Scheduler, SchedulerOptions};
use crate::random::Stream;
use crate::{Error, Result};

/// The stream of the times between arrivals.
const ARRIVALS: u64 = 0x5e7e;

/// Settings of the measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct ServeOptions {
    /// Questions; each is asked once in a row.
    pub questions: Vec<String>,
    /// Latents of every request.
    pub latents: usize,
    /// Most tokens of an answer.
    pub answer_tokens: usize,
    /// Requests at a time, a row each.
    pub sizes: Vec<usize>,
    /// Poisson arrivals in percent of the most that the largest size served, a row each.
    pub loads: Vec<f64>,
    /// Most requests of a row.
    pub requests: usize,
    /// Pairs of each comparison.
    pub pairs: usize,
    /// The scheduler's options, but for `max_running`, `cache_positions` and `kept_prompts`, which follow from the rest.
    pub scheduler: SchedulerOptions,
}

/// All that was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServeTiming {
    /// One request, alone and in the scheduler.
    pub steps: StepCost,
    /// So many clients, each of which asks again as soon as it has its answer.
    pub sizes: Vec<SizeRow>,
    /// Requests that come at random.
    pub loads: Vec<LoadRow>,
}

/// The time of a step of one request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepCost {
    /// Pairs.
    pub pairs: usize,
    /// Median milliseconds of a latent, without the scheduler.
    pub latent_ms: f64,
    /// Of a token.
    pub token_ms: f64,
    /// The scheduler's time of a latent over that without it.
    pub latent_ratio: Spread,
    /// Of a token.
    pub token_ratio: Spread,
}

/// Ratios in pairs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Median.
    pub median: f64,
    /// Least.
    pub least: f64,
    /// Largest.
    pub most: f64,
}

/// So many requests at a time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SizeRow {
    /// Requests at a time.
    pub size: usize,
    /// Requests of each of a pair.
    pub requests: usize,
    /// Median requests a second in closed batches of this size.
    pub closed_per_s: f64,
    /// Median requests a second in the scheduler.
    pub scheduler_per_s: f64,
    /// Their ratio, scheduler over closed batches.
    pub ratio: Spread,
    /// Median seconds that threads ran for a request of closed batches, where the operating system tells it.
    pub closed_processor_s: Option<f64>,
    /// The same time in closed batches over that in the scheduler: their ratio as far as other programs take no part.
    pub processor_ratio: Option<Spread>,
    /// In the scheduler, over all pairs.
    #[serde(flatten)]
    pub latencies: Latencies,
}

/// Requests that come at random.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoadRow {
    /// Arrivals in percent of what was served at most.
    pub percent: f64,
    /// Requests.
    pub requests: usize,
    /// Requests a second that came.
    pub arrived_per_s: f64,
    /// Requests a second that were answered.
    pub served_per_s: f64,
    /// Since their arrival.
    #[serde(flatten)]
    pub latencies: Latencies,
}

/// Milliseconds since requests were submitted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latencies {
    /// Until the first latent was fed.
    pub first_latent_ms: Quantiles,
    /// Until the first token was chosen.
    pub first_token_ms: Quantiles,
    /// Until the end.
    pub whole_ms: Quantiles,
}

/// The times that half of all, and all but five and one in a hundred, do not exceed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quantiles {
    /// Of half.
    pub p50: f64,
    /// Of 95 %.
    pub p95: f64,
    /// Of 99 %.
    pub p99: f64,
}

impl Quantiles {
    /// By nearest rank; 0 of no values.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let rank = (share * values.len() as f64).ceil() as usize;
            values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
        };
        Quantiles { p50: at(0.5), p95: at(0.95), p99: at(0.99) }
    }
}

impl Latencies {
    fn of(done: &[Completed]) -> Self {
        let all =
            |ms: &dyn Fn(&Completed) -> Option<f64>| Quantiles::of(done.iter().filter_map(ms).collect());
        Latencies {
            first_latent_ms: all(&|d| d.timings.first_latent_ms),
            first_token_ms: all(&|d| d.timings.first_token_ms),
            whole_ms: all(&|d| Some(d.timings.total_ms)),
        }
    }
}

impl Spread {
    fn of(ratios: Vec<f64>) -> Self {
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        Spread { median: median(ratios), least, most }
    }
}

/// Measures a model; `progress` hears of each part that is done.
///
/// # Errors
/// No sizes, fewer questions than a row has requests, a model without a latent head, and errors of the device.
pub fn serve<D: Device>(
    loaded: &Arc<Loaded<D>>,
    options: &ServeOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<ServeTiming> {
    let Some(&largest) = options.sizes.iter().max() else {
        return Err(Error::usage("there are no sizes to measure"));
    };
    let rows = options.sizes.iter().map(|&size| requests_of(options, size)).max().unwrap_or(0);
    let rows = if options.loads.is_empty() { rows } else { rows.max(options.requests) };
    if options.questions.len() < rows {
        let there = options.questions.len();
        return Err(Error::usage(format!("a row has {rows} requests, and there are {there} questions")));
    }
    let steps = steps(loaded, options)?;
    progress("a step of one request");
    let mut sizes = Vec::new();
    for &size in &options.sizes {
        sizes.push(size_row(loaded, options, size)?);
        progress(&format!("{size} at a time"));
    }
    let capacity =
        sizes.iter().filter(|row| row.size == largest).map(|row| row.scheduler_per_s).fold(0.0, f64::max);
    let mut loads = Vec::new();
    for &percent in &options.loads {
        loads.push(load_row(loaded, options, largest, percent, capacity)?);
        progress(&format!("arrivals at {percent} %"));
    }
    Ok(ServeTiming { steps, sizes, loads })
}

/// Requests of a row: at small sizes fewer, which take long enough.
fn requests_of(options: &ServeOptions, size: usize) -> usize {
    options.requests.min(8 * size)
}

fn requests(options: &ServeOptions, count: usize) -> Vec<Request> {
    let sampling = Sampling::default()
        .max_latents(options.latents)
        .max_new_tokens(options.answer_tokens)
        .separator_bias(-1e4);
    let numbered = (0u64..).zip(&options.questions).take(count);
    numbered.map(|(i, question)| Request::question(question, "2").sampling(sampling.seed(i))).collect()
}

/// A scheduler of `size` requests at a time, with room for as many.
fn scheduler<D: Device>(loaded: &Arc<Loaded<D>>, options: &ServeOptions, size: usize) -> Result<Scheduler> {
    let tokenizer = &loaded.opened.tokenizer;
    let lens = options.questions.iter().map(|q| tokenizer.encode(q).map(|ids| ids.len()));
    let longest = lens.collect::<Result<Vec<usize>>>()?.into_iter().max().unwrap_or(0);
    // The prompt's frame is shorter than 64 tokens in every tokenizer that has words.
    let room = longest + 64 + options.latents + options.answer_tokens;
    let options = options.scheduler.clone().max_running(size).kept_prompts(0);
    Arc::clone(loaded).scheduler(options.cache_positions(size * room.next_multiple_of(16)))
}

fn steps<D: Device>(loaded: &Arc<Loaded<D>>, options: &ServeOptions) -> Result<StepCost> {
    let sampling = Sampling::default().max_latents(32).max_new_tokens(32).separator_bias(-1e4);
    let request = Request::question(&options.questions[0], "2").sampling(sampling);
    let scheduler =
        scheduler(loaded, &ServeOptions { latents: 32, answer_tokens: 32, ..options.clone() }, 1)?;
    let of = |g: &Generation| [g.latents_ms / g.n_latents as f64, g.answer_ms / g.answer_tokens as f64];
    let (mut alone, mut ratios) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for pair in 0..=options.pairs {
        let first = loaded.generate(std::slice::from_ref(&request), &mut |_| ())?;
        let without = first.first().map(of).ok_or_else(|| Error::other("the batch came back empty"))?;
        let with = of(&scheduler.submit(&request)?.wait()?.generation);
        // The first pair finds cold caches.
        if pair > 0 {
            for part in 0..2 {
                alone[part].push(without[part]);
                ratios[part].push(with[part] / without[part]);
            }
        }
    }
    let ([latent, token], [latent_ratios, token_ratios]) = (alone, ratios);
    Ok(StepCost {
        pairs: options.pairs,
        latent_ms: median(latent),
        token_ms: median(token),
        latent_ratio: Spread::of(latent_ratios),
        token_ratio: Spread::of(token_ratios),
    })
}

fn size_row<D: Device>(loaded: &Arc<Loaded<D>>, options: &ServeOptions, size: usize) -> Result<SizeRow> {
    let requests = requests(options, requests_of(options, size));
    let scheduler = scheduler(loaded, options, size)?;
    let (mut closed, mut open, mut ratios, mut done) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut ran, mut ran_ratios) = (Vec::new(), Vec::new());
    for _ in 0..options.pairs {
        let (begun, ran_before) = (Instant::now(), processor::seconds());
        for batch in requests.chunks(size) {
            loaded.generate(batch, &mut |_| ())?;
        }
        let in_batches = requests.len() as f64 / begun.elapsed().as_secs_f64();
        let (begun, ran_between) = (Instant::now(), processor::seconds());
        done.extend(by_clients(&scheduler, &requests, size)?);
        let in_scheduler = requests.len() as f64 / begun.elapsed().as_secs_f64();
        // A small model may be done between two ticks of the clock.
        if let (Some(before), Some(between), Some(after)) = (ran_before, ran_between, processor::seconds())
            && after > between
        {
            ran.push((between - before) / requests.len() as f64);
            ran_ratios.push((between - before) / (after - between));
        }
        closed.push(in_batches);
        open.push(in_scheduler);
        ratios.push(in_scheduler / in_batches);
    }
    Ok(SizeRow {
        size,
        requests: requests.len(),
        closed_per_s: median(closed),
        scheduler_per_s: median(open),
        ratio: Spread::of(ratios),
        closed_processor_s: (!ran.is_empty()).then(|| median(ran)),
        processor_ratio: (!ran_ratios.is_empty()).then(|| Spread::of(ran_ratios)),
        latencies: Latencies::of(&done),
    })
}

/// Asks `clients` requests at a time, until all have been asked.
fn by_clients(scheduler: &Scheduler, requests: &[Request], clients: usize) -> Result<Vec<Completed>> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(requests.len())));
    let client = || -> Result<()> {
        while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
            let completed = scheduler.submit(request)?.wait()?;
            done.lock().unwrap_or_else(PoisonError::into_inner).push(completed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        clients.into_iter().try_for_each(|client| {
            client.join().unwrap_or_else(|_| Err(Error::other("a client of the scheduler panicked")))
        })
    })?;
    Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn load_row<D: Device>(
    loaded: &Arc<Loaded<D>>,
    options: &ServeOptions,
    size: usize,
    percent: f64,
    capacity: f64,
) -> Result<LoadRow> {
    let requests = requests(options, options.requests);
    let scheduler = scheduler(loaded, options, size)?;
    let rate = capacity * percent / 100.0;
    let mut gaps = Stream::new(0, ARRIVALS);
    let begun = Instant::now();
    let (mut at, mut handles) = (Duration::ZERO, Vec::with_capacity(requests.len()));
    for request in &requests {
        std::thread::sleep(at.saturating_sub(begun.elapsed()));
        handles.push(scheduler.submit(request)?);
        // A uniform number in (0, 1], whose negative logarithm is distributed as the gaps are.
        let uniform = 1.0 - (gaps.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        at += Duration::from_secs_f64(-uniform.ln() / rate);
    }
    let arrived = begun.elapsed().as_secs_f64();
    let done = handles.into_iter().map(|handle| handle.wait()).collect::<Result<Vec<Completed>>>()?;
    Ok(LoadRow {
        percent,
        requests: requests.len(),
        arrived_per_s: (requests.len() - 1) as f64 / arrived,
        served_per_s: requests.len() as f64 / begun.elapsed().as_secs_f64(),
        latencies: Latencies::of(&done),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(Quantiles::of(hundred), Quantiles { p50: 50.0, p95: 95.0, p99: 99.0 });
        assert_eq!(Quantiles::of(vec![2.0, 1.0, 3.0]), Quantiles { p50: 2.0, p95: 3.0, p99: 3.0 });
        assert_eq!(Quantiles::of(Vec::new()), Quantiles { p50: 0.0, p95: 0.0, p99: 0.0 });
    }
}
