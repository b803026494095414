//! Answers questions at several compression factors, in one batch.
//!
//! ```sh
//! cargo run --release --example generate -- MODEL_DIR CHECKPOINT_DIR "Tom has 3 boxes of 24 pens. How many?"
//! ```

use colar_engine::{Engine, Error, Request, Result};

fn main() -> Result<()> {
    let [model, checkpoint, question] = arguments()?;
    let engine = Engine::load(model, Some(checkpoint))?;
    // Requests of a batch may differ in everything, and give what each would give alone.
    let requests: Vec<Request> =
        ["1", "2", "5", "auto"].iter().map(|c| Request::question(&question, *c).greedy()).collect();
    for g in engine.generate_batch(&requests)? {
        let answer = g.answer.as_deref().unwrap_or("no answer");
        println!(
            "c = {:<5} {answer} after {} latents in {:.1} ms",
            g.compression_factor, g.n_latents, g.latents_ms
        );
    }
    Ok(())
}

fn arguments() -> Result<[String; 3]> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    arguments.try_into().map_err(|_| Error::usage("usage: generate MODEL_DIR CHECKPOINT_DIR QUESTION"))
}
