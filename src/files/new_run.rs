//! Directories of new runs.

use std::fs;
use std::path::{Path, PathBuf};

use super::lock::LOCK;
use super::runs::RUNS;
use crate::{Error, Result};

/// A directory that was made for a new run, and is removed again if the run leaves nothing in it.
#[derive(Debug)]
pub struct NewDir(PathBuf);

impl NewDir {
    /// Makes `<time>` in `runs` for the present UTC time, to the second, so that names sort by age: the default
    /// directory of a run. Of several in one second the later have a number behind it.
    ///
    /// # Errors
    /// [`Error::Io`] naming the directory that cannot be made.
    pub fn make(runs: &Path) -> Result<Self> {
        fs::create_dir_all(runs).map_err(Error::io(runs))?;
        let now = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
        let mut dir = runs.join(&now);
        for number in 2u64.. {
            // Made and not looked for: another process may be at the same.
            match fs::create_dir(&dir) {
                Ok(()) => break,
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                    dir = runs.join(format!("{now}-{number}"))
                }
                Err(e) => return Err(Error::io(&dir)(e)),
            }
        }
        Ok(NewDir(dir))
    }

    /// The directory that was given for a run, or a new one in [`RUNS`], which the second value keeps.
    ///
    /// # Errors
    /// As [`make`](NewDir::make).
    pub fn unless(given: Option<PathBuf>) -> Result<(PathBuf, Option<Self>)> {
        if let Some(dir) = given {
            return Ok((dir, None));
        }
        let new = Self::make(Path::new(RUNS))?;
        Ok((new.0.clone(), Some(new)))
    }
}

impl Drop for NewDir {
    fn drop(&mut self) {
        // A run that was refused has locked its directory, which nobody else knows.
        let mut entries = fs::read_dir(&self.0).into_iter().flatten();
        if entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == LOCK)) {
            let _ = fs::remove_file(self.0.join(LOCK));
        }
        // Only empty directories are removed by this.
        if fs::remove_dir(&self.0).is_ok()
            && let Some(runs) = self.0.parent()
        {
            let _ = fs::remove_dir(runs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_runs_have_directories_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path().join("runs");
        let made: Vec<NewDir> = (0..5).map(|_| NewDir::make(&runs).unwrap()).collect();
        let paths: std::collections::BTreeSet<&Path> = made.iter().map(|new| new.0.as_path()).collect();
        assert_eq!(paths.len(), 5);
        let used = made[1].0.clone();
        fs::write(used.join("config.toml"), "").unwrap();
        drop(super::super::lock::DirLock::take(&made[2].0).unwrap());
        drop(made);
        assert!(used.is_dir());
        assert_eq!(fs::read_dir(&runs).unwrap().count(), 1);
        fs::remove_dir_all(&used).unwrap();
        drop(NewDir::make(&runs).unwrap());
        assert!(!runs.exists());
    }
}
