//! Reading JSON files whose fields are checked one by one.
//!
//! A derived deserialiser says `invalid type: string "4", expected usize at line 7`, without the
//! field. The configuration files of a model come from many hands, so a mistake in them must
//! be reported in one line that names file and field: [`Fields`] gives every access that form.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use super::stand_in;
use crate::{Error, Result};

/// Configuration files larger than this are refused: none comes near it, and a mistaken path (a
/// weights file, a device) should not be read into memory.
pub const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Reads at most `limit` bytes of the file `path`.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::File`] if it is longer, empty, or [another file](stand_in) in its place.
pub fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io(path))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    if bytes.len() as u64 > limit {
        return Err(Error::file(path, format!("is larger than {limit} bytes")));
    }
    if let Some(what) = stand_in::recognise(&bytes) {
        return Err(Error::file(path, what));
    }
    Ok(bytes)
}

/// Reads the JSON object in the file `path` (at most [`MAX_CONFIG_BYTES`]).
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::File`] if it is not one JSON object.
pub fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let bytes = read_limited(path, MAX_CONFIG_BYTES)?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(Error::file(path, format!("must hold a JSON object, not {}", kind(&other)))),
        Err(e) => Err(Error::file(path, format!("is not valid JSON: {}", one_line(&e.to_string())))),
    }
}

