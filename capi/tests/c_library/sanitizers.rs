//! The examples leave nothing behind and use nothing that is gone.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use crate::toolchain::{Program, has, model, root, run};

#[test]
fn nothing_leaks_and_nothing_is_read_that_is_not_there() {
    if !has("valgrind") {
        return;
    }
    let program = Program::new(&root().join("examples/c/generate.c"), &[]);
    let [model, checkpoint] = model();
    let under = |model: &str, question: &[u8], code: i32| {
        let mut valgrind = valgrind(&program);
        run(valgrind.args([model, &checkpoint]).arg(OsStr::from_bytes(question)), code);
    };
    under(&model, b"How many pens?", 0);
    // Errors leave nothing either: one before the model is there, one after it.
    under("no-such-model", b"How many pens?", 1);
    under(&model, b"not UTF-8: \xff", 2);
    // The header's promises, with all objects and errors that there are.
    let program = Program::new(&root().join("capi/tests/c_library/contract.c"), &["-lm"]);
    run(valgrind(&program).args([&model, &checkpoint]), 0);
    // Objects that several threads use.
    let program = Program::new(&root().join("examples/c/threads.c"), &[]);
    run(valgrind(&program).args([&model, &checkpoint]), 0);
}

/// The program under valgrind, where leaks and accesses to what is not there end it with code 99.
fn valgrind(program: &Program) -> Command {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet", "--error-exitcode=99", "--leak-check=full"]);
    valgrind.args(["--show-leak-kinds=definite,indirect", "--errors-for-leak-kinds=definite,indirect"]);
    valgrind.arg(program.path());
    valgrind
}

#[test]
fn threads_share_nothing_without_order() {
    let flags = ["-fsanitize=thread", "-fPIE", "-pie"];
    let dir = tempfile::tempdir().unwrap();
    let (source, probe) = (dir.path().join("probe.c"), dir.path().join("probe"));
    fs::write(&source, "int main(void) { return 0; }\n").unwrap();
    let compiled = Command::new("cc").args(flags).arg(&source).arg("-o").arg(&probe).output();
    let works = compiled.is_ok_and(|out| out.status.success())
        && Command::new(&probe).output().is_ok_and(|out| out.status.success());
    if !works {
        eprintln!("no ThreadSanitizer of the C compiler: what it would check is not checked");
        return;
    }
    let program = Program::new(&root().join("examples/c/threads.c"), &flags);
    let [model, checkpoint] = model();
    let mut command = program.command(&[&model, &checkpoint]);
    let options = "exitcode=99:halt_on_error=1:ignore_noninstrumented_modules=1";
    let (_, err) = run(command.env("TSAN_OPTIONS", options), 0);
    assert!(!err.contains("WARNING: ThreadSanitizer"), "{err}");
}
