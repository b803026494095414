//! Options of the methods between CoT and CoLaR: icot, coconut and distill.

use super::defaults::{STAGES, THOUGHTS, THOUGHTS_PER_STEP};
use super::flags::{TrainFlags, check};
use crate::Result;
use crate::model::colar_config::MOST_THOUGHTS;
use crate::model::prompt::Method;
use crate::model::thoughts::{ProjectorConfig, ThoughtsConfig};
use crate::train::stages::Stages;
use crate::train::thoughts::ThoughtObjective;

/// How steps give way to thoughts; each part means something to the methods that it names.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ThinkingOptions {
    /// When steps are taken away (icot, coconut).
    pub stages: Stages,
    /// Thoughts that each stage puts in their place (coconut).
    pub thoughts_per_step: usize,
    /// Thoughts before the answer (distill).
    pub thoughts: usize,
    /// Weight of the reasoning text's cross-entropy (distill).
    pub teacher_weight: f32,
    /// Weight of the cross-entropy after the thoughts (distill).
    pub student_weight: f32,
    /// Weight of the distance between the hidden states of both (distill).
    pub distill_weight: f32,
}

setters!(ThinkingOptions {
    stages: Stages,
    thoughts_per_step: usize,
    thoughts: usize,
    teacher_weight: f32,
    student_weight: f32,
    distill_weight: f32,
});

impl Default for ThinkingOptions {
    fn default() -> Self {
        let objective = ThoughtObjective::default();
        ThinkingOptions {
            stages: Stages { count: STAGES as u64, updates: None },
            thoughts_per_step: THOUGHTS_PER_STEP,
            thoughts: THOUGHTS,
            teacher_weight: objective.teacher_weight,
            student_weight: objective.student_weight,
            distill_weight: objective.distill_weight,
        }
    }
}

impl ThinkingOptions {
    /// Takes them from the flags; where one is absent, `d` has its value.
    pub(super) fn from_flags(flags: &TrainFlags, d: ThinkingOptions) -> Self {
        ThinkingOptions {
            stages: Stages { count: flags.stages.unwrap_or(d.stages.count), updates: flags.stage_steps },
            thoughts_per_step: flags.thoughts_per_step.unwrap_or(d.thoughts_per_step),
            thoughts: flags.thoughts.unwrap_or(d.thoughts),
            teacher_weight: flags.teacher_weight.unwrap_or(d.teacher_weight),
            student_weight: flags.student_weight.unwrap_or(d.student_weight),
            distill_weight: flags.distill_weight.unwrap_or(d.distill_weight),
        }
    }

    /// Checks what the ranges of numbers leave open, for a run of these stages.
    pub(super) fn validate(&self, stages: Stages) -> Result<()> {
        let most = MOST_THOUGHTS;
        check(
            (1..=most).contains(&self.thoughts_per_step.saturating_mul(stages.count as usize)),
            &format!("`thoughts_per_step` times `stages` takes 1 to {most}"),
        )
    }

    /// `flags` with all of these options stated, whatever the method.
    pub(super) fn to_flags(self, flags: TrainFlags) -> TrainFlags {
        TrainFlags {
            stages: Some(self.stages.count),
            stage_steps: self.stages.updates,
            thoughts_per_step: Some(self.thoughts_per_step),
            thoughts: Some(self.thoughts),
            teacher_weight: Some(self.teacher_weight),
            student_weight: Some(self.student_weight),
            distill_weight: Some(self.distill_weight),
            ..flags
        }
    }

    /// The thoughts of a model that the method trains, in a stage.
    pub(crate) fn config(&self, method: Method, stage: u64) -> Option<ThoughtsConfig> {
        match method {
            Method::Colar | Method::Cot | Method::Icot => None,
            Method::Coconut => {
                Some(ThoughtsConfig { count: self.thoughts_per_step * stage as usize, projector: None })
            }
            Method::Distill => {
                Some(ThoughtsConfig { count: self.thoughts, projector: Some(ProjectorConfig::default()) })
            }
        }
    }
}
