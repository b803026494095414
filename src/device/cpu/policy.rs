//! The terms of the policy objective as the operations of the CPU read them.

use super::CpuDevice;
use super::buffer::CpuTensor;
use crate::Result;
use crate::device::policy::{PolicyElement, PolicyObjective, PolicyTerms};

/// A policy objective over the rows of an operation.
pub(super) struct Policy<'a> {
    elements: &'a [PolicyElement],
    objective: PolicyObjective,
}

impl Policy<'_> {
    /// The gradient that reaches the log-probability of a row.
    pub(super) fn gradient(&self, row: usize, logprob: f32) -> f32 {
        self.elements[row].gradient(logprob, self.objective)
    }
}

/// The terms of an operation that has checked them.
pub(super) fn policy<'a>(op: &'static str, terms: &PolicyTerms<'a, CpuDevice>) -> Result<Policy<'a>> {
    let tensor: &'a CpuTensor = terms.rows;
    Ok(Policy { elements: bytemuck::cast_slice(tensor.f32(op)?), objective: terms.objective })
}
