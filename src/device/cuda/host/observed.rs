//! Kernels compiled a second time, so that every access of theirs is seen (`cuda/host/observed`).
//!
//! A library of them takes the place of the kernels that are linked in: it has the same entry points, and is told of
//! launches, from whose accesses it finds those that no barrier orders, or what they move.

use std::ffi::{CStr, c_char, c_void};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use libloading::{Library, Symbol};

use super::block::{Code, colar_host_fault, colar_host_wait};
use super::memory::Range;
use crate::device::cuda::driver::Launch;
use crate::device::cuda::kernels::{Entry, Kernel};
use crate::{Error, Result};

type Wait = extern "C" fn(*const c_void, u32, u32);
type Fault = extern "C" fn(*const c_void, *const c_char);

/// A loaded library of observed kernels.
#[derive(Debug)]
pub(super) struct Observed {
    library: Library,
    begin: unsafe extern "C" fn(*const Range, usize, u32, u32),
    end: unsafe extern "C" fn() -> *const c_char,
    set: unsafe extern "C" fn(*mut c_void, *mut c_void),
}

/// The library's state is one for the process, so launches take turns.
static TURN: Mutex<()> = Mutex::new(());

impl Observed {
    /// Loads the library at `path`.
    ///
    /// # Safety
    /// It is one that [`compile`](super::observed_library::compile) made of these kernels.
    pub(super) unsafe fn load(path: &Path) -> Result<Self> {
        let failed = |e: libloading::Error| Error::file(path, e.to_string());
        // SAFETY: by the caller's promise, loading it runs nothing but its constructors, which set up nothing of ours.
        let library = unsafe { Library::new(path) }.map_err(failed)?;
        // SAFETY: the library defines these functions with these parameters.
        unsafe {
            let connect: Symbol<'_, unsafe extern "C" fn(Wait, Fault)> =
                library.get(b"colar_accesses_connect\0").map_err(failed)?;
            connect(colar_host_wait, colar_host_fault);
            let begin = *library.get(b"colar_accesses_begin\0").map_err(failed)?;
            let end = *library.get(b"colar_accesses_end\0").map_err(failed)?;
            let set = *library.get(b"colar_host_set\0").map_err(failed)?;
            Ok(Observed { library, begin, end, set })
        }
    }

    /// The code of a kernel.
    pub(super) fn code(&self, kernel: &Kernel) -> Result<Code, String> {
        let name = format!("colar_host_{}\0", kernel.name);
        // SAFETY: the library defines an entry point of this kind for every kernel.
        let entry: Symbol<'_, Entry> = unsafe { self.library.get(name.as_bytes()) }
            .map_err(|e| format!("is not in the library: {e}"))?;
        Ok(Code { entry: *entry, set: self.set })
    }

    /// A launch, from its beginning until the result is dropped or asked for the report; `buffers` are all that there are,
    /// in the order of their addresses.
    pub(super) fn begin(&self, launch: &Launch<'_>, buffers: &[Range]) -> Observation<'_> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let blocks = launch.grid[0] * launch.grid[1];
        // SAFETY: the slice is copied; no other launch runs while the turn is held.
        unsafe { (self.begin)(buffers.as_ptr(), buffers.len(), blocks, launch.block) };
        Observation { observed: self, _turn: turn }
    }
}

/// A launch under observation.
pub(super) struct Observation<'a> {
    observed: &'a Observed,
    _turn: MutexGuard<'static, ()>,
}

impl Observation<'_> {
    /// The library's report: the accesses that no barrier orders, or what was counted; `None` where it is empty.
    pub(super) fn end(self) -> Option<String> {
        // SAFETY: a launch began, and no other did since.
        let report = unsafe { (self.observed.end)() };
        if report.is_null() {
            return None;
        }
        // SAFETY: the library's own text, which ends with a zero and stays until the next launch begins.
        Some(unsafe { CStr::from_ptr(report) }.to_string_lossy().into_owned())
    }
}
