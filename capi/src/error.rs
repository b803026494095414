//! The last error of each thread, and the border that no panic crosses.

use std::cell::RefCell;
use std::ffi::{CString, c_char};

use engine::error::caught;
use engine::{Error, Result};

use crate::text::c_string;

/// The kind of an error.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum Status {
    /// There was none.
    Ok = 0,
    /// A parameter is wrong; the line names it in backticks, as the field is called.
    Usage = 1,
    /// As many requests wait as may: submit again later.
    QueueFull = 2,
    /// Anything else: a file, the memory, the device, a fault of the library.
    Other = 3,
}

impl Status {
    fn of(error: &Error) -> Self {
        match error {
            Error::Usage(_) => Status::Usage,
            Error::QueueFull { .. } => Status::QueueFull,
            _ => Status::Other,
        }
    }
}

thread_local! {
    static LAST: RefCell<(Status, CString)> = RefCell::new((Status::Ok, CString::default()));
}

/// Runs the work of a function that C calls; its error, or its panic, becomes the thread's last error, and the function gives
/// `otherwise`.
pub fn guard<T>(otherwise: T, work: impl FnOnce() -> Result<T>) -> T {
    // An object of the library that a panic leaves half done is of the engine, whose locks are good after one, or a handle,
    // which has then ended.
    caught(work).unwrap_or_else(|error| {
        remember(&error);
        otherwise
    })
}

/// Makes an error the thread's last.
pub fn remember(error: &Error) {
    let last = (Status::of(error), c_string(error.to_string()));
    // A thread that is ending has none any more.
    let _ = LAST.try_with(|place| place.replace(last));
}

/// The error of the last function that failed on this thread, in one line without a line feed; empty if none has. A function
/// that succeeds leaves it as it is. The text belongs to the thread, until the next function that fails there.
#[unsafe(no_mangle)]
pub extern "C" fn colar_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().1.as_ptr()).unwrap_or(c"".as_ptr())
}

/// The kind of that error.
#[unsafe(no_mangle)]
pub extern "C" fn colar_last_status() -> Status {
    LAST.try_with(|last| last.borrow().0).unwrap_or(Status::Ok)
}

/// The library's version, as "0.1.0"; never freed.
#[unsafe(no_mangle)]
pub extern "C" fn colar_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}
