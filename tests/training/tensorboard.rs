//! TensorBoard shows of a run that was cut off, wherever and however often, the points of its `metrics.jsonl`,
//! each once.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use colar_engine::device::cpu::CpuDevice;
use colar_engine::train::{Progress, RlTrainer, Stop, Trainer};

use crate::common::runs::{flags, materials, metrics, policy};

/// Scalars by tag and step.
type Points = BTreeMap<(String, u64), Vec<f32>>;

/// A protobuf message in parts: field, and its number or bytes.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let (&first, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        shift += 7;
        if first < 0x80 {
            return value;
        }
    }
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Value<'_>)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let length = match key & 7 {
            0 => {
                all.push((key >> 3, Value::Number(varint(&mut bytes))));
                continue;
            }
            1 => 8,
            2 => varint(&mut bytes) as usize,
            5 => 4,
            other => panic!("wire type {other}"),
        };
        let (value, rest) = bytes.split_at(length);
        all.push((key >> 3, Value::Bytes(value)));
        bytes = rest;
    }
    all
}

/// The bytes of a field, or none.
fn bytes<'a>(message: &[(u64, Value<'a>)], field: u64) -> Option<&'a [u8]> {
    message.iter().find_map(|(f, v)| match v {
        Value::Bytes(b) if *f == field => Some(*b),
        _ => None,
    })
}

fn number(message: &[(u64, Value<'_>)], field: u64) -> u64 {
    let found = message.iter().find_map(|(f, v)| match v {
        Value::Number(n) if *f == field => Some(*n),
        _ => None,
    });
    found.unwrap_or(0)
}

/// The points of a run's event files as TensorBoard has them: files in the order of their names, and at every start of a
/// session nothing of its step and later ones is kept.
fn shown(dir: &Path) -> Points {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("events.out.tfevents."));
    files.sort();
    let mut points = Points::new();
    for file in files {
        let all = std::fs::read(file).unwrap();
        let mut rest = all.as_slice();
        // A record is its length, a checksum of that, the data, and a checksum; a cut one ends the file.
        while rest.len() >= 12 {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            if rest.len() < length + 16 {
                break;
            }
            let event = fields(&rest[12..12 + length]);
            rest = &rest[length + 16..];
            let step = number(&event, 2);
            // SessionLog.START
            if bytes(&event, 7).is_some_and(|session| number(&fields(session), 1) == 1) {
                points.retain(|(_, at), _| *at < step);
            }
            for summary in bytes(&event, 5).into_iter().map(fields) {
                let value = fields(bytes(&summary, 1).unwrap());
                let tag = String::from_utf8(bytes(&value, 1).unwrap().to_vec()).unwrap();
                let number = f32::from_le_bytes(bytes(&value, 2).unwrap().try_into().unwrap());
                points.entry((tag, step)).or_default().push(number);
            }
        }
    }
    points
}

/// The points of `metrics.jsonl`.
fn recorded(dir: &Path) -> Points {
    let mut points = Points::new();
    for line in metrics(dir) {
        let (kind, step) = (line["kind"].as_str().unwrap(), line["step"].as_u64().unwrap());
        for (name, value) in
            line.as_object().unwrap().iter().filter(|(name, _)| *name != "kind" && *name != "step")
        {
            let value = value.as_f64().unwrap() as f32;
            points.entry((format!("{kind}/{name}"), step)).or_default().push(value);
        }
    }
    points
}

/// How a run is ended before its end.
#[derive(Clone, Copy)]
enum Cut {
    /// In the middle of everything, after a step.
    Kill(u64),
    /// On request, with its state saved.
    Stop(u64),
}

/// Runs to its end or to where it is cut.
fn go_on(dir: &Path, name: &str, text: &str, cut: Option<Cut>) {
    let flags = flags(dir, name, text);
    let stop = Stop::default();
    let mut on_progress = |progress: Progress| {
        let step = match progress {
            Progress::Step(s) => s.step,
            Progress::Policy(p) => p.step,
            _ => return,
        };
        match cut {
            Some(Cut::Kill(at)) if at == step => panic!("the run is cut off here"),
            Some(Cut::Stop(at)) if at == step => stop.request(),
            _ => {}
        }
    };
    let device = CpuDevice::new(1).unwrap();
    let ended = catch_unwind(AssertUnwindSafe(|| {
        if text.contains("stage = \"rl\"") {
            let mut trainer = RlTrainer::new(device, flags.resolve_rl().unwrap(), true).unwrap();
            trainer.stop_on(&stop);
            trainer.run(&mut on_progress).is_ok()
        } else {
            let mut trainer = Trainer::new(device, flags.resolve().unwrap(), true).unwrap();
            trainer.stop_on(&stop);
            trainer.run(&mut on_progress).is_ok()
        }
    }));
    assert_eq!(
        ended.ok(),
        match cut {
            None => Some(true),
            Some(Cut::Stop(_)) => Some(false),
            Some(Cut::Kill(_)) => None,
        }
    );
}

/// Saved every three steps: cut before the first save, at one, past one, and again and again.
#[test]
fn every_point_is_shown_once() {
    let tmp = tempfile::tempdir().unwrap();
    let common = materials(tmp.path())
        .replace("val-every = 1000", "val-every = 2")
        .replace("save-every = 1000", "save-every = 3")
        + "max-steps = 8\n";
    let supervised = format!("{common}batch-size = 2\nlr = 1e-3\nmonitor = \"loss\"\n");
    let ways: [&[Cut]; 6] = [
        &[],
        &[Cut::Kill(2)],
        &[Cut::Stop(3)],
        &[Cut::Stop(4)],
        &[Cut::Kill(5)],
        &[Cut::Kill(1), Cut::Kill(2), Cut::Kill(5), Cut::Kill(5), Cut::Stop(7)],
    ];
    for (kind, text) in [("sft", supervised), ("rl", common + &policy())] {
        for (way, cuts) in ways.iter().enumerate() {
            let name = format!("{kind}{way}");
            for cut in cuts.iter() {
                go_on(tmp.path(), &name, &text, Some(*cut));
            }
            go_on(tmp.path(), &name, &text, None);
            let dir = tmp.path().join(&name);
            let (shown, recorded) = (shown(&dir), recorded(&dir));
            assert!(shown.values().all(|values| values.len() == 1), "{name} has a point twice");
            assert!(recorded.keys().filter(|(tag, _)| tag == "train/lr").count() == 8, "{name}");
            let keys = |points: &Points| points.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(&shown), keys(&recorded), "{name}");
            assert_eq!(shown, recorded, "{name}");
        }
    }
}
