//! One process at a time in a directory.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;

use crate::{Error, Result};

/// The lock file; hidden, empty, and left behind.
pub(super) const LOCK: &str = ".lock";

/// A lock on a directory: no other process works in it as long as this value lives. The operating system releases it
/// when the process ends, however that ends.
#[derive(Debug)]
pub struct DirLock {
    _file: Option<File>,
}

impl DirLock {
    /// Locks `dir`, created if absent. On a file system without locks (some network file systems) it keeps nobody out.
    ///
    /// # Errors
    /// [`Error::Usage`] naming `dir` if another holder has it; [`Error::Io`] naming the file that could not be made.
    pub fn take(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::io(dir))?;
        let path = dir.join(LOCK);
        // Never truncated, never removed: a holder of a removed file would not be seen by the next.
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(DirLock { _file: Some(file) }),
            Err(TryLockError::WouldBlock) => {
                Err(Error::usage(format!("{}: another process is at work there", dir.display())))
            }
            Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => {
                Ok(DirLock { _file: None })
            }
            Err(TryLockError::Error(e)) => Err(Error::io(&path)(e)),
        }
    }

    /// Whether somebody holds the lock of `dir`. It is held for an instant by this question itself: a process that takes
    /// it in that instant is turned away.
    ///
    /// # Errors
    /// [`Error::Io`] naming the lock file where it is there and cannot be opened.
    pub fn is_held(dir: &Path) -> Result<bool> {
        let path = dir.join(LOCK);
        match File::open(&path) {
            // A shared lock: two that ask do not meet each other.
            Ok(file) => Ok(matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::io(&path)(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_holder() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("new/a"), dir.path().join("b"));
        let held = DirLock::take(&a).unwrap();
        let error = DirLock::take(&a).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("new/a: another process is at work there"), "{error}");
        let _other = DirLock::take(&b).unwrap();
        drop(held);
        DirLock::take(&a).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(DirLock::take(&dir.path().join("file")).unwrap_err().exit_code(), 1);
    }
}
