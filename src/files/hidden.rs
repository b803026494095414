//! The hidden names under which files and directories wait for theirs, and the removal of those that a kill left.
//!
//! Such a name says whose it is, `.NAME.colar-…`, so that nothing else in a directory is ever taken for a leftover,
//! and its owner holds a lock on it as long as it works there. What nobody holds was left behind.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile, TempDir};

use crate::{Error, Result};

/// Follows a name in those of files and directories that are still being written; random letters follow.
const PARTIAL: &str = ".colar-partial-";
/// In those of directories that are being removed; random letters follow.
const REMOVED: &str = ".colar-removed-";
/// Ends the name of a directory while its successor takes its place.
const ASIDE: &str = ".colar-replaced";

/// How often a new name is tried of which somebody else disposes before it is locked.
const TRIES: usize = 16;

/// The hold on a file or directory that is being worked on; released at the end, however that comes.
#[derive(Debug)]
pub(super) struct Hold {
    _file: Option<File>,
}

impl Hold {
    /// Takes hold of what is at `path`; `None` if somebody else has it. On a file system without locks it keeps nobody
    /// out.
    pub(super) fn take(path: &Path) -> io::Result<Option<Self>> {
        // Only Unix opens directories as files.
        if cfg!(not(unix)) && path.is_dir() {
            return Ok(Some(Hold { _file: None }));
        }
        let file = File::open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Hold { _file: Some(file) })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(_)) => Ok(Some(Hold { _file: None })),
        }
    }

    /// Whether what is at `path` was left by somebody who is gone. Where that cannot be told, it was not.
    fn left(path: &Path) -> io::Result<Option<Self>> {
        Ok(Hold::take(path)?.filter(|hold| hold._file.is_some() || cfg!(not(unix))))
    }
}

fn builder_for<'a>(prefix: &'a OsStr, mode: u32) -> Builder<'a, 'static> {
    let mut builder = Builder::new();
    builder.prefix(prefix);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    #[cfg(not(unix))]
    let _ = mode;
    builder
}

/// `.NAME` and what follows.
fn hidden(name: &OsStr, suffix: &str) -> OsString {
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(suffix);
    hidden
}

/// Whether a name is that of a file or directory on its way in or out.
pub(super) fn is_partial(name: &str) -> bool {
    name.starts_with('.') && (name.contains(PARTIAL) || name.contains(REMOVED))
}

