//! The instruction set that the loops of the CPU device run in.
//!
//! A machine offers several; the widest is taken unless the environment variable `COLAR_SIMD` names a lower
//! one. It is one for the whole process, read once. No result depends on it, to the bit: see
//! [`simd`](super::simd) for why.

use std::sync::OnceLock;

use pulp::Arch;

use crate::{Error, Result};

/// The environment variable that names the instruction set.
pub const VARIABLE: &str = "COLAR_SIMD";

/// The instruction sets that the engine has loops for on this kind of processor, the narrowest first.
#[cfg(target_arch = "x86_64")]
pub const NAMES: &[&str] = &["scalar", "avx2", "avx512"];
#[cfg(target_arch = "aarch64")]
pub const NAMES: &[&str] = &["scalar", "neon"];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub const NAMES: &[&str] = &["scalar"];

/// An instruction set that this machine has.
#[derive(Clone, Copy, Debug)]
pub struct Level {
    name: &'static str,
    pub(super) arch: Arch,
}

impl Level {
    /// One of [`NAMES`].
    pub fn name(self) -> &'static str {
        self.name
    }
}

/// The instruction sets that this machine has, the narrowest first. `avx2` includes fused multiply-adds.
pub fn available() -> Vec<Level> {
    let mut levels = vec![Level { name: "scalar", arch: Arch::Scalar }];
    #[cfg(target_arch = "x86_64")]
    {
        levels.extend(pulp::x86::V3::try_new().map(|v3| Level { name: "avx2", arch: Arch::V3(v3) }));
        levels.extend(pulp::x86::V4::try_new().map(|v4| Level { name: "avx512", arch: Arch::V4(v4) }));
    }
    #[cfg(target_arch = "aarch64")]
    levels.extend(pulp::aarch64::Neon::try_new().map(|neon| Level { name: "neon", arch: Arch::Neon(neon) }));
    levels
}

/// The level that a value of the variable asks for.
fn choose(value: Option<&str>, available: &[Level]) -> Result<Level, String> {
    let Some(value) = value else { return Ok(available[available.len() - 1]) };
    if let Some(level) = available.iter().find(|level| level.name == value) {
        return Ok(*level);
    }
    let have: Vec<&str> = available.iter().map(|level| level.name).collect();
    let what = if NAMES.contains(&value) { "which this processor lacks" } else { "no instruction set" };
    Err(format!("{VARIABLE} is {value:?}, {what}: this processor has {}", have.join(", ")))
}

fn chosen() -> &'static Result<Level, String> {
    static LEVEL: OnceLock<Result<Level, String>> = OnceLock::new();
    LEVEL.get_or_init(|| {
        let value = std::env::var_os(VARIABLE);
        choose(value.as_ref().map(|value| value.to_string_lossy()).as_deref(), &available())
    })
}

/// The level in force.
///
/// # Errors
/// [`Error::Usage`] when `COLAR_SIMD` names nothing that this machine has.
pub fn level() -> Result<Level> {
    chosen().as_ref().copied().map_err(Error::usage)
}

/// Dispatches to the level in force.
///
/// # Panics
/// When there is none: every device and the command line ask for [`level`] before they run a loop.
#[inline(always)]
pub(super) fn arch() -> Arch {
    match chosen() {
        Ok(level) => level.arch,
        Err(what) => refuse(what),
    }
}

#[cold]
fn refuse(what: &str) -> ! {
    panic!("{what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_widest_level_is_taken_and_lower_ones_by_name() {
        let all = available();
        assert_eq!(all[0].name(), "scalar");
        assert!(all.iter().all(|level| NAMES.contains(&level.name())));
        assert_eq!(choose(None, &all).unwrap().name(), all[all.len() - 1].name());
        for level in &all {
            assert_eq!(choose(Some(level.name()), &all).unwrap().name(), level.name());
        }
    }

    #[test]
    fn what_is_unknown_or_lacking_is_refused_by_name() {
        let scalar = &available()[..1];
        for (value, why) in
            [("", "no instruction set"), ("AVX2", "no instruction set"), ("sse9", "no instruction set")]
        {
            let error = choose(Some(value), scalar).unwrap_err();
            assert_eq!(error, format!("COLAR_SIMD is {value:?}, {why}: this processor has scalar"));
        }
        if let Some(vectors) = NAMES.get(1) {
            let error = choose(Some(vectors), scalar).unwrap_err();
            assert!(error.contains("which this processor lacks"), "{error}");
        }
    }
}
