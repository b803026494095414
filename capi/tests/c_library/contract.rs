//! The header's promises, held to by a program in C (contract.c beside this file). It runs under valgrind too, see
//! `sanitizers.rs`.

use crate::toolchain::{Program, model, root, run};

#[test]
fn the_header_keeps_its_word() {
    let program = Program::new(&root().join("capi/tests/c_library/contract.c"), &["-lm"]);
    let [model, checkpoint] = model();
    let (out, _) = run(&mut program.command(&[&model, &checkpoint]), 0);
    assert_eq!(out, format!("version {}\n", env!("CARGO_PKG_VERSION")));
}
