//! Train and run language models that reason in compressed latent vectors (CoLaR,
//! [arXiv 2505.16552](https://arxiv.org/abs/2505.16552)).
//!
//! # Load and generate
//!
//! An [`Engine`] is a model directory as the Hugging Face hub holds it, with a checkpoint of a CoLaR run over it. It is
//! loaded once, on the device that [`EngineOptions`] name, and answers any number of [requests](Request), from any number of
//! threads.
//!
//! ```
//! use colar_engine::{Engine, Request};
//!
//! # fn main() -> colar_engine::Result<()> {
//! # let (model, checkpoint) = ("tests/golden/llama-tiny", "tests/golden/llama-tiny/adapter");
//! let engine = Engine::load(model, Some(checkpoint))?;
//! let request = Request::question("Tom has 3 boxes of 24 pens. How many pens has he?", "2");
//! let generation = engine.generate(&request)?;
//! println!("{} after {} latents", generation.text, generation.n_latents);
//! # assert!(generation.n_latents > 0);
//! # Ok(())
//! # }
//! ```
//!
//! `"2"` is the compression factor: how many words of reasoning a latent stands for. [`Sampling`] says how latents and words are
//! drawn; [`Request::greedy`] takes the likeliest. Requests that are [generated together](Engine::generate_batch) share the
//! passes through the weights, and each has the result that it has alone.
//!
//! # Stream
//!
//! [`Engine::generate_streaming`] hands out latents and tokens as they are made.
//!
//! ```
//! use colar_engine::{Engine, Event, Request, Sampling};
//!
//! # fn main() -> colar_engine::Result<()> {
//! # let (model, checkpoint) = ("tests/golden/llama-tiny", "tests/golden/llama-tiny/adapter");
//! # let engine = Engine::load(model, Some(checkpoint))?;
//! let sampling = Sampling::default().temperature(0.0).max_latents(8).seed(7);
//! let request = Request::question("What is 3 * 24?", "auto").sampling(sampling);
//! engine.generate_streaming(&[request], |event| match event {
//!     Event::Latent { .. } => print!("·"),
//!     Event::Token { id, .. } => print!("{}", engine.token_text(id).unwrap_or_default()),
//!     _ => println!(),
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! # Serve
//!
//! A [`Scheduler`] runs requests that come one by one, from any thread: they join a running batch and leave it between steps.
//! Each has a [`Handle`], an iterator over what happens to it, by which it is steered too.
//!
//! ```
//! use std::time::{Duration, Instant};
//!
//! use colar_engine::{Engine, Request, SchedulerOptions, Update};
//!
//! # fn main() -> colar_engine::Result<()> {
//! # let (model, checkpoint) = ("tests/golden/llama-tiny", "tests/golden/llama-tiny/adapter");
//! # let engine = Engine::load(model, Some(checkpoint))?;
//! let scheduler = engine.scheduler(SchedulerOptions::default().max_running(8).cache_positions(2048))?;
//! let request = Request::question("Tom has 3 boxes of 24 pens. How many pens has he?", "2");
//!
//! // With a deadline, and an answer from the first four latents if there are more.
//! let mut handle = scheduler.submit_until(&request, Instant::now() + Duration::from_secs(60))?;
//! let control = handle.control();
//! for update in handle.by_ref() {
//!     match update {
//!         Update::Latent { number: 4 } => control.end_reasoning(),
//!         Update::Token { id } => print!("{}", engine.token_text(id)?),
//!         Update::Done(done) => println!(" ({:?}, {} latents)", done.ending, done.usage.reasoning),
//!         Update::Failed(error) => return Err(error),
//!         _ => {}
//!     }
//! }
//!
//! // Cancelled, it leaves the batch before the next step.
//! let handle = scheduler.submit(&request)?;
//! handle.cancel();
//! println!("{} latents until then", handle.wait()?.usage.reasoning);
//! # Ok(())
//! # }
//! ```
//!
//! Requests run first come, first served, when the cache has room for all that they can need; the others wait, and
//! [`Scheduler::load`] says how many. Prompts with the same beginning share what was computed of it. What a request gives is
//! what it gives alone: on the CPU to the bit.
//!
//! # Evaluate
//!
//! [`data::load`] reads data sets in the formats in use; [`Engine::evaluate`] asks their questions and counts.
//!
//! ```no_run
//! use colar_engine::eval::EvalOptions;
//! use colar_engine::{Engine, data};
//!
//! # fn main() -> colar_engine::Result<()> {
//! let engine = Engine::load("models/SmolLM2-135M", Some("runs/colar/best"))?;
//! let samples = data::load("gsm-test.jsonl", None)?;
//! let evaluation = engine.evaluate(&samples, &EvalOptions::default(), &mut |_| Ok(()))?;
//! println!("{:.1} % right, {:.1} latents", 100.0 * evaluation.accuracy, evaluation.mean_length);
//! # Ok(())
//! # }
//! ```
//!
//! # Train
//!
#![cfg_attr(
    feature = "train",
    doc = "[`train::TrainRun`] trains a model on words or latents, [`train::RlRun`] shortens"
)]
#![cfg_attr(
    not(feature = "train"),
    doc = "With the feature `train`, `TrainRun` trains a model on words or latents, `RlRun` shortens"
)]
//! its reasoning by reinforcement learning. Both keep checkpoints, metrics and their state in a directory, and go on from there
//! after an interruption. Here two steps of a tiny model:
//!
#![cfg_attr(feature = "train", doc = "```")]
#![cfg_attr(not(feature = "train"), doc = "```ignore")]
//! use colar_engine::data::{Sample, write_jsonl};
//! use colar_engine::train::{TrainOptions, TrainRun};
//!
//! # fn main() -> colar_engine::Result<()> {
//! # let (model, dir) = ("tests/golden/llama-tiny", tempfile::tempdir().unwrap());
//! let samples = [Sample {
//!     question: "Tom has 3 boxes of 24 pens. How many pens has he?".to_owned(),
//!     steps: vec!["3 * 24 = 72".to_owned()],
//!     answer: "72".to_owned(),
//! }];
//! let data = dir.path().join("train.jsonl");
//! write_jsonl(&data, &samples)?;
//! let mut options = TrainOptions::new(model, &data, dir.path().join("run"));
//! options.run.max_steps = Some(2);
//! let summary = TrainRun::new(options).start(|progress| println!("{progress:?}"))?;
//! assert_eq!(summary.steps, 2);
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! `cli` (the command line), `plots`, `train`, `serve` (an HTTP server), `cuda` and `cuda-host` are on by default. With none of them the crate loads,
//! generates and evaluates on the CPU: `cargo add colar-engine --no-default-features`.
//!
//! Modules that this page does not list are there for the package's own tests, benchmarks and binary, and change without notice.
#![warn(missing_docs)]
// They panic when they cannot write, as to a closed pipe or a full disk.
#![warn(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod setters;
#[macro_use]
mod names;

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod bench;
#[cfg(feature = "plots")]
mod chart;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
pub mod data;
mod detokenizer;
#[doc(hidden)]
pub mod device;
mod engine;
#[doc(hidden)]
pub mod error;
pub mod eval;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod experiment;
#[doc(hidden)]
pub mod files;
#[doc(hidden)]
pub mod infer;
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod random;
#[doc(hidden)]
pub mod range;
#[doc(hidden)]
pub mod report;
#[cfg(feature = "serve")]
pub mod serve;
#[cfg(feature = "train")]
pub mod train;

pub use detokenizer::Detokenizer;
pub use device::{ComputeDtype, DeviceKind};
pub use engine::{Engine, EngineOptions};
pub use error::{Error, Result};
pub use infer::{
    Completed, Control, Ending, Event, Generation, Handle, Prompt, Request, Sampling, Scheduler,
    SchedulerLoad, SchedulerOptions, Timings, TraceToken, Update, Usage,
};
pub use model::chat_template::Template;
pub use model::loading::Loading;
pub use model::lora::LoraMode;
pub use model::prompt::Method;
