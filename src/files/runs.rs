//! The runs that `train` left behind, and which of them is the newest.
//!
//! The embedded default is a directory `runs/<time>` with `model/`, a model directory, and one directory
//! a training stage; the checkpoint to use is `rl/best`, or `colar/best` where there is none. Any other run names its
//! model in `config.toml` and has its checkpoint in `best`. A run that was stopped before it had one is passed over.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::staged::recover_dir;
use crate::{Error, Result};

/// The directory in which the command line puts its runs and looks for them.
pub const RUNS: &str = "runs";

/// A run that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The model directory.
    pub model: PathBuf,
    /// The checkpoint over it.
    pub checkpoint: PathBuf,
}

/// The run under `runs` whose checkpoint was written last; of two at once the later name.
///
/// # Errors
/// [`Error::Usage`] if there is none, telling how to make one; [`Error::Io`] if `runs` exists and
/// cannot be read.
pub fn newest(runs: &Path) -> Result<Run> {
    let mut newest: Option<(SystemTime, Run)> = None;
    let entries = match fs::read_dir(runs) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(none(runs)),
        Err(e) => return Err(Error::io(runs)(e)),
    };
    for entry in entries {
        let dir = entry.map_err(Error::io(runs))?.path();
        let Some(run) = usable(&dir) else { continue };
        let Some(written) = written(&run.checkpoint) else { continue };
        if newest.as_ref().is_none_or(|(time, best)| (*time, &best.checkpoint) < (written, &run.checkpoint)) {
            newest = Some((written, run));
        }
    }
    newest.map(|(_, run)| run).ok_or_else(|| none(runs))
}

/// The run in the directory `dir`.
///
/// # Errors
/// [`Error::File`] for a directory that holds no run, or one without a checkpoint yet, saying what was looked for.
pub fn at(dir: &Path) -> Result<Run> {
    if !dir.is_dir() {
        return Err(Error::file(dir, "no such directory"));
    }
    let run = usable(dir).ok_or_else(|| {
        Error::file(dir, "no run: it has neither a config.toml that names a model, nor a model of its own")
    })?;
    if written(&run.checkpoint).is_none() {
        return Err(Error::file(
            dir,
            format!("the run has no checkpoint yet: {} is not there", run.checkpoint.display()),
        ));
    }
    Ok(run)
}

/// The run in a directory, if it has a checkpoint: the embedded default holds its model, any other run names it in
/// its configuration.
fn usable(dir: &Path) -> Option<Run> {
    let model = dir.join("model");
    if model.join("config.json").is_file() {
        let stages = ["rl", "colar"].map(|stage| dir.join(stage).join("best"));
        let checkpoint = stages.iter().find(|dir| written(dir).is_some()).unwrap_or(&stages[1]).clone();
        return Some(Run { model, checkpoint });
    }
    let config: toml::Table = toml::from_str(&fs::read_to_string(dir.join("config.toml")).ok()?).ok()?;
    Some(Run { model: config.get("model")?.as_str()?.into(), checkpoint: dir.join("best") })
}

/// The time at which a checkpoint was written; `None` if it is not there.
fn written(checkpoint: &Path) -> Option<SystemTime> {
    // A kill in the middle of a replacement leaves the checkpoint under another name.
    recover_dir(checkpoint).ok()?;
    fs::metadata(checkpoint).ok().filter(fs::Metadata::is_dir)?.modified().ok()
}

fn none(runs: &Path) -> Error {
    Error::usage(format!(
        "no run with a checkpoint in {}: run `colar-engine train` first, or give `model`",
        runs.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn make(runs: &Path, name: &str, age: u64) {
        let dir = runs.join(name);
        fs::create_dir_all(dir.join("model")).unwrap();
        fs::write(dir.join("model/config.json"), "{}").unwrap();
        fs::create_dir_all(dir.join("colar").join("best")).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 - age);
        fs::File::open(dir.join("colar").join("best")).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn the_checkpoint_written_last_wins_and_unfinished_runs_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), "b", 10);
        make(dir.path(), "c", 20);
        fs::create_dir_all(dir.path().join("z/model")).unwrap();
        fs::create_dir_all(dir.path().join("z/colar/best")).unwrap();
        fs::write(dir.path().join("notes.txt"), "").unwrap();
        let run = newest(dir.path()).unwrap();
        assert_eq!(run.model, dir.path().join("b/model"));
        assert_eq!(run.checkpoint, dir.path().join("b/colar/best"));
        make(dir.path(), "d", 10);
        assert_eq!(newest(dir.path()).unwrap().model, dir.path().join("d/model"));
        fs::create_dir_all(dir.path().join("d/rl/best")).unwrap();
        assert_eq!(newest(dir.path()).unwrap().checkpoint, dir.path().join("d/rl/best"));
    }

    #[test]
    fn a_directory_is_a_run_or_an_error_that_says_why() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), "default", 10);
        assert_eq!(
            at(&dir.path().join("default")).unwrap().checkpoint,
            dir.path().join("default/colar/best")
        );
        let own = dir.path().join("own");
        fs::create_dir_all(&own).unwrap();
        let said = |dir: &Path| at(dir).unwrap_err().to_string();
        assert!(said(&own).contains("no run: it has neither"), "{}", said(&own));
        fs::write(own.join("config.toml"), "model = \"models/small\"\n").unwrap();
        assert!(said(&own).ends_with("best is not there"), "{}", said(&own));
        fs::create_dir(own.join("best")).unwrap();
        let run = at(&own).unwrap();
        assert_eq!((run.model, run.checkpoint), ("models/small".into(), own.join("best")));
        assert!(said(&dir.path().join("absent")).ends_with("no such directory"));
    }

    #[test]
    fn without_a_run_the_error_says_how_to_get_one() {
        let dir = tempfile::tempdir().unwrap();
        for runs in [dir.path().to_owned(), dir.path().join("absent")] {
            let error = newest(&runs).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("colar-engine train"), "{error}");
        }
    }
}
