//! Answers as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;

use super::answer::{Answers, Piece};
use super::error::ApiError;
use crate::Completed;

/// Time without an event after which a comment shows that the server is there.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How an interface writes answers as events.
pub(super) trait Shape: Send + 'static {
    /// The events before the first piece.
    fn begin(&mut self) -> Vec<Event>;

    /// The events of a piece of an answer.
    fn piece(&mut self, index: usize, piece: &Piece) -> Vec<Event>;

    /// The events after the last piece of the last answer.
    fn end(&mut self, all: &[&Completed]) -> Vec<Event>;

    /// The events of a failure, after which there are none.
    fn failed(&mut self, error: &ApiError) -> Vec<Event> {
        vec![event(error.body())]
    }
}

/// An event without a name.
pub(super) fn event(data: &impl Serialize) -> Event {
    named(None, data)
}

/// An event that holds `data` as JSON.
pub(super) fn named(name: Option<&str>, data: &impl Serialize) -> Event {
    let event = name.map_or_else(Event::default, |name| Event::default().event(name));
    // Values of our own types are always JSON.
    event.json_data(data).unwrap_or_default()
}

/// Answers on their way to a reader.
struct Stream<S> {
    answers: Answers,
    shape: S,
    waiting: VecDeque<Event>,
    ended: Vec<(usize, Completed)>,
    over: bool,
}

impl<S: Shape> Stream<S> {
    async fn next(&mut self) -> Option<Event> {
        while self.waiting.is_empty() && !self.over {
            let events = self.advance().await;
            self.waiting.extend(events);
        }
        self.waiting.pop_front()
    }

    async fn advance(&mut self) -> Vec<Event> {
        match self.answers.next().await {
            Some((_, Err(error))) => {
                self.over = true;
                self.shape.failed(&error)
            }
            Some((index, Ok(piece))) => {
                let events = self.shape.piece(index, &piece);
                if let Piece::End(ended) = piece {
                    self.ended.push((index, ended.completed));
                }
                events
            }
            None => {
                self.over = true;
                self.ended.sort_by_key(|(index, _)| *index);
                let all: Vec<&Completed> = self.ended.iter().map(|(_, completed)| completed).collect();
                self.shape.end(&all)
            }
        }
    }
}

/// The response that writes answers as they come.
pub(super) fn respond(answers: Answers, mut shape: impl Shape) -> Response {
    let waiting = shape.begin().into();
    let stream = Stream { answers, shape, waiting, ended: Vec::new(), over: false };
    let events = stream::unfold(stream, |mut stream| async move {
        stream.next().await.map(|event| (Ok::<_, Infallible>(event), stream))
    });
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // Proxies such as nginx would else gather events before they pass them on.
    let unbuffered = HeaderName::from_static("x-accel-buffering");
    response.headers_mut().insert(unbuffered, HeaderValue::from_static("no"));
    response
}
