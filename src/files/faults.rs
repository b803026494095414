//! A mapped file that is cut short while it is in use.
//!
//! Its pages are read when they are touched. One that is no longer there, since the file was overwritten in place or its disk
//! has gone, is no error of a call but the signal SIGBUS, which would end the process without a word. The command line
//! has it say which file it was.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use memmap2::Mmap;

/// A file and where it is mapped. Never freed: the handler may read it at any time.
struct Mapping {
    start: usize,
    end: usize,
    /// The line to print if it is cut short.
    line: String,
    next: *const Mapping,
}

/// The mapping that was made last.
static NEWEST: AtomicPtr<Mapping> = AtomicPtr::new(ptr::null_mut());

/// Whether the handler is in place; without it nothing is kept.
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// From now on a fault in a mapped file ends the process with a line that names it and exit code 1.
pub fn install() {
    // SAFETY: a zeroed sigaction is valid, and `handle` does only what a handler may do.
    let refused = unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = handle as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut())
    };
    INSTALLED.store(refused == 0, Ordering::Release);
}

/// Keeps the name of a mapped file for the handler.
pub(super) fn watch(map: &Mmap, path: &Path) {
    if !INSTALLED.load(Ordering::Acquire) {
        return;
    }
    let start = map.as_ptr().addr();
    let line = format!("error: {}: was cut short, or its disk fails, while it was in use\n", path.display());
    let new = Box::into_raw(Box::new(Mapping { start, end: start + map.len(), line, next: ptr::null() }));
    let mut next = NEWEST.load(Ordering::Acquire);
    loop {
        // SAFETY: nobody else has `new` before the exchange succeeds.
        unsafe { (*new).next = next };
        match NEWEST.compare_exchange_weak(next, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return,
            Err(other) => next = other,
        }
    }
}

/// Names the file whose mapping the address is in and ends the process; any other fault happens again, as if there were no
/// handler.
extern "C" fn handle(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the system passes a valid siginfo to a handler that was installed with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() }.addr();
    let mut at = NEWEST.load(Ordering::Acquire).cast_const();
    // SAFETY: mappings are never freed, and their links lead to older ones.
    while let Some(mapping) = unsafe { at.as_ref() } {
        // The newest first: an older one at the same place is no longer mapped.
        if (mapping.start..mapping.end).contains(&address) {
            // SAFETY: both calls are allowed in a handler; the text is valid for its length.
            unsafe {
                libc::write(2, mapping.line.as_ptr().cast(), mapping.line.len());
                libc::_exit(1);
            }
        }
        at = mapping.next;
    }
    // SAFETY: restoring the default action is allowed in a handler.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
}
