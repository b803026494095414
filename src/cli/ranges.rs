//! The numbers that the flags of every command take: one table, from which they are checked and their help says so.
//!
//! The flags of `train` have their ranges in the library, since its TOML files hold them too.

use std::any::TypeId;
use std::str::FromStr;

use clap::{Arg, Command};

use super::flags::noted;
use crate::data::synth;
use crate::device::THREADS;
use crate::infer::LENGTH;
use crate::model::colar_config::MOST_THOUGHTS;
use crate::range::{Numbers, Range};
use crate::train::ranges;

/// The command whose flags are the library's.
const TRAIN: &str = "train";

/// Numbers of things that are counted one by one: samples, steps.
const COUNT: Range = Range::Whole(1, 1_000_000_000);
/// Numbers of things that are in memory together.
const TOGETHER: Range = Range::Whole(1, 4096);
/// Widths and ranks of matrices.
const WIDTH: Range = Range::Whole(1, 1 << 16);
/// Numbers of runs.
const RUNS: Range = Range::Whole(1, 1000);

/// Ranges of flags, under the commands that are named, or wherever the flag is.
const RANGES: &[(&[&str], &[&str], Range)] = &[
    (&["data synth"], &["train", "val", "test"], Range::Whole(0, 10_000_000)),
    (&["data synth"], &["min-steps", "max-steps"], Range::Whole(1, synth::MAX_STEPS as u64)),
    (&["data synth"], &["max-value"], Range::Whole(8, synth::MAX_VALUE as u64)),
    (&["data synth"], &["check-percent"], Range::Whole(0, 100)),
    (&["experiment cost"], &["batch-size"], Range::Whole(1, 1 << 20)),
    (&["experiment cost"], &["lrs"], RUNS),
    (&["bench decode"], &["latents"], Range::Whole(0, 1 << 20)),
    (&["bench decode"], &["new-tokens"], Range::Whole(3, 1 << 20)),
    (&["bench rl"], &["group-size"], Range::Whole(2, 4096)),
    (&["experiment table1"], &["warm-updates"], Range::Whole(0, 1_000_000_000)),
    (&["experiment table1"], &["jobs"], Range::Whole(1, 1024)),
    (&["experiment factors"], &["jobs"], Range::Whole(1, 1024)),
    (&["import"], &["thoughts"], Range::Whole(1, MOST_THOUGHTS as u64)),
    (&["import"], &["embeds-std", "lora-alpha"], Range::Above(0.0)),
    (&["serve"], &["port"], Range::Whole(0, 65535)),
    (&["serve"], &["max-concurrency", "max-queued-requests"], TOGETHER),
    (&["serve"], &["max-queued-tokens", "cache-positions"], Range::Whole(16, 1 << 30)),
    (&["serve"], &["request-timeout"], Range::AboveTo(0.0, 1e6)),
    (&["serve"], &["grace-period"], Range::Between(0.0, 1e6)),
    (&["bench serve"], &["gather-steps"], Range::Whole(0, 1 << 20)),
    (&[], &["threads"], THREADS),
    (&[], &["seed"], Range::Whole(0, u64::MAX)),
    (&[], &["latent-temperature", "eol-temperature", "temperature"], Range::Least(0.0)),
    (&[], &["top-p", "share"], Range::AboveTo(0.0, 1.0)),
    (&[], &["max-latents", "max-cot-tokens", "max-new-tokens", "latents", "answer-tokens"], LENGTH),
    (&[], &["batch-size", "sizes"], TOGETHER),
    (&[], &["batch-tokens", "tokens", "sequence", "prefill-tokens"], Range::Whole(1, 1 << 20)),
    (&[], &["limit", "samples", "updates", "passes", "shorten", "requests", "n"], COUNT),
    (&[], &["seeds", "steps", "pairs", "pass-at", "by-length"], RUNS),
    (&[], &["cf"], Range::Whole(1, 1024)),
    (&[], &["lora-r", "latent-head-size", "head-size"], WIDTH),
    (&[], &["lrs", "warm-lr", "peak", "loads"], Range::Above(0.0)),
    (&[], &["seconds"], Range::Between(0.0, 60.0)),
];

/// The range of a flag of a command, which is named with those above it.
fn range(command: &str, flag: &str) -> Option<Range> {
    if command == TRAIN {
        return ranges::range(&flag.replace('-', "_"));
    }
    let row = RANGES.iter().find(|(commands, flags, _)| {
        (commands.is_empty() || commands.contains(&command)) && flags.contains(&flag)
    });
    row.map(|(_, _, range)| *range)
}

