//! From the fields of a request to requests of the engine.

use serde_json::Value;

use super::app::Named;
use super::error::ApiError;
use super::fields::{CompressionFactor, Drawing, Reasoning, Texts};
use crate::model::prompt::Method;
use crate::{Prompt, Request, Sampling};

/// Most answers to one call.
const MOST_ANSWERS: usize = 128;
/// Most strings that end a text.
const MOST_STOPS: usize = 16;

/// The engine's requests for a call.
pub(super) struct Asked {
    /// The name of the model.
    pub model: String,
    pub requests: Vec<Request>,
    pub answers_per_prompt: usize,
    /// Strings that end an answer.
    pub stops: Vec<String>,
    /// The token that ends a reasoning in words, where there is one.
    pub separator: Option<u32>,
    /// The seed of the first answer.
    pub seed: u64,
}

/// The strings that end an answer.
///
/// # Errors
/// Too many, and one that is empty.
pub(super) fn stops(stop: Option<Texts>) -> Result<Vec<String>, ApiError> {
    let stops = stop.map(Texts::into_vec).unwrap_or_default();
    if stops.len() > MOST_STOPS || stops.iter().any(String::is_empty) {
        return Err(ApiError::field(
            "stop",
            format!("`stop` takes at most {MOST_STOPS} strings, none of them empty"),
        ));
    }
    Ok(stops)
}

/// The text of a message's content: a string, or parts of which each is text of the type `part`.
///
/// # Errors
/// Content of another kind; `param` is its place.
pub(super) fn text_of(content: &Value, part: &str, param: &str) -> Result<String, ApiError> {
    let fault =
        |at: String| ApiError::field(at.clone(), format!("`{at}` must be text: only text is supported"));
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => parts.iter().enumerate().try_fold(String::new(), |all, (i, value)| {
            let fields = value.as_object().filter(|fields| fields.len() == 2);
            let text = fields.and_then(|fields| {
                (fields.get("type")?.as_str()? == part).then(|| fields.get("text")?.as_str())?
            });
            text.map(|text| all + text).ok_or_else(|| fault(format!("{param}[{i}]")))
        }),
        _ => Err(fault(param.to_owned())),
    }
}

/// Requests for answers to a question, in the way that the model was trained to reason.
///
/// # Errors
/// Status 400 naming a field that is out of range or without effect.
pub(super) fn question(
    model: &Named,
    text: String,
    drawing: &Drawing,
    reasoning: &Reasoning<'_>,
    max_tokens: usize,
    answers: Option<usize>,
) -> Result<Asked, ApiError> {
    if text.trim().is_empty() {
        return Err(ApiError::field("", "the question is empty"));
    }
    let method = model.method;
    let d = Sampling::default();
    let sampling = Sampling {
        max_latents: reasoning.max_latents.unwrap_or(d.max_latents),
        max_cot_tokens: reasoning.max_cot_tokens.unwrap_or(d.max_cot_tokens),
        latent_temperature: reasoning.latent_temperature.unwrap_or(d.latent_temperature),
        eol_temperature: reasoning.eol_temperature.unwrap_or(d.eol_temperature),
        ..sampling(drawing, max_tokens)?
    };
    let compression_factor = reasoning.check(method)?;
    let prompt = Prompt::Question { text, method, compression_factor };
    let request = Request::new(prompt).sampling(sampling).trace(reasoning.trace.unwrap_or(false));
    repeated(model, &[request], answers, model.engine.reasoning_end(method))
}

/// Requests for continuations of texts.
///
/// # Errors
/// As [`question`].
pub(super) fn continuation(
    model: &Named,
    texts: Vec<String>,
    drawing: &Drawing,
    max_tokens: usize,
    answers: Option<usize>,
) -> Result<Asked, ApiError> {
    let sampling = sampling(drawing, max_tokens)?;
    let request = |text| Request::new(Prompt::Plain(text)).sampling(sampling);
    repeated(model, &texts.into_iter().map(request).collect::<Vec<_>>(), answers, None)
}

fn sampling(drawing: &Drawing, max_tokens: usize) -> Result<Sampling, ApiError> {
    let d = Sampling::default();
    let seed = match drawing.seed {
        Some(seed) => seed,
        // Short enough for every reader of JSON to give it back as it is.
        None => getrandom::u32().map_err(|e| ApiError::internal(format!("no random seed: {e}")))?.into(),
    };
    Ok(Sampling {
        temperature: drawing.temperature.unwrap_or(d.temperature),
        top_p: drawing.top_p.unwrap_or(d.top_p),
        max_new_tokens: max_tokens,
        seed,
        ..d
    })
}

/// Each request `answers` times of the model, with seeds that follow each other.
fn repeated(
    model: &Named,
    requests: &[Request],
    answers: Option<usize>,
    separator: Option<u32>,
) -> Result<Asked, ApiError> {
    let answers = answers.unwrap_or(1);
    let all = answers.saturating_mul(requests.len());
    if !(1..=MOST_ANSWERS).contains(&all) {
        let param = if answers == 0 || answers > MOST_ANSWERS { "n" } else { "prompt" };
        return Err(ApiError::field(
            param,
            format!("a request takes 1 to {MOST_ANSWERS} answers, not {all}"),
        ));
    }
    let seed = requests.first().map_or(0, |request| request.sampling.seed);
    let seeds = |request: &Request| {
        let request = request.clone().adapter(model.adapter.clone());
        (0..answers as u64).map(move |i| {
            let sampling = request.sampling.seed(request.sampling.seed.wrapping_add(i));
            request.clone().sampling(sampling)
        })
    };
    let requests = requests.iter().flat_map(seeds).collect();
    let (model, stops) = (model.name.clone(), Vec::new());
    Ok(Asked { model, requests, answers_per_prompt: answers, stops, separator, seed })
}

impl Reasoning<'_> {
    /// The compression factor that a prompt states under a method.
    ///
    /// # Errors
    /// Status 400 naming a field that has no effect under the method.
    fn check(&self, method: Method) -> Result<String, ApiError> {
        let (latents, words) = (method == Method::Colar, method != Method::Colar);
        let vectors = method.has_vectors();
        for (field, given, works) in [
            ("max_latents", self.max_latents.is_some(), latents),
            ("latent_temperature", self.latent_temperature.is_some(), latents),
            ("eol_temperature", self.eol_temperature.is_some(), latents),
            ("max_cot_tokens", self.max_cot_tokens.is_some(), words),
            ("trace", self.trace == Some(true), vectors),
        ] {
            if given && !works {
                let name = method.name();
                return Err(ApiError::field(
                    field,
                    format!("`{field}` has no effect: the model's method is {name}"),
                ));
            }
        }
        let given = self.compression_factor.map(|factor| match factor {
            CompressionFactor::Number(number) => number.to_string(),
            CompressionFactor::Text(text) => text.clone(),
        });
        let factor = method.compression_factor(given.as_deref()).map_err(|_| {
            let (name, own) = (method.name(), method.fixed_compression_factor().unwrap_or_default());
            let message = format!(
                "`compression_factor` must be {own}: the model's method is {name}, which compresses nothing"
            );
            ApiError::field("compression_factor", message)
        })?;
        Ok(factor.to_owned())
    }
}
