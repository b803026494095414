//! Whether a run may go on from its training state: under the options, the model and the data that it began with.
//!
//! The options are compared as the run's `config.toml` holds them, paths apart; the files that they name by a fingerprint
//! of their contents, so that a directory may be moved or be named otherwise, but not be another.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::checkpoint::RunDir;
use super::options::{Stage, TrainFlags};
use super::schedule::Schedule;
use crate::files::atomic::write_atomic;
use crate::files::json::read_limited;
use crate::{Error, Result};

/// The file of fingerprints in a run's directory.
const FILE: &str = "fingerprints.json";

/// Options that a run may go on with otherwise: none of them changes its numbers. README names them.
const FREE: [&str; 8] =
    ["device", "threads", "recompute", "no-mmap", "save-every", "watchdog", "patience", "out"];

/// With a constant learning rate a run may also become longer or shorter.
const LENGTH: [&str; 2] = ["max-steps", "epochs"];

/// Options that are paths: their contents count.
const PATHS: [&str; 5] = ["model", "data", "val", "init", "adapter"];

/// Bytes read of a file's beginning, where safetensors files describe their tensors.
const HEAD: u64 = 1 << 20;

/// Pages read of the rest of a file, evenly spaced, and their size: a file of weights is not read whole for this.
const PAGES: u64 = 256;
const PAGE: u64 = 4096;

/// Sums over the contents of the files that a run reads, by option and file.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Fingerprints(BTreeMap<String, BTreeMap<String, String>>);

/// Fails unless the run in `dir`, whose training state is `last`, was begun with these options; returns the sums of the
/// files that they name, to be [noted](Fingerprints::note) once the run can begin.
///
/// # Errors
/// [`Error::Usage`] naming each option that differs, with both values, or whose file has other contents; errors of the
/// run's own files.
pub(super) fn check(dir: &RunDir, last: Option<&Path>, flags: &TrainFlags) -> Result<Fingerprints> {
    let path = dir.root.join(FILE);
    let now = Fingerprints::of(flags)?;
    if last.is_some() {
        let mut differences = Vec::new();
        if dir.config().exists() {
            differences.extend(options(&resolved(TrainFlags::from_toml(&dir.config())?)?, flags)?);
        }
        if path.exists() {
            let text = read_limited(&path, 1 << 20)?;
            let then: Fingerprints =
                serde_json::from_slice(&text).map_err(|e| Error::file(&path, e.to_string()))?;
            differences.extend(then.differences(&now));
        }
        if !differences.is_empty() {
            return Err(Error::usage(format!(
                "{} was begun otherwise: {}; go on with what it was begun with, or start another run from its checkpoint, with `init` and another `out`",
                dir.root.display(),
                differences.join("; ")
            )));
        }
    }
    Ok(now)
}

/// The options of a run's file with the defaults of today, which may be more than it was written with.
fn resolved(stored: TrainFlags) -> Result<TrainFlags> {
    Ok(match stored.stage {
        Some(Stage::Rl) => TrainFlags::from(&stored.resolve_rl()?),
        _ => TrainFlags::from(&stored.resolve()?),
    })
}

/// A value as one would type it: a float32 with as many digits as it needs.
fn shown(value: Option<&toml::Value>) -> String {
    match value {
        None => "absent".to_owned(),
        Some(toml::Value::Float(x)) if f64::from(*x as f32) == *x => (*x as f32).to_string(),
        Some(value) => value.to_string(),
    }
}

/// The options that differ and may not.
fn options(then: &TrainFlags, now: &TrainFlags) -> Result<Vec<String>> {
    let table = |flags: &TrainFlags| toml::Table::try_from(flags).map_err(|e| Error::other(e.to_string()));
    let length_is_free = then.schedule == Some(Schedule::Constant) && then.stages.is_none();
    let (then, now) = (table(then)?, table(now)?);
    let keys = then.keys().chain(now.keys()).collect::<std::collections::BTreeSet<_>>();
    let compared = keys.into_iter().filter(|key| {
        let free = FREE.contains(&key.as_str()) || (length_is_free && LENGTH.contains(&key.as_str()));
        !free && !PATHS.contains(&key.as_str())
    });
    // Under another method other options go with it; the method alone says so.
    let other_method = then.get("method") != now.get("method") || then.get("stage") != now.get("stage");
    let named = |key: &&String| !other_method || (then.contains_key(*key) && now.contains_key(*key));
    Ok(compared
        .filter(named)
        .filter(|key| then.get(*key) != now.get(*key))
        .map(|key| {
            let name = key.replace('-', "_");
            format!("`{name}` was {}, not {}", shown(then.get(key)), shown(now.get(key)))
        })
        .collect())
}

