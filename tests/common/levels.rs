//! Tests run once more in the other instruction sets that this processor has.

use std::process::Command;

use colar_engine::device::cpu::level::{VARIABLE, available, level};

/// The name of the instruction set in force.
pub fn in_force() -> &'static str {
    level().unwrap().name()
}

/// Runs one test of this program in a process for each instruction set but the one in force, which the program
/// runs it in anyway.
pub fn others(test: &str) {
    for level in available().into_iter().filter(|level| level.name() != in_force()) {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env(VARIABLE, level.name())
            .output()
            .unwrap();
        let out = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success(), "{}: {out}{}", level.name(), String::from_utf8_lossy(&child.stderr));
        assert!(out.contains("1 passed"), "no test {test}: {out}");
    }
}
