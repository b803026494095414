//! The terms of the policy objective as the operations of the CPU read them.

use super::CpuDevice;
use super::buffer::CpuTensor;
use crate::Result;
use crate::device::{PolicyElement, PolicyObjective, PolicyTerms, check};

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

/// Checks the terms for an operation of `rows` rows.
pub(super) fn policy<'a>(
    op: &'static str,
    terms: &PolicyTerms<'a, CpuDevice>,
    rows: usize,
) -> Result<Policy<'a>> {
    let tensor: &'a CpuTensor = terms.rows;
    check(op, "policy terms", tensor, rows, 4)?;
    Ok(Policy { elements: bytemuck::cast_slice(tensor.f32(op)?), objective: terms.objective })
}
