//! Answers as they come: from a scheduler's updates to pieces of text.

use std::fmt::Write as _;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::admission;
use super::app::App;
use super::error::ApiError;
use super::request::Asked;
use super::running::Entry;
use super::text::Stops;
use crate::{Completed, Detokenizer, Ending, Engine, Handle, Result, TraceToken, Update};

/// A piece of an answer.
pub(super) enum Piece {
    /// Reasoning as text: words of the model, or the tokens nearest to a latent.
    Reasoning(String),
    /// Text of the answer.
    Text(String),
    /// The answer has ended.
    End(Box<Ended>),
}

/// A piece of an answer, or why it failed, it alone.
type Outcome = Result<Piece, ApiError>;

/// An answer that has ended.
pub(super) struct Ended {
    pub completed: Completed,
    /// `stop` or `length`.
    pub finish_reason: &'static str,
}

/// An answer as a whole.
pub(super) struct Answer {
    pub reasoning: String,
    pub text: String,
    pub ended: Ended,
}

/// The answers of a request as they come. Those that have not ended are cancelled when it is dropped.
pub(super) struct Answers {
    pieces: UnboundedReceiver<(usize, Outcome)>,
    entry: Entry,
    pub count: usize,
    /// Answers that have not ended.
    open: usize,
}

impl Answers {
    /// Submits what is asked, under a new id that begins with `prefix`.
    ///
    /// # Errors
    /// As [`admission::submit`].
    pub(super) async fn begin(app: &Arc<App>, prefix: &str, asked: Asked) -> Result<Self, ApiError> {
        let Asked { requests, stops, separator, .. } = asked;
        let entry = app.running.enter(new_id(prefix));
        let handles = admission::submit(app, requests).await?;
        entry.steer(handles.iter().map(Handle::control).collect());
        let (sender, pieces) = unbounded_channel();
        let count = handles.len();
        for (index, handle) in handles.into_iter().enumerate() {
            let writer = Writer {
                separator,
                reasoning: Detokenizer::default(),
                answer: Detokenizer::default(),
                stops: Stops::new(stops.clone()),
            };
            tokio::spawn(follow(Arc::clone(app), handle, writer, index, sender.clone()));
        }
        Ok(Answers { pieces, entry, count, open: count })
    }

    pub(super) fn id(&self) -> &str {
        &self.entry.id
    }

    /// The next piece, and of which answer it is; `None` when all have ended.
    pub(super) async fn next(&mut self) -> Option<(usize, Outcome)> {
        if self.open == 0 {
            return None;
        }
        let next = self.pieces.recv().await;
        match &next {
            Some((_, Ok(Piece::End(_)) | Err(_))) => self.open -= 1,
            Some(_) => {}
            None => {
                self.open = 0;
                return Some((0, Err(ApiError::internal("a fault of the server"))));
            }
        }
        next
    }

    /// Waits for all answers.
    ///
    /// # Errors
    /// That of the first that fails.
    pub(super) async fn whole(mut self) -> Result<Vec<Answer>, ApiError> {
        let mut all: Vec<(String, String, Option<Ended>)> = Vec::new();
        all.resize_with(self.count, Default::default);
        while let Some((index, piece)) = self.next().await {
            match piece? {
                Piece::Reasoning(text) => all[index].0 += &text,
                Piece::Text(text) => all[index].1 += &text,
                Piece::End(ended) => all[index].2 = Some(*ended),
            }
        }
        let whole = |(reasoning, text, ended): (_, _, Option<Ended>)| {
            ended.map(|ended| Answer { reasoning, text, ended })
        };
        let all: Option<Vec<Answer>> = all.into_iter().map(whole).collect();
        all.ok_or_else(|| ApiError::internal("an answer has no end"))
    }
}

/// An id that nobody else has.
pub(super) fn new_id(prefix: &str) -> String {
    let random = || getrandom::u64().unwrap_or_else(|_| u64::from(super::app::now() as u32));
    format!("{prefix}{:016x}{:08x}", random(), random() as u32)
}

/// From tokens to pieces of text.
struct Writer {
    /// The token that ends a reasoning in words, until it has come.
    separator: Option<u32>,
    reasoning: Detokenizer,
    answer: Detokenizer,
    stops: Stops,
}

