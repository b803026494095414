//! The template of a chat-tuned model: how the turns of a conversation become its prompt.
//!
//! It is the tokenizer's own, as `transformers` keeps it: Jinja in `chat_template.jinja`, or as `chat_template` in
//! `tokenizer_config.json`. The question is the one message of the user, and the reasoning begins where the model's turn
//! does. A checkpoint stores the text, so that its prompts stay those that it was trained on.
//!
//! Templates may ask for the date. None is given here: a prompt would change from day to day, and those that ask have a
//! fixed one where there is none.

use std::fmt;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, context};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::files::json::{one_line, read_limited, read_object};
use crate::{Error, Result};

/// The largest template that is read; the longest that are used take some 20 kB.
const MOST_BYTES: u64 = 1 << 20;
/// Steps of a template's program, against one that never ends.
const MOST_STEPS: u64 = 1 << 20;
/// The name of the template in messages of the template engine.
const NAME: &str = "chat_template";

/// The layout around a question.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Template {
    /// The paper's prompt alone
    #[default]
    Paper,
    /// The paper's prompt as the user's message, in the template of the model's tokenizer
    Chat,
}

from_name!(Template, "template");

impl Template {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Template::Paper => "paper",
            Template::Chat => "chat",
        }
    }
}

/// A template that has been tried.
#[derive(Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    source: String,
    bos: String,
    eos: String,
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChatTemplate({} bytes)", self.source.len())
    }
}

impl ChatTemplate {
    /// The template of the model directory `dir`.
    ///
    /// # Errors
    /// [`Error::File`] where it has none, or one that does not render.
    pub fn of_model(dir: &Path) -> Result<Self> {
        let file = dir.join("chat_template.jinja");
        if file.exists() {
            let bytes = read_limited(&file, MOST_BYTES)?;
            let source = String::from_utf8(bytes).map_err(|_| Error::file(&file, "the text is not UTF-8"))?;
            return Self::new(&file, source, dir);
        }
        let settings = dir.join("tokenizer_config.json");
        let map = if settings.exists() { read_object(&settings)? } else { Map::new() };
        let source = match map.get("chat_template") {
            Some(Value::String(source)) => Some(source.clone()),
            // Several by name, of which one is the default.
            Some(Value::Array(named)) => named.iter().find_map(|entry| {
                let entry =
                    entry.as_object().filter(|e| e.get("name").is_some_and(|name| name == "default"))?;
                entry.get("template")?.as_str().map(str::to_owned)
            }),
            _ => None,
        };
        let source = source.ok_or_else(|| {
            Error::file(
                dir,
                "no chat template: neither chat_template.jinja, nor chat_template in tokenizer_config.json",
            )
        })?;
        Self::new(&settings, source, dir)
    }

    /// The template of this text, with the special tokens of the model directory `dir`; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::File`] naming `path` for a template that does not render, or that leaves the question out.
    pub fn new(path: &Path, source: String, dir: &Path) -> Result<Self> {
        let settings = dir.join("tokenizer_config.json");
        let map = if settings.exists() { read_object(&settings)? } else { Map::new() };
        let token = |name: &str| match map.get(name) {
            Some(Value::String(token)) => token.clone(),
            Some(Value::Object(token)) => {
                token.get("content").and_then(Value::as_str).unwrap_or_default().to_owned()
            }
            _ => String::new(),
        };
        let template = ChatTemplate { source, bos: token("bos_token"), eos: token("eos_token") };
        const PROBE: &str = "Question: 1+1?";
        match template.render(PROBE) {
            Ok(text) if text.contains(PROBE) => Ok(template),
            Ok(_) => Err(Error::file(path, "chat_template: leaves the user's message out")),
            Err(what) => Err(Error::file(path, format!("chat_template: {what}"))),
        }
    }

    /// Its text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt up to the beginning of the model's turn, of a conversation with this message of the user.
    ///
    /// # Errors
    /// The fault of the template in one line.
    pub fn render(&self, message: &str) -> Result<String, String> {
        let fault = |e: minijinja::Error| one_line(&e.to_string());
        let mut environment = Environment::new();
        // As transformers sets it.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(fault)?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(MOST_STEPS));
        // Templates are written for Python, and call the methods of its texts and lists.
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |what: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, what))
        });
        environment.add_template(NAME, &self.source).map_err(fault)?;
        let template = environment.get_template(NAME).map_err(fault)?;
        template
            .render(context! {
                messages => vec![context! { role => "user", content => message }],
                add_generation_prompt => true,
                bos_token => &self.bos,
                eos_token => &self.eos,
            })
            .map_err(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ChatML, as SmolLM2 and Qwen2 have it, with its default system message.
    const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
        {{ '<|im_start|>system\\nYou are helpful<|im_end|>\\n' }}{% endif %}\
        {{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

    fn model(settings: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer_config.json"), settings).unwrap();
        dir
    }

    fn settings(template: &Value) -> String {
        serde_json::json!({ "chat_template": template, "bos_token": "<s>", "eos_token": {"content": "</s>"} })
            .to_string()
    }

    #[test]
    fn chatml_is_rendered_as_transformers_does() {
        let want = "<|im_start|>system\nYou are helpful<|im_end|>\n<|im_start|>user\n2 + 2?<|im_end|>\n\
                    <|im_start|>assistant\n";
        let named = serde_json::json!([{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}]);
        for template in [Value::from(CHATML), named] {
            let dir = model(&settings(&template));
            let template = ChatTemplate::of_model(dir.path()).unwrap();
            assert_eq!(template.render("2 + 2?").unwrap(), want);
        }
        // A file of its own comes before the settings.
        let dir = model(&settings(&Value::from("{{ messages[0].content }} in settings")));
        std::fs::write(dir.path().join("chat_template.jinja"), CHATML).unwrap();
        assert_eq!(ChatTemplate::of_model(dir.path()).unwrap().render("2 + 2?").unwrap(), want);
    }

    #[test]
    fn special_tokens_python_methods_and_blocks() {
        let template = "{{ bos_token }}\n{%- for m in messages %}\n  {%- if m.role.startswith('u') %}\n[INST] {{ m['content'].strip() \
                        | trim }} [/INST]{{ eos_token }}\n  {%- endif %}\n{%- endfor %}\n\
                        {%- if strftime_now is defined %}{{ strftime_now('%d') }}{% endif %}";
        let dir = model(&settings(&Value::from(template)));
        let template = ChatTemplate::of_model(dir.path()).unwrap();
        assert_eq!(template.render(" 2 + 2? ").unwrap(), "<s>[INST] 2 + 2? [/INST]</s>");
    }

    #[test]
    fn faults_are_told() {
        for (template, said) in [
            ("{% for m in %}", "chat_template: syntax error"),
            ("{{ raise_exception('no roles') }}", "no roles"),
            ("hello", "leaves the user's message out"),
            ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "fuel"),
        ] {
            let dir = model(&settings(&Value::from(template)));
            let error = ChatTemplate::of_model(dir.path()).unwrap_err().to_string();
            assert!(error.contains("tokenizer_config.json") && error.contains(said), "{template}: {error}");
            assert_eq!(error.lines().count(), 1);
        }
        let error = ChatTemplate::of_model(model("{}").path()).unwrap_err().to_string();
        assert!(error.contains("no chat template"), "{error}");
        assert!(ChatTemplate::of_model(tempfile::tempdir().unwrap().path()).is_err());
    }
}
