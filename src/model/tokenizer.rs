//! Text to tokens and back, by the `tokenizers` crate.
//!
//! The engine concatenates segments that it tokenises one by one, without special tokens (spec
//! section 1), so truncation, padding and post-processing of a `tokenizer.json` are switched off, and
//! dropout, which would make tokens random, is refused. The crate checks some things late and by
//! panicking; `tokenizer_outline` looks for those first.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tokenizers::PostProcessorWrapper;

use super::chat_template::ChatTemplate;
use super::config::ModelConfig;
use super::tokenizer_outline as outline;
use crate::files::json::{one_line, read_limited, read_object};
use crate::{Error, Result};

/// The largest vocabularies take some 30 MB.
const MAX_TOKENIZER_BYTES: u64 = 512 << 20;

/// The tokenizer of a model. A clone shares its vocabulary.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    path: PathBuf,
    /// One more than the largest token id.
    vocab_size: usize,
    /// `eos_token` of `tokenizer_config.json`.
    eos_token_id: Option<u32>,
    /// The template that prompts go through, for a chat-tuned model.
    template: Option<ChatTemplate>,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokenizer({}, {} tokens)", self.path.display(), self.vocab_size)
    }
}

/// The tokens that end a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EosTokens {
    /// The token that ends a training sample.
    pub append: u32,
    /// The tokens that end generation, `append` among them.
    pub stop: Vec<u32>,
}

impl Tokenizer {
    /// Loads `tokenizer.json` of the model directory `dir`, and the name of the end token from
    /// `tokenizer_config.json` where there is one.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] naming the file and what is wrong with it.
    pub fn load(dir: &Path) -> Result<Self> {
        let tokenizer = Self::load_file(&dir.join("tokenizer.json"))?;
        let settings = dir.join("tokenizer_config.json");
        if settings.exists() { tokenizer.with_settings(&settings) } else { Ok(tokenizer) }
    }

    /// This tokenizer with the end token that the `tokenizer_config.json` at `path` names.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::File`] if it names something that is not a token.
    pub fn with_settings(mut self, path: &Path) -> Result<Self> {
        self.eos_token_id = self.named_eos(path)?;
        Ok(self)
    }

    /// This tokenizer with a template that prompts go through.
    pub fn with_template(self, template: ChatTemplate) -> Self {
        Tokenizer { template: Some(template), ..self }
    }

    /// The same without a template.
    #[must_use]
    pub fn bare(&self) -> Self {
        Tokenizer { template: None, ..self.clone() }
    }

    /// The template that prompts go through, if there is one.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// Bytes that the template puts around a prompt's text; 0 without one.
    pub fn template_bytes(&self) -> usize {
        self.template.as_ref().and_then(|template| template.render("").ok()).map_or(0, |text| text.len())
    }

