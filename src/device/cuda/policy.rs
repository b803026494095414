//! The terms of the policy objective as kernels take them (`cuda/policy.cuh`).

use super::CudaDevice;
use super::driver::{Arg, Driver};
use crate::Result;
use crate::device::Dtype;
use crate::device::policy::PolicyTerms;

/// The arguments of an operation's policy objective: the terms, 0 without, and the constants of all elements.
pub(super) fn policy<R: Driver>(
    op: &'static str,
    terms: Option<&PolicyTerms<'_, CudaDevice<R>>>,
) -> Result<[Arg; 3]> {
    let Some(terms) = terms else { return Ok([Arg::Pointer(0), 0.0.into(), 0.0.into()]) };
    let elements = Arg::from(terms.rows.read(op, "policy terms", Dtype::F32)?);
    Ok([elements, terms.objective.clip_eps.into(), terms.objective.kl_weight.into()])
}
