//! From a file's bytes to its records, each with the line it begins on.
//!
//! serde_json would read an array in one go, but then names no line for mistakes found after
//! parsing, and JSON lines need a second path anyway. So the text is first cut into records by a
//! scanner that knows strings and brackets only; the inside of a record is left to serde.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::files::stand_in;
use crate::{Error, Result};

/// One record of a data file.
#[derive(Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The line it begins on, counted from 1.
    pub line: usize,
    /// Bytes before it on that line.
    pub indent: usize,
    /// Its text, without surrounding blanks.
    pub text: &'a str,
}

/// The text of a file: UTF-8, a byte-order mark at the start dropped, and every line end as a line feed, whether it was
/// one, a carriage return, or both.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    // Without a byte it is an empty set, as it is with blank lines alone.
    if let Some(what) = stand_in::recognise(&bytes).filter(|_| !bytes.is_empty()) {
        return Err(Error::file(path, what));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let valid = e.utf8_error().valid_up_to();
        let line = 1 + count_lines(&e.as_bytes()[..valid]);
        Error::Line { path: path.to_owned(), line, what: "the text is not UTF-8".to_owned() }
    })?;
    let text = match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    };
    Ok(if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text })
}

/// The lines of `text` that are not blank.
pub fn lines(text: &str) -> impl Iterator<Item = Record<'_>> {
    text.lines()
        .enumerate()
        .map(|(i, line)| Record {
            line: i + 1,
            indent: line.len() - line.trim_start().len(),
            text: line.trim(),
        })
        .filter(|record| !record.text.is_empty())
}

/// The JSON records of `text`: the elements of an array, or one a line, or a single object over
/// several lines.
pub fn split<'a>(path: &Path, text: &'a str) -> Result<Vec<Record<'a>>> {
    if text.trim_start().starts_with('[') {
        return elements(text).map_err(|(line, what)| Error::Line { path: path.to_owned(), line, what });
    }
    let all: Vec<Record> = lines(text).collect();
    if let [first, second, ..] = all.as_slice()
        && !second.text.starts_with('{')
        && is_unfinished(first.text)
    {
        return Ok(vec![Record { line: first.line, indent: first.indent, text: text.trim() }]);
    }
    Ok(all)
}

/// Reads a record as a `T`; an error names the line within the file.
pub fn parse<T: DeserializeOwned>(path: &Path, record: &Record) -> Result<T> {
    serde_json::from_str(record.text).map_err(|e| {
        let full = e.to_string();
        let place = format!(" at line {} column {}", e.line(), e.column());
        let indent = if e.line() == 1 { record.indent } else { 0 };
        let what = match full.strip_suffix(&place) {
            // A message may quote a whole question that stands where a number should.
            Some(message) => format!("{message:.160} (column {})", indent + e.column()),
            None => full,
        };
        Error::Line { path: path.to_owned(), line: record.line + e.line().saturating_sub(1), what }
    })
}

/// Whether `text` is an incomplete JSON value, continued on a later line.
fn is_unfinished(text: &str) -> bool {
    matches!(serde_json::from_str::<serde::de::IgnoredAny>(text), Err(e) if e.classify() == Category::Eof)
}

/// Cuts a JSON array into its elements; an error is a line and the mistake in it.
fn elements(text: &str) -> Result<Vec<Record<'_>>, (usize, String)> {
    let mut found = Vec::new();
    let mut line = 1;
    let mut line_start = 0;
    let mut depth = 0usize;
    let mut in_string = false;
    let mut escaped = false;
    // The record being read, whose text is not known yet, and the position of its first byte.
    let mut start: Option<(usize, Record)> = None;
    for (at, byte) in text.bytes().enumerate() {
        if byte == b'\n' {
            line += 1;
            line_start = at + 1;
        }
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            b'[' if depth == 0 => {
                depth = 1;
                continue;
            }
            b',' | b']' if depth == 1 => {
                match start.take() {
                    Some((from, record)) => {
                        found.push(Record { text: text[from..at].trim_end(), ..record });
                    }
                    None if byte == b']' && found.is_empty() => {}
                    None => return Err((line, format!("expected a record before `{}`", char::from(byte)))),
                }
                if byte == b']' {
                    return match text[at + 1..].trim() {
                        "" => Ok(found),
                        _ => Err((line, "there is more text after the end of the array".to_owned())),
                    };
                }
                continue;
            }
            b'[' | b'{' => depth += 1,
            // A bracket too many closes nothing; serde finds it inside the element.
            b']' | b'}' if depth > 1 => depth -= 1,
            b'"' => in_string = true,
            _ => {}
        }
        start.get_or_insert((at, Record { line, indent: at - line_start, text: "" }));
    }
    Err((
        start.map_or(line, |(_, record)| record.line),
        "the array is not closed; is the file cut short?".to_owned(),
    ))
}

