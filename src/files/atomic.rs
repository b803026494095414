//! Files and directories that appear whole or not at all.
//!
//! A run may be killed, or the disk may fill up, at any moment; the old files must then still be
//! readable. So a file is written beside its destination under a hidden name, brought
//! to the disk, and renamed over the destination, which POSIX makes one indivisible step. The same
//! holds for a directory of several files that only mean something together (a checkpoint): see
//! [`StagedDir`]. Links are followed, and what is no regular file (a device, a pipe) is written into as it is.
//!
//! A kill leaves at most a hidden `.NAME.partial-XXXXXX` beside the destination;
//! [`remove_leftovers`] clears these away when a run starts again.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, TempDir};

use super::destination::{self, Destination};
use crate::{Error, Result};

/// Stands between a destination's name and the random letters in the hidden name that is written first.
const PARTIAL: &str = ".partial-";
/// Follows a destination's name while the directory of that name is being replaced.
const ASIDE: &str = ".replaced";

/// Writes the file `path` through `write`, whole or not at all.
///
/// `write` gets a buffered writer onto a new file in the same directory (created if absent). Once it
/// returns, the content is flushed to the disk, the file renamed to `path` (replacing any file
/// there), and the rename itself flushed. Permissions are those of any new file (`0666` less the
/// umask). Of a link this is done to the file that it leads to; a device or a pipe is opened and written into.
///
/// # Errors
/// [`Error::Io`] naming `path` for whatever `write` or the operating system reports (disk full, no
/// permission), [`Error::File`] for a directory; a regular file is then as it was before.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    // Who writes into a directory that is not there yet has it made, and then the path may end in a slash or a dot.
    split(path)?;
    let end = match destination::of(path)? {
        Destination::File(end) => end,
        Destination::Stream => return write_into(path, write).map_err(Error::io(path)),
    };
    let (parent, name) = split(&end)?;
    fs::create_dir_all(parent).map_err(Error::io(parent))?;
    let attempt = || -> std::io::Result<()> {
        let mut prefix = hidden(&name);
        prefix.push(PARTIAL);
        let mut builder = Builder::new();
        builder.prefix(&prefix);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(parent)?;
        let mut buffered = BufWriter::with_capacity(1 << 20, file);
        write(&mut buffered)?;
        let file = buffered.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.as_file().sync_all()?;
        file.persist(&end).map_err(|refused| refused.error)?;
        sync_dir(parent)
    };
    attempt().map_err(Error::io(path))
}

/// Writes into what stands at `path`: nothing of it can be replaced, and it may be written by others too, so it is never
/// cut to size.
fn write_into(path: &Path, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> std::io::Result<()> {
    let file = fs::OpenOptions::new().append(true).open(path)?;
    let mut buffered = BufWriter::with_capacity(1 << 16, file);
    write(&mut buffered)?;
    buffered.flush()
}

/// A directory for files that nobody keeps, removed when the value is dropped.
///
/// # Errors
/// [`Error::Io`] where the operating system refuses.
pub fn scratch_dir() -> Result<TempDir> {
    let parent = std::env::temp_dir();
    Builder::new().prefix("colar-engine-").tempdir_in(&parent).map_err(Error::io(parent))
}

/// Opens the text file `path` for appending, created if absent, with only those of its lines left that `keep`
/// accepts: so a log goes on where its run does, without lines beyond that.
///
/// # Errors
/// [`Error::Io`] naming `path`.
pub fn append_to(path: &Path, mut keep: impl FnMut(&str) -> bool) -> Result<File> {
    // A pipe or a device has no lines to keep, and reading one might never end.
    if path.is_file() {
        let text = fs::read_to_string(path).map_err(Error::io(path))?;
        let kept: String = text.split_inclusive('\n').filter(|line| keep(line)).collect();
        write_atomic(path, |out| out.write_all(kept.as_bytes()))?;
    }
    fs::OpenOptions::new().create(true).append(true).open(path).map_err(Error::io(path))
}

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
    /// Whether `target` stays, and gets the entries.
    fills: bool,
}

