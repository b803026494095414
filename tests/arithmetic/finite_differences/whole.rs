//! The golden models, on the CPU and in float64.

use colar_engine::device::cpu::CpuDevice;
use colar_engine::device::prelude::*;
use colar_engine::model::ColarModel;
use colar_engine::model::open::{Additions, Opened, open};
use colar_engine::model::params::{Grads, ParamId};
use colar_engine::model::weight_spec::{Group, Groups};

use super::common::float64::Float64;
use super::common::gradient::{check, rms};
use super::common::{Dir, golden, head_only};
use super::cpu;

/// Agreement of the losses of both devices, of 1 or of the loss where it is larger.
const SAME_LOSS: f64 = 1e-5;

/// A model on both devices.
pub struct Both {
    pub device: CpuDevice,
    pub opened: Opened<CpuDevice>,
    pub wide: Float64,
    pub wide_opened: Opened<Float64>,
}

/// A golden model: with its adapter, or with all weights trained.
pub fn both(name: &str, full: bool) -> Both {
    let (device, wide) = (cpu(), Float64::default());
    let (opened, wide_opened) = (opened(&device, name, full), opened(&wide, name, full));
    Both { device, opened, wide, wide_opened }
}

fn opened<D: Device>(device: &D, name: &str, full: bool) -> Opened<D> {
    let dir = golden(name);
    let trained = if full { Groups::ALL } else { Groups::of(&[Group::Adapter, Group::LatentHead]) };
    let checkpoint = if full { head_only(&dir) } else { Dir::Given(dir.join("adapter")) };
    open(device, &dir, Some(checkpoint.path()), &Additions::default(), trained).unwrap()
}

impl Both {
    /// Gradients of zero for these weights.
    pub fn grads(&self, trained: Groups) -> Grads<CpuDevice> {
        Grads::new(&self.device, &self.opened.model.params, trained).unwrap()
    }

    /// Checks the gradients of all trained weights against `loss`, whose value on the CPU was `on_cpu`.
    pub fn check(
        &mut self,
        on_cpu: f64,
        grads: &Grads<CpuDevice>,
        mut loss: impl FnMut(&Float64, &ColarModel<Float64>) -> f64,
    ) {
        let Both { device, wide, wide_opened: Opened { model, .. }, .. } = self;
        let here = loss(wide, model);
        assert!((on_cpu - here).abs() < SAME_LOSS * here.abs().max(1.0), "loss {on_cpu}, in float64 {here}");
        let ids: Vec<ParamId> = grads.ids().collect();
        for id in ids {
            let gradient = device.read(grads.get(id).unwrap()).unwrap();
            let name = model.params.name(id).to_owned();
            let at = model.params.get(id).clone();
            // Biases and the matrices that an adapter begins with may be near 0.
            check(&name, &gradient, rms(&at.values).max(1e-2), |by| {
                model.params.get_mut(id).shift(&at, by);
                loss(wide, model)
            });
            model.params.get_mut(id).clone_from(&at);
        }
    }
}
