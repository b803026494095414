//! Options in errors and in helps, as flags.
//!
//! The library names an option by its field, as a user of the crate knows it: `batch_size`. A user of the command line
//! gave a flag, and reads of that: --batch-size.

use std::collections::BTreeSet;

use clap::{Arg, Command};

use super::sampling;
use crate::Error;
use crate::train::conditions;

/// Fields whose flags have names of their own.
const OTHERS: [(&str, &str); 6] = [
    ("adapters", "adapter"),
    ("compression_factor", "cf"),
    ("compression_factors", "cf"),
    ("settings", "config"),
    ("tests", "test"),
    ("variants", "methods"),
];

/// The text of an error of `command`, its options spelled as the flags of any subcommand.
pub fn spelled(error: &Error, command: &Command) -> String {
    let text = error.to_string();
    // Others quote files, whose words in backticks are fields of theirs.
    let ours =
        matches!(error, Error::Usage(_) | Error::Other(_) | Error::NonFinite { .. } | Error::Diverged { .. });
    if ours { as_flags(&text, &flags(command)) } else { text }
}

/// A text with the options in backticks spelled as flags, as far as these are `known`.
fn as_flags(text: &str, known: &BTreeSet<String>) -> String {
    let mut parts = text.split('`');
    let mut spelled = parts.next().unwrap_or_default().to_owned();
    while let Some(quoted) = parts.next() {
        match (flag(quoted, known), parts.next()) {
            (Some(flag), Some(after)) => spelled.extend(["--", &flag, after]),
            (None, Some(after)) => spelled.extend(["`", quoted, "`", after]),
            (_, None) => spelled.extend(["`", quoted]),
        }
    }
    spelled
}

/// Changes a command and all its subcommands by `change`, which is told their names with those above them.
pub fn each(command: Command, change: &dyn Fn(&str, Command) -> Command) -> Command {
    fn under(above: &str, command: Command, change: &dyn Fn(&str, Command) -> Command) -> Command {
        let name = format!("{above} {}", command.get_name());
        let name = name.trim_start();
        change(name, command).mut_subcommands(|sub| under(name, sub, change))
    }
    change("", command).mut_subcommands(|sub| under("", sub, change))
}

/// The command of this name whose flags say in their help what they go with.
pub fn conditioned(name: &str, command: Command) -> Command {
    let known = command.get_arguments().filter_map(Arg::get_long).map(str::to_owned).collect();
    let table = match name {
        "train" => conditions::CONDITIONS,
        "generate" | "eval" | "experiment table1" | "experiment factors" => sampling::CONDITIONS,
        _ => &[],
    };
    let words = |arg: Arg| {
        let name = arg.get_long().unwrap_or_default().replace('-', "_");
        // A condition that the heading states for all its flags is not repeated at each.
        let heading = arg.get_help_heading().unwrap_or_default().to_owned();
        let rows = table.iter().filter(|row| row.flags.contains(&name.as_str()));
        let words = rows.map(|row| as_flags(&row.words(), &known).replace('`', ""));
        let words: Vec<String> = words.filter(|w| !heading.contains(w.trim_start_matches("with "))).collect();
        if words.is_empty() { arg } else { noted(arg, &format!("[{}]", words.join(", "))) }
    };
    command.mut_args(words)
}

/// The flag with a note in its help, before the note of its default.
pub fn noted(arg: Arg, note: &str) -> Arg {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    arg.help(match help.split_once(" [default:") {
        Some((before, after)) => format!("{before} {note} [default:{after}"),
        None => format!("{help} {note}"),
    })
}

/// The flag that sets a field, if it is an option's.
fn flag(field: &str, known: &BTreeSet<String>) -> Option<String> {
    let other = OTHERS.iter().find(|(of, _)| *of == field);
    let flag = other.map_or_else(|| field.replace('_', "-"), |(_, flag)| (*flag).to_owned());
    known.contains(&flag).then_some(flag)
}

/// The flags of a command and its subcommands.
fn flags(command: &Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(|a| a.get_long()).map(str::to_owned);
    own.chain(command.get_subcommands().flat_map(flags)).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn of(error: &Error) -> String {
        spelled(error, &super::super::Cli::command())
    }

    #[test]
    fn options_become_flags() {
        for (text, want) in [
            ("`batch_size` must be at least 1", "--batch-size must be at least 1"),
            ("a smaller `lr` or `tests`, `cf_list`", "a smaller --lr or --test, --cf-list"),
            ("`none_of_ours` and `run me` stay", "`none_of_ours` and `run me` stay"),
            ("an odd ` and a `lr", "an odd ` and a `lr"),
            ("", ""),
        ] {
            assert_eq!(of(&Error::usage(text)), want);
            assert_eq!(of(&Error::other(text)), want);
        }
    }

    #[test]
    fn a_help_names_what_its_flag_goes_with() {
        let help = |command: &str, flag: &str| {
            let command = super::super::command().find_subcommand(command).unwrap().clone();
            let arg = command.get_arguments().find(|a| a.get_long() == Some(flag)).unwrap();
            arg.get_help().unwrap().to_string()
        };
        for (command, flag, says) in [
            ("train", "lora-r", "Rank of the adapter [without --full] [range: 1 to 65536] [default: 128]"),
            ("train", "freeze-embedding", "[with --full]"),
            ("train", "latent-noise", "[with --stage sft, with --method colar, with --latent-loss mse]"),
            (
                "train",
                "thoughts",
                "[with --stage sft, with --method distill] [range: 1 to 1024] [default: 6]",
            ),
            ("train", "c-max", "[with --stage sft, with --method colar, without --cf-list]"),
            ("train", "val-every", "[with --val]"),
            ("train", "top-p", "Nucleus of a rollout's answer [with --temperature other than 0]"),
            ("generate", "max-latents", "[with --method colar] [range: 1 to 1048576] [default: 64]"),
        ] {
            assert!(help(command, flag).contains(says), "{command} --{flag}: {}", help(command, flag));
        }
        assert!(!help("train", "group-size").contains("with"), "its heading says --stage rl");
    }

    #[test]
    fn words_of_files_are_left_alone() {
        let error = Error::Line { path: "a.toml".into(), line: 3, what: "unknown field `method`".into() };
        assert_eq!(of(&error), "a.toml, line 3: unknown field `method`");
    }

    #[test]
    fn fields_with_other_flags_have_none_of_their_own() {
        let known = flags(&super::super::Cli::command());
        for (field, flag) in OTHERS {
            assert!(known.contains(flag), "--{flag}");
            assert!(!known.contains(&field.replace('_', "-")), "--{field}");
        }
    }
}