impl Writer {
    fn token(&mut self, engine: &Engine, id: u32) -> Result<Piece> {
        match self.separator {
            Some(separator) if id == separator => {
                self.separator = None;
                self.reasoning.finish(engine).map(Piece::Reasoning)
            }
            Some(_) => self.reasoning.push(engine, id).map(Piece::Reasoning),
            None => Ok(Piece::Text(self.stops.push(&self.answer.push(engine, id)?))),
        }
    }

    /// The pieces that are left at the end.
    fn finish(&mut self, engine: &Engine) -> Result<[Piece; 2]> {
        let reasoning = if self.separator.is_some() { self.reasoning.finish(engine)? } else { String::new() };
        let rest = self.answer.finish(engine)?;
        let text = self.stops.push(&rest) + &self.stops.finish();
        Ok([Piece::Reasoning(reasoning), Piece::Text(text)])
    }
}

/// Follows a request to its end, and counts. The pieces wait for a slow reader, and the request does not; it is cancelled
/// when the reader is gone.
async fn follow(
    app: Arc<App>,
    mut handle: Handle,
    mut writer: Writer,
    index: usize,
    pieces: UnboundedSender<(usize, Outcome)>,
) {
    let Some(model) = app.loaded() else { return };
    let engine = &model.base.engine;
    // A reader who has gone hears nothing, which `closed` tells.
    let send = |outcome: Outcome| match &outcome {
        Ok(Piece::Reasoning(text) | Piece::Text(text)) if text.is_empty() => {}
        _ => drop(pieces.send((index, outcome))),
    };
    let (mut last_latent, mut last_token): (Option<Instant>, Option<Instant>) = (None, None);
    loop {
        let update = tokio::select! {
            update = poll_fn(|context| handle.poll_next(context)) => update,
            () = pieces.closed() => None,
        };
        let Some(update) = update else { return };
        let now = Instant::now();
        let written = match update {
            Update::Prefilled => {
                last_latent = Some(now);
                continue;
            }
            Update::Latent { .. } => {
                app.metrics.latents.inc();
                if let Some(last) = last_latent.replace(now) {
                    app.metrics.latent.observe((now - last).as_secs_f64());
                }
                continue;
            }
            Update::Traced { number, tokens } => Ok(Piece::Reasoning(trace(number, &tokens))),
            Update::Token { id } => {
                app.metrics.generation_tokens.inc();
                if let Some(last) = last_token.replace(now) {
                    app.metrics.token.observe((now - last).as_secs_f64());
                }
                writer.token(engine, id)
            }
            Update::Done(completed) => {
                match writer.finish(engine) {
                    Ok(rest) => rest.into_iter().map(Ok).for_each(&send),
                    Err(error) => return send(Err(error.into())),
                }
                return send(end(&app, *completed, writer.stops.found));
            }
            Update::Failed(error) => return send(Err(error.into())),
            _ => continue,
        };
        match written {
            Ok(piece) => send(Ok(piece)),
            Err(error) => return send(Err(error.into())),
        }
        if writer.stops.found {
            // The numbers of what was computed come with its end.
            handle.cancel();
        }
    }
}

/// The last piece of a request that was not cancelled by its client.
fn end(app: &App, completed: Completed, stopped: bool) -> Outcome {
    let finish_reason = match completed.ending {
        _ if stopped => "stop",
        Ending::Finished => "stop",
        Ending::Limit => "length",
        Ending::Deadline => return Err(ApiError::timeout()),
        Ending::Cancelled => return Err(ApiError::stopping()),
    };
    let (metrics, timings) = (&app.metrics, completed.timings);
    metrics.prompt_tokens.inc_by(completed.usage.prompt_tokens as u64);
    metrics.queued.observe(timings.queued_ms * 1e-3);
    metrics.whole.observe(timings.total_ms * 1e-3);
    if let Some(first) = timings.first_token_ms {
        metrics.first_token.observe(first * 1e-3);
    }
    metrics.finished.with_label_values(&[finish_reason]).inc();
    Ok(Piece::End(Box::new(Ended { completed, finish_reason })))
}

/// A line on the tokens nearest to a latent, with their cosines.
fn trace(number: usize, tokens: &[TraceToken]) -> String {
    let mut line = format!("latent {number}:");
    for token in tokens {
        let _ = write!(line, "  {token}");
    }
    line + "\n"
}
