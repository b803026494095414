//! Numbers for Prometheus, by the names that vLLM has, under `colar:`.

use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

use crate::{Error, Result, SchedulerLoad};

/// Bounds in seconds: every 100 µs of the first millisecond, then coarser.
const BUCKETS: [f64; 28] = [
    0.0001, 0.0002, 0.0003, 0.0004, 0.0005, 0.0006, 0.0007, 0.0008, 0.0009, 0.001, 0.0015, 0.002, 0.003,
    0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 120.0,
];

/// The server's numbers.
pub(super) struct Metrics {
    registry: Registry,
    running: IntGauge,
    waiting: IntGauge,
    waiting_tokens: IntGauge,
    cache_usage: Gauge,
    tasks: IntGauge,
    pub prompt_tokens: IntCounter,
    pub generation_tokens: IntCounter,
    pub latents: IntCounter,
    pub first_token: Histogram,
    pub token: Histogram,
    pub latent: Histogram,
    pub whole: Histogram,
    pub queued: Histogram,
    pub finished: IntCounterVec,
    pub refused: IntCounterVec,
}

/// The metric, which the registry gives out from now on.
fn kept<M: Collector + Clone + 'static>(registry: &Registry, metric: M) -> prometheus::Result<M> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

impl Metrics {
    pub(super) fn new() -> Result<Self> {
        Self::registered().map_err(|e| Error::other(format!("metrics: {e}")))
    }

    fn registered() -> prometheus::Result<Self> {
        let registry = Registry::new();
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let name = |stem: &str| format!("colar:{stem}");
        let gauge = |stem: &str, help: &str| kept(&registry, IntGauge::new(name(stem), help)?);
        let counter = |stem: &str, help: &str| kept(&registry, IntCounter::new(name(stem), help)?);
        let histogram = |stem: &str, help: &str| {
            let options = HistogramOpts::new(name(stem), help).buckets(BUCKETS.to_vec());
            kept(&registry, Histogram::with_opts(options)?)
        };
        let counters = |stem: &str, help: &str, label: &str| {
            kept(&registry, IntCounterVec::new(Opts::new(name(stem), help), &[label])?)
        };
        let about_cache = "Share of the cache's positions that requests hold, 0 to 1";
        let cache_usage = kept(&registry, Gauge::new(name("kv_cache_usage"), about_cache)?)?;
        Ok(Metrics {
            running: gauge("num_requests_running", "Requests that are computed")?,
            waiting: gauge("num_requests_waiting", "Requests that wait")?,
            waiting_tokens: gauge("num_tokens_waiting", "Tokens of prompts that wait")?,
            tasks: gauge("tasks", "Tasks of the server that are alive")?,
            prompt_tokens: counter("prompt_tokens_total", "Tokens of prompts")?,
            generation_tokens: counter("generation_tokens_total", "Tokens that were chosen")?,
            latents: counter("latents_total", "Latents and thoughts that were formed")?,
            first_token: histogram("time_to_first_token_seconds", "From a request to its first token")?,
            token: histogram("inter_token_latency_seconds", "Between two tokens of a request")?,
            latent: histogram("latent_step_seconds", "Between two latents of a request")?,
            whole: histogram("e2e_request_latency_seconds", "From a request to its end")?,
            queued: histogram("request_queue_time_seconds", "From a request to its start")?,
            finished: counters("request_success_total", "Answers that ended, by reason", "finished_reason")?,
            refused: counters("request_errors_total", "Requests that were answered by an error", "status")?,
            cache_usage,
            registry,
        })
    }

    /// The numbers as text, with what the scheduler and the server hold now.
    pub(super) fn text(&self, load: &SchedulerLoad, tasks: usize) -> Result<String> {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.running.set(number(load.running));
        self.waiting.set(number(load.queued));
        self.waiting_tokens.set(number(load.queued_tokens));
        self.cache_usage.set(load.used_positions as f64 / load.cache_positions.max(1) as f64);
        self.tasks.set(number(tasks));
        let text = TextEncoder::new().encode_to_string(&self.registry.gather());
        text.map_err(|e| Error::other(format!("metrics: {e}")))
    }
}