impl StagedDir {
    /// Starts a directory that is to become `target`; parents are created.
    ///
    /// A replacement of `target` that a kill cut short is completed first ([`recover_dir`]).
    ///
    /// # Errors
    /// [`Error::Io`] where the operating system refuses, [`Error::File`] if `target` is not a name
    /// that a directory can be given.
    pub fn create(target: &Path) -> Result<Self> {
        let target = &real(target)?;
        let (mut parent, name) = split(target)?;
        fs::create_dir_all(parent).map_err(Error::io(parent))?;
        recover_dir(target)?;
        let fills = is_vacant(target) && must_stay(target);
        if fills {
            remove_leftovers(target)?;
            parent = target;
        }
        let mut prefix = hidden(&name);
        prefix.push(PARTIAL);
        let mut builder = Builder::new();
        builder.prefix(&prefix);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
        let staging = builder.tempdir_in(parent).map_err(Error::io(target))?;
        Ok(Self { target: target.clone(), staging, fills })
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
    /// [`Error::Io`] naming `target`, which is then as it was.
    pub fn commit(self) -> Result<()> {
        let Self { target, staging, fills } = self;
        let (parent, _) = split(&target)?;
        let at = || Error::io(&target);
        sync_tree(staging.path()).map_err(at())?;
        if fills {
            return fill(&target, staging.path()).map_err(at());
        }
        let aside = aside_of(&target)?;
        let replaces = match fs::symlink_metadata(&target) {
            Ok(meta) if meta.is_dir() => true,
            Ok(_) => return Err(Error::file(&target, "is in the way: not a directory")),
            Err(_) => false,
        };
        if replaces {
            remove_dir_if_there(&aside).map_err(at())?;
            fs::rename(&target, &aside).map_err(at())?;
        }
        if let Err(refused) = fs::rename(staging.path(), &target) {
            if replaces {
                // The first error is the one to report; should this fail too, `recover_dir` remains.
                let _ = fs::rename(&aside, &target);
            }
            return Err(at()(refused));
        }
        // It has a new name: there is nothing left to remove under the old one.
        let _ = staging.keep();
        sync_dir(parent).map_err(at())?;
        if replaces {
            remove_dir_if_there(&aside).map_err(at())?;
        }
        Ok(())
    }
}

/// Whether `dir` is a directory with nothing in it but what a killed writer left.
pub fn is_vacant(dir: &Path) -> bool {
    let leftover = |name: OsString| is_leftover(&name.to_string_lossy());
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

/// Puts a directory back that [`StagedDir::commit`] had renamed aside when it was killed.
///
/// Does nothing where `target` exists or nothing was renamed aside, so it is safe to call before
/// reading any directory that is written this way.
///
/// # Errors
/// [`Error::Io`] if the rename is refused.
pub fn recover_dir(target: &Path) -> Result<()> {
    let aside = aside_of(target)?;
    if fs::symlink_metadata(target).is_err() && aside.is_dir() {
        fs::rename(&aside, target).map_err(Error::io(target))?;
    }
    Ok(())
}

/// Removes the hidden partial files and directories that killed writers left in `dir`.
///
/// Only for a directory that no other process is writing to, such as a run's own.
///
/// # Errors
/// [`Error::Io`] if `dir` cannot be listed or an entry cannot be removed.
pub fn remove_leftovers(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let entry = entry.map_err(Error::io(dir))?;
        let name = entry.file_name();
        if !is_leftover(&name.to_string_lossy()) {
            continue;
        }
        let path = entry.path();
        let is_dir = entry.file_type().map_err(Error::io(&path))?.is_dir();
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(Error::io(&path))?;
    }
    Ok(())
}

/// The directory that holds `path` and the last component of `path`.
fn split(path: &Path) -> Result<(&Path, OsString)> {
    let name = path.file_name().ok_or_else(|| Error::file(path, "does not end in a file name"))?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok((parent, name.to_owned()))
}

/// Whether a name is that of a file or directory on its way.
fn is_leftover(name: &str) -> bool {
    name.starts_with('.') && name.contains(PARTIAL)
}

fn hidden(name: &OsString) -> OsString {
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden
}

fn aside_of(target: &Path) -> Result<PathBuf> {
    let (parent, name) = split(target)?;
    let mut aside = hidden(&name);
    aside.push(ASIDE);
    Ok(parent.join(aside))
}

fn remove_dir_if_there(dir: &Path) -> std::io::Result<()> {
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

/// Makes renames in `dir` last. Only Unix lets a directory be opened for this.
fn sync_dir(dir: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    fs::File::open(dir)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = dir;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.json");
        write_atomic(&path, |w| w.write_all(b"first")).unwrap();
        let error = write_atomic(&path, |w| {
            w.write_all(b"second")?;
            Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
        })
        .unwrap_err();
        assert!(error.to_string().contains("metrics.json"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(names(dir.path()), ["metrics.json"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_that_names_the_file() {
        let error = write_atomic(Path::new("/proc/no-such-place/file"), |w| w.write_all(b"x")).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        // /dev/full accepts an open and refuses every byte, so a flush left out would go unnoticed.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let error = write_atomic(&path, |_| {
            let mut full = BufWriter::new(fs::OpenOptions::new().write(true).open("/dev/full")?);
            full.write_all(b"x")?;
            full.flush()
        })
        .unwrap_err();
        assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
    }

    #[test]
    fn new_files_are_readable_like_any_other() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("plain"), b"").unwrap();
        write_atomic(&dir.path().join("atomic"), |_| Ok(())).unwrap();
        let mode = |n: &str| fs::metadata(dir.path().join(n)).unwrap().permissions();
        assert_eq!(mode("plain"), mode("atomic"));
    }

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
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_and_what_they_lead_to_is_written() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("there")).unwrap();
        fs::write(at("there/file"), "old").unwrap();
        symlink("there/file", at("link")).unwrap();
        symlink("there/new", at("dangling")).unwrap();
        for (link, file) in [("link", "there/file"), ("dangling", "there/new")] {
            write_atomic(&at(link), |w| w.write_all(b"new")).unwrap();
            assert!(fs::symlink_metadata(at(link)).unwrap().is_symlink(), "{link}");
            assert_eq!(fs::read(at(file)).unwrap(), b"new", "{file}");
        }
        assert_eq!(names(&at("there")), ["file", "new"]);
        // Directories: an empty one, and one that is replaced.
        fs::create_dir(at("real")).unwrap();
        symlink("real", at("best")).unwrap();
        for content in ["1", "2"] {
            let staged = StagedDir::create(&at("best")).unwrap();
            fs::write(staged.path().join(content), content).unwrap();
            staged.commit().unwrap();
            assert!(fs::symlink_metadata(at("best")).unwrap().is_symlink());
            assert_eq!(names(&at("real")), [content]);
        }
        assert_eq!(names(dir.path()), ["best", "dangling", "link", "real", "there"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn devices_and_pipes_are_written_into() {
        use std::os::unix::fs::FileTypeExt;
        write_atomic(Path::new("/dev/null"), |w| w.write_all(b"x")).unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
        let error = write_atomic(Path::new("/dev/full"), |w| w.write_all(b"x")).unwrap_err().to_string();
        assert!(error.starts_with("/dev/full: No space left"), "{error}");
        assert!(fs::metadata("/dev/full").unwrap().file_type().is_char_device());
        append_to(Path::new("/dev/null"), |_| true).unwrap();

        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        write_atomic(&pipe, |w| w.write_all(b"through")).unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        assert_eq!(names(dir.path()), ["pipe"]);
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
        fs::create_dir(dir.path().join(".best.replaced")).unwrap();
        fs::write(dir.path().join(".best.replaced").join("old"), b"").unwrap();
        recover_dir(&target).unwrap();
        assert_eq!(names(&target), ["old"]);
        recover_dir(&target).unwrap();
        assert_eq!(names(dir.path()), ["best"]);
    }

    #[test]
    fn leftovers_go_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(".best.partial-abc123").join("sub")).unwrap();
        fs::write(dir.path().join(".metrics.json.partial-x1"), b"").unwrap();
        fs::write(dir.path().join("metrics.json"), b"").unwrap();
        fs::write(dir.path().join(".hidden"), b"").unwrap();
        remove_leftovers(dir.path()).unwrap();
        assert_eq!(names(dir.path()), [".hidden", "metrics.json"]);
    }
}
