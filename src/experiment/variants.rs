//! The methods that an experiment compares, a row each.

use crate::model::merge::Merge;
use crate::model::prompt::Method;
use crate::train::batch::ChunkLabels;
use crate::train::{LatentLossName, TrainFlags, embedded};
use crate::{Error, Result};

/// A method, or an ablation of one.
#[derive(Debug)]
pub struct Variant {
    /// The name on the command line and in directories.
    pub name: &'static str,
    /// The name in tables and plots.
    pub label: &'static str,
    /// The method of reasoning.
    pub method: Method,
    /// Whether it is part of the default selection.
    pub default: bool,
    /// The flags in which it differs from its method.
    differs: fn() -> TrainFlags,
}

/// Weight of the latent loss as a likelihood, on the embedded model.
const NLL_WEIGHT: f32 = 0.3;

/// No flags: the method as it is.
fn nothing() -> TrainFlags {
    TrainFlags::default()
}

/// A row of the paper's table 1.
const fn method(name: &'static str, label: &'static str, method: Method) -> Variant {
    Variant { name, label, method, default: true, differs: nothing }
}

/// A row of its table of ablations.
const fn ablation(name: &'static str, label: &'static str, differs: fn() -> TrainFlags) -> Variant {
    Variant { name, label, method: Method::Colar, default: false, differs }
}

/// All of them, in the order of the table.
pub static VARIANTS: [Variant; 9] = [
    method("cot", "CoT", Method::Cot),
    method("icot", "iCoT", Method::Icot),
    method("coconut", "Coconut", Method::Coconut),
    method("distill", "Distill", Method::Distill),
    method("colar", "CoLaR", Method::Colar),
    ablation("colar-dl", "CoLaR-DL", || TrainFlags { deterministic_head: Some(true), ..nothing() }),
    ablation("colar-oc", "CoLaR-OC", || TrainFlags { chunk_labels: Some(ChunkLabels::None), ..nothing() }),
    ablation("colar-mp", "CoLaR-MP", || TrainFlags { merge: Some(Merge::Mean), ..nothing() }),
    ablation("colar-nll", "CoLaR-NLL", || TrainFlags { latent_loss: Some(LatentLossName::Nll), ..nothing() }),
];

impl Variant {
    /// The flags in which it differs from its method.
    pub fn differs(&self) -> TrainFlags {
        (self.differs)()
    }

    /// The flags of its training on the embedded model, where neither the settings nor the change that defines it say
    /// otherwise. They were chosen on the validation split.
    pub fn embedded(&self) -> TrainFlags {
        if self.method != Method::Colar {
            return nothing();
        }
        // A log-likelihood is of another size than a squared distance, and grows without end as sigma falls.
        let weight = (self.differs().latent_loss == Some(LatentLossName::Nll)).then_some(NLL_WEIGHT);
        TrainFlags { latent_weight: weight, ..nothing() }.over(embedded::latents())
    }

    /// The compression factors at which it is asked, of those of the table; a method that fixes its factor has that
    /// alone.
    pub fn compression_factors(&self, of_table: &[String]) -> Vec<String> {
        self.method.fixed_compression_factor().map_or_else(|| of_table.to_vec(), |own| vec![own.to_owned()])
    }
}

/// The variants of these names in the order of the table: those of table 1 for none, all of them for `all`.
///
/// # Errors
/// [`Error::Usage`] naming the first that is unknown.
pub fn select(names: &[String]) -> Result<Vec<&'static Variant>> {
    let known = || VARIANTS.iter().map(|v| v.name).collect::<Vec<_>>().join(", ");
    if let Some(name) = names.iter().find(|n| *n != "all" && !VARIANTS.iter().any(|v| v.name == **n)) {
        return Err(Error::usage(format!("`variants`: {name:?} is none of {}, all", known())));
    }
    let all = names.iter().any(|n| n == "all");
    let wanted =
        |v: &Variant| all || if names.is_empty() { v.default } else { names.iter().any(|n| n == v.name) };
    Ok(VARIANTS.iter().filter(|v| wanted(v)).collect())
}

/// The variant of this name.
///
/// # Errors
/// [`Error::Usage`] if there is none.
pub fn named(name: &str) -> Result<&'static Variant> {
    let found = VARIANTS.iter().find(|v| v.name == name);
    found.ok_or_else(|| Error::usage(format!("`method`: {name:?} is not a method of the table")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(given: &[&str]) -> Vec<&'static str> {
        let given: Vec<String> = given.iter().map(|&n| n.to_owned()).collect();
        select(&given).unwrap().iter().map(|v| v.name).collect()
    }

    #[test]
    fn methods_come_in_the_order_of_the_table() {
        assert_eq!(names(&["colar-mp", "cot", "cot"]), ["cot", "colar-mp"]);
        assert_eq!(names(&["all"]).len(), VARIANTS.len());
        assert!(names(&[]).iter().all(|n| !n.contains('-')));
        let error = select(&["colar".into(), "codi".into()]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("\"codi\" is none of cot, "), "{error}");
    }

    #[test]
    fn names_are_unique_and_factors_belong_to_compression() {
        for (i, v) in VARIANTS.iter().enumerate() {
            assert!(VARIANTS[..i].iter().all(|w| w.name != v.name && w.label != v.label), "{}", v.name);
            let compression_factors = v.compression_factors(&["1".into(), "2".into()]);
            assert_eq!(compression_factors.len(), if v.method == Method::Colar { 2 } else { 1 });
        }
    }
}
