//! Writing to a terminal, or to a file or pipe in its place, any of which may be gone or full.
//!
//! The print macros panic when they cannot write. Nothing under `cli` uses them: a command whose product is what it
//! prints ends when nobody reads it, and a run goes on without its terminal.

use std::io::{ErrorKind, Write};
use std::path::Path;

use crate::{Error, Result};

/// The name of standard output in errors.
const STDOUT: &str = "standard output";

/// A line on standard error: progress, hints and the error a command ends with. Lost where it cannot be written.
pub fn note(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
}

/// A line on standard output of a command whose results are in files. Lost where it cannot be written.
pub fn tell(text: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush());
}

/// The error of a failed write to standard output.
pub fn unprinted(source: std::io::Error) -> Error {
    Error::Io { path: STDOUT.into(), source }
}

/// Writes the product of a command to standard output.
///
/// # Errors
/// [`Error::Io`] when it cannot be written, also when its reader has gone: see [`is_unread`].
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(unprinted)
}

/// [`print`] with an end of line.
///
/// # Errors
/// As [`print`].
pub fn line(text: impl AsRef<str>) -> Result<()> {
    print(&format!("{}\n", text.as_ref()))
}

/// Whether an error says that the reader of standard output has gone, as `head` does once it has its lines. The
/// command ends there, and has not failed.
pub fn is_unread(error: &Error) -> bool {
    let to_stdout = |path: &Path| path == Path::new(STDOUT) || path == Path::new("/dev/stdout");
    matches!(error, Error::Io { path, source } if to_stdout(path) && source.kind() == ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reader_of_standard_output_may_leave() {
        let error = |path: &str, kind: ErrorKind| Error::io(path)(kind.into());
        assert!(is_unread(&error(STDOUT, ErrorKind::BrokenPipe)));
        assert!(is_unread(&error("/dev/stdout", ErrorKind::BrokenPipe)));
        assert!(!is_unread(&error(STDOUT, ErrorKind::StorageFull)));
        assert!(!is_unread(&error("plot.svg", ErrorKind::BrokenPipe)));
        assert!(!is_unread(&Error::other("broken pipe")));
    }
}
