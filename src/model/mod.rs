//! The model: configuration, weights, layers with forward and backward.
