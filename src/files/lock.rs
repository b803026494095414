//! One process at a time in a directory.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The lock file; hidden, empty, and left behind.
pub(super) const LOCK: &str = ".lock";

/// A lock on a directory: no other process works in it as long as this value lives. The operating system releases it
/// when the process ends, however that ends.
#[derive(Debug)]
pub struct DirLock {
    path: PathBuf,
    file: Option<File>,
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
            Ok(()) => Ok(DirLock { path, file: Some(file) }),
            Err(TryLockError::WouldBlock) => {
                Err(Error::usage(format!("{}: another process is at work there", dir.display())))
            }
            Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => {
                Ok(DirLock { path, file: None })
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

    /// Fails where the directory is no longer there under its name, or is another by now: what is written there would be
    /// lost, or stand between the files of somebody else.
    ///
    /// # Errors
    /// [`Error::Other`] naming the directory.
    pub fn check(&self) -> Result<()> {
        if self.file.as_ref().is_none_or(|file| is_at(file, &self.path)) {
            return Ok(());
        }
        let dir = self.path.parent().unwrap_or(&self.path);
        Err(Error::other(format!(
            "{}: the directory of this run was removed, moved or replaced meanwhile; nothing more is written there",
            dir.display()
        )))
    }
}

/// Whether an open file is still the one at `path`. Only Unix tells; elsewhere an open file cannot be removed.
fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let of = |meta: &fs::Metadata| (meta.dev(), meta.ino());
        matches!((file.metadata(), fs::metadata(path)), (Ok(held), Ok(there)) if of(&held) == of(&there))
    }
    #[cfg(not(unix))]
    {
        let _ = (file, path);
        true
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
        // The name may go, or come to be another's.
        let held = DirLock::take(&a).unwrap();
        held.check().unwrap();
        for again in [false, true] {
            fs::remove_dir_all(&a).unwrap();
            let _second = again.then(|| DirLock::take(&a).unwrap());
            let error = held.check().unwrap_err();
            assert_eq!(error.exit_code(), 1);
            assert!(error.to_string().contains("new/a: the directory of this run was removed"), "{error}");
            fs::create_dir_all(&a).unwrap();
        }
        fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(DirLock::take(&dir.path().join("file")).unwrap_err().exit_code(), 1);
    }
}
