//! The terms of the objective, and their sums over an optimiser step.

use crate::device::LatentLoss;
use crate::train::batch::Batch;

/// The weights of the objective's terms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Objective {
    /// Factor of the cross-entropy.
    pub ce_weight: f32,
    /// Factor of the latent loss.
    pub latent_weight: f32,
    /// Factor of the entropy; the paper's regularised form has −1e-6.
    pub entropy_weight: f32,
    /// Factor of the second forward's cross-entropy.
    pub pred_embed_forward_weight: f32,
    /// The latent loss.
    pub latent_loss: LatentLoss,
}

impl Default for Objective {
    /// The paper's defaults: cross-entropy and soft-MSE, weight 1 each.
    fn default() -> Self {
        Objective {
            ce_weight: 1.0,
            latent_weight: 1.0,
            entropy_weight: 0.0,
            pred_embed_forward_weight: 0.0,
            latent_loss: LatentLoss::Mse,
        }
    }
}

/// Positions of an optimiser step, over all its batches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Labelled positions.
    pub ce: usize,
    /// Latent positions.
    pub latent: usize,
}

impl Counts {
    /// The counts of these batches together.
    pub fn of<'a>(batches: impl IntoIterator<Item = &'a Batch>) -> Self {
        batches.into_iter().fold(Counts::default(), |c, b| Counts {
            ce: c.ce + b.ce_rows.len(),
            latent: c.latent + b.latent_rows.len(),
        })
    }
}

/// Losses position by position.
#[derive(Debug, Clone, Default)]
pub struct PositionLosses {
    /// Cross-entropy of each of the batch's `ce_rows`.
    pub ce: Vec<f32>,
    /// Latent loss of each of `latent_rows`, mean over D.
    pub latent: Vec<f32>,
    /// Entropy of each of `latent_rows`, mean over D.
    pub entropy: Vec<f32>,
    /// Cross-entropy of the second forward, where it is on.
    pub second_ce: Vec<f32>,
    /// How many log_sigma were bounded (see
    /// [`LOG_SIGMA_RANGE`](crate::device::LOG_SIGMA_RANGE)).
    pub bounded: u64,
}

/// Sums of the losses of an optimiser step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossSums {
    /// Positions seen.
    pub counts: Counts,
    /// Sum of the cross-entropy over positions.
    pub ce: f64,
    /// Sum of the latent loss over positions.
    pub latent: f64,
    /// Sum of the entropy over positions.
    pub entropy: f64,
    /// Sum of the second forward's cross-entropy.
    pub second_ce: f64,
    /// How many log_sigma were bounded.
    pub bounded: u64,
}

impl LossSums {
    /// Adds a batch.
    pub fn add(&mut self, batch: &PositionLosses) {
        let sum = |x: &[f32]| x.iter().map(|&x| f64::from(x)).sum::<f64>();
        self.counts.ce += batch.ce.len();
        self.counts.latent += batch.latent.len();
        self.ce += sum(&batch.ce);
        self.latent += sum(&batch.latent);
        self.entropy += sum(&batch.entropy);
        self.second_ce += sum(&batch.second_ce);
        self.bounded += batch.bounded;
    }

    /// Mean cross-entropy.
    pub fn mean_ce(&self) -> f64 {
        self.ce / self.counts.ce.max(1) as f64
    }

    /// Mean latent loss.
    pub fn mean_latent(&self) -> f64 {
        self.latent / self.counts.latent.max(1) as f64
    }

    /// Mean entropy.
    pub fn mean_entropy(&self) -> f64 {
        self.entropy / self.counts.latent.max(1) as f64
    }

    /// Mean cross-entropy of the second forward.
    pub fn mean_second_ce(&self) -> f64 {
        self.second_ce / self.counts.ce.max(1) as f64
    }

    /// The weighted total.
    pub fn total(&self, o: &Objective) -> f64 {
        f64::from(o.ce_weight) * self.mean_ce()
            + f64::from(o.latent_weight) * self.mean_latent()
            + f64::from(o.entropy_weight) * self.mean_entropy()
            + f64::from(o.pred_embed_forward_weight) * self.mean_second_ce()
    }
}
