//! What a run is told: flags, a TOML file, and the defaults behind both.

mod flags;
mod rl;
mod sft;

pub use flags::{LatentLossName, LatentNoise, Monitor, Stage, TrainFlags};
pub use rl::RlOptions;
pub use sft::TrainOptions;

/// Whether a run trains the weight of this name: adapters and latent head always, the others with `full`.
fn trains(name: &str, full: bool, freeze_embedding: bool) -> bool {
    if name.starts_with("latent_policy.") || name.contains(".lora_") {
        return true;
    }
    full && !(freeze_embedding && name == "model.embed_tokens.weight")
}
