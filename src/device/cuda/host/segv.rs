//! Says which kernel it was when an access meets a guard page.
//!
//! The operating system ends the program then, which is right, but its message names no one.

use std::cell::Cell;
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Once;

use crate::device::cuda::kernels::Kernel;

thread_local! {
    /// The kernel that this thread runs a block of.
    static RUNNING: Cell<Option<&'static Kernel>> = const { Cell::new(None) };
}

/// The handler of the signal before ours.
static mut BEFORE: MaybeUninit<libc::sigaction> = MaybeUninit::uninit();

/// Runs `f`, of which kernel an invalid access would be.
pub(super) fn naming(kernel: &'static Kernel, f: impl FnOnce()) {
    RUNNING.set(Some(kernel));
    f();
    RUNNING.set(None);
}

/// Installs the handler, once.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: a zeroed sigaction is valid; the handler does only things that a handler may do. BEFORE is written
        // here, once, and read by the handler, which cannot run for a kernel before this has returned.
        unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = handle as extern "C" fn(c_int) as usize;
            // On the stack that Rust gives each thread for the purpose: the coroutine's own may have overflowed.
            action.sa_flags = libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(libc::SIGSEGV, &raw const action, (&raw mut BEFORE).cast());
        }
    });
}

/// Writes one line if a kernel runs, and lets the access happen again under the handler of before.
extern "C" fn handle(_: c_int) {
    let say = |text: &str| {
        // SAFETY: write is allowed in a handler; the text is valid for its length.
        unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    };
    if let Some(kernel) = RUNNING.try_with(Cell::get).ok().flatten() {
        say("cuda-host: kernel ");
        say(kernel.name);
        say(" accessed memory outside of its buffers\n");
    }
    // SAFETY: `install` wrote BEFORE when it set this handler.
    unsafe { libc::sigaction(libc::SIGSEGV, (&raw const BEFORE).cast(), ptr::null_mut()) };
}
