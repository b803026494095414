//! Options in errors, as flags.
//!
//! The library names an option by its field, as a user of the crate knows it: `batch_size`. A user of the command line
//! gave a flag, and reads of that: --batch-size.

use std::collections::BTreeSet;

use clap::Command;

use crate::Error;

/// Fields whose flags have names of their own.
const OTHERS: [(&str, &str); 5] = [
    ("adapters", "adapter"),
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
    if !ours {
        return text;
    }
    let known = flags(command);
    let mut parts = text.split('`');
    let mut spelled = parts.next().unwrap_or_default().to_owned();
    while let Some(quoted) = parts.next() {
        match (flag(quoted, &known), parts.next()) {
            (Some(flag), Some(after)) => spelled.extend(["--", &flag, after]),
            (None, Some(after)) => spelled.extend(["`", quoted, "`", after]),
            (_, None) => spelled.extend(["`", quoted]),
        }
    }
    spelled
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
