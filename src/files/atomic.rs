//! Files that appear whole or not at all.
//!
//! A run may be killed, or the disk may fill up, at any moment; the old files must then still be
//! readable. So a file is written beside its destination under a hidden name ([`hidden`](super::hidden)), brought
//! to the disk, and renamed over the destination, which POSIX makes one indivisible step. Links are followed, and what is
//! no regular file (a device, a pipe) is written into as it is.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use tempfile::{Builder, TempDir};

use super::destination::{self, Destination};
use super::hidden;
use crate::{Error, Result};

/// Writes the file `path` through `write`, whole or not at all.
///
/// `write` gets a buffered writer onto a new file in the same directory (created if absent, and cleaned of what killed
/// writers left). Once it returns, the content is flushed to the disk, the file renamed to `path` (replacing any file
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
    hidden::clean(parent)?;
    let attempt = || -> std::io::Result<()> {
        let (file, _hold) = hidden::file(parent, &name)?;
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

/// The directory that holds `path` and the last component of `path`.
pub(super) fn split(path: &Path) -> Result<(&Path, OsString)> {
    let name = path.file_name().ok_or_else(|| Error::file(path, "does not end in a file name"))?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok((parent, name.to_owned()))
}

/// Makes renames in `dir` last. Only Unix lets a directory be opened for this.
pub(super) fn sync_dir(dir: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    fs::File::open(dir)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = dir;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::names;

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
        assert_eq!(names(dir.path()), ["dangling", "link", "there"]);
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
}
