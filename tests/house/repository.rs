//! The files of the repository, by their path from its root.

use std::fs;
use std::path::Path;
use walkdir::WalkDir;

/// Directories that are not part of the repository: version control, build output, runs of the engine.
const OUTSIDE: [&str; 3] = [".git", "target", "runs"];

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file, as a path from the root with `/` between its parts, sorted.
pub fn files() -> Vec<String> {
    WalkDir::new(root())
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| {
            entry.depth() != 1 || !OUTSIDE.contains(&entry.file_name().to_string_lossy().as_ref())
        })
        .map(|entry| entry.unwrap_or_else(|e| panic!("cannot list the repository: {e}")))
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| {
            let path = entry.path().strip_prefix(root()).unwrap();
            path.iter().map(|part| part.to_str().unwrap()).collect::<Vec<_>>().join("/")
        })
        .collect()
}

/// The text of a file, or none if it is not UTF-8.
pub fn text(path: &str) -> Option<String> {
    let bytes = fs::read(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    String::from_utf8(bytes).ok()
}

/// The path from the root for `relative`, as the file at `path` names it; none if it leads out of the root.
pub fn beside(path: &str, relative: &str) -> Option<String> {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in relative.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The number of the line that holds the byte at `offset`, from 1.
pub fn line(text: &str, offset: usize) -> usize {
    1 + text[..offset].matches('\n').count()
}

/// Fails the test if there are faults, with one a line.
pub fn report(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}
