//! The weights of a model by number and name, and the gradients of those that are trained.
//!
//! Layers hold [`ParamId`]s, not tensors. So a layer is plain data, the optimiser sees one list, a
//! checkpoint is a walk over names, and "is this trained?" has one answer: whether [`Grads`] has a
//! slot for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::dropout::{PassDropout, StepDropout};
use super::weight_spec::{Group, Groups, WeightSpec};
use crate::device::{Device, TensorInfo};
use crate::{Error, Result};

/// The number of a weight in [`Params`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(usize);

/// One named weight.
pub struct Param<D: Device> {
    /// Name as in the files (spec section 8), without PEFT's prefix.
    pub name: String,
    /// Shape in the files: one or two dimensions.
    pub shape: Vec<usize>,
    /// The group it is trained and stored with.
    pub group: Group,
    /// The values; a vector is one row.
    pub value: D::Tensor,
}

impl<D: Device> Param<D> {
    fn bytes(&self) -> usize {
        self.value.rows() * self.value.cols() * self.value.dtype().size()
    }
}

/// All weights of a model.
pub struct Params<D: Device> {
    /// The first of them, which other models have too, and nobody writes any more.
    shared: Arc<Vec<Param<D>>>,
    entries: Vec<Param<D>>,
}

impl<D: Device> Default for Params<D> {
    fn default() -> Self {
        Params { shared: Arc::default(), entries: Vec::new() }
    }
}

impl<D: Device> Params<D> {
    /// Adds a weight and returns its number.
    pub fn add(&mut self, WeightSpec { name, shape, group, .. }: WeightSpec, value: D::Tensor) -> ParamId {
        self.entries.push(Param { name, shape, group, value });
        ParamId(self.shared.len() + self.entries.len() - 1)
    }

    /// Weights of another model that begin with those that were here at the first call, under the same numbers. They are in
    /// memory once, and neither model can write them.
    pub fn branch(&mut self) -> Self {
        if self.shared.is_empty() {
            self.shared = Arc::new(std::mem::take(&mut self.entries));
        }
        Params { shared: Arc::clone(&self.shared), entries: Vec::new() }
    }

    fn param(&self, id: ParamId) -> &Param<D> {
        match id.0.checked_sub(self.shared.len()) {
            None => &self.shared[id.0],
            Some(own) => &self.entries[own],
        }
    }

    /// The values of a weight.
    pub fn get(&self, id: ParamId) -> &D::Tensor {
        &self.param(id).value
    }

    /// The values of a weight that no other model has, for writing.
    pub fn get_mut(&mut self, id: ParamId) -> &mut D::Tensor {
        let own = id.0 - self.shared.len();
        &mut self.entries[own].value
    }

    /// The name of a weight.
    pub fn name(&self, id: ParamId) -> &str {
        &self.param(id).name
    }

    /// The shape of a weight in the files.
    pub fn shape(&self, id: ParamId) -> &[usize] {
        &self.param(id).shape
    }

    /// All weights with their numbers, in the order they were added.
    pub fn iter(&self) -> impl Iterator<Item = (ParamId, &Param<D>)> {
        self.shared.iter().chain(&self.entries).enumerate().map(|(i, p)| (ParamId(i), p))
    }

    /// All values that no other model has, for writing, with their numbers.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ParamId, &mut D::Tensor)> {
        let first = self.shared.len();
        self.entries.iter_mut().enumerate().map(move |(i, p)| (ParamId(first + i), &mut p.value))
    }

    /// The name of the first weight with an element that is not finite. One that cannot be read is passed over.
    pub fn unfit(&self, device: &D) -> Option<&str> {
        self.unfit_among(device, |_| true)
    }

    fn unfit_among(&self, device: &D, looked_at: impl Fn(ParamId) -> bool) -> Option<&str> {
        let unfit = |t: &D::Tensor| device.read(t).is_ok_and(|values| values.iter().any(|x| !x.is_finite()));
        self.iter().find(|(id, p)| looked_at(*id) && unfit(&p.value)).map(|(_, p)| p.name.as_str())
    }

    /// `error`, or where it says that a loss or gradient is not finite and a weight was not from the beginning, that this
    /// is why.
    pub fn explain(&self, device: &D, grads: &Grads<D>, error: Error) -> Error {
        let Error::NonFinite { step, what } = &error else { return error };
        // Weights that the run has moved say no more than the loss does.
        match self.unfit_among(device, |id| *step == 1 || !grads.trains(id)) {
            Some(name) => Error::other(format!(
                "step {step}: {what} is not finite: the weight {name} holds NaN or infinity"
            )),
            None => error,
        }
    }

    /// Bytes of all values.
    pub fn bytes(&self) -> usize {
        self.iter().map(|(_, p)| p.bytes()).sum()
    }

    /// Bytes of the values that no other model has.
    pub fn own_bytes(&self) -> usize {
        self.entries.iter().map(Param::bytes).sum()
    }

    /// How many weights there are, and how many of them are of the groups `of`.
    pub fn count(&self, of: Groups) -> (usize, usize) {
        self.iter().fold((0, 0), |(all, some), (_, p)| {
            let n = p.shape.iter().product::<usize>();
            (all + n, some + if of.contains(p.group) { n } else { 0 })
        })
    }

    /// Puts every matrix that no other model has into the form that inference multiplies
    /// ([`MemoryOps::freeze`](crate::device::MemoryOps::freeze)). Vectors, which are norm weights and biases, stay
    /// float32.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn freeze(&mut self, device: &D) -> Result<()> {
        let entries = std::mem::take(&mut self.entries).into_iter().map(|p| {
            let value = if p.shape.len() == 2 { device.freeze(p.value)? } else { p.value };
            Ok(Param { value, ..p })
        });
        self.entries = entries.collect::<Result<_>>()?;
        Ok(())
    }

    /// The weight of that name.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.iter().find(|(_, p)| p.name == name).map(|(id, _)| id)
    }
}

