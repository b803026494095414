//! Directories that appear whole or not at all, and go the same way.
//!
//! A checkpoint is a directory of several files that only mean something together. It is written out of sight and then
//! takes its name; what stood there is moved out of sight before it is removed. So at any kill, whatever has a name
//! without a mark is whole.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::atomic::{split, sync_dir};
use super::destination;
use super::hidden::{self, Hold};
use crate::{Error, Result};

/// A directory that is filled out of sight and then takes its place in one step.
///
/// The files go into [`StagedDir::path`], a hidden directory beside the destination.
/// [`StagedDir::commit`] brings them to the disk and renames the directory into place; dropping the
/// value without it removes everything written.
///
/// An empty directory that cannot give way to another (a process's working directory, a mount point) is filled: the hidden
/// directory is made within it, and its entries are renamed into it one by one.
#[derive(Debug)]
pub struct StagedDir {
    target: PathBuf,
    staging: TempDir,
    _hold: Hold,
    /// Whether `target` stays, and gets the entries.
    fills: bool,
}

impl StagedDir {
    /// Starts a directory that is to become `target`; parents are created, and cleaned of what killed writers left.
    ///
    /// # Errors
    /// [`Error::Io`] where the operating system refuses, [`Error::File`] if `target` is not a name
    /// that a directory can be given.
    pub fn create(target: &Path) -> Result<Self> {
        let target = &real(target)?;
        let (mut parent, name) = split(target)?;
        fs::create_dir_all(parent).map_err(Error::io(parent))?;
        hidden::clean(parent)?;
        let fills = is_vacant(target) && must_stay(target);
        if fills {
            hidden::clean(target)?;
            parent = target;
        }
        let (staging, hold) = hidden::dir(parent, &name).map_err(Error::io(target))?;
        Ok(Self { target: target.clone(), staging, _hold: hold, fills })
    }

    /// The hidden directory to write the files into.
    pub fn path(&self) -> &Path {
        self.staging.path()
    }

    /// Brings everything to the disk and puts the directory in place of `target`.
    ///
    /// A directory that stood there is renamed aside, replaced and removed. There is no portable
    /// rename that replaces a directory that has entries, so a kill exactly between the two renames
    /// leaves the old one under its other name, whole; [`recover_dir`] puts it back.
    ///
    /// # Errors
    /// [`Error::Io`] naming `target`, which is then as it was, or the new one where only the flush of its name failed;
    /// [`Error::Other`] if another process replaces it.
    pub fn commit(self) -> Result<()> {
        let Self { target, staging, _hold, fills } = self;
        let (parent, name) = split(&target)?;
        let at = || Error::io(&target);
        sync_tree(staging.path()).map_err(at())?;
        if fills {
            return fill(&target, staging.path()).map_err(at());
        }
        let aside = hidden::aside(parent, &name);
        let replaced = match fs::symlink_metadata(&target) {
            Ok(meta) if meta.is_dir() => Some(hold(&target)?),
            Ok(_) => return Err(Error::file(&target, "is in the way: not a directory")),
            Err(_) => None,
        };
        if replaced.is_some() {
            remove_if_there(&aside).map_err(at())?;
            fs::rename(&target, &aside).map_err(at())?;
        }
        if let Err(refused) = fs::rename(staging.path(), &target) {
            if replaced.is_some() {
                // The first error is the one to report; should this fail too, `recover_dir` remains.
                let _ = fs::rename(&aside, &target);
            }
            return Err(at()(refused));
        }
        // It has a new name: there is nothing left to remove under the old one.
        let _ = staging.keep();
        // The old one has to go even where the disk cannot be told of its successor.
        let synced = sync_dir(parent);
        if replaced.is_some() {
            remove_if_there(&aside).map_err(at())?;
        }
        synced.map_err(at())
    }
}

/// Whether `dir` is a directory with nothing in it but what a killed writer left.
pub fn is_vacant(dir: &Path) -> bool {
    let leftover = |name: OsString| hidden::is_partial(&name.to_string_lossy());
    fs::read_dir(dir)
        .is_ok_and(|mut entries| entries.all(|entry| entry.is_ok_and(|e| leftover(e.file_name()))))
}

/// A directory's path without links, and with a name at its end.
fn real(target: &Path) -> Result<PathBuf> {
    if target.is_dir() {
        return fs::canonicalize(target).map_err(Error::io(target));
    }
    Ok(destination::follow(target)?.unwrap_or_else(|| target.to_owned()))
}

/// Whether another directory cannot take the place of `dir`, or should not: who works in it would be left in one that is
/// gone.
fn must_stay(dir: &Path) -> bool {
    let inside = std::env::current_dir().and_then(fs::canonicalize).is_ok_and(|here| here.starts_with(dir));
    #[cfg(unix)]
    let mounted = {
        use std::os::unix::fs::MetadataExt;
        let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
        dir.parent().is_none_or(|parent| device(parent) != device(dir))
    };
    #[cfg(not(unix))]
    let mounted = dir.parent().is_none();
    inside || mounted
}

