//! A C compiler, and the library that the test's own build has made.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The directory with the libraries of this build, which is that of the test program.
pub fn libraries() -> PathBuf {
    let dir = env::current_exe().unwrap().parent().unwrap().to_owned();
    assert!(dir.join("libcolar_engine.a").is_file(), "no library in {}", dir.display());
    dir
}

/// The library that programs load.
pub fn shared_library() -> PathBuf {
    libraries().join(format!("{}colar_engine{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX))
}

/// A model and a checkpoint over it.
pub fn model() -> [String; 2] {
    let dir = root().join("tests/golden/llama-tiny");
    [dir.clone(), dir.join("adapter")].map(|path| path.to_str().unwrap().to_owned())
}

/// Whether a program is there; says so where it is not, and the test then shows less.
pub fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success());
    if !there {
        eprintln!("no {program}: what it would check is not checked");
    }
    there
}

/// The output of a program; fails the test where it did not end with this code.
pub fn run(command: &mut Command, code: i32) -> (String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (out, err) = (String::from_utf8(stdout).unwrap(), String::from_utf8_lossy(&stderr).into_owned());
    assert_eq!(status.code(), Some(code), "{command:?}:\n{out}\n{err}");
    (out, err)
}

/// A C program linked with the shared library, in a directory of its own.
pub struct Program {
    dir: tempfile::TempDir,
}

impl Program {
    /// Compiles a source, with warnings as errors.
    pub fn new(source: &Path, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let libraries = libraries();
        let mut cc = Command::new("cc");
        cc.args(["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pedantic"]).args(flags);
        cc.arg("-I").arg(root().join("capi/include")).arg(source).arg("-o").arg(dir.path().join("program"));
        cc.arg("-L").arg(&libraries).args(["-lcolar_engine", "-lpthread"]);
        cc.arg(format!("-Wl,-rpath,{}", libraries.display()));
        run(&mut cc, 0);
        Program { dir }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("program")
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.path());
        command.args(args);
        command
    }
}
