//! The kernels of `cuda/` compiled once more, into a library that sees every access of theirs (`cuda/host/observed`).

use std::ffi::{OsStr, OsString};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::{Error, Result};

/// The use that is made of the accesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instrument {
    /// They are held against the barriers that order them.
    Barriers,
    /// They are counted.
    Traffic,
}

impl Instrument {
    fn name(self) -> &'static str {
        match self {
            Instrument::Barriers => "barriers",
            Instrument::Traffic => "traffic",
        }
    }
}

/// Flags of the C++ compiler, in the directory of the instruments: as build.rs compiles the kernels for the host, but with
/// calls at every access. Structures stay whole, so that an access has the width that it has on a GPU, and reads of what is
/// declared volatile are told apart: they race on purpose.
const KERNELS: &str = "kernels.flags";

/// The same for the rest, in which nothing is to be seen.
const REST: &str = "rest.flags";

/// Files of a directory with one of these extensions, in order.
fn files(dir: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).map_err(Error::io(dir))?;
    let paths: Result<Vec<PathBuf>> =
        entries.map(|entry| Ok(entry.map_err(Error::io(dir))?.path())).collect();
    let of_kind =
        |path: &PathBuf| path.extension().and_then(OsStr::to_str).is_some_and(|e| extensions.contains(&e));
    let mut found = paths?;
    found.retain(of_kind);
    found.sort();
    Ok(found)
}

/// Compiles the kernels of the directory `cuda` into a library in `out`, whose name says what it was made of: one that is
/// there already is taken, as are its parts. The compiler is `CXX`, or c++.
///
/// # Errors
/// A file that cannot be read; [`Error::Other`] with the compiler's words.
pub fn compile(cuda: &Path, instrument: Instrument, out: &Path) -> Result<PathBuf> {
    let host = cuda.join("host");
    let observed = host.join("observed");
    let instruments = ["accesses", instrument.name()].map(|name| observed.join(name).with_extension("cpp"));
    let sources = [files(cuda, &["cu"])?, files(&host, &["cu", "cpp"])?, instruments.into()].concat();
    let headers = [files(cuda, &["cuh"])?, files(&host, &["h"])?, files(&observed, &["h"])?].concat();
    let read = |path: &PathBuf| std::fs::read(path).map_err(Error::io(path));
    let mut of_headers = DefaultHasher::new();
    let [of_kernels, of_rest] = [KERNELS, REST].map(|name| observed.join(name));
    for path in headers.iter().chain([&of_kernels, &of_rest]) {
        read(path)?.hash(&mut of_headers);
    }
    std::fs::create_dir_all(out).map_err(Error::io(out))?;
    let object = |source: PathBuf| {
        let mut hasher = of_headers.clone();
        read(&source)?.hash(&mut hasher);
        let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let object = out.join(format!("{name}-{:016x}.o", hasher.finish()));
        Ok((source, object))
    };
    let objects = sources.into_iter().map(object).collect::<Result<Vec<_>>>()?;
    let mut all = DefaultHasher::new();
    objects.iter().for_each(|(_, object)| object.hash(&mut all));
    let library = out.join(format!("lib{}-{:016x}.so", instrument.name(), all.finish()));
    if library.exists() {
        return Ok(library);
    }
    let left = Mutex::new(objects.iter().filter(|(_, object)| !object.exists()).collect::<Vec<_>>());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let work = || {
        while let Some((source, object)) = next() {
            let kernels = source.extension() == Some(OsStr::new("cu"));
            let mut flags = OsString::from("@");
            flags.push(if kernels { &of_kernels } else { &of_rest });
            let what = [OsStr::new("-I"), cuda.as_os_str(), OsStr::new("-c"), source.as_os_str()];
            build(object, &[&[flags.as_os_str()], &what[..]].concat())?;
        }
        Ok(())
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut ended = workers.into_iter().map(|worker| worker.join());
        ended.try_for_each(|end| end.unwrap_or_else(|_| Err(Error::other("a thread failed"))))
    })?;
    // Without -fsanitize=thread, whose library is replaced.
    let parts: Vec<&OsStr> =
        [OsStr::new("-shared")].into_iter().chain(objects.iter().map(|(_, o)| o.as_os_str())).collect();
    build(&library, &parts)?;
    Ok(library)
}

/// Runs the C++ compiler; what it makes is at its place whole or not at all.
fn build(to: &Path, what: &[&OsStr]) -> Result<()> {
    let partial = to.with_extension(format!("{}.partial", std::process::id()));
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let mut command = Command::new(&compiler);
    command.args(what).arg("-o").arg(&partial);
    let done = command
        .output()
        .map_err(|e| Error::other(format!("the C++ compiler {}: {e}", compiler.to_string_lossy())))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let first = said.lines().find(|line| line.contains("error")).or(said.lines().next());
        return Err(Error::other(format!("the C++ compiler: {}", first.unwrap_or("it failed"))));
    }
    std::fs::rename(&partial, to).map_err(Error::io(to))
}

/// The lines of the source that the code after each of these places of a library belongs to, as `norm.cu:12 in norm.cu:40`,
/// the innermost first; `None` where addr2line is not there or does not know.
pub fn lines_of(library: &Path, places: &[u64]) -> Vec<Option<String>> {
    // A call returns to the instruction after it, which may belong to the next line.
    let addresses = places.iter().map(|place| format!("{:#x}", place.saturating_sub(1)));
    let done = Command::new("addr2line").args(["-a", "-i", "-s", "-e"]).arg(library).args(addresses).output();
    let Some(text) = done.ok().and_then(|done| String::from_utf8(done.stdout).ok()) else {
        return vec![None; places.len()];
    };
    let mut found: Vec<Vec<&str>> = Vec::with_capacity(places.len());
    for line in text.lines() {
        if line.starts_with("0x") {
            found.push(Vec::new());
        } else if let Some(last) = found.last_mut() {
            last.push(line.split(' ').next().unwrap_or(line));
        }
    }
    found.resize(places.len(), Vec::new());
    let known = |lines: &Vec<&str>| lines.first().is_some_and(|first| !first.starts_with('?'));
    found.iter().map(|lines| known(lines).then(|| lines.join(" in "))).collect()
}
