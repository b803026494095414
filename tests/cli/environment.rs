//! Environment variables that every command reads.

use colar_engine::device::cpu::level::{VARIABLE, available};

use crate::common::cli::{engine, run};

#[test]
fn an_instruction_set_that_is_not_there_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    for value in ["sse9", "", "AVX2"] {
        let args = ["data", "synth", "--train", "1", "--val", "1", "--test", "1", "--out"];
        let out = engine().env(VARIABLE, value).args(args).arg(dir.path().join("synth")).output().unwrap();
        let error = String::from_utf8(out.stderr).unwrap();
        let names: Vec<&str> = available().iter().map(|level| level.name()).collect();
        let names = names.join(", ");
        let want =
            format!("error: COLAR_SIMD is {value:?}, no instruction set: this processor has {names}\n");
        assert_eq!((out.status.code(), error), (Some(2), want));
        assert!(out.stdout.is_empty() && !dir.path().join("synth").exists());
    }
}

/// `doctor` looks at everything, and the arithmetic of each device that is there is right.
#[test]
fn a_machine_is_looked_at() {
    let (code, text, err) = run(&["doctor"]);
    assert_eq!((code, err.as_str()), (0, ""), "{text}");
    for line in ["colar-engine ", "instruction set ", "GPU kernels: ", "libcuda.so.1: ", "cpu: ", "cuda: "] {
        assert!(text.lines().any(|l| l.starts_with(line)), "{line}: {text}");
    }
    assert!(text.contains("  self-test: right to the bit, in "), "{text}");

    let out = engine().env(VARIABLE, "scalar").args(["doctor", "--json"]).output().unwrap();
    assert_eq!(out.status.code(), Some(0));
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["instruction_set"], "scalar");
    let [cpu, cuda, host] = ["cpu", "cuda", "cuda-host"]
        .map(|name| report["devices"].as_array().unwrap().iter().find(|d| d["device"] == name).unwrap());
    assert_eq!(cpu["self_test"]["exact"], true);
    // A device that is not there says why.
    for found in [cuda, host] {
        let works = found["self_test"]["passed"] == true;
        assert!(works || found["missing"].as_str().is_some_and(|why| !why.is_empty()), "{found}");
    }
}

#[test]
fn a_device_names_its_instruction_set() {
    for level in available() {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/llama-tiny");
        let out = engine()
            .env(VARIABLE, level.name())
            .args(["bench", "decode", "--model", model, "--new-tokens", "3", "--json"])
            .output()
            .unwrap();
        let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        let hardware = report["hardware"].as_str().unwrap();
        assert!(hardware.contains(&format!(", {}, ", level.name())), "{hardware}");
    }
}
