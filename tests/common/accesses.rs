//! The kernels of `cuda/`, compiled so that every access of theirs is seen (`tests/common/accesses.cpp`).
//!
//! `COLAR_TEST_ACCESSES` has the tests of `tests/cuda_host` run them in place of the kernels that are linked in: `1` takes
//! the repository's, a directory those of a copy of `cuda/` in it.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::thread;

use super::root;

/// As build.rs compiles them for the host, but with calls at every access. Structures stay whole, so that an access has
/// the width that it has on a GPU, and reads of what is declared volatile are told apart: they race on purpose.
const KERNELS: &str = "-x c++ -std=c++17 -O1 -g1 -fPIC -w -ffp-contract=off -DCOLAR_ACCESSES -fno-tree-sra \
    -fsanitize=thread --param tsan-instrument-func-entry-exit=0 --param tsan-distinguish-volatile=1";

/// The rest, in which nothing is to be seen.
const REST: &str = "-x c++ -std=c++17 -O2 -g1 -fPIC -w -ffp-contract=off -DCOLAR_ACCESSES";

/// Whether accesses are to be seen.
pub fn wanted() -> bool {
    std::env::var_os("COLAR_TEST_ACCESSES").is_some()
}

/// The library, compiled if it is not there yet.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let given = std::env::var_os("COLAR_TEST_ACCESSES").filter(|given| given != "1");
        compile(&given.map_or_else(root, PathBuf::from).join("cuda"))
    })
}

/// Files of a directory with one of these extensions, in order.
fn files(dir: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let of_kind =
        |path: &PathBuf| path.extension().and_then(OsStr::to_str).is_some_and(|e| extensions.contains(&e));
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).filter(of_kind).collect();
    found.sort();
    found
}

/// Compiles the kernels of `cuda` into a library, whose name says what it was made of.
fn compile(cuda: &Path) -> PathBuf {
    let host = cuda.join("host");
    let instrument = root().join("tests/common/accesses.cpp");
    let sources = [files(cuda, &["cu"]), files(&host, &["cu", "cpp"]), vec![instrument]].concat();
    let headers = [files(cuda, &["cuh"]), files(&host, &["h"])].concat();
    let mut of_headers = DefaultHasher::new();
    (KERNELS, REST).hash(&mut of_headers);
    headers.iter().for_each(|path| std::fs::read(path).unwrap().hash(&mut of_headers));
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("accesses");
    std::fs::create_dir_all(&out).unwrap();
    let objects: Vec<(PathBuf, PathBuf)> = sources
        .into_iter()
        .map(|source| {
            let mut hasher = of_headers.clone();
            std::fs::read(&source).unwrap().hash(&mut hasher);
            let name = source.file_stem().unwrap().to_string_lossy().into_owned();
            let object = out.join(format!("{name}-{:016x}.o", hasher.finish()));
            (source, object)
        })
        .collect();
    let mut all = DefaultHasher::new();
    objects.iter().for_each(|(_, object)| object.hash(&mut all));
    let library = out.join(format!("libaccesses-{:016x}.so", all.finish()));
    if library.exists() {
        return library;
    }
    let left = Mutex::new(objects.iter().filter(|(_, object)| !object.exists()).collect::<Vec<_>>());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((source, object)) = { left.lock().unwrap().pop() } {
                    let kernels = source.extension() == Some(OsStr::new("cu"));
                    let flags = if kernels { KERNELS } else { REST };
                    let what = [OsStr::new("-I"), cuda.as_os_str(), OsStr::new("-c"), source.as_os_str()];
                    build(object, &what, flags);
                }
            });
        }
    });
    // Without -fsanitize=thread, whose library is replaced.
    let parts: Vec<&OsStr> =
        [OsStr::new("-shared")].into_iter().chain(objects.iter().map(|(_, o)| o.as_os_str())).collect();
    build(&library, &parts, "");
    library
}

/// Runs the C++ compiler; what it makes is at its place whole or not at all.
fn build(to: &Path, what: &[&OsStr], flags: &str) {
    let partial = to.with_extension(format!("{}.partial", std::process::id()));
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let mut command = Command::new(compiler);
    command.args(flags.split_whitespace()).args(what).arg("-o").arg(&partial);
    let done = command.output().unwrap_or_else(|e| panic!("the C++ compiler: {e}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    std::fs::rename(&partial, to).unwrap();
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
    // A call returns to the instruction after it, which may belong to the next line.
    let before = u64::from_str_radix(address.strip_prefix("0x")?, 16).ok()?.checked_sub(1)?;
    let done = Command::new("addr2line")
        .args(["-i", "-s", "-e"])
        .arg(library())
        .arg(format!("{before:#x}"))
        .output()
        .ok()?;
    let lines = String::from_utf8(done.stdout).ok()?;
    let lines: Vec<&str> = lines.lines().map(|line| line.split(' ').next().unwrap_or(line)).collect();
    (!lines.is_empty() && !lines[0].starts_with('?')).then(|| lines.join(" in "))
}
