//! Events: what happens to a request, as it happens.

use std::ffi::{c_char, c_void};

use engine::{Detokenizer, Engine, Result};

use crate::text::terminated;

/// The kinds of events.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// The request waits in a scheduler; `number` others wait before it.
    Queued,
    /// Its prompt has been read.
    Prefilled,
    /// A latent was drawn, or a thought formed; `number` counts them from 1.
    Latent,
    /// The token `token` was chosen; `text` is what it adds.
    Token,
    /// It has ended; `text` is what was left of it.
    Done,
}

/// An event. It and its text are lent until the callback returns, or until the next call on the handle.
#[repr(C)]
pub struct Event {
    /// Its kind.
    pub kind: EventKind,
    /// The token of COLAR_EVENT_KIND_TOKEN.
    pub token: u32,
    /// A number, see the kinds.
    pub number: u64,
    /// The text that the event adds, in whole characters; never NULL, and empty while a character is not complete.
    pub text: *const c_char,
    /// Bytes of the text, without its NUL.
    pub text_len: usize,
}

/// Hears of an event; returns false to cancel the request, after which it is not called again. It may run on another thread
/// than the function that was given it, which waits meanwhile.
pub type EventCallback = Option<unsafe extern "C" fn(event: *const Event, user_data: *mut c_void) -> bool>;

/// An event of the engine's, without the text.
pub enum News {
    Queued { ahead: usize },
    Prefilled,
    Latent { number: usize },
    Token { id: u32 },
    Done,
}

/// Makes events of a request, and keeps the text of the last one.
#[derive(Default)]
pub struct Teller {
    detokenizer: Detokenizer,
    text: Vec<u8>,
}

impl Teller {
    /// The event of this news. It points into the teller, until the next one.
    pub fn event(&mut self, engine: &Engine, news: &News) -> Result<Event> {
        let (kind, token, number, text) = match *news {
            News::Queued { ahead } => (EventKind::Queued, 0, ahead, String::new()),
            News::Prefilled => (EventKind::Prefilled, 0, 0, String::new()),
            News::Latent { number } => (EventKind::Latent, 0, number, String::new()),
            News::Token { id } => (EventKind::Token, id, 0, self.detokenizer.push(engine, id)?),
            News::Done => (EventKind::Done, 0, 0, self.detokenizer.finish(engine)?),
        };
        self.text = terminated(text);
        Ok(Event {
            kind,
            token,
            number: number as u64,
            text: self.text.as_ptr().cast(),
            text_len: self.text.len() - 1,
        })
    }
}