/// Renames the entries of `staging` into `dir`, those that come last by name first: the configuration of a model or a
/// checkpoint, by which it is known for one, follows its weights. On an error those that were moved go back.
fn fill(dir: &Path, staging: &Path) -> std::io::Result<()> {
    let mut names = fs::read_dir(staging)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<std::io::Result<Vec<OsString>>>()?;
    names.sort();
    names.reverse();
    for (moved, name) in names.iter().enumerate() {
        if let Err(refused) = fs::rename(staging.join(name), dir.join(name)) {
            for name in &names[..moved] {
                // The first error is the one to report.
                let _ = fs::rename(dir.join(name), staging.join(name));
            }
            return Err(refused);
        }
    }
    sync_dir(dir)
}

/// Takes hold of a directory that is to be replaced or removed.
fn hold(dir: &Path) -> Result<Hold> {
    Hold::take(dir)
        .map_err(Error::io(dir))?
        .ok_or_else(|| Error::other(format!("{}: another process replaces it", dir.display())))
}

/// Puts a directory back that [`StagedDir::commit`] had renamed aside when it was killed.
///
/// Does nothing where `target` exists, nothing was renamed aside, or the replacement still goes on, so it is safe to
/// call before reading any directory that is written this way.
///
/// # Errors
/// [`Error::Io`] if the rename is refused.
pub fn recover_dir(target: &Path) -> Result<()> {
    let (parent, name) = split(target)?;
    hidden::put_back(&hidden::aside(parent, &name), target).map_err(Error::io(target))
}

/// Removes a directory, if it is there: whole, or at a kill not at all.
///
/// # Errors
/// [`Error::Io`] naming `dir`.
pub fn remove_dir(dir: &Path) -> Result<()> {
    if fs::symlink_metadata(dir).is_err() {
        return Ok(());
    }
    let (parent, name) = split(dir)?;
    let remove = || {
        let (bin, _hold) = hidden::bin(parent, &name)?;
        fs::rename(dir, bin.path().join(&name))?;
        sync_dir(parent)?;
        bin.close()
    };
    remove().map_err(Error::io(dir))
}

fn remove_if_there(dir: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Flushes every file under `dir`, then the directories, innermost first.
fn sync_tree(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            fs::File::open(entry.path())?.sync_all()?;
        }
    }
    sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::names;

    #[test]
    fn a_staged_directory_appears_only_on_commit_and_replaces_the_old_whole() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("runs").join("best");
        let staged = StagedDir::create(&target).unwrap();
        fs::write(staged.path().join("a"), b"1").unwrap();
        fs::create_dir(staged.path().join("sub")).unwrap();
        fs::write(staged.path().join("sub").join("b"), b"2").unwrap();
        assert!(!target.exists());
        staged.commit().unwrap();
        assert_eq!(names(&target), ["a", "sub"]);

        let dropped = StagedDir::create(&target).unwrap();
        fs::write(dropped.path().join("c"), b"3").unwrap();
        drop(dropped);
        assert_eq!(names(&target), ["a", "sub"]);

        let staged = StagedDir::create(&target).unwrap();
        fs::write(staged.path().join("c"), b"3").unwrap();
        staged.commit().unwrap();
        assert_eq!(names(&target), ["c"]);
        assert_eq!(names(target.parent().unwrap()), ["best"]);
        remove_dir(&target).unwrap();
        remove_dir(&target).unwrap();
        assert_eq!(names(target.parent().unwrap()), [""; 0]);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_a_directory_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        // An empty one, and one that is replaced.
        fs::create_dir(at("real")).unwrap();
        std::os::unix::fs::symlink("real", at("best")).unwrap();
        for content in ["1", "2"] {
            let staged = StagedDir::create(&at("best")).unwrap();
            fs::write(staged.path().join(content), content).unwrap();
            staged.commit().unwrap();
            assert!(fs::symlink_metadata(at("best")).unwrap().is_symlink());
            assert_eq!(names(&at("real")), [content]);
        }
        assert_eq!(names(dir.path()), ["best", "real"]);
    }

    #[test]
    fn a_directory_is_filled_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("a"), "").unwrap();
        // A directory in the way of a file: what was moved before goes back.
        fs::create_dir(to.join("a")).unwrap();
        assert!(fill(&to, &from).is_err());
        assert_eq!((names(&from), names(&to)), (vec!["a".into(), "sub".into()], vec!["a".to_owned()]));
        fs::remove_dir(to.join("a")).unwrap();
        fill(&to, &from).unwrap();
        assert_eq!((names(&from).len(), names(&to).len()), (0, 2));
    }

    #[test]
    fn a_replacement_cut_short_is_undone() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("best");
        let aside = dir.path().join(".best.colar-replaced");
        fs::create_dir(&aside).unwrap();
        fs::write(aside.join("old"), b"").unwrap();
        recover_dir(&target).unwrap();
        assert_eq!(names(&target), ["old"]);
        recover_dir(&target).unwrap();
        assert_eq!(names(dir.path()), ["best"]);
    }

    /// A reader that looks at a directory in the middle of its replacement leaves it to the writer.
    #[cfg(unix)]
    #[test]
    fn a_replacement_that_goes_on_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("best");
        fs::create_dir(&target).unwrap();
        let hold = hold(&target).unwrap();
        fs::rename(&target, dir.path().join(".best.colar-replaced")).unwrap();
        recover_dir(&target).unwrap();
        assert!(!target.exists());
        drop(hold);
        recover_dir(&target).unwrap();
        assert!(target.exists());
    }
}
