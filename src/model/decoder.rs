//! A model's weights as a device's decoder takes them.

use super::ColarModel;
use super::linear::Linear;
use super::transformer::Layer;
use crate::device::Device;
use crate::device::decoder::{DecoderHead, DecoderModel, Projection};

impl<D: Device> ColarModel<D> {
    /// The weights, or `None` where adapters stand beside them, or the model thinks in continuous thoughts.
    pub fn for_decoder(&self) -> Option<DecoderModel<'_, D>> {
        let (t, params) = (&self.transformer, &self.params);
        if self.thoughts.is_some()
            || t.layers.iter().any(|l| l.projections().iter().any(|p| p.lora.is_some()))
        {
            return None;
        }
        let projection =
            |l: Linear| Projection { weight: params.get(l.weight), bias: l.bias.map(|b| params.get(b)) };
        let layer = |l: &Layer| l.map_projections(projection).map_norms(|norm| params.get(norm));
        let both = |l: &Linear| l.bias.map(|b| [params.get(l.weight), params.get(b)]);
        let head = match &self.head {
            Some(h) => Some(DecoderHead {
                fc0: both(&h.fc0)?,
                fc2: both(&h.fc2)?,
                norm: [params.get(h.norm.0), params.get(h.norm.1)],
                mean: both(&h.mean)?,
                log_std: h.log_std.as_ref().and_then(both),
            }),
            None => None,
        };
        Some(DecoderModel {
            heads: t.heads(),
            rms_norm_eps: t.config.rms_norm_eps,
            embeds_std: self.embeds_std,
            embed: params.get(t.embed),
            lm_head: params.get(t.lm_head),
            norm: params.get(t.norm),
            inv_freq: &t.inv_freq,
            layers: t.layers.iter().map(layer).collect(),
            head,
        })
    }
}