/// The types of numbers that flags have.
#[derive(Clone, Copy)]
enum Kind {
    Usize,
    U64,
    U32,
    U16,
    F64,
    F32,
}

/// The kind of number that a flag takes; `None` if it takes none.
fn kind(arg: &Arg) -> Option<Kind> {
    if !arg.get_action().takes_values() {
        return None;
    }
    let id = arg.get_value_parser().type_id();
    let is = |of: TypeId| id == of;
    [
        (TypeId::of::<usize>(), Kind::Usize),
        (TypeId::of::<u64>(), Kind::U64),
        (TypeId::of::<u32>(), Kind::U32),
        (TypeId::of::<u16>(), Kind::U16),
        (TypeId::of::<f64>(), Kind::F64),
        (TypeId::of::<f32>(), Kind::F32),
    ]
    .into_iter()
    .find_map(|(of, kind)| is(of).then_some(kind))
}

/// The command of this name whose flags refuse numbers outside their ranges and name these.
pub(super) fn stated(name: &str, command: Command) -> Command {
    command.mut_args(|arg| {
        let found = arg.get_long().and_then(|flag| range(name, flag));
        let (Some(kind), Some(range)) = (kind(&arg), found) else { return arg };
        let arg = noted(arg, &format!("[range: {range}]"));
        // Those of `train` are checked where they meet the ones of its file.
        if name == TRAIN { arg } else { within(arg, kind, range) }
    })
}

fn within(arg: Arg, kind: Kind, range: Range) -> Arg {
    match kind {
        Kind::Usize => arg.value_parser(move |text: &str| number::<usize>(text, range)),
        Kind::U64 => arg.value_parser(move |text: &str| number::<u64>(text, range)),
        Kind::U32 => arg.value_parser(move |text: &str| number::<u32>(text, range)),
        Kind::U16 => arg.value_parser(move |text: &str| number::<u16>(text, range)),
        Kind::F64 => arg.value_parser(move |text: &str| number::<f64>(text, range)),
        Kind::F32 => arg.value_parser(move |text: &str| number::<f32>(text, range)),
    }
}

/// A number in its range, from text.
fn number<T: Numbers + FromStr>(text: &str, range: Range) -> Result<T, String> {
    match text.parse::<T>() {
        Ok(number) if number.outside(range).is_none() => Ok(number),
        _ => Err(format!("it takes {range}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::flags::each;
    use super::*;

    /// Every flag of every command, with the name of its command.
    fn flags(command: Command) -> Vec<(String, Arg)> {
        let all = std::cell::RefCell::new(Vec::new());
        each(command, &|name, command| {
            all.borrow_mut().extend(command.get_arguments().map(|arg| (name.to_owned(), arg.clone())));
            command
        });
        all.into_inner()
    }

    #[test]
    fn every_number_has_a_range_in_its_help() {
        let all = flags(super::super::command());
        let numbers: Vec<_> = all.iter().filter(|(_, arg)| kind(arg).is_some()).collect();
        assert!(numbers.len() > 80, "{}", numbers.len());
        for (command, arg) in numbers {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("[range: "), "{command} {}: {help}", arg.get_id());
        }
    }

    #[test]
    fn every_row_is_of_some_flag() {
        let all = flags(super::super::Cli::command());
        for (commands, names, _) in RANGES {
            for name in *names {
                let of = |(command, arg): &&(String, Arg)| {
                    arg.get_long() == Some(name)
                        && kind(arg).is_some()
                        && (commands.is_empty() || commands.contains(&command.as_str()))
                };
                assert!(all.iter().any(|flag| of(&flag)), "{name} of {commands:?}");
            }
        }
    }

    #[test]
    fn a_number_outside_is_refused_with_the_range() {
        let parsed =
            |args: &[&str]| super::super::command().try_get_matches_from([&["colar-engine"], args].concat());
        for (args, says) in [
            (&["eval", "--data", "d", "--seeds", "18446744073709551615"][..], "takes 1 to 1000"),
            (&["eval", "--data", "d", "--threads", "100000"], "takes 0 to 1024"),
            (&["generate", "--top-p", "0", "q"], "takes numbers above 0 and at most 1"),
            (&["generate", "--temperature", "nan", "q"], "takes numbers of at least 0"),
            (&["score", "--data", "d", "--cf", "1.5"], "takes 1 to 1024"),
            (&["experiment", "table1", "--lrs", "1e-3,0"], "takes numbers above 0"),
        ] {
            let error = parsed(args).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(says), "{args:?}: {error}");
        }
        assert!(parsed(&["eval", "--data", "d", "--seeds", "1000", "--threads", "0"]).is_ok());
    }
}
