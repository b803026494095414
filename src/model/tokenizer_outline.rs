//! Checks of a `tokenizer.json` before the `tokenizers` crate sees it.
//!
//! That crate panics on some contents (a merge that yields a token longer than all others, a word
//! prefix longer than a token, a malformed precompiled normaliser) and accepts others that make no
//! tokens one can rely on (dropout). This pass reads the file once, keeps next to nothing of it, and
//! describes a mistake in words.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// An entry of `added_tokens`.
#[derive(Debug, Deserialize)]
pub struct AddedToken {
    /// The token's id in the vocabulary.
    pub id: u32,
    /// How it is written.
    pub content: String,
}

/// The few facts that the checks keep.
#[derive(Debug)]
pub struct Outline {
    /// The tokens beside the model's own.
    pub added_tokens: Vec<AddedToken>,
    /// The largest id of the model's own tokens.
    pub largest_id: u32,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    truncation: Option<Value>,
    padding: Option<Value>,
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: Option<Vocab>,
    merges: Option<Merges>,
    dropout: Option<f32>,
    continuing_subword_prefix: Option<String>,
    max_input_chars_per_word: Option<IgnoredAny>,
    unk_token: Option<Value>,
    end_of_word_suffix: Option<Value>,
}

impl Model {
    /// The model's type. Files of old releases do not give it; the crate then takes the first that has the fields: BPE,
    /// WordPiece, WordLevel, Unigram.
    fn kind(&self) -> &str {
        match (&self.kind, &self.vocab) {
            (Some(kind), _) => kind,
            (None, _) if self.merges.is_some() => "BPE",
            (None, _) if self.max_input_chars_per_word.is_some() => "WordPiece",
            (None, Some(vocab)) if vocab.listed => "Unigram",
            (None, _) => "WordLevel",
        }
    }
}

/// The map of tokens to ids, of which two numbers are kept.
struct Vocab {
    longest: usize,
    largest_id: Option<u32>,
    /// Whether it is a list, as a Unigram model has it, which is refused.
    listed: bool,
}

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tokens;
        impl<'de> Visitor<'de> for Tokens {
            type Value = Vocab;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tokens to ids")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
                let mut vocab = Vocab { longest: 0, largest_id: None, listed: false };
                while let Some((token, id)) = map.next_entry::<Length, u32>()? {
                    vocab.longest = vocab.longest.max(token.bytes);
                    vocab.largest_id = vocab.largest_id.max(Some(id));
                }
                Ok(vocab)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vocab, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Vocab { longest: 0, largest_id: None, listed: true })
            }
        }
        deserializer.deserialize_any(Tokens)
    }
}

/// The merges, of which the longest result is kept, in bytes.
struct Merges {
    longest: usize,
}

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Merges;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of merges")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merges, A::Error> {
                let mut longest = 0;
                while let Some(merge) = seq.next_element::<Length>()? {
                    longest = longest.max(merge.bytes - usize::from(merge.spaced));
                }
                Ok(Merges { longest })
            }
        }
        deserializer.deserialize_seq(Pairs)
    }
}

/// The bytes of a string, or of a pair of strings together.
struct Length {
    bytes: usize,
    /// A string with a blank in it: two words and their separator.
    spaced: bool,
}

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrTwo;
        impl<'de> Visitor<'de> for OneOrTwo {
            type Value = Length;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a pair of strings")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Length, E> {
                Ok(Length { bytes: text.len(), spaced: text.contains(' ') })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Length, A::Error> {
                let mut bytes = 0;
                while let Some(part) = seq.next_element::<Length>()? {
                    bytes += part.bytes;
                }
                Ok(Length { bytes, spaced: false })
            }
        }
        deserializer.deserialize_any(OneOrTwo)
    }
}

