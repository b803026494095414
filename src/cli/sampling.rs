//! The sampling flags, and which of them has an effect beside which method.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::Value;

use crate::infer::Sampling;
use crate::train::conditions::{Condition, is, not};
use crate::{Error, Result};

/// When a sampling flag has an effect.
pub(super) const CONDITIONS: &[Condition] = &[
    is(&["latent_temperature", "eol_temperature", "max_latents"], "method", &["colar"]),
    is(&["max_cot_tokens"], "method", &["cot", "icot", "coconut", "distill"]),
    is(&["trace"], "method", &["colar", "coconut", "distill"]),
    not(&["top_p"], "temperature", 0.0),
];

/// The sampling flags (spec section 5).
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    #[arg(long, value_name = "T", allow_hyphen_values = true, help = default(
        "Factor on the latents' standard deviation; 0 takes the mean", Sampling::default().latent_temperature
    ))]
    latent_temperature: Option<f32>,
    #[arg(long, value_name = "T", allow_hyphen_values = true, help = default(
        "Temperature of the draw that ends the latents; 0 takes the likeliest", Sampling::default().eol_temperature
    ))]
    eol_temperature: Option<f32>,
    #[arg(long, value_name = "T", allow_hyphen_values = true, help = default(
        "Temperature of tokens; 0 takes the likeliest", Sampling::default().temperature
    ))]
    temperature: Option<f32>,
    #[arg(long, value_name = "P", allow_hyphen_values = true, help = default(
        "Nucleus of tokens: the likeliest that make up this mass", Sampling::default().top_p
    ))]
    top_p: Option<f32>,
    #[arg(long, value_name = "N", help = default("Most latents of a chain", Sampling::default().max_latents))]
    max_latents: Option<usize>,
    #[arg(long, value_name = "N", help = default(
        "Most tokens of a written chain", Sampling::default().max_cot_tokens
    ))]
    max_cot_tokens: Option<usize>,
    #[arg(long, value_name = "N", help = default("Most tokens of the answer", Sampling::default().max_new_tokens))]
    max_new_tokens: Option<usize>,
    /// Seed of all draws
    #[arg(long, default_value_t = Sampling::default().seed)]
    seed: u64,
    /// Deterministic: every temperature 0
    #[arg(long, conflicts_with_all = ["latent_temperature", "eol_temperature", "temperature", "top_p"])]
    pub greedy: bool,
}

/// A help with the flag's default.
fn default(help: &str, value: impl std::fmt::Display) -> String {
    format!("{help} [default: {value}]")
}

impl SamplingArgs {
    /// The settings, checked.
    ///
    /// # Errors
    /// [`Error::Usage`] naming a value out of range.
    pub fn sampling(&self) -> Result<Sampling> {
        let d = Sampling::default();
        let sampling = Sampling {
            latent_temperature: self.latent_temperature.unwrap_or(d.latent_temperature),
            eol_temperature: self.eol_temperature.unwrap_or(d.eol_temperature),
            temperature: self.temperature.unwrap_or(d.temperature),
            top_p: self.top_p.unwrap_or(d.top_p),
            max_latents: self.max_latents.unwrap_or(d.max_latents),
            max_cot_tokens: self.max_cot_tokens.unwrap_or(d.max_cot_tokens),
            max_new_tokens: self.max_new_tokens.unwrap_or(d.max_new_tokens),
            seed: self.seed,
            ..d
        };
        let sampling = if self.greedy { sampling.greedy() } else { sampling };
        sampling.validate()?;
        Ok(sampling)
    }

    /// Fails on a flag that is without effect under all of these methods, as `--method` names them.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the flag and what it goes with.
    pub fn check(&self, methods: &[&str], trace: bool) -> Result<()> {
        let given = [
            ("latent_temperature", self.latent_temperature.is_some()),
            ("eol_temperature", self.eol_temperature.is_some()),
            ("top_p", self.top_p.is_some()),
            ("max_latents", self.max_latents.is_some()),
            ("max_cot_tokens", self.max_cot_tokens.is_some()),
            ("trace", trace),
        ];
        let temperature = Value::from(self.temperature.unwrap_or(Sampling::default().temperature));
        let under =
            |method: &str| BTreeMap::from([("method", method.into()), ("temperature", temperature.clone())]);
        let values: Vec<BTreeMap<&str, Value>> = methods.iter().map(|method| under(method)).collect();
        for (flag, _) in given.into_iter().filter(|(_, given)| *given) {
            for condition in CONDITIONS.iter().filter(|c| c.flags.contains(&flag)) {
                if !values.iter().any(|values| condition.holds(values.get(condition.on))) {
                    return Err(Error::usage(format!("`{flag}` goes {}", condition.words())));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command, FromArgMatches};

    use super::*;

    fn says(args: &[&str], methods: &[&str], trace: bool) -> Option<String> {
        let command = SamplingArgs::augment_args(Command::new("c"));
        let matches = command.get_matches_from([&["c"], args].concat());
        let error = SamplingArgs::from_arg_matches(&matches).unwrap().check(methods, trace).err()?;
        assert_eq!(error.exit_code(), 2);
        Some(error.to_string())
    }

    #[test]
    fn a_flag_that_no_method_looks_at_is_refused() {
        let latents = &["--max-latents", "3"][..];
        assert_eq!(says(latents, &["cot"], false).unwrap(), "`max_latents` goes with `method` colar");
        assert_eq!(says(latents, &["cot", "colar"], false), None);
        let written = &["--max-cot-tokens", "3"][..];
        assert_eq!(
            says(written, &["colar"], false).unwrap(),
            "`max_cot_tokens` goes with `method` cot or icot or coconut or distill"
        );
        assert_eq!(says(written, &["distill"], false), None);
        let nucleus = &["--temperature", "0", "--top-p", "0.5"][..];
        assert_eq!(says(nucleus, &["cot"], false).unwrap(), "`top_p` goes with `temperature` other than 0");
        assert_eq!(says(&["--top-p", "0.5"], &["cot"], false), None);
        assert_eq!(
            says(&[], &["plain"], true).unwrap(),
            "`trace` goes with `method` colar or coconut or distill"
        );
        assert_eq!(says(&["--greedy"], &["colar"], true), None);
    }
}
