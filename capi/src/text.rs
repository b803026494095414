//! Texts in and out.

use std::ffi::{CStr, CString, c_char};

use engine::{Error, Result};

/// A text that C gave, for as long as the call lasts; `what` names it in errors.
///
/// # Safety
/// `text` is NULL, or points to bytes that end in a NUL and live as long as the call.
pub unsafe fn given<'a>(text: *const c_char, what: &str) -> Result<&'a str> {
    // SAFETY: the same contract.
    unsafe { optional(text, what) }?.ok_or_else(|| Error::usage(format!("`{what}` is NULL")))
}

/// As [`given`], where NULL stands for no text.
///
/// # Safety
/// As [`given`].
pub unsafe fn optional<'a>(text: *const c_char, what: &str) -> Result<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: it is not NULL, so by the contract it ends in a NUL and lives long enough.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map(Some).map_err(|_| Error::usage(format!("`{what}` is not UTF-8")))
}

/// A text with a NUL at its end, for those that C has no length of: a NUL within becomes a space.
pub fn c_string(mut text: String) -> CString {
    if text.contains('\0') {
        text = text.replace('\0', " ");
    }
    CString::new(text).unwrap_or_default()
}

/// The bytes of a text and a NUL.
pub fn terminated(text: String) -> Vec<u8> {
    let mut bytes = text.into_bytes();
    bytes.push(0);
    bytes
}

/// Writes a text as snprintf does: as much of it as there is room for before a NUL, and gives the bytes of all of it.
///
/// # Safety
/// `buffer` has `size` bytes that nothing else uses meanwhile, or `size` is 0.
pub unsafe fn write(text: &str, buffer: *mut c_char, size: usize) -> i64 {
    if let Some(room) = size.checked_sub(1)
        && !buffer.is_null()
    {
        let len = text.len().min(room);
        // SAFETY: `len + 1` is at most `size`, and a text of ours does not overlap the caller's buffer.
        unsafe {
            buffer.copy_from_nonoverlapping(text.as_ptr().cast(), len);
            buffer.add(len).write(0);
        }
    }
    text.len() as i64
}
