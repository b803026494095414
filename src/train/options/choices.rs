//! Choices among a few ways, as the flags name them.

use serde::{Deserialize, Serialize};

/// The stage of training.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Supervised, on given chains of reasoning.
    #[default]
    Sft,
    /// By the rewards of the model's own chains.
    Rl,
}

/// The latent loss, as on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LatentLossName {
    /// Squared distance of a reparameterised sample.
    Mse,
    /// Negative log-likelihood.
    Nll,
}

/// Whether latent draws in training use noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LatentNoise {
    /// A fresh draw for every element.
    Sample,
    /// The expectation over the draw.
    Expected,
}

/// The measure by which checkpoints are best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Monitor {
    /// Accuracy of greedy generation on validation questions, as in the authors' code.
    Accuracy,
    /// Validation loss, in the expectation forms.
    Loss,
}
