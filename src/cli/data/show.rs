//! `data show`: samples as training sees them.

use std::io::IsTerminal;
use std::path::PathBuf;

use anstyle::{AnsiColor, Effects, Style};
use clap::Args;
use serde_json::json;

use crate::cli::terminal;
use crate::data::load;
use crate::model::chat_template::{ChatTemplate, Template};
use crate::model::config::ModelConfig;
use crate::model::prompt::{Method, SEPARATOR};
use crate::model::tokenizer::Tokenizer;
use crate::train::example::{Layout, Part, Row, Token};
use crate::{Error, Result};

/// Show samples as training sees them: the prompt, token by token, the chunks of the reasoning, and what is learnt
///
/// A bar stands between tokens and brackets around a chunk, whose embeddings are merged into one. Not marked: fed and not
/// learnt. On a terminal what is learnt has a colour: green for a token that is predicted, blue for a chunk whose
/// embedding is predicted, and of whose tokens one is the label.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  colar-engine data show --model models/SmolLM2-135M --data train.jsonl --n 3
  colar-engine data show --model models/SmolLM2-135M --data train.jsonl --method cot --template chat --json")]
pub struct ShowArgs {
    /// Model directory, for its tokenizer
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Data set, in any form that `data convert` reads
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Samples, from the start of the file
    #[arg(long, value_name = "N", default_value_t = 3)]
    n: usize,
    /// How to reason: colar or cot
    #[arg(long, value_enum, default_value_t = Method::Colar)]
    method: Method,
    /// Compression factor of colar: tokens of a chunk
    #[arg(long, value_name = "N")]
    cf: Option<usize>,
    /// The layout around the question
    #[arg(long, value_enum, default_value_t = Template::Paper)]
    template: Template,
    /// Print a JSON object a sample
    #[arg(long)]
    json: bool,
}

/// Runs `data show`.
///
/// # Errors
/// Errors of reading the model's tokenizer and the data; [`Error::Usage`] for a method with thoughts.
pub fn run(args: &ShowArgs) -> Result<()> {
    let compression_factor = match (args.method, args.cf) {
        (Method::Colar, cf) => cf.unwrap_or(2),
        (Method::Cot, None | Some(1)) => 1,
        (Method::Cot, Some(cf)) => return Err(args.method.no_factor("1", &cf.to_string())),
        (method, _) => {
            return Err(Error::usage(format!(
                "--method {}: what it sees changes in the course of training; colar and cot are shown",
                method.name()
            )));
        }
    };
    let config = ModelConfig::load(&args.model)?;
    let tokenizer = Tokenizer::load(&args.model)?;
    let tokenizer = match args.template {
        Template::Paper => tokenizer,
        Template::Chat => tokenizer.with_template(ChatTemplate::of_model(&args.model)?),
    };
    let layout = Layout {
        separator: tokenizer.separator(SEPARATOR)?,
        eos: tokenizer.eos(&config)?.append,
        tokenizer: &tokenizer,
        method: args.method,
        compression_factor,
    };
    let styles = Styles::new(std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    let mut out = String::new();
    for (i, sample) in load(&args.data, None)?.iter().take(args.n).enumerate() {
        let rows = layout.rows(sample)?;
        out += &if args.json {
            format!("{}\n", json!({ "sample": i, "rows": rows }))
        } else {
            text(i, &rows, args.method, compression_factor, &styles)
        };
    }
    terminal::print(&out)
}

/// The styles of tokens; all plain where there is no terminal.
struct Styles {
    fed: Style,
    label: Style,
    latent: Style,
}

impl Styles {
    fn new(coloured: bool) -> Self {
        let style = |style: Style| if coloured { style } else { Style::new() };
        Styles {
            fed: style(Style::new().effects(Effects::DIMMED)),
            label: style(AnsiColor::Green.on_default()),
            latent: style(AnsiColor::Blue.on_default().effects(Effects::BOLD)),
        }
    }

    fn of(&self, row: &Row) -> Style {
        match (row.label, row.latent) {
            (_, true) => self.latent,
            (true, false) => self.label,
            (false, false) => self.fed,
        }
    }
}

/// A sample in a block: a line that counts, then a line a part.
fn text(index: usize, rows: &[Row], method: Method, compression_factor: usize, styles: &Styles) -> String {
    let tokens: usize = rows.iter().map(|row| row.tokens.len()).sum();
    let count = |learnt: fn(&Row) -> bool| rows.iter().filter(|row| learnt(row)).count();
    let latents = match count(|row| row.latent) {
        0 => String::new(),
        n => format!(", {n} embeddings"),
    };
    let factor = if method == Method::Colar { format!(" c = {compression_factor}") } else { String::new() };
    let mut out = format!(
        "sample {}, {}{factor}: {tokens} tokens in {} rows; learnt: {} tokens{latents}\n",
        index + 1,
        method.label(),
        rows.len(),
        count(|row| row.label),
    );
    for (name, part) in [("prompt", Part::Prompt), ("reasoning", Part::Reasoning), ("answer", Part::Answer)] {
        let of_part: Vec<&Row> = rows.iter().filter(|row| row.part == part).collect();
        // In compressed reasoning every row stands in brackets, a chunk of one token at its end too.
        let chunked = method == Method::Colar && part == Part::Reasoning;
        let shown = of_part.iter().map(|row| {
            let style = styles.of(row);
            let inner = row.tokens.iter().map(visible).collect::<Vec<_>>().join("|");
            let (open, close) = if chunked { ("[", "]") } else { ("", "") };
            format!("{style}{open}{inner}{close}{style:#}")
        });
        let between = if chunked { "" } else { "|" };
        out += &format!("  {name:<10}{}\n", shown.collect::<Vec<_>>().join(between));
    }
    out + "\n"
}

/// A token's text on one line.
fn visible(token: &Token) -> String {
    token
        .text
        .chars()
        .map(|c| match c {
            '\n' => "⏎".to_owned(),
            c if c.is_control() => c.escape_default().to_string(),
            c => c.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_a_line_a_part() {
        let row = |part, texts: &[&str], label, latent| Row {
            part,
            tokens: texts.iter().map(|&text| Token { id: 0, text: text.to_owned() }).collect(),
            label,
            latent,
        };
        let rows = [
            row(Part::Prompt, &["How"], false, false),
            row(Part::Prompt, &[" many?\n"], false, false),
            row(Part::Reasoning, &["###"], true, false),
            row(Part::Reasoning, &["3*", "4"], true, true),
            row(Part::Answer, &["###"], true, true),
            row(Part::Answer, &["12"], true, false),
        ];
        let plain = text(0, &rows, Method::Colar, 2, &Styles::new(false));
        let want = "\
sample 1, CoLaR c = 2: 7 tokens in 6 rows; learnt: 4 tokens, 2 embeddings
  prompt    How| many?⏎
  reasoning [###][3*|4]
  answer    ###|12

";
        assert_eq!(plain, want);
        let coloured = text(0, &rows, Method::Colar, 2, &Styles::new(true));
        assert!(coloured.contains("\u{1b}[") && coloured.contains("[3*|4]"), "{coloured}");
    }
}
