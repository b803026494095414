//! Where a path leads that is to be written.
//!
//! Replacing is for regular files alone. A device, a pipe or a socket is not a place for another file: put over `/dev/null`,
//! a data set would stand there for every program of the machine. And what a link points to is replaced where it
//! is, so that the link stays.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Links that are followed one after the other, as many as Linux follows.
const MOST_LINKS: usize = 40;

/// How a path is to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// A regular file, or nothing yet, at this path, which is no link.
    File(PathBuf),
    /// Something to write into as it is: a device, a pipe, or a file that a process holds open (`/dev/stdout`).
    Stream,
}

/// Follows the links of `path` to its end.
///
/// # Errors
/// [`Error::File`] for a directory, and for links that lead nowhere.
pub(super) fn of(path: &Path) -> Result<Destination> {
    let end = match follow(path)? {
        Some(end) => end,
        None => return Ok(Destination::Stream),
    };
    match fs::symlink_metadata(&end) {
        Ok(meta) if meta.is_dir() => Err(Error::file(path, "is a directory, not a file to write")),
        Ok(meta) if !meta.is_file() => Ok(Destination::Stream),
        // A path that cannot be looked at is refused when it is written.
        Ok(_) | Err(_) => Ok(Destination::File(end)),
    }
}

/// The path at the end of the links that begin at `path`, itself if it is none; `None` if they lead to an open file of a
/// process, whose name may be anything.
///
/// # Errors
/// [`Error::File`] for links without an end.
pub(super) fn follow(path: &Path) -> Result<Option<PathBuf>> {
    let mut at = path.to_owned();
    for _ in 0..MOST_LINKS {
        if !fs::symlink_metadata(&at).is_ok_and(|meta| meta.is_symlink()) {
            return Ok(Some(at));
        }
        let parent = match at.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if fs::canonicalize(parent).is_ok_and(|parent| parent.starts_with("/proc")) {
            return Ok(None);
        }
        at = parent.join(fs::read_link(&at).map_err(Error::io(path))?);
    }
    Err(Error::file(path, "is a link that leads to itself"))
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_to_files_that_are_there_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "").unwrap();
        symlink("file", at("link")).unwrap();
        symlink("link", at("link to link")).unwrap();
        symlink(at("new"), at("dangling")).unwrap();
        fs::create_dir(at("sub")).unwrap();
        symlink("../file", at("sub/up")).unwrap();
        for (path, end) in [
            ("file", "file"),
            ("link", "file"),
            ("link to link", "file"),
            ("dangling", "new"),
            ("sub/up", "sub/../file"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(of(&at(path)).unwrap(), Destination::File(at(end)), "{path}");
        }
        assert!(
            of(&at("sub")).unwrap_err().to_string().ends_with("sub: is a directory, not a file to write")
        );
        symlink("round", at("round")).unwrap();
        assert!(of(&at("round")).unwrap_err().to_string().ends_with("round: is a link that leads to itself"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn devices_and_open_files_are_streams() {
        for path in ["/dev/null", "/dev/full", "/dev/stdout", "/proc/self/fd/1"] {
            assert_eq!(of(Path::new(path)).unwrap(), Destination::Stream, "{path}");
        }
    }
}
