//! Errors of the driver.

use cudarc::driver::result::DriverError;

use crate::Error;

/// The error of a call to the driver, with the purpose of the call.
pub(super) fn failed(what: &str, e: DriverError) -> Error {
    let text = e.error_string().map_or_else(|_| format!("{:?}", e.0), |s| s.to_string_lossy().into_owned());
    Error::other(format!("cuda: {what}: {text}"))
}
