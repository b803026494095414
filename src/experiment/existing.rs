//! Checks that the existing content of an experiment's directory belongs to the experiment that is asked for.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::measure::{read_json, write_json};
use super::plan::Plan;
use crate::train::TrainFlags;
use crate::{Error, Result};

/// The file with an experiment's kind and settings.
const MANIFEST: &str = "experiment.json";

/// The name of a comparison in it.
pub(super) const TABLE1: &str = "table1";
/// The name of checkpoints asked at other compression factors.
pub(super) const FACTORS: &str = "factors";

/// Fails unless `root` is absent, empty, or holds this experiment begun with the same settings.
///
/// # Errors
/// [`Error::Usage`] naming the directory; [`Error::File`] for a manifest that cannot be read.
pub(super) fn check_root(root: &Path, kind: &str, settings: Option<&Value>) -> Result<()> {
    let path = root.join(MANIFEST);
    if !path.exists() {
        // A kill while the manifest was written leaves a hidden file.
        let visible = |e: std::io::Result<std::fs::DirEntry>| {
            e.is_ok_and(|e| !e.file_name().to_string_lossy().starts_with('.'))
        };
        let used = std::fs::read_dir(root).is_ok_and(|mut entries| entries.any(visible));
        let what = format!("{} holds something else: give another `out`", root.display());
        return if used { Err(Error::usage(what)) } else { Ok(()) };
    }
    let found: Map<String, Value> = read_json(&path)?;
    if found.get("experiment").and_then(Value::as_str) != Some(kind) {
        return Err(Error::usage(format!(
            "{} holds another experiment ({}): give another `out`",
            root.display(),
            found.get("experiment").and_then(Value::as_str).unwrap_or("of no name")
        )));
    }
    let Some(settings) = settings.and_then(Value::as_object) else { return Ok(()) };
    match settings.iter().find(|(key, value)| found.get(*key) != Some(value)) {
        Some((key, value)) => Err(Error::usage(format!(
            "{} was begun with {key} {}, not {value}: give another `out`",
            root.display(),
            found.get(key).unwrap_or(&Value::Null)
        ))),
        None => Ok(()),
    }
}

/// Marks `root` as this experiment's.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub(super) fn mark(root: &Path, kind: &str, settings: &Value) -> Result<()> {
    let mut manifest = Map::new();
    manifest.insert("experiment".into(), kind.into());
    manifest.extend(settings.as_object().cloned().unwrap_or_default());
    let path = root.join(MANIFEST);
    if read_json::<Map<String, Value>>(&path).is_ok_and(|found| found == manifest) {
        return Ok(());
    }
    write_json(&path, &manifest)
}

/// The settings that must stay the same between two calls; methods, seeds, tests and learning rates may be added.
pub(super) fn settings(plan: &Plan) -> Value {
    let path = |p: &Path| p.canonicalize().unwrap_or_else(|_| p.to_owned()).display().to_string();
    let mut settings = json!({
        "embedded": plan.embedded,
        "updates": plan.updates,
        "warm_updates": plan.warm_updates,
        "warm_lr": crate::model::config::shortest(plan.warm_lr),
        "init": plan.init.as_deref().map(path),
        "seed": plan.seeds.first(),
        "shorten": plan.shorten,
    });
    if let (false, Some(map)) = (plan.embedded, settings.as_object_mut()) {
        for (name, p) in [("model", &plan.given.model), ("data", &plan.given.data), ("val", &plan.given.val)]
        {
            map.insert(name.into(), path(p).into());
        }
    }
    settings
}

/// Fails on a run of the plan that was trained with other flags than the plan has for it.
///
/// # Errors
/// [`Error::Usage`] naming its directory and the flag.
pub(super) fn check_runs(plan: &Plan) -> Result<()> {
    for (dir, flags) in plan.runs() {
        let config = dir.join("config.toml");
        if !config.exists() {
            continue;
        }
        let stored = TrainFlags::from_toml(&config)?;
        let wanted = TrainFlags::from(&flags.resolve()?);
        if let Some(flag) = difference(&stored, &wanted, &plan.root)? {
            return Err(Error::usage(format!(
                "{} was trained with another `{flag}`: give another `out`, or remove that directory",
                dir.display()
            )));
        }
    }
    Ok(())
}

