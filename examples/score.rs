//! Compares compression factors by how well a model predicts a data set, without generating anything.
//!
//! ```sh
//! cargo run --release --example score -- MODEL_DIR CHECKPOINT_DIR test.jsonl
//! ```

use colar_engine::data;
use colar_engine::train::ScoreOptions;
use colar_engine::{Engine, Error, Result};

fn main() -> Result<()> {
    let [model, checkpoint, file] = arguments()?;
    let engine = Engine::load(model, Some(checkpoint))?;
    let samples = data::load(file, None)?;
    for compression_factor in 1..=5 {
        let options = ScoreOptions::default().compression_factor(compression_factor);
        let total = engine.score(&samples, &options, &mut |_| Ok(()))?.total;
        let mse = total.latent_mse.unwrap_or(f64::NAN);
        println!("c = {compression_factor}: cross-entropy {:.4} nats, latent mse {mse:.4}", total.ce);
    }
    Ok(())
}

fn arguments() -> Result<[String; 3]> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    arguments.try_into().map_err(|_| Error::usage("usage: score MODEL_DIR CHECKPOINT_DIR DATA_FILE"))
}
