//! News of a model that is being loaded.

use std::ops::ControlFlow;

use super::config::ModelConfig;
use super::footprint;
use super::weight_spec::WeightSpec;
use crate::device::Dtype;
use crate::{Error, Result};

/// How far a model is loaded: the weights that its directory holds, one by one. Adapter and latent head, small beside them,
/// follow and are not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loading {
    /// Bytes of the weights that are there, as the device holds them.
    pub bytes: usize,
    /// Bytes of all.
    pub total: usize,
}

/// Hears of the loading, and ends it by [`ControlFlow::Break`].
pub type OnLoading<'a> = &'a mut (dyn FnMut(Loading) -> ControlFlow<()> + Send);

/// Counts weights as they come.
pub(super) struct Meter<'a> {
    at: Loading,
    compute: Dtype,
    on_loading: OnLoading<'a>,
    stopped: bool,
}

impl<'a> Meter<'a> {
    /// Begins to count the weights of a model, for a device that computes in `compute`.
    ///
    /// # Errors
    /// Loading is to end.
    pub(super) fn new(config: &ModelConfig, compute: Dtype, on_loading: OnLoading<'a>) -> Result<Self> {
        let at = Loading { bytes: 0, total: footprint::weight_bytes(config, compute) };
        let mut meter = Meter { at, compute, on_loading, stopped: false };
        meter.tell()?;
        Ok(meter)
    }

    /// A weight is there.
    ///
    /// # Errors
    /// Loading is to end.
    pub(super) fn count(&mut self, weight: &WeightSpec) -> Result<()> {
        self.at.bytes = self.at.bytes.saturating_add(footprint::bytes(weight, self.compute));
        self.tell()
    }

    /// Whether loading goes on: weights of one block are asked for together, also when the first of them fails.
    ///
    /// # Errors
    /// Loading was to end.
    pub(super) fn goes_on(&self) -> Result<()> {
        if self.stopped { Err(Error::other("loading was stopped")) } else { Ok(()) }
    }

    fn tell(&mut self) -> Result<()> {
        self.stopped = (self.on_loading)(self.at).is_break();
        self.goes_on()
    }
}
