//! Flags that do not exist: the error names the one that was meant.

use std::ffi::OsString;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::train::nearest;

/// The error that these words make, with a hint at the nearest flag of the subcommand, in the place of clap's own: clap knows slips, and not what
/// means the same in other programs.
pub(super) fn hinted(mut error: clap::Error, root: &Command, words: &[OsString]) -> clap::Error {
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidArg) else { return error };
    let given = given.trim_start_matches('-').to_owned();
    let mut command = root;
    // Values of flags that come before a subcommand are none of its names: subcommands come first here.
    for word in words {
        match command.find_subcommand(word) {
            Some(next) => command = next,
            None => break,
        }
    }
    let flags = || command.get_arguments().filter_map(|arg| arg.get_long());
    if let Some(name) = nearest(&given, flags().collect::<Vec<_>>().into_iter()) {
        error.insert(ContextKind::SuggestedArg, ContextValue::String(format!("--{name}")));
    }
    error
}