/// The name of the first option in which two runs differ, of those that decide the training.
fn difference(stored: &TrainFlags, wanted: &TrainFlags, root: &Path) -> Result<Option<String>> {
    let json = |flags: &TrainFlags| match serde_json::to_value(flags) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::other("flags are no object")),
        Err(e) => Err(Error::other(e.to_string())),
    };
    // A directory that was moved, or is called by another name, holds the same run: within it paths are relative.
    let below = wanted.out.as_deref().and_then(|out| out.strip_prefix(root).ok()).map(Path::to_owned);
    let stored_root = stored.out.as_deref().zip(below).map(|(out, below)| {
        let depth = below.components().count();
        out.ancestors().nth(depth).unwrap_or(out).to_owned()
    });
    let normal = |flags: &TrainFlags, root: Option<&Path>| {
        let place = |p: &Option<PathBuf>| {
            p.as_deref().map(|p| match root.and_then(|root| p.strip_prefix(root).ok()) {
                Some(inside) => Path::new("…").join(inside),
                None => p.canonicalize().unwrap_or_else(|_| p.to_owned()),
            })
        };
        json(&TrainFlags {
            model: place(&flags.model),
            data: place(&flags.data),
            init: place(&flags.init),
            out: None,
            device: None,
            threads: None,
            no_mmap: None,
            ..flags.clone()
        })
    };
    let (stored, wanted) = (normal(stored, stored_root.as_deref())?, normal(wanted, Some(root))?);
    let keys = stored.keys().chain(wanted.keys());
    let found = keys.into_iter().find(|key| stored.get(*key) != wanted.get(*key));
    Ok(found.map(|key| key.replace('-', "_")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::plan::Table1Options;
    use crate::experiment::plan::tests::{options, plan};
    use crate::experiment::variants;

    fn at(root: &Path, o: Table1Options) -> Plan {
        plan(Table1Options { out: root.to_owned(), ..o }).unwrap()
    }

    #[test]
    fn another_experiment_or_other_settings_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("exp");
        let mine = settings(&at(&root, options()));
        check_root(&root, "table1", Some(&mine)).unwrap();
        mark(&root, "table1", &mine).unwrap();
        check_root(&root, "table1", Some(&mine)).unwrap();
        // More seeds and methods belong to it.
        check_root(&root, "table1", Some(&settings(&at(&root, Table1Options { seeds: 9, ..options() }))))
            .unwrap();
        let other = settings(&at(&root, Table1Options { updates: Some(9), ..options() }));
        let error = check_root(&root, "table1", Some(&other)).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("exp was begun with updates 900, not 9"), "{error}");
        let error = check_root(&root, "factors", None).unwrap_err().to_string();
        assert!(error.contains("another experiment (table1)"), "{error}");
        let error = check_root(dir.path(), "table1", None).unwrap_err().to_string();
        assert!(error.contains("holds something else"), "{error}");
    }

    #[test]
    fn a_run_of_other_flags_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let colar = variants::named("colar").unwrap();
        let begun = |root: &Path| {
            let p = at(root, options());
            let run = p.run_dir(colar, 2e-3, 8);
            TrainFlags::from(&p.options(colar, 2e-3, 8).unwrap()).save(&run.join("config.toml")).unwrap();
        };
        let (here, there) = (dir.path().join("here"), dir.path().join("there"));
        begun(&here);
        check_runs(&at(&here, options())).unwrap();
        let threads = crate::experiment::Machine { threads: 2, ..options().machine };
        check_runs(&at(&here, Table1Options { machine: threads, ..options() })).unwrap();
        std::fs::rename(&here, &there).unwrap();
        check_runs(&at(&there, options())).unwrap();
        let changed = toml::from_str("[colar]\nlatent-weight = 2.0").unwrap();
        let error = check_runs(&at(&there, Table1Options { settings: changed, ..options() })).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let says = "there/runs/colar/lr2e-3/seed8 was trained with another `latent_weight`";
        assert!(error.to_string().contains(says), "{error}");
    }
}
