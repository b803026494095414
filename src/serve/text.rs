//! Strings that end a text.

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
        // Text that was held back comes after all.
        assert_eq!(given(&["END"], &["a E", "N"]), (text(&["a ", "", "EN"]), false));
        // The first in the text counts, not the first of the list.
        assert_eq!(given(&["b", "a"], &["xaxb"]), (text(&["x", ""]), true));
        // One string begins within the beginning of another.
        assert_eq!(given(&["aab"], &["a", "a", "a", "b"]), (text(&["", "", "a", "", ""]), true));
        assert_eq!(given(&["é!"], &["é", "é!"]), (text(&["", "é", ""]), true));
        assert_eq!(given(&[], &["all", " of it"]), (text(&["all", " of it", ""]), false));
    }
}