    /// The tokens of a prompt: of its text, or of what the template makes of it.
    ///
    /// # Errors
    /// As [`encode`](Self::encode); a template that does not render.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        match &self.template {
            None => self.encode(text),
            Some(template) => self.encode(&template.render(text).map_err(|what| self.fault(&what))?),
        }
    }

    /// Loads one `tokenizer.json` alone, whatever stands beside it.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_file(path: &Path) -> Result<Self> {
        Self::from_bytes(path, &read_limited(path, MAX_TOKENIZER_BYTES)?)
    }

    /// Makes a tokenizer of the content of a `tokenizer.json`; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::File`] naming `path` and what is wrong with the content.
    pub fn from_bytes(path: &Path, json: &[u8]) -> Result<Self> {
        let invalid = |what: &str| Error::file(path, format!("is no usable tokenizer: {}", one_line(what)));
        let outline = outline::check(json).map_err(|what| invalid(&what))?;
        let mut inner: tokenizers::Tokenizer =
            guard(|| tokenizers::Tokenizer::from_bytes(json)).map_err(|what| invalid(&what))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| invalid(&e.to_string()))?;
        inner.with_post_processor(None::<PostProcessorWrapper>);
        // The crate gives an added token the next free id, whatever the file says, and only warns.
        for added in &outline.added_tokens {
            let got = inner.token_to_id(&added.content);
            if got != Some(added.id) {
                let what = format!("added token \"{}\" cannot have the id {}", added.content, added.id);
                return Err(invalid(&what));
            }
        }
        let largest = outline.added_tokens.iter().map(|added| added.id).fold(outline.largest_id, u32::max);
        Ok(Self {
            inner: Arc::new(inner),
            path: path.to_owned(),
            vocab_size: largest as usize + 1,
            eos_token_id: None,
            template: None,
        })
    }

    /// The token that `eos_token` of the `tokenizer_config.json` at `path` names.
    fn named_eos(&self, path: &Path) -> Result<Option<u32>> {
        let map = read_object(path)?;
        let name = match map.get("eos_token") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(name)) => name,
            // An added token written out with its settings.
            Some(Value::Object(token)) => match token.get("content") {
                Some(Value::String(name)) => name,
                _ => return Err(Error::file(path, "eos_token.content: must be a string")),
            },
            Some(_) => return Err(Error::file(path, "eos_token: must be a string")),
        };
        match self.inner.token_to_id(name) {
            Some(id) => Ok(Some(id)),
            None => {
                let what = format!("eos_token: \"{}\" is not a token of tokenizer.json", one_line(name));
                Err(Error::file(path, what))
            }
        }
    }

    /// The file this tokenizer came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One more than the largest token id: the embedding needs at least so many rows.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Checks that every token has a row in an embedding of `rows` rows.
    ///
    /// # Errors
    /// [`Error::File`] naming the tokenizer.
    pub fn check_fits(&self, rows: usize) -> Result<()> {
        if self.vocab_size <= rows {
            return Ok(());
        }
        let what = format!("has token ids up to {}, the model a vocabulary of {rows}", self.vocab_size - 1);
        Err(Error::file(&self.path, what))
    }

    /// The tokens that `tokenizer.json` of `dir` puts before every text of its own accord; [`encode`](Self::encode) adds none.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn added_before(dir: &Path) -> Result<Vec<u32>> {
        let path = dir.join("tokenizer.json");
        let fault = |what: String| Error::file(&path, format!("is no usable tokenizer: {}", one_line(&what)));
        let bytes = read_limited(&path, MAX_TOKENIZER_BYTES)?;
        let with = guard(|| tokenizers::Tokenizer::from_bytes(&bytes)).map_err(fault)?;
        let encoded = |special| -> Result<Vec<u32>> {
            let encoding = guard(|| with.encode_fast("a", special)).map_err(fault)?;
            Ok(encoding.get_ids().to_vec())
        };
        let (plain, whole) = (encoded(false)?, encoded(true)?);
        let at = whole.windows(plain.len().max(1)).position(|part| part == plain).unwrap_or(0);
        Ok(whole[..at].to_vec())
    }

    /// The tokens of `text`; special tokens are recognised in it, none is added.
    ///
    /// # Errors
    /// [`Error::File`] if the tokenizer cannot represent the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = guard(|| self.inner.encode_fast(text, false)).map_err(|what| self.fault(&what))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`; those without a token (padding of the embedding) count for nothing.
    ///
    /// # Errors
    /// [`Error::File`] if the decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        guard(|| self.inner.decode(ids, skip_special)).map_err(|what| self.fault(&what))
    }

    /// The text of one token, for display: never empty, `<id>` where there is no token.
    pub fn token_text(&self, id: u32) -> String {
        match self.decode(&[id], false) {
            Ok(text) if !text.is_empty() => text,
            _ => self.inner.id_to_token(id).unwrap_or_else(|| format!("<{id}>")),
        }
    }

    /// The id of the token that is written `token` in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The texts of the special tokens, in the order of their ids: each is one token wherever it stands in a text.
    pub fn special_texts(&self) -> impl Iterator<Item = String> {
        let mut special: Vec<_> = self.inner.get_added_tokens_decoder().into_iter().collect();
        special.retain(|(_, token)| token.special);
        special.sort_by_key(|&(id, _)| id);
        special.into_iter().map(|(_, token)| token.content)
    }

    /// The token of the thinking separator `text` (`###`), which must be a single token.
    ///
    /// # Errors
    /// [`Error::File`] naming the tokenizer and how many tokens `text` is.
    pub fn separator(&self, text: &str) -> Result<u32> {
        match self.encode(text)?.as_slice() {
            &[id] => Ok(id),
            ids => {
                let what = format!(
                    "the thinking separator \"{}\" must be one token, and is {} here",
                    one_line(text),
                    ids.len()
                );
                Err(Error::file(&self.path, what))
            }
        }
    }

    /// The end tokens of a model with this tokenizer: `eos_token` of `tokenizer_config.json` ends
    /// training samples (the first of `config.json` where it is not given); with all of `config` it
    /// ends generation.
    ///
    /// # Errors
    /// [`Error::File`] if no file names an end token.
    pub fn eos(&self, config: &ModelConfig) -> Result<EosTokens> {
        let append =
            self.eos_token_id.or_else(|| config.eos_token_ids.first().copied()).ok_or_else(|| {
                let what = "no end token: neither config.json nor generation_config.json has eos_token_id, \
                        nor tokenizer_config.json eos_token";
                Error::file(&self.path, what)
            })?;
        let mut stop = config.eos_token_ids.clone();
        if !stop.contains(&append) {
            stop.push(append);
        }
        Ok(EosTokens { append, stop })
    }

    fn fault(&self, what: &str) -> Error {
        Error::file(&self.path, one_line(what))
    }
}

