//! The linear layers of a block by name: in weights files, in adapters, on the command line.

use serde::{Deserialize, Serialize};

/// A linear layer of a block. All seven can carry an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum), value(rename_all = "snake_case"))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LoraTarget {
    /// Queries.
    QProj,
    /// Keys.
    KProj,
    /// Values.
    VProj,
    /// Output of attention.
    OProj,
    /// Gate of the MLP.
    GateProj,
    /// Upward projection of the MLP.
    UpProj,
    /// Downward projection of the MLP.
    DownProj,
}

impl LoraTarget {
    /// All seven, in the order of the computation.
    pub const ALL: [LoraTarget; 7] = [
        LoraTarget::QProj,
        LoraTarget::KProj,
        LoraTarget::VProj,
        LoraTarget::OProj,
        LoraTarget::GateProj,
        LoraTarget::UpProj,
        LoraTarget::DownProj,
    ];

    /// The part of a block it belongs to, and its name there: in `target_modules` of an adapter, and on the command
    /// line.
    fn path(self) -> (&'static str, &'static str) {
        match self {
            LoraTarget::QProj => ("self_attn", "q_proj"),
            LoraTarget::KProj => ("self_attn", "k_proj"),
            LoraTarget::VProj => ("self_attn", "v_proj"),
            LoraTarget::OProj => ("self_attn", "o_proj"),
            LoraTarget::GateProj => ("mlp", "gate_proj"),
            LoraTarget::UpProj => ("mlp", "up_proj"),
            LoraTarget::DownProj => ("mlp", "down_proj"),
        }
    }

    /// The name in `target_modules`: `q_proj` and so on.
    pub fn name(self) -> &'static str {
        self.path().1
    }

    /// The inverse of [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|target| target.name() == name)
    }

    /// The name of its tensors in layer `layer`, without `.weight` and the like.
    pub fn module(self, layer: usize) -> String {
        let (parent, name) = self.path();
        format!("model.layers.{layer}.{parent}.{name}")
    }
}

/// A name in a list of adapted projections: of one, or PEFT's word for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamedTargets {
    /// All seven.
    #[serde(rename = "all-linear")]
    AllLinear,
    /// One of them.
    #[serde(untagged)]
    One(LoraTarget),
}

impl NamedTargets {
    /// The projections that it names.
    pub fn targets(self) -> Vec<LoraTarget> {
        match self {
            NamedTargets::AllLinear => LoraTarget::ALL.to_vec(),
            NamedTargets::One(target) => vec![target],
        }
    }
}

#[cfg(feature = "cli")]
impl clap::ValueEnum for NamedTargets {
    fn value_variants<'a>() -> &'a [Self] {
        use NamedTargets::One;
        const VARIANTS: [NamedTargets; 8] = [
            One(LoraTarget::QProj),
            One(LoraTarget::KProj),
            One(LoraTarget::VProj),
            One(LoraTarget::OProj),
            One(LoraTarget::GateProj),
            One(LoraTarget::UpProj),
            One(LoraTarget::DownProj),
            NamedTargets::AllLinear,
        ];
        &VARIANTS
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        match self {
            NamedTargets::AllLinear => {
                Some(clap::builder::PossibleValue::new("all-linear").help("All seven"))
            }
            NamedTargets::One(target) => target.to_possible_value(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn the_command_line_has_pefts_names() {
        for target in LoraTarget::ALL {
            assert_eq!(target.to_possible_value().unwrap().get_name(), target.name());
            assert_eq!(LoraTarget::from_name(target.name()), Some(target));
        }
    }

    #[test]
    fn all_of_them_have_one_name() {
        for named in NamedTargets::value_variants() {
            let name = named.to_possible_value().unwrap().get_name().to_owned();
            assert_eq!(serde_json::to_value(named).unwrap(), name);
            assert_eq!(serde_json::from_value::<NamedTargets>(name.into()).unwrap(), *named);
        }
        assert_eq!(NamedTargets::AllLinear.targets(), LoraTarget::ALL);
        assert!(serde_json::from_value::<NamedTargets>("x_proj".into()).is_err());
    }
}
