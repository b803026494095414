//! Small training runs of a golden model: their flags, and the files they write.

use std::collections::BTreeMap;
use std::path::Path;

use colar_engine::device::prelude::*;
use colar_engine::train::{RlTrainer, TrainFlags, Trainer};
use serde_json::Value;

use super::golden;

/// Writes questions with steps, and the flags that all runs share; returns the text of the flags.
pub fn materials(dir: &Path) -> String {
    let lines: String = (1..9)
        .map(|i| {
            let steps = format!("[\"<<{i}+{i}={}>>\", \"<<{}*3={}>>\"]", 2 * i, 2 * i, 6 * i);
            let question = format!("Tom has {i} boxes with {i} pens each and buys {i} more. How many?");
            format!("{{\"question\":\"{question}\",\"steps\":{steps},\"answer\":\"{}\"}}\n", 6 * i)
        })
        .collect();
    let data = dir.join("data.jsonl");
    std::fs::write(&data, lines).unwrap();
    format!(
        "model = {:?}\ndata = {data:?}\nval = {data:?}\nval-samples = 1\nval-every = 1000\nsave-every = 1000\n\
         threads = 1\nseed = 3\n",
        golden("llama-tiny")
    )
}

/// The additional flags of a run of reinforcement learning.
pub fn policy() -> String {
    let adapter = golden("llama-tiny").join("adapter");
    format!("adapter = {adapter:?}\n")
        + "stage = \"rl\"\ngroup-size = 3\nbatch-size = 2\nexp-batch-size = 4\nlr = 1e-3\nkl-weight = 0.0\n\
           entropy-weight = -0.1\nsamples-per-epoch = 6\nmax-latents = 4\nmax-new-tokens = 4\n"
}

/// The flags of a run that leaves its files in `dir`/`name`.
pub fn flags(dir: &Path, name: &str, text: &str) -> TrainFlags {
    let path = dir.join(format!("{name}.toml"));
    std::fs::write(&path, format!("{text}out = {:?}\n", dir.join(name))).unwrap();
    TrainFlags::from_toml(&path).unwrap()
}

/// Runs to the end.
pub fn run<D: Device>(device: D, dir: &Path, name: &str, text: &str) {
    let flags = flags(dir, name, text);
    if text.contains("stage = \"rl\"") {
        RlTrainer::new(device, flags.resolve_rl().unwrap(), false).unwrap().run(&mut |_| ()).unwrap();
    } else {
        Trainer::new(device, flags.resolve().unwrap(), false).unwrap().run(&mut |_| ()).unwrap();
    }
}

/// The lines of a run's metrics.
pub fn metrics(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The values that the steps of a run logged under `keys`.
pub fn logged(dir: &Path, keys: &[&str]) -> Vec<Vec<f64>> {
    let lines = metrics(dir).into_iter();
    let steps = lines.filter(|v| keys.iter().all(|k| v[k].is_number()) && v["kind"] != "val");
    steps.map(|v| keys.iter().map(|k| v[k].as_f64().unwrap()).collect()).collect()
}

/// The results of a run without measured times: the bytes of its last weights and moments, and its metrics.
#[derive(Debug, PartialEq)]
pub struct Left {
    pub files: BTreeMap<String, Vec<u8>>,
    pub metrics: Vec<Value>,
}

/// Runs to the end; returns the files and metrics that the run left.
pub fn left<D: Device>(device: D, dir: &Path, name: &str, text: &str) -> Left {
    run(device, dir, name, text);
    let root = dir.join(name);
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(root.join("last")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            let file = path.file_name().unwrap().to_str().unwrap().to_owned();
            files.insert(file, std::fs::read(&path).unwrap());
        }
    }
    assert!(!files.is_empty(), "no weights in {}", root.display());
    let mut metrics = metrics(&root);
    for line in &mut metrics {
        for key in ["tokens_per_second", "rollout_seconds", "update_seconds", "time", "seconds"] {
            line.as_object_mut().unwrap().shift_remove(key);
        }
    }
    Left { files, metrics }
}
