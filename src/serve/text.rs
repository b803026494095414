//! Text as its tokens come, and the strings that end it.

use crate::{Engine, Result};

/// Text from tokens that come one by one.
///
/// Only the last tokens are decoded again, which is enough for a decoder whose text of a token depends on its neighbours.
#[derive(Default)]
pub(super) struct Detokenizer {
    ids: Vec<u32>,
    /// The first token that is decoded again, and the first whose text has not been given.
    context: usize,
    fresh: usize,
}

impl Detokenizer {
    /// The text that a token adds; nothing while a character is cut off at its end.
    pub(super) fn push(&mut self, engine: &Engine, id: u32) -> Result<String> {
        self.ids.push(id);
        self.text(engine, false)
    }

    /// The text that is left at the end.
    pub(super) fn finish(&mut self, engine: &Engine) -> Result<String> {
        self.text(engine, true)
    }

    fn text(&mut self, engine: &Engine, last: bool) -> Result<String> {
        let given = engine.text(&self.ids[self.context..self.fresh])?;
        let whole = engine.text(&self.ids[self.context..])?;
        if !last && (whole.len() <= given.len() || whole.ends_with('\u{fffd}')) {
            return Ok(String::new());
        }
        let new = whole.get(given.len()..).unwrap_or_default().to_owned();
        (self.context, self.fresh) = (self.fresh, self.ids.len());
        Ok(new)
    }
}

/// Strings that end a text, wherever tokens part them.
pub(super) struct Stops {
    strings: Vec<String>,
    /// Text that may be the beginning of one.
    held: String,
    /// Whether one was found.
    pub found: bool,
}

impl Stops {
    pub(super) fn new(strings: Vec<String>) -> Self {
        Stops { strings, held: String::new(), found: false }
    }

    /// The text that is certain with `new`; nothing after the first string that ends it.
    pub(super) fn push(&mut self, new: &str) -> String {
        if self.found {
            return String::new();
        }
        self.held.push_str(new);
        if let Some(at) = self.strings.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.found = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let begins = |at: &usize| self.strings.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        let keep = self.held.char_indices().map(|(at, _)| at).find(begins).unwrap_or(self.held.len());
        let rest = self.held.split_off(keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// The text that was held back, at the end.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut all = Stops::new(stops.iter().map(|&s| s.to_owned()).collect());
        let mut out: Vec<String> = pieces.iter().map(|piece| all.push(piece)).collect();
        out.push(all.finish());
        (out, all.found)
    }

    #[test]
    fn a_string_ends_the_text_across_tokens() {
        let text = |parts: &[&str]| parts.iter().map(|&s| s.to_owned()).collect::<Vec<_>>();
        assert_eq!(given(&["END"], &["a E", "N", "D b"]), (text(&["a ", "", "", ""]), true));
        assert_eq!(given(&["END"], &["a E", "N", "X b"]), (text(&["a ", "", "ENX b", ""]), false));
        // What was held back is text after all.
        assert_eq!(given(&["END"], &["a E", "N"]), (text(&["a ", "", "EN"]), false));
        // The first in the text counts, not the first of the list.
        assert_eq!(given(&["b", "a"], &["xaxb"]), (text(&["x", ""]), true));
        // One string begins within the beginning of another.
        assert_eq!(given(&["aab"], &["a", "a", "a", "b"]), (text(&["", "", "a", "", ""]), true));
        assert_eq!(given(&["é!"], &["é", "é!"]), (text(&["", "é", ""]), true));
        assert_eq!(given(&[], &["all", " of it"]), (text(&["all", " of it", ""]), false));
    }

    #[test]
    fn text_that_comes_in_tokens_is_the_whole() {
        let engine = Engine::load("tests/golden/llama-tiny", None::<&str>).unwrap();
        for text in ["Tom has 3 boxes.\nHow many?", "naïve — 日本語 🦀🦀", ""] {
            let ids = engine.tokens(text).unwrap();
            let mut detokenizer = Detokenizer::default();
            let mut all = String::new();
            for &id in &ids {
                let new = detokenizer.push(&engine, id).unwrap();
                assert!(!new.contains('\u{fffd}'), "{text:?}: {new:?}");
                all += &new;
            }
            all += &detokenizer.finish(&engine).unwrap();
            assert_eq!(all, engine.text(&ids).unwrap());
        }
    }
}