/// Line ends in `bytes`: line feeds, and carriage returns that none follows.
fn count_lines(bytes: &[u8]) -> usize {
    let alone = |i: usize| bytes[i] == b'\r' && bytes.get(i + 1) != Some(&b'\n');
    (0..bytes.len()).filter(|&i| bytes[i] == b'\n' || alone(i)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(text: &str) -> Vec<(usize, &str)> {
        split(Path::new("d"), text).unwrap().into_iter().map(|r| (r.line, r.text)).collect()
    }

    #[test]
    fn arrays_lines_and_single_objects() {
        assert_eq!(cut("[]"), []);
        assert_eq!(
            cut("\n [ {\"a\": [1, 2]},\n\n \"x,]\\\"\" , 3\n]\n"),
            [(2, "{\"a\": [1, 2]}"), (4, "\"x,]\\\"\""), (4, "3")]
        );
        assert_eq!(cut("{\"a\":1}\r\n\r\n{\"b\":2}\n"), [(1, "{\"a\":1}"), (3, "{\"b\":2}")]);
        assert_eq!(cut("\n{\n \"a\": 1\n}\n"), [(2, "{\n \"a\": 1\n}")]);
        // A line cut short among JSON lines stays a line of its own.
        assert_eq!(cut("{\"a\":\n{\"b\":2}"), [(1, "{\"a\":"), (2, "{\"b\":2}")]);
    }

    #[test]
    fn every_line_end_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        for text in ["{\"a\":1}\r{\"b\":2}\r", "{\"a\":1}\r\n{\"b\":2}\r\n", "{\"a\":1}\n{\"b\":2}\n"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read_text(&path).unwrap(), "{\"a\":1}\n{\"b\":2}\n");
        }
        std::fs::write(&path, b"a\rb\r\n\xff").unwrap();
        assert!(read_text(&path).unwrap_err().to_string().ends_with("d, line 3: the text is not UTF-8"));
    }

    #[test]
    fn malformed_arrays() {
        for (text, expected) in [
            ("[", "d, line 1: the array is not closed; is the file cut short?"),
            ("[1,\n{\"a\": \"", "d, line 2: the array is not closed; is the file cut short?"),
            ("[1,\n]", "d, line 2: expected a record before `]`"),
            ("[,1]", "d, line 1: expected a record before `,`"),
            ("[1]\n[2]", "d, line 1: there is more text after the end of the array"),
        ] {
            assert_eq!(split(Path::new("d"), text).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn parse_errors_count_lines_from_the_file() {
        let record = Record { line: 10, indent: 0, text: "{\n\"a\": 1,\n\"b\": }" };
        let error = parse::<serde_json::Value>(Path::new("d"), &record).unwrap_err();
        assert_eq!(error.to_string(), "d, line 12: expected value (column 6)");
        let text = "[1,\n  2, {\"a\" 3}]";
        let record = &split(Path::new("d"), text).unwrap()[2];
        let error = parse::<serde_json::Value>(Path::new("d"), record).unwrap_err();
        assert_eq!(error.to_string(), "d, line 2: expected `:` (column 11)");
    }

    #[test]
    fn nesting_does_not_overflow_the_stack() {
        let deep = "[".repeat(200_000) + &"]".repeat(200_000);
        let records = split(Path::new("d"), &deep).unwrap();
        assert!(parse::<serde_json::Value>(Path::new("d"), &records[0]).is_err());
    }

    proptest! {
        /// The scanner and serde agree on every array there is.
        #[test]
        fn elements_are_those_of_serde(texts in proptest::collection::vec(any::<String>(), 0..6), pretty: bool) {
            let value: Vec<_> = texts.iter().map(|t| serde_json::json!({ t.as_str(): [t, {"k": t}] })).collect();
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let text = text.unwrap();
            let read: Vec<serde_json::Value> = split(Path::new("d"), &text).unwrap().iter()
                .map(|r| parse(Path::new("d"), r).unwrap()).collect();
            prop_assert_eq!(read, value);
        }
    }
}