/// Runs code of the `tokenizers` crate; an error or a panic becomes a message.
///
/// Nothing is left half changed by a panic: the calls take the tokenizer by shared reference, or
/// make it.
fn guard<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err("the tokenizer failed on this input".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn word_level() -> Value {
        json!({
            "version": "1.0",
            "added_tokens": [{"id": 3, "content": "<end>", "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true}],
            "pre_tokenizer": {"type": "Whitespace"},
            "truncation": {"max_length": 1, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
            "model": {"type": "WordLevel", "vocab": {"###": 0, "a": 1, "?": 2}, "unk_token": "?"},
        })
    }

    fn load(json: &Value) -> Result<Tokenizer> {
        Tokenizer::from_bytes(Path::new("m/tokenizer.json"), json.to_string().as_bytes())
    }

    #[test]
    fn segments_are_tokenised_bare_and_whole() {
        let tokenizer = load(&word_level()).unwrap();
        assert_eq!(tokenizer.encode("a ### b<end>").unwrap(), [1, 0, 2, 3]);
        assert_eq!(tokenizer.decode(&[1, 3, 99], true).unwrap(), "a");
        assert_eq!(tokenizer.decode(&[1, 3], false).unwrap(), "a <end>");
        assert_eq!((tokenizer.token_text(3), tokenizer.token_text(99)), ("<end>".into(), "<99>".into()));
        assert_eq!(tokenizer.vocab_size(), 4);
        assert!(tokenizer.check_fits(4).is_ok());
        let error = tokenizer.check_fits(3).unwrap_err().to_string();
        assert_eq!(error, "m/tokenizer.json: has token ids up to 3, the model a vocabulary of 3");
    }

    /// As old releases wrote it, and Python still reads it.
    #[test]
    fn a_model_without_a_type_is_known_by_its_fields() {
        let untyped = |mut json: Value| {
            json["model"].as_object_mut().unwrap().shift_remove("type");
            load(&json).unwrap().encode("a ###").unwrap()
        };
        assert_eq!(untyped(word_level()), [1, 0]);
        let mut bpe = word_level();
        bpe["model"] = json!({"type": "BPE", "vocab": {"#": 0, "a": 1, "?": 2, "<end>": 3, "##": 4, "###": 5},
            "merges": ["# #", "## #"], "unk_token": "?"});
        assert_eq!(load(&bpe).unwrap().encode("a ###").unwrap(), [1, 5]);
        assert_eq!(untyped(bpe), [1, 5]);
    }

    #[test]
    fn a_separator_of_several_tokens_is_refused() {
        let tokenizer = load(&word_level()).unwrap();
        assert_eq!(tokenizer.separator("###").unwrap(), 0);
        let error = tokenizer.separator("a a").unwrap_err().to_string();
        let want = "m/tokenizer.json: the thinking separator \"a a\" must be one token, and is 2 here";
        assert_eq!(error, want);
    }

    #[test]
    fn an_added_token_keeps_its_id_or_is_refused() {
        let mut json = word_level();
        json["added_tokens"][0]["id"] = json!(7);
        let error = load(&json).unwrap_err().to_string();
        assert!(error.ends_with("added token \"<end>\" cannot have the id 7"), "{error}");
    }

    #[test]
    fn the_end_token_is_the_named_one() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), word_level().to_string()).unwrap();
        let config = |eos: &str| {
            let text = format!(
                r#"{{"model_type": "llama", "hidden_size": 4, "intermediate_size": 4, "vocab_size": 4,
                    "num_hidden_layers": 1, "num_attention_heads": 1, "eos_token_id": {eos}}}"#
            );
            let map = serde_json::from_str(&text).unwrap();
            ModelConfig::from_map(Path::new("config.json"), &map).unwrap()
        };
        let bare = Tokenizer::load(dir.path()).unwrap();
        assert_eq!(bare.eos(&config("[1, 2]")).unwrap(), EosTokens { append: 1, stop: vec![1, 2] });
        assert!(bare.eos(&config("null")).unwrap_err().to_string().contains("no end token"));
        let settings = |text: &str| std::fs::write(dir.path().join("tokenizer_config.json"), text).unwrap();
        for named in [r#"{"eos_token": "<end>"}"#, r#"{"eos_token": {"content": "<end>"}}"#] {
            settings(named);
            let named = Tokenizer::load(dir.path()).unwrap();
            assert_eq!(named.eos(&config("1")).unwrap(), EosTokens { append: 3, stop: vec![1, 3] });
        }
        settings(r#"{"eos_token": "<other>"}"#);
        let error = Tokenizer::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("tokenizer_config.json: eos_token: \"<other>\" is not a token"), "{error}");
    }
}
