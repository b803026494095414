//! The losses of a score, sample by sample and over a data set.

use serde::Serialize;

use crate::device::Device;
use crate::model::params::Params;
use crate::{Error, Result};

/// The losses of one sample, each a mean over its own positions, in nats.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SampleScore {
    /// The question as asked.
    pub question: String,
    /// The losses.
    #[serde(flatten)]
    pub losses: Losses,
}

/// Mean losses; the latent ones are `None` under any method but CoLaR.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Losses {
    /// Cross-entropy of the labels, those of a chunk in the mean form.
    pub ce: f64,
    /// (mu − target)² + sigma², mean over D.
    pub latent_mse: Option<f64>,
    /// −log N(target; mu, sigma), mean over D.
    pub latent_nll: Option<f64>,
    /// Entropy of the predicted distributions, mean over D.
    pub entropy: Option<f64>,
    /// Labelled positions.
    pub ce_positions: usize,
    /// Positions that predict a latent.
    pub latent_positions: usize,
    /// Cross-entropy of the reasoning text that was distilled (distill).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_ce: Option<f64>,
    /// Smooth-L1 distance of the hidden states before the answer from those of the reasoning text, mean over layers
    /// and hidden size (distill).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distill: Option<f64>,
}

/// The losses of a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Sample by sample, in the order of the data set.
    pub samples: Vec<SampleScore>,
    /// Means over all positions of all samples.
    pub total: Losses,
}

impl Losses {
    /// Fails on a loss that is not finite, naming the weight that is to blame if there is one; `place` counts the samples from 0.
    pub(super) fn check<D: Device>(&self, place: usize, device: &D, params: &Params<D>) -> Result<()> {
        for (what, loss) in [
            ("ce", Some(self.ce)),
            ("latent_mse", self.latent_mse),
            ("latent_nll", self.latent_nll),
            ("entropy", self.entropy),
            ("teacher_ce", self.teacher_ce),
            ("distill", self.distill),
        ] {
            if loss.is_some_and(|l| !l.is_finite()) {
                let cause =
                    params.unfit(device).map(|name| format!(": the weight {name} holds NaN or infinity"));
                let cause = cause.unwrap_or_default();
                return Err(Error::other(format!("sample {}: {what} is not finite{cause}", place + 1)));
            }
        }
        Ok(())
    }
}
