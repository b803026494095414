//! One error type for the crate.
//!
//! Every variant prints as one line that names the file, the tensor, the line or the option at
//! fault. An option is named by its field, in backticks (`batch_size`), in [`Error::Usage`], [`Error::Other`],
//! [`Error::NonFinite`] and [`Error::Diverged`] alone; the command line shows its flag there. It maps [`Error::Usage`] to exit code 2 and all
//! others to 1.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A wrong option or combination of options.
    #[error("{0}")]
    Usage(String),
    /// The operating system refused a file operation.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory concerned.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A file was read but its content is not valid.
    #[error("{}: {what}", path.display())]
    File {
        /// The file at fault.
        path: PathBuf,
        /// The fault.
        what: String,
    },
    /// A line of a text file is malformed.
    #[error("{}, line {line}: {what}", path.display())]
    Line {
        /// The file at fault.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The fault.
        what: String,
    },
    /// A tensor of a weights file is missing or has the wrong shape or dtype.
    #[error("{}, tensor {tensor}: {what}", path.display())]
    Tensor {
        /// The file at fault.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// The fault.
        what: String,
    },
    /// An operation was given buffers whose shapes or dtypes do not fit together.
    #[error("{op}: {what}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The shapes given, and the one needed.
        what: String,
    },
    /// A loss or gradient stopped being a number.
    #[error("step {step}: {what} is not finite: {LESS}")]
    NonFinite {
        /// The optimiser step, counted from 1.
        step: u64,
        /// The value that was not finite.
        what: String,
    },
    /// A loss stayed far above its running mean.
    #[error("step {step}: {what}: {LESS}")]
    Diverged {
        /// The optimiser step, counted from 1.
        step: u64,
        /// The losses of the last steps and the mean before them.
        what: String,
    },
    /// A token was to be chosen from logits that are no numbers.
    #[error("the logits of row {row} are not finite")]
    Logits {
        /// The first such row of the operation.
        row: usize,
    },
    /// As many requests wait as may.
    #[error("the queue is full: {queued} requests wait")]
    QueueFull {
        /// Requests that wait.
        queued: usize,
    },
    /// A run stopped because it was asked to; its training state is saved.
    #[error("stopped after step {step}")]
    Interrupted {
        /// Steps done.
        step: u64,
    },
    /// Anything else, already said in one line.
    #[error("{0}")]
    Other(String),
}

/// The options to change when training diverges.
const LESS: &str = "a smaller `lr`, a longer `warmup` or a smaller `clip` may help";

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An [`Error::Usage`] from anything printable.
    pub fn usage(what: impl Into<String>) -> Self {
        Error::Usage(what.into())
    }

    /// An [`Error::Other`] from anything printable.
    pub fn other(what: impl Into<String>) -> Self {
        Error::Other(what.into())
    }

    /// An [`Error::File`] on `path`.
    pub fn file(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Error::File { path: path.as_ref().to_owned(), what: what.into() }
    }

    /// An [`Error::Tensor`] on `tensor` of `path`.
    pub fn tensor(path: impl AsRef<Path>, tensor: impl Into<String>, what: impl Into<String>) -> Self {
        Error::Tensor { path: path.as_ref().to_owned(), tensor: tensor.into(), what: what.into() }
    }

    /// Attaches `path` to an I/O error, for use in `map_err`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Error::Io { path, source }
    }

    /// The process exit code for this error: 2 for bad usage, 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            _ => 1,
        }
    }
}

/// Runs `work`; a panic becomes an error.
///
/// The caller vouches that whatever `work` leaves behind half done is put right or not used any more.
///
/// # Errors
/// Those of `work`.
pub fn caught<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let what = payload.downcast_ref::<String>().map(String::as_str);
        let what = what.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(Error::other(format!("a fault of the engine: {what}")))
    })
}