impl Fingerprints {
    /// Writes them into the directory of their run.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub(super) fn note(&self, dir: &RunDir) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::other(e.to_string()))?;
        write_atomic(&dir.root.join(FILE), |out| writeln!(out, "{text}"))
    }

    /// Those of the files that the options name and that are there.
    fn of(flags: &TrainFlags) -> Result<Self> {
        let table = toml::Table::try_from(flags).map_err(|e| Error::other(e.to_string()))?;
        let mut all = BTreeMap::new();
        for option in PATHS {
            let Some(path) = table.get(option).and_then(|path| path.as_str()).map(PathBuf::from) else {
                continue;
            };
            let mut files = BTreeMap::new();
            for file in contents(&path)? {
                let name =
                    file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                let name = if path.is_dir() { name } else { String::new() };
                files.insert(name, fingerprint(&file)?);
            }
            all.insert(option.to_owned(), files);
        }
        Ok(Fingerprints(all))
    }

    /// The options whose files have other contents, of those that can be read both times.
    fn differences(&self, now: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let keys = self.0.keys().chain(now.0.keys()).collect::<std::collections::BTreeSet<_>>();
        for option in keys {
            match (self.0.get(option), now.0.get(option)) {
                (Some(then), Some(now)) if !then.is_empty() && !now.is_empty() && then != now => {
                    let changed =
                        then.iter().find(|(name, sum)| now.get(*name) != Some(sum)).map(|(name, _)| name);
                    let file = changed
                        .filter(|name| !name.is_empty())
                        .map_or(String::new(), |name| format!(" ({name})"));
                    differences.push(format!("`{option}` has other contents{file}"));
                }
                (None, Some(_)) => differences.push(format!("`{option}` was absent")),
                (Some(_), None) => differences.push(format!("`{option}` is absent")),
                _ => {}
            }
        }
        differences
    }
}

/// The file itself, or the files of a directory that describe or hold a model.
fn contents(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(if path.is_file() { vec![path.to_owned()] } else { Vec::new() });
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(Error::io(path))? {
        let file = entry.map_err(Error::io(path))?.path();
        let counts = file.extension().is_some_and(|e| e == "json" || e == "safetensors");
        if counts && file.is_file() {
            files.push(file);
        }
    }
    Ok(files)
}

/// A file's length and a sum over its beginning and pages spread over the rest.
fn fingerprint(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    let mut buffer = Vec::new();
    let mut sum = 0;
    let mut add = |from: u64, bytes: u64| -> Result<()> {
        buffer.clear();
        file.seek(SeekFrom::Start(from)).map_err(Error::io(path))?;
        (&mut file).take(bytes).read_to_end(&mut buffer).map_err(Error::io(path))?;
        sum = crc32c::crc32c_append(sum, &buffer);
        Ok(())
    };
    let rest = length.saturating_sub(HEAD);
    if rest <= PAGES * PAGE {
        add(0, length)?;
    } else {
        add(0, HEAD)?;
        for page in 0..PAGES {
            add(HEAD + (rest - PAGE) * page / (PAGES - 1), PAGE)?;
        }
    }
    Ok(format!("{length} bytes, {sum:08x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::TrainOptions;

    fn flags(text: &str) -> TrainFlags {
        let given: TrainFlags =
            toml::from_str(&format!("model = \"m\"\ndata = \"d\"\nout = \"o\"\n{text}")).unwrap();
        resolved(given).unwrap()
    }

    #[test]
    fn options_that_change_the_numbers_are_named() {
        let begun = flags("lr = 1e-3\nseed = 4");
        assert_eq!(options(&begun, &begun).unwrap(), [""; 0]);
        for free in
            ["threads = 3", "device = \"cpu\"", "recompute = true", "no-mmap = true", "save-every = 7"]
        {
            assert_eq!(
                options(&begun, &flags(&format!("lr = 1e-3\nseed = 4\n{free}"))).unwrap(),
                [""; 0],
                "{free}"
            );
        }
        let other = flags("lr = 2e-3\nmethod = \"cot\"\nbatch-size = 3");
        let named = options(&begun, &other).unwrap();
        for name in ["batch_size", "lr", "method", "seed"] {
            assert!(named.iter().any(|d| d.starts_with(&format!("`{name}` was "))), "{name}: {named:?}");
        }
        // A schedule that ends with the run fixes its length; a constant one does not.
        let with =
            |schedule: &str, steps: u64| flags(&format!("schedule = \"{schedule}\"\nmax-steps = {steps}"));
        assert_eq!(options(&with("constant", 5), &with("constant", 9)).unwrap(), [""; 0]);
        assert_eq!(options(&with("cosine", 5), &with("cosine", 9)).unwrap(), ["`max_steps` was 5, not 9"]);
    }

    #[test]
    fn contents_count_and_places_do_not() {
        let tmp = tempfile::tempdir().unwrap();
        let make = |name: &str, weights: &[u8]| {
            let dir = tmp.path().join(name);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("config.json"), "{}").unwrap();
            std::fs::write(dir.join("model.safetensors"), weights).unwrap();
            dir
        };
        let mut weights = vec![7u8; 4 << 20];
        let (one, same) = (make("one", &weights), make("same", &weights));
        *weights.last_mut().unwrap() = 8;
        let (last, short) = (make("last", &weights), make("short", &weights[..1 << 20]));
        let of = |model: &Path| {
            let options = TrainOptions::new(model, tmp.path().join("absent.jsonl"), "out");
            Fingerprints::of(&TrainFlags::from(&options)).unwrap()
        };
        assert_eq!(of(&one).differences(&of(&same)), [""; 0]);
        for other in [last, short] {
            let named = of(&one).differences(&of(&other));
            assert_eq!(named, ["`model` has other contents (model.safetensors)"]);
        }
    }
}
