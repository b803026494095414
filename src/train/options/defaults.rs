//! Defaults by which the methods differ, as the paper has them; costs counted before a run depend on them too.

/// The largest inner width that a new latent head takes of the model.
pub(crate) const MOST_HEAD_SIZE: usize = 2048;
/// The largest compression factor.
pub(crate) const C_MAX: usize = 5;
/// Stages in which steps are taken away.
pub(crate) const STAGES: usize = 3;
/// Thoughts in place of each step that is taken away.
pub(crate) const THOUGHTS_PER_STEP: usize = 2;
/// Thoughts of distillation.
pub(crate) const THOUGHTS: usize = 6;