/// Makes something new and takes hold of it before anybody could think that it was left.
fn held<T>(make: impl Fn() -> io::Result<T>, path: impl Fn(&T) -> &Path) -> io::Result<(T, Hold)> {
    for _ in 0..TRIES {
        let made = make()?;
        match Hold::take(path(&made)) {
            // Still there, so nobody held and removed it in between.
            Ok(Some(hold)) if path(&made).exists() => return Ok((made, hold)),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Err(io::Error::other("new files disappear at once"))
}

/// A new hidden file in `parent` that is to be called `name`.
pub(super) fn file(parent: &Path, name: &OsStr) -> io::Result<(NamedTempFile, Hold)> {
    let prefix = hidden(name, PARTIAL);
    held(|| builder_for(&prefix, 0o666).tempfile_in(parent), NamedTempFile::path)
}

/// A new hidden directory in `parent` that is to be called `name`.
pub(super) fn dir(parent: &Path, name: &OsStr) -> io::Result<(TempDir, Hold)> {
    let prefix = hidden(name, PARTIAL);
    held(|| builder_for(&prefix, 0o777).tempdir_in(parent), TempDir::path)
}

/// A new hidden directory in `parent` for something called `name` that is to be removed.
pub(super) fn bin(parent: &Path, name: &OsStr) -> io::Result<(TempDir, Hold)> {
    let prefix = hidden(name, REMOVED);
    held(|| builder_for(&prefix, 0o777).tempdir_in(parent), TempDir::path)
}

/// The name of the directory `name` in `parent` while its successor takes its place.
pub(super) fn aside(parent: &Path, name: &OsStr) -> PathBuf {
    parent.join(hidden(name, ASIDE))
}

/// Puts a directory back that was renamed aside by somebody who is gone before its successor was in place.
pub(super) fn put_back(aside: &Path, target: &Path) -> io::Result<()> {
    if fs::symlink_metadata(target).is_ok() || !aside.is_dir() {
        return Ok(());
    }
    match Hold::left(aside)? {
        // Whoever held it until now may have put its successor in place.
        Some(_hold) if fs::symlink_metadata(target).is_err() => fs::rename(aside, target),
        _ => Ok(()),
    }
}

/// Removes what killed writers left in `dir`, and puts back what they had renamed aside.
///
/// # Errors
/// [`Error::Io`] if `dir` cannot be listed or something cannot be removed.
pub fn clean(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let entry = entry.map_err(Error::io(dir))?;
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        let Some(name) = name.strip_prefix('.') else { continue };
        let cleaned = if let Some(target) = name.strip_suffix(ASIDE) {
            put_back(&path, &dir.join(target)).and_then(|()| remove_left(&path))
        } else if is_partial(&entry.file_name().to_string_lossy()) {
            remove_left(&path)
        } else {
            Ok(())
        };
        match cleaned {
            // Somebody else cleans here too.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(Error::io(&path))?,
        }
    }
    Ok(())
}

/// As [`clean`], in `dir` and all directories in it; a symbolic link is left alone.
///
/// # Errors
/// As [`clean`].
pub fn clean_tree(dir: &Path) -> Result<()> {
    clean(dir)?;
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let entry = entry.map_err(Error::io(dir))?;
        if entry.file_type().map_err(Error::io(&entry.path()))?.is_dir() {
            clean_tree(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_left(path: &Path) -> io::Result<()> {
    let Some(_hold) = Hold::left(path)? else { return Ok(()) };
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::names;

    #[test]
    fn leftovers_go_and_the_rest_stays() {
        let tmp = tempfile::tempdir().unwrap();
        let at = |name: &str| tmp.path().join(name);
        for dir in
            [".best.colar-partial-abc123/sub", ".step-1.colar-removed-x/step-1", ".last.colar-replaced/a"]
        {
            fs::create_dir_all(at(dir)).unwrap();
        }
        // Names that other programs may give their files.
        let others = [".best.partial-abc123", ".hidden", ".partial", "a.colar-partial-x", ".x.replaced"];
        for file in others.iter().chain(&[".metrics.json.colar-partial-x1", "metrics.json"]) {
            fs::write(at(file), b"").unwrap();
        }
        clean(tmp.path()).unwrap();
        let mut stay: Vec<&str> = others.iter().chain(&["last", "metrics.json"]).copied().collect();
        stay.sort_unstable();
        assert_eq!(names(tmp.path()), stay);
        assert_eq!(names(&at("last")), ["a"]);
        fs::create_dir_all(at(".last.colar-replaced")).unwrap();
        fs::create_dir_all(at("last/.x.colar-partial-1")).unwrap();
        clean_tree(tmp.path()).unwrap();
        assert_eq!(names(tmp.path()), stay, "the successor is in place");
        assert_eq!(names(&at("last")), ["a"]);
    }

    #[cfg(unix)]
    #[test]
    fn what_somebody_works_on_is_not_left() {
        let tmp = tempfile::tempdir().unwrap();
        let (file, file_hold) = file(tmp.path(), OsStr::new("f")).unwrap();
        let (dir, dir_hold) = dir(tmp.path(), OsStr::new("d")).unwrap();
        let aside = aside(tmp.path(), OsStr::new("best"));
        fs::create_dir(&aside).unwrap();
        let aside_hold = Hold::take(&aside).unwrap().unwrap();
        clean(tmp.path()).unwrap();
        assert!(file.path().exists() && dir.path().exists() && aside.exists());
        drop((file_hold, dir_hold, aside_hold));
        clean(tmp.path()).unwrap();
        assert_eq!(names(tmp.path()), ["best"]);
    }
}