/// Checks the content of a `tokenizer.json`.
///
/// # Errors
/// The first fault, in one line without the file's name.
pub fn check(json: &[u8]) -> Result<Outline, String> {
    let file: File = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    let model = &file.model;
    let kind = model.kind();
    if !matches!(kind, "BPE" | "WordLevel") {
        return Err(format!("model type \"{kind}\" is not supported (BPE and WordLevel are)"));
    }
    let vocab = model.vocab.as_ref().ok_or("model.vocab is missing")?;
    let largest_id = vocab.largest_id.ok_or("model.vocab is empty")?;
    // An id so large comes of a damaged file; an embedding of so many rows does not exist.
    let limit = 1 << 24;
    if largest_id >= limit || file.added_tokens.iter().any(|added| added.id >= limit) {
        return Err(format!("a token id is {limit} or more"));
    }
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err("model.dropout would make tokens random".into());
    }
    if model.continuing_subword_prefix.as_ref().is_some_and(|prefix| !prefix.is_empty()) {
        return Err("model.continuing_subword_prefix is not supported".into());
    }
    if model.merges.as_ref().is_some_and(|merges| merges.longest > vocab.longest) {
        return Err("a merge makes a token longer than any of the vocabulary".into());
    }
    // These are read here so that a value that does not fit is found before the crate meets it.
    let _ = (&model.unk_token, &model.end_of_word_suffix, &file.truncation, &file.padding);
    for part in [&file.normalizer, &file.pre_tokenizer, &file.post_processor, &file.decoder] {
        if part.as_ref().is_some_and(has_precompiled) {
            return Err("a precompiled normaliser is not supported".into());
        }
    }
    Ok(Outline { added_tokens: file.added_tokens, largest_id })
}

/// Whether an object of type `Precompiled` stands anywhere in `value`.
fn has_precompiled(value: &Value) -> bool {
    match value {
        Value::Object(map) => {
            map.get("type").is_some_and(|kind| kind == "Precompiled") || map.values().any(has_precompiled)
        }
        Value::Array(list) => list.iter().any(has_precompiled),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn with(change: Value) -> Result<Outline, String> {
        let mut file = json!({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2},
            "merges": ["a b"]}, "added_tokens": []});
        for (key, value) in change.as_object().unwrap() {
            file["model"][key] = value.clone();
        }
        check(file.to_string().as_bytes())
    }

    #[test]
    fn what_the_crate_would_panic_on_is_found() {
        assert_eq!(with(json!({})).unwrap().largest_id, 2);
        assert_eq!(with(json!({"merges": [["a", "b"]]})).unwrap().largest_id, 2);
        assert!(with(json!({"merges": ["ab b"]})).unwrap_err().contains("longer than any"));
        assert!(with(json!({"merges": [["ab", "ab"]]})).unwrap_err().contains("longer than any"));
        assert!(with(json!({"continuing_subword_prefix": "##"})).is_err());
        assert!(with(json!({"continuing_subword_prefix": ""})).is_ok());
        assert!(with(json!({"dropout": 0.1})).unwrap_err().contains("dropout"));
        assert!(with(json!({"vocab": {}})).unwrap_err().contains("empty"));
        assert!(with(json!({"vocab": {"a": 4294967296u64}})).is_err());
        assert!(with(json!({"vocab": {"a": 4294967295u64}})).unwrap_err().contains("16777216 or more"));
        assert!(
            with(json!({"type": "Unigram", "vocab": [["a", 0.0]]})).unwrap_err().contains("not supported")
        );
        assert_eq!(with(json!({"type": null})).unwrap().largest_id, 2);
        for (model, kind) in [
            (json!({"vocab": [["a", 0.0]], "unk_id": 0}), "Unigram"),
            (json!({"vocab": {"a": 0}, "unk_token": "a", "max_input_chars_per_word": 9}), "WordPiece"),
        ] {
            let error = check(json!({ "model": model }).to_string().as_bytes()).unwrap_err();
            assert!(error.contains(&format!("\"{kind}\" is not supported")), "{error}");
        }
        let nested = json!({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Precompiled"}]},
            "model": {"type": "WordLevel", "vocab": {"a": 0}}});
        assert!(check(nested.to_string().as_bytes()).unwrap_err().contains("precompiled"));
    }
}
