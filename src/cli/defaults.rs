//! The defaults of `train` in its help, read from the options that a run without flags has.

use std::collections::BTreeMap;

use clap::Command;
use serde_json::Value;

use crate::model::merge::Merge;
use crate::train::{RlOptions, Stage, TrainFlags, TrainOptions};

/// Appends to the help of every flag of [`TrainFlags`] the value that it has when it is not given.
///
/// A help that names its default already, since that is no value but a rule, stays as it is.
pub(super) fn shown(command: Command) -> Command {
    let [sft, rl] = flags().map(|flags| values(&flags));
    command.mut_args(|arg| {
        let Some(help) = arg.get_help().map(ToString::to_string).filter(|help| !help.contains("[default:"))
        else {
            return arg;
        };
        let name = arg.get_long().unwrap_or_default();
        let default = match (sft.get(name), rl.get(name)) {
            (Some(sft), Some(rl)) if sft != rl => format!("{sft}, with --stage rl {rl}"),
            (Some(value), _) | (None, Some(value)) => value.clone(),
            (None, None) => return arg,
        };
        arg.help(format!("{help} [default: {default}]"))
    })
}

/// The flags that say all defaults: of supervised training, and of reinforcement learning.
fn flags() -> [TrainFlags; 2] {
    let options = TrainOptions::default();
    let sft = TrainFlags {
        stage: Some(Stage::default()),
        c_max: options.compression_factors.iter().copied().max(),
        cf_list: None,
        merge: Some(Merge::default()),
        ..options.to_flags()
    };
    [sft, TrainFlags { stage: None, ..TrainFlags::from(&RlOptions::default()) }]
}

/// Values as text, by the names of their flags; without switches that are off, and without paths.
fn values(flags: &TrainFlags) -> BTreeMap<String, String> {
    // By way of text, in which a float32 has as many digits as it needs.
    let text = serde_json::to_string(flags).unwrap_or_default();
    let fields: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap_or_default();
    fields.into_iter().filter_map(|(name, value)| Some((name, shown_value(&value)?))).collect()
}

fn shown_value(value: &Value) -> Option<String> {
    match value {
        Value::Null | Value::Bool(false) | Value::Object(_) => None,
        Value::Bool(true) => Some("true".to_owned()),
        Value::String(text) => (!text.is_empty()).then(|| text.clone()),
        Value::Array(values) => Some(values.iter().filter_map(shown_value).collect::<Vec<_>>().join(",")),
        Value::Number(number) => number.as_f64().map(|x| {
            let small = x != 0.0 && x.abs() < 1e-3;
            if small { format!("{x:e}") } else { format!("{x}") }
        }),
    }
}

#[cfg(test)]
mod tests {
    use clap::Args;

    use super::*;

    fn help(flag: &str) -> String {
        let command = shown(TrainFlags::augment_args(Command::new("train")));
        let arg = command.get_arguments().find(|a| a.get_long() == Some(flag)).unwrap();
        arg.get_help().unwrap().to_string()
    }

    #[test]
    fn a_default_is_that_of_the_options() {
        assert_eq!(help("ce-weight"), "Weight of the cross-entropy [default: 1]");
        assert_eq!(
            help("lora-targets"),
            "Adapted projections; all-linear means all seven [default: q_proj,v_proj]"
        );
        assert_eq!(help("lr"), "Peak learning rate [default: 1e-4, with --stage rl 1e-6]");
        assert_eq!(help("c-max"), "Compression factors are drawn from 1..=N [default: 5]");
        assert_eq!(help("top-p"), "Nucleus of a rollout's answer [default: 0.9]");
        assert!(help("use-answer-loss").ends_with("[default: true]"));
    }

    #[test]
    fn a_rule_stays_and_what_has_no_default_has_none() {
        assert_eq!(help("val-every"), "Steps between validations [default: an epoch]");
        for flag in ["model", "out", "full", "max-steps", "cf-list"] {
            assert!(!help(flag).contains("default: 0") && !help(flag).ends_with("[default: ]"), "{flag}");
        }
        assert!(!help("model").contains("default") && !help("full").contains("default"));
    }
}
