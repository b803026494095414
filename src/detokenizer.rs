//! Text as its tokens come.

use crate::{Engine, Result};

/// Text from tokens that come one by one, in whole characters.
///
/// ```
/// use colar_engine::{Detokenizer, Engine, Event, Request};
///
/// # fn main() -> colar_engine::Result<()> {
/// # let (model, checkpoint) = ("tests/golden/llama-tiny", "tests/golden/llama-tiny/adapter");
/// # let engine = Engine::load(model, Some(checkpoint))?;
/// let (mut detokenizer, mut text) = (Detokenizer::default(), String::new());
/// let made = engine.generate_streaming(&[Request::question("What is 3 * 24?", "2")], |event| {
///     if let Event::Token { id, .. } = event {
///         text += &detokenizer.push(&engine, id).unwrap_or_default();
///     }
/// })?;
/// text += &detokenizer.finish(&engine)?;
/// assert_eq!(text, made[0].text);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Detokenizer {
    ids: Vec<u32>,
    /// The first token that is decoded again. Only the last are, which is enough for a decoder whose text of a token depends
    /// on its neighbours.
    context: usize,
    /// The first token whose text has not been given.
    fresh: usize,
}

impl Detokenizer {
    /// The text that a token adds; nothing while a character is cut off at its end.
    ///
    /// # Errors
    /// Errors of the tokenizer.
    pub fn push(&mut self, engine: &Engine, id: u32) -> Result<String> {
        self.ids.push(id);
        self.text(engine, false)
    }

    /// The text that is left at the end.
    ///
    /// # Errors
    /// Errors of the tokenizer.
    pub fn finish(&mut self, engine: &Engine) -> Result<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_tokens_part_come_whole() {
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