/// Gradients of the trained weights, float32, summed over backward passes until cleared, and what adapters do not see in
/// the passes that lead to them.
pub struct Grads<D: Device> {
    slots: Vec<Option<D::Tensor>>,
    dropout: Option<StepDropout>,
    /// Rows of the step's passes so far.
    rows: AtomicU32,
}

impl<D: Device> Grads<D> {
    /// A zero gradient for each weight of the groups `trained`.
    ///
    /// # Errors
    /// When nothing is trained, or memory is short.
    pub fn new(device: &D, params: &Params<D>, trained: Groups) -> Result<Self> {
        Self::selected(device, params, |p| trained.contains(p.group))
    }

    /// A zero gradient for each weight that `trained` accepts.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn selected(device: &D, params: &Params<D>, trained: impl Fn(&Param<D>) -> bool) -> Result<Self> {
        let mut slots = Vec::new();
        for (_, p) in params.iter() {
            slots.push(if trained(p) { Some(device.zeros(p.value.rows(), p.value.cols())?) } else { None });
        }
        if slots.iter().all(Option::is_none) {
            return Err(Error::other("nothing to train: no weight is selected"));
        }
        Ok(Grads { slots, dropout: None, rows: AtomicU32::new(0) })
    }

    /// Whether this weight is trained.
    pub fn trains(&self, id: ParamId) -> bool {
        self.slots.get(id.0).is_some_and(Option::is_some)
    }

    /// The gradient of a weight, if it is trained.
    pub fn get(&self, id: ParamId) -> Option<&D::Tensor> {
        self.slots.get(id.0)?.as_ref()
    }

    /// The gradient of a weight, for adding to it.
    pub fn get_mut(&mut self, id: ParamId) -> Option<&mut D::Tensor> {
        self.slots.get_mut(id.0)?.as_mut()
    }

    /// The gradients of two different weights, if both are trained.
    pub fn pair_mut(&mut self, a: ParamId, b: ParamId) -> Option<(&mut D::Tensor, &mut D::Tensor)> {
        let [a, b] = self.slots.get_disjoint_mut([a.0, b.0]).ok()?;
        Some((a.as_mut()?, b.as_mut()?))
    }

    /// The trained weights in order.
    pub fn ids(&self) -> impl Iterator<Item = ParamId> {
        self.slots.iter().enumerate().filter(|(_, s)| s.is_some()).map(|(i, _)| ParamId(i))
    }

    /// All gradients.
    pub fn tensors(&self) -> Vec<&D::Tensor> {
        self.slots.iter().flatten().collect()
    }

    /// Begins a step whose passes have this dropout; `None` for passes without.
    pub fn set_dropout(&mut self, dropout: Option<StepDropout>) {
        self.dropout = dropout;
        *self.rows.get_mut() = 0;
    }

    /// Whether the passes of this step have dropout.
    pub fn has_dropout(&self) -> bool {
        self.dropout.is_some()
    }

    /// The dropout of the step's next pass, which has so many rows.
    pub fn next_dropout(&self, rows: usize) -> Option<PassDropout> {
        let dropout = self.dropout?;
        Some(dropout.pass(self.rows.fetch_add(rows as u32, Ordering::Relaxed)))
    }

    /// Sets all gradients to zero.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn clear(&mut self, device: &D) -> Result<()> {
        self.slots.iter_mut().flatten().try_for_each(|g| device.clear(g))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryOps;
    use crate::device::cpu::CpuDevice;

    #[test]
    fn a_branch_shares_the_first_weights() {
        let device = CpuDevice::new(1).unwrap();
        let mut base = Params::default();
        let add = |params: &mut Params<CpuDevice>, name: &str, x: f32| {
            let spec = WeightSpec::matrix(name.to_owned(), [1, 1], Group::Adapter);
            params.add(spec, device.upload(1, 1, &[x]).unwrap())
        };
        let w = add(&mut base, "w", 1.0);
        let mut one = base.branch();
        let a = add(&mut one, "a", 2.0);
        let mut two = base.branch();
        let b = add(&mut two, "b", 3.0);
        assert!(std::ptr::eq(one.get(w), base.get(w)) && std::ptr::eq(two.get(w), base.get(w)));
        assert_eq!((one.name(a), two.name(b)), ("a", "b"));
        assert_eq!((one.find("w"), one.find("a"), one.find("b")), (Some(w), Some(a), None));
        assert_eq!((base.bytes(), one.bytes(), one.own_bytes(), base.own_bytes()), (4, 8, 4, 0));
        one.iter_mut().for_each(|(id, value)| {
            assert_eq!(id, a);
            device.write(value, &[5.0]).unwrap();
        });
        device.write(two.get_mut(b), &[6.0]).unwrap();
        let values = |params: &Params<CpuDevice>| -> Vec<f32> {
            params
                .iter()
                .map(|(id, p)| {
                    assert!(std::ptr::eq(params.get(id), &p.value));
                    device.read(&p.value).unwrap()[0]
                })
                .collect()
        };
        assert_eq!((values(&base), values(&one), values(&two)), (vec![1.0], vec![1.0, 5.0], vec![1.0, 6.0]));
    }
}
