//! The methods that each flag has an effect on.

use super::flags::TrainFlags;
use crate::model::prompt::Method;
use crate::{Error, Result};

use Method::{Coconut, Colar, Cot, Distill, Icot};

/// Flags, named as their fields are, that not all methods look at, and the methods that do.
const ALONE: &[(&[&str], &[Method])] = &[
    (
        &[
            "latent_head_size",
            "deterministic_head",
            "c_max",
            "cf_list",
            "latent_loss",
            "chunk_labels",
            "latent_noise",
            "latent_weight",
            "entropy_weight",
            "pred_embed_forward_weight",
            "auto_prob",
        ],
        &[Colar],
    ),
    (&["ce_weight"], &[Cot, Icot, Coconut, Colar]),
    (&["stages", "stage_steps"], &[Icot, Coconut]),
    (&["thoughts_per_step"], &[Coconut]),
    (&["thoughts", "teacher_weight", "student_weight", "distill_weight"], &[Distill]),
];

/// All flags of [`ALONE`].
pub(super) fn alone() -> Vec<&'static str> {
    ALONE.iter().flat_map(|(named, _)| named.iter().copied()).collect()
}

/// The rows of [`ALONE`] whose flags `method` does not look at.
fn foreign(method: Method) -> impl Iterator<Item = &'static (&'static [&'static str], &'static [Method])> {
    ALONE.iter().filter(move |(_, methods)| !methods.contains(&method))
}

/// Fails on a flag that would be without effect under `method`.
///
/// # Errors
/// [`Error::Usage`] naming the flag and the methods that it goes with.
pub(super) fn check(flags: &TrainFlags, method: Method) -> Result<()> {
    for (named, methods) in foreign(method) {
        if let Some(flag) = flags.first_of(named) {
            let names: Vec<&str> = methods.iter().map(|m| m.name()).collect();
            return Err(Error::usage(format!("{flag} goes with `method` {}", names.join(" or "))));
        }
    }
    Ok(())
}

/// `flags` without those that would be without effect under `method`.
pub(super) fn own(flags: TrainFlags, method: Method) -> TrainFlags {
    foreign(method).fold(flags, |flags, (named, _)| flags.without(named))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_without_effect_is_refused_and_named() {
        let says = |method: &str, flag: &str| {
            let flags: TrainFlags = toml::from_str(&format!("method = \"{method}\"\n{flag}")).unwrap();
            check(&flags, flags.method.unwrap()).err().map(|e| {
                assert_eq!(e.exit_code(), 2);
                e.to_string()
            })
        };
        assert_eq!(says("cot", "c-max = 3").unwrap(), "`c_max` goes with `method` colar");
        assert_eq!(says("icot", "cf-list = [1, 2]").unwrap(), "`cf_list` goes with `method` colar");
        assert_eq!(says("coconut", "stages = 2"), None);
        assert_eq!(says("colar", "stages = 2").unwrap(), "`stages` goes with `method` icot or coconut");
        assert_eq!(
            says("distill", "ce-weight = 0.5").unwrap(),
            "`ce_weight` goes with `method` cot or icot or coconut or colar"
        );
        assert_eq!(says("cot", "merge = \"mean\""), None, "it stays with the checkpoint");
    }

    /// A field that was renamed would be without effect here.
    #[test]
    fn the_names_are_those_of_flags() {
        use clap::Args;
        let command = TrainFlags::augment_args(clap::Command::new("train"));
        for named in alone() {
            let long = named.replace('_', "-");
            assert!(command.get_arguments().any(|a| a.get_long() == Some(&long)), "{named}");
        }
    }
}
