//! Where random numbers come from.

/// Where the draws of one row come from: counter-based, so the same key and counter give the same
/// numbers on every device and in every batch (spec section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// Philox key: the request's seed.
    pub key: u64,
    /// Philox counter words 1 and 2: the purpose of the draw, and the position it is for.
    pub counter: [u32; 2],
}