/// `text` fit for one line of an error message: control characters escaped, at most 200 characters.
pub fn one_line(text: &str) -> String {
    let mut line = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == 200 {
            line.push('…');
            break;
        }
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// A short description of a JSON value, for a message.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => format!("\"{}\"", one_line(s)),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}

/// Checked access to the fields of one JSON object of a file.
///
/// `null` counts as absent, as the Python libraries that write these files mean it. Every method
/// returns [`Error::File`] naming the file and the field (with its parents, `rope_scaling.factor`).
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    path: &'a Path,
    parents: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The fields of `map`, the top object of the file `path`.
    pub fn new(path: &'a Path, map: &'a Map<String, Value>) -> Self {
        Self { path, parents: "", map }
    }

    /// The fields of an object inside another; `parents` ends in a dot: `"rope_scaling."`.
    fn nested(path: &'a Path, parents: &'a str, map: &'a Map<String, Value>) -> Self {
        Self { path, parents, map }
    }

    /// The file these fields come from.
    pub fn path(&self) -> &'a Path {
        self.path
    }

    /// An error on the field `name`.
    pub fn error(&self, name: &str, what: impl std::fmt::Display) -> Error {
        Error::file(self.path, format!("{}{name}: {what}", self.parents))
    }

    fn wrong(&self, name: &str, expected: impl std::fmt::Display, got: &Value) -> Error {
        self.error(name, format!("must be {expected}, not {}", kind(got)))
    }

    /// The value of `name`, `None` if absent or null.
    pub fn value(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|v| !v.is_null())
    }

    /// The value of `name` as it stands in the file, null where it is null: for fields whose absence means
    /// something else.
    pub fn given(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name)
    }

    /// The first field that is not null and not among `known`.
    pub fn other_than(&self, known: &[&str]) -> Option<&'a str> {
        let other =
            |(name, value): &(&'a String, &'a Value)| !value.is_null() && !known.contains(&name.as_str());
        self.map.iter().find(other).map(|(name, _)| name.as_str())
    }

    /// Turns an absent field into an error.
    fn required<T>(&self, name: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(name, "is missing"))
    }

    /// A whole number from 1 to `max`, if there.
    pub fn opt_size(&self, name: &str, max: usize) -> Result<Option<usize>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        // Some writers give integers as 8192.0.
        let whole = value.as_u64().or_else(|| {
            value.as_f64().filter(|f| f.fract() == 0.0 && (0.0..=9e15).contains(f)).map(|f| f as u64)
        });
        match whole.and_then(|n| usize::try_from(n).ok()) {
            Some(n) if (1..=max).contains(&n) => Ok(Some(n)),
            _ => Err(self.wrong(name, format_args!("a whole number from 1 to {max}"), value)),
        }
    }

    /// A whole number from 1 to `max`.
    pub fn size(&self, name: &str, max: usize) -> Result<usize> {
        self.required(name, self.opt_size(name, max)?)
    }

    /// A finite number above zero, if there.
    pub fn opt_positive(&self, name: &str) -> Result<Option<f64>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        match value.as_f64() {
            Some(x) if x.is_finite() && x > 0.0 => Ok(Some(x)),
            _ => Err(self.wrong(name, "a number above 0", value)),
        }
    }

    /// A finite number above zero.
    pub fn positive(&self, name: &str) -> Result<f64> {
        self.required(name, self.opt_positive(name)?)
    }

    /// A number of at least zero and below one, if there.
    pub fn opt_share(&self, name: &str) -> Result<Option<f64>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        match value.as_f64() {
            Some(x) if (0.0..1.0).contains(&x) => Ok(Some(x)),
            _ => Err(self.wrong(name, "a number from 0 to below 1", value)),
        }
    }

    /// True or false, if there.
    pub fn opt_bool(&self, name: &str) -> Result<Option<bool>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(name, "true or false", value))
    }

    /// A string, if there.
    pub fn opt_str(&self, name: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(name, "a string", value))
    }

    /// A string.
    pub fn str(&self, name: &str) -> Result<&'a str> {
        self.required(name, self.opt_str(name)?)
    }

    /// A list, if there.
    pub fn opt_list(&self, name: &str) -> Result<Option<&'a [Value]>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        value.as_array().map(|list| Some(list.as_slice())).ok_or_else(|| self.wrong(name, "a list", value))
    }

    /// The object `name`, if there, read through `read`, whose errors name it.
    pub fn opt_object<T>(
        &self,
        name: &str,
        read: impl FnOnce(&Fields<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let map = value.as_object().ok_or_else(|| self.wrong(name, "an object", value))?;
        let parents = format!("{}{name}.", self.parents);
        read(&Fields::nested(self.path, &parents, map)).map(Some)
    }

    /// A token id, or a list of token ids, each below `limit`; empty if absent.
    pub fn token_ids(&self, name: &str, limit: usize) -> Result<Vec<u32>> {
        let Some(value) = self.value(name) else { return Ok(Vec::new()) };
        let one = |value: &Value| {
            value
                .as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .filter(|&id| (id as usize) < limit)
                .ok_or_else(|| {
                    self.wrong(name, format_args!("a token id below the vocabulary's size {limit}"), value)
                })
        };
        match value {
            Value::Array(list) => list.iter().map(one).collect(),
            other => Ok(vec![one(other)?]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on<T>(json: &str, read: impl FnOnce(&Fields<'_>) -> Result<T>) -> Result<T, String> {
        let map = serde_json::from_str(json).unwrap();
        read(&Fields::new(Path::new("dir/config.json"), &map)).map_err(|e| e.to_string())
    }

    #[test]
    fn sizes_are_whole_positive_and_bounded() {
        assert_eq!(on(r#"{"n": 64}"#, |f| f.size("n", 64)), Ok(64));
        assert_eq!(on(r#"{"n": 64.0}"#, |f| f.size("n", 64)), Ok(64));
        assert_eq!(on(r#"{"n": null}"#, |f| f.opt_size("n", 64)), Ok(None));
        for bad in ["0", "65", "-1", "1.5", "\"64\"", "1e400", "18446744073709551616", "[64]"] {
            let json = format!("{{\"n\": {bad}}}");
            if let Ok(map) = serde_json::from_str::<Map<String, Value>>(&json) {
                let fields = Fields::new(Path::new("dir/config.json"), &map);
                let error = fields.size("n", 64).unwrap_err().to_string();
                assert!(
                    error.starts_with("dir/config.json: n: must be a whole number from 1 to 64"),
                    "{error}"
                );
            }
        }
        assert_eq!(on("{}", |f| f.size("n", 64)), Err("dir/config.json: n: is missing".into()));
    }

    #[test]
    fn nested_fields_are_named_with_their_parents() {
        let error = on(r#"{"rope": {"factor": -2}}"#, |f| f.opt_object("rope", |r| r.positive("factor")));
        assert_eq!(error, Err("dir/config.json: rope.factor: must be a number above 0, not -2".into()));
    }

    #[test]
    fn messages_stay_on_one_line() {
        let error = on(r#"{"n": "a\nb"}"#, |f| f.size("n", 64)).unwrap_err();
        assert!(!error.contains('\n'), "{error}");
        assert_eq!(one_line(&"é".repeat(300)).chars().count(), 201);
    }

    #[test]
    fn token_ids_are_one_or_many() {
        assert_eq!(on(r#"{"eos": 2}"#, |f| f.token_ids("eos", 3)), Ok(vec![2]));
        assert_eq!(on(r#"{"eos": [2, 0]}"#, |f| f.token_ids("eos", 3)), Ok(vec![2, 0]));
        assert!(on(r#"{"eos": [2, 3]}"#, |f| f.token_ids("eos", 3)).is_err());
        assert!(on(r#"{"eos": -1}"#, |f| f.token_ids("eos", 3)).is_err());
    }
}
