//! Finding the checkpoint that a path was given for, and reading it.

use std::fs;
use std::path::{Path, PathBuf};

use super::adapter::ADAPTER_CONFIG_FILE;
use super::colar_config::COLAR_FILE;
use super::config::ModelConfig;
use super::lightning;
use super::stored::Stored;
use crate::files::weights::{INDEX_FILE, WEIGHTS_FILE};
use crate::{Error, Result};

/// The files of which a checkpoint has at least one (spec section 8).
const MARKS: [&str; 4] = [ADAPTER_CONFIG_FILE, COLAR_FILE, WEIGHTS_FILE, INDEX_FILE];

/// How deep below a directory checkpoints are looked for, to name them: a run of the embedded default has them at
/// `<stage>/checkpoints/<step>`.
const DEPTH: usize = 3;

/// The checkpoint that `dir` is, or else, of a run's directory, its best one. A file is taken for one of the authors' code.
///
/// # Errors
/// [`Error::File`] for a directory that is neither, naming the checkpoints beneath it.
pub fn find(dir: &Path) -> Result<PathBuf> {
    if dir.is_file() {
        return Ok(dir.to_owned());
    }
    if !dir.is_dir() {
        let named_as_file = dir.extension().is_some_and(|end| end == "ckpt");
        return Err(Error::file(dir, if named_as_file { "no such file" } else { "no such directory" }));
    }
    if is_checkpoint(dir) {
        return Ok(dir.to_owned());
    }
    let best = dir.join("best");
    if is_checkpoint(&best) {
        return Ok(best);
    }
    let mut beneath = Vec::new();
    list(dir, DEPTH, &mut beneath);
    beneath.sort();
    let names = beneath.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    let hint = match names.as_slice() {
        [] => String::new(),
        names => format!("; beneath it there are {}", names.join(", ")),
    };
    Err(Error::file(dir, format!("no checkpoint: it has none of {}{hint}", MARKS.join(", "))))
}

/// Reads the checkpoint at a path that [`find`] gave, over the model directory `model_dir`, of the configuration `model`. `embeds_std` is taken for the unit of
/// latents where a file of the authors' code does not say it.
///
/// # Errors
/// Those of [`Stored::of_directory`] and [`lightning::read`].
pub fn read(
    checkpoint: &Path,
    model_dir: &Path,
    model: &ModelConfig,
    embeds_std: Option<f32>,
) -> Result<Stored> {
    if checkpoint.is_file() {
        lightning::read(checkpoint, model, embeds_std)
    } else {
        Stored::of_directory(checkpoint, model_dir, model)
    }
}

fn is_checkpoint(dir: &Path) -> bool {
    MARKS.iter().any(|mark| dir.join(mark).is_file())
}

/// Adds the checkpoints beneath a directory. Names that begin with a dot are writes under way.
fn list(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let of_authors = path.is_file() && path.extension().is_some_and(|end| end == "ckpt");
        if hidden || !(path.is_dir() || of_authors) {
            continue;
        }
        if of_authors || is_checkpoint(&path) {
            found.push(path);
        } else if depth > 1 {
            list(&path, depth - 1, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_a_run_or_an_error_that_names_what_is_there() {
        let tmp = tempfile::tempdir().unwrap();
        let make = |path: &str, mark: &str| {
            let dir = tmp.path().join(path);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(mark), "{}").unwrap();
            dir
        };
        for mark in MARKS {
            let dir = make(&format!("of-{mark}"), mark);
            assert_eq!(find(&dir).unwrap(), dir);
        }
        let best = make("run/best", COLAR_FILE);
        make("run/checkpoints/7", COLAR_FILE);
        assert_eq!(find(&tmp.path().join("run")).unwrap(), best);
        let [cot, rl] =
            ["cot", "rl"].map(|stage| make(&format!("default/{stage}/best"), ADAPTER_CONFIG_FILE));
        make("default/.rl.partial", COLAR_FILE);
        let error = find(&tmp.path().join("default")).unwrap_err().to_string();
        let named = format!("beneath it there are {}, {}", cot.display(), rl.display());
        assert!(error.contains("no checkpoint") && error.ends_with(&named), "{error}");
        let empty = tmp.path().join("empty");
        fs::create_dir(&empty).unwrap();
        let error = find(&empty).unwrap_err().to_string();
        assert!(error.contains("no checkpoint") && error.ends_with(INDEX_FILE), "{error}");
        let error = find(&tmp.path().join("absent")).unwrap_err().to_string();
        assert!(error.ends_with("no such directory"), "{error}");
        let error = find(&tmp.path().join("absent.ckpt")).unwrap_err().to_string();
        assert!(error.ends_with("no such file"), "{error}");
    }
}
