//! The kernels of `cuda/`, compiled so that every access of theirs is seen (`cuda/host/observed`).
//!
//! `COLAR_TEST_ACCESSES` has the tests of `tests/cuda_host` run them in place of the kernels that are linked in: `1` takes
//! the repository's, a directory those of a copy of `cuda/` in it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use colar_engine::device::cuda::host::observed_library::{Instrument, compile, lines_of};

use super::root;

/// Whether accesses are to be seen.
pub fn wanted() -> bool {
    std::env::var_os("COLAR_TEST_ACCESSES").is_some()
}

/// The library that holds accesses against barriers, compiled if it is not there yet.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| of(Instrument::Barriers))
}

/// The library that counts accesses.
pub fn counting_library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| of(Instrument::Traffic))
}

fn of(instrument: Instrument) -> PathBuf {
    let given = std::env::var_os("COLAR_TEST_ACCESSES").filter(|given| given != "1");
    let cuda = given.map_or_else(root, PathBuf::from).join("cuda");
    compile(&cuda, instrument, &Path::new(env!("CARGO_TARGET_TMPDIR")).join("accesses")).unwrap()
}

/// The text of a fault with the lines of the source in place of addresses, where addr2line is there to find them.
pub fn with_lines(text: &str) -> String {
    let mut parts = text.split("[+");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (address, after) = part.split_once(']').unwrap_or((part, ""));
        out += &line_of(address).unwrap_or_else(|| format!("[+{address}]"));
        out += after;
    }
    out
}

fn line_of(address: &str) -> Option<String> {
    let place = u64::from_str_radix(address.strip_prefix("0x")?, 16).ok()?;
    lines_of(library(), &[place]).pop()?
}
