//! Weights before they have values: name and shape in files, role, and the group they are trained with.

/// Weights that are trained, frozen and stored together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Group {
    /// The input embeddings, which are the output head too where the two are tied.
    Embedding,
    /// The model's other weights: blocks, last norm, and an output head of its own.
    Decoder,
    /// LoRA adapters.
    Adapter,
    /// The latent head.
    LatentHead,
    /// The projector of continuous thoughts.
    Projector,
}

/// A set of groups, for instance those that a run trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups(u8);

impl Groups {
    /// All groups.
    pub const ALL: Groups =
        Groups::of(&[Group::Embedding, Group::Decoder, Group::Adapter, Group::LatentHead, Group::Projector]);

    /// The weights that a model directory holds.
    pub const BASE: Groups = Groups::of(&[Group::Embedding, Group::Decoder]);

    /// The weights that training adds to a model.
    pub const ADDED: Groups = Groups::of(&[Group::Adapter, Group::LatentHead, Group::Projector]);

    /// The set of these groups.
    pub const fn of(groups: &[Group]) -> Self {
        let (mut set, mut i) = (0, 0);
        while i < groups.len() {
            set |= 1 << groups[i] as u8;
            i += 1;
        }
        Groups(set)
    }

    /// Whether `group` is in the set.
    pub const fn contains(self, group: Group) -> bool {
        self.0 >> group as u8 & 1 == 1
    }

    /// The groups of either set.
    pub const fn with(self, other: Groups) -> Self {
        Groups(self.0 | other.0)
    }

    /// The set without `group`.
    pub const fn without(self, group: Group) -> Self {
        Groups(self.0 & !Groups::of(&[group]).0)
    }
}

/// The use of a weight, which decides the values that a new one starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A matrix of a linear layer, or embeddings.
    Matrix,
    /// Added to the result of a linear layer or of a norm.
    Bias,
    /// Factors of a norm.
    Norm,
}

/// A weight of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightSpec {
    /// Name in files (spec section 8).
    pub name: String,
    /// Shape in files: `[rows, cols]` of a matrix, `[n]` of a vector.
    pub shape: Vec<usize>,
    /// Its use.
    pub role: Role,
    /// The group it is trained and stored with.
    pub group: Group,
}

impl WeightSpec {
    /// A matrix `[rows, cols]`.
    pub fn matrix(name: impl Into<String>, [rows, cols]: [usize; 2], group: Group) -> Self {
        WeightSpec { name: name.into(), shape: vec![rows, cols], role: Role::Matrix, group }
    }

    /// A bias of `len` elements.
    pub fn bias(name: impl Into<String>, len: usize, group: Group) -> Self {
        WeightSpec { name: name.into(), shape: vec![len], role: Role::Bias, group }
    }

    /// The factors of a norm over `len` elements.
    pub fn norm(name: impl Into<String>, len: usize, group: Group) -> Self {
        WeightSpec { name: name.into(), shape: vec![len], role: Role::Norm, group }
    }

    /// Rows and columns of the tensor on a device; a vector is one row.
    pub fn dims(&self) -> [usize; 2] {
        match *self.shape {
            [rows, cols] => [rows, cols],
            _ => [1, self.numel()],
        }
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_they_are_made_of() {
        let some = Groups::of(&[Group::Embedding, Group::LatentHead]);
        assert!(some.contains(Group::Embedding) && some.contains(Group::LatentHead));
        assert!(!some.contains(Group::Decoder) && !some.contains(Group::Adapter));
        assert_eq!(some.without(Group::Embedding), Groups::of(&[Group::LatentHead]));
        assert_eq!(some.without(Group::Projector), some);
        assert_eq!(Groups::BASE.with(Groups::ADDED), Groups::ALL);
    }
}
