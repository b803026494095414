//! A page that shows how questions were reasoned about: the latents with the tokens near to them, or the words, and the
//! answers.

use std::fmt::Write as _;

use crate::infer::{Generation, TraceToken};
use crate::{Engine, Result};

/// The page around the questions, `QUESTIONS` in their place.
const PAGE: &str = include_str!("reasoning_page.html");

/// The page of these answers.
///
/// # Errors
/// Errors of the tokenizer.
pub(super) fn page(engine: &Engine, generations: &[Generation]) -> Result<String> {
    let questions = generations.iter().map(|g| question(engine, g)).collect::<Result<String>>()?;
    Ok(PAGE.replace("MODEL", &escaped(&engine.loaded())).replace("QUESTIONS", &questions))
}

/// A question, its reasoning and its answer.
fn question(engine: &Engine, g: &Generation) -> Result<String> {
    let mut out = format!("<section>\n<h2>{}</h2>\n", escaped(&g.question));
    let factor = match g.compression_factor.as_str() {
        "" => String::new(),
        factor => format!("compression factor {factor}, "),
    };
    let _ = writeln!(
        out,
        "<p class=\"about\">{factor}reasoning of {} in {:.0} ms, answer of {} tokens in {:.0} ms</p>",
        g.n_latents, g.latents_ms, g.answer_tokens, g.answer_ms
    );
    out += "<div class=\"reasoning\">\n";
    for (i, tokens) in g.trace.iter().enumerate() {
        out += &latent(i + 1, tokens, g.end_probabilities.get(i).copied());
    }
    // Reasoning in words comes after thoughts, if there are some.
    let words = g.n_latents.saturating_sub(g.trace.len()).min(g.token_ids.len());
    for &id in &g.token_ids[..words] {
        let _ = writeln!(out, "<span class=\"word\">{}</span>", visible(&engine.token_text(id)?));
    }
    out += "</div>\n";
    let answer = engine.text(&g.token_ids[words..])?;
    let _ = writeln!(out, "<p class=\"answer\">{}</p>\n</section>", escaped(answer.trim()));
    Ok(out)
}

/// A latent or thought: its number, the tokens near to it, and the probability that reasoning ends after it.
fn latent(number: usize, tokens: &[TraceToken], end: Option<f32>) -> String {
    let mut out = format!("<div class=\"latent\"><b>{number}</b>\n");
    for token in tokens {
        let _ = writeln!(
            out,
            "<div class=\"token\"><i style=\"width:{:.0}%\"></i><span>{}</span><small>{:.2}</small></div>",
            100.0 * token.cosine.clamp(0.0, 1.0),
            visible(&token.text),
            token.cosine
        );
    }
    if let Some(end) = end {
        let _ = writeln!(
            out,
            "<div class=\"token end\"><i style=\"width:{:.0}%\"></i><span>ends</span><small>{end:.2}</small></div>",
            100.0 * end
        );
    }
    out + "</div>\n"
}

/// A token's text with its blanks made visible.
fn visible(text: &str) -> String {
    escaped(text).replace(' ', "␣").replace('\n', "↵")
}

/// Text as HTML has it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
