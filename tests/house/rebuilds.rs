//! Nothing is compiled twice: not by a second call of cargo, and not by `cargo test` after `cargo build`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

use crate::repository::root;

/// Standard output and standard error of a command that succeeds.
fn written(command: &mut Command) -> (String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (out, err) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(status.success(), "{command:?}: {err}");
    (out, err)
}

fn cargo(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap());
    command.current_dir(dir).args(args).env("CARGO_TERM_COLOR", "never");
    command
}

/// The dependencies of these kinds with the features that they are built with.
fn dependencies(kinds: &str) -> BTreeSet<String> {
    let args = ["tree", "--locked", "--offline", "--edges", kinds, "--prefix", "none", "--format", "{p} {f}"];
    let (out, _) = written(&mut cargo(root(), &args));
    // A package's second and later lines end in a mark.
    out.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
}

/// Cargo gives a dependency all features that anything in one build asks of it, and compiles what depends on it again
/// where another build asks for others.
#[test]
fn tests_ask_for_no_more_features_than_the_engine() {
    let (engine, tests) = (dependencies("normal,build"), dependencies("normal,build,dev"));
    assert!(engine.len() > 50, "{engine:?}");
    let other: Vec<_> = engine.difference(&tests).collect();
    assert!(
        other.is_empty(),
        "with the dev-dependencies, these have other features (cargo tree --invert): {other:?}"
    );
}

/// A package with the build script, a kernel, and a compiler for it that can be fetched.
struct Probe {
    dir: tempfile::TempDir,
}

impl Probe {
    fn new() -> Self {
        let probe = Probe { dir: tempfile::tempdir().unwrap() };
        for file in ["build.rs", "Cargo.lock", "scripts/fetch-nvcc", "scripts/nvcc-requirements.txt"] {
            let to = probe.path(file);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(root().join(file), to).unwrap();
        }
        let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
        let needs = manifest.split("\n[").find(|table| table.starts_with("build-dependencies]")).unwrap();
        let package = "[package]\nname = \"colar-engine\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
        let features =
            "[features]\ndefault = [\"cuda\", \"cuda-host\"]\ncuda = []\ncuda-host = [\"dep:cc\"]\n";
        probe.write("Cargo.toml", &format!("{package}\n{features}\n[{needs}"));
        probe.write(
            "src/main.rs",
            "#[cfg(cuda_kernels)]\n\
             const FATBINS: &[(&str, &[u8])] = include!(concat!(env!(\"OUT_DIR\"), \"/fatbins.rs\"));\n\
             #[cfg(not(cuda_kernels))]\n\
             const FATBINS: &[(&str, &[u8])] = &[];\n\
             fn main() {\n    println!(\"{} fatbins\", FATBINS.len());\n}\n",
        );
        probe.write("cuda/kernel.cu", "int kernel() { return 1; }\n");
        // The Python of fetch-nvcc, whose pip brings an nvcc that makes an empty file.
        probe.program("bin/python3", "mkdir -p \"$3/bin\" && cp \"${0%/*}/pip\" \"$3/bin/pip\"");
        probe.program(
            "bin/pip",
            "while [ \"$1\" != --target ]; do shift; done\n\
             mkdir -p \"$2/nvidia/cu13/bin\" && cp bin/nvcc \"$2/nvidia/cu13/bin/nvcc\"",
        );
        probe.program(
            "bin/nvcc",
            "while [ $# -gt 0 ]; do if [ \"$1\" = -o ]; then : >\"$2\"; fi; shift; done\necho nvcc of a test",
        );
        probe
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn program(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        self.write(name, &format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The command, in the package and with nothing but what is there.
    fn told<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "CARGO_BUILD_TARGET"] {
            command.env_remove(name);
        }
        command.current_dir(self.dir.path()).env("CARGO_TARGET_DIR", self.path("target"))
    }

    /// Builds and runs; whether anything was compiled, and what the program said.
    fn build(&self) -> (bool, String) {
        let mut command = cargo(self.dir.path(), &["run", "--offline", "--verbose"]);
        let (out, err) = written(self.told(&mut command));
        let fresh = err.lines().any(|line| line.trim_start().starts_with("Fresh colar-engine "));
        let compiled = err.lines().any(|line| line.trim_start().starts_with("Compiling colar-engine "));
        assert!(fresh != compiled, "{err}");
        (compiled, out)
    }

    /// Runs `scripts/fetch-nvcc`.
    fn fetch(&self) {
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths([self.path("bin")].into_iter().chain(env::split_paths(&path))).unwrap();
        let mut command = Command::new(self.path("scripts/fetch-nvcc"));
        written(self.told(command.env("PATH", path)));
    }

    /// Names of what is in the package's directory or one within, in order.
    fn names(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(dir)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn the_build_script_runs_once_and_again_for_a_compiler_that_was_fetched() {
    let probe = Probe::new();
    let before = probe.names(".");
    let (compiled, first) = probe.build();
    assert!(compiled);
    assert_eq!((probe.build(), probe.build()), ((false, first.clone()), (false, first.clone())));

    // Cargo's own files, and no other.
    let cargos = [".rustc_info.json", "CACHEDIR.TAG", "debug"];
    assert!(
        probe.names("target").iter().all(|name| cargos.contains(&name.as_str())),
        "{:?}",
        probe.names("target")
    );
    let mut after = probe.names(".");
    after.retain(|name| name != "target");
    assert_eq!(before, after);

    probe.fetch();
    let (compiled, second) = probe.build();
    assert!(compiled);
    // A machine with an nvcc of its own takes that one both times, which may refuse the kernel of this test.
    if !has_nvcc() {
        assert_eq!((first.as_str(), second.as_str()), ("0 fatbins\n", "1 fatbins\n"));
    }
    assert_eq!(probe.build(), (false, second));

    probe.write("cuda/second.cu", "int second() { return 2; }\n");
    let (compiled, third) = probe.build();
    assert!(compiled);
    if !has_nvcc() {
        assert_eq!(third, "2 fatbins\n");
    }
    assert_eq!(probe.build(), (false, third));
}

/// Whether the build finds an nvcc that nobody fetched.
fn has_nvcc() -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = env::split_paths(&path).collect();
    dirs.push("/usr/local/cuda/bin".into());
    dirs.iter().any(|dir| dir.join(OsStr::new("nvcc")).is_file())
}
