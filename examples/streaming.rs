//! Shows a text while it is written: a dot for each latent, then the answer token by token.
//!
//! ```sh
//! cargo run --release --example streaming -- MODEL_DIR CHECKPOINT_DIR "Tom has 3 boxes of 24 pens. How many?"
//! ```

use std::io::Write;

use colar_engine::{Engine, Error, Event, Request, Result, Sampling};

fn main() -> Result<()> {
    let [model, checkpoint, question] = arguments()?;
    let engine = Engine::load(model, Some(checkpoint))?;
    let request = Request::question(question, "2")
        // Latents are drawn, the answer is not: two seeds may think differently.
        .sampling(Sampling::default().temperature(0.0).seed(7));
    let generations = engine.generate_streaming(&[request], |event| {
        match event {
            Event::Latent { .. } => print!("·"),
            // The text of single tokens; a tokenizer may spread one character over several.
            Event::Token { id, .. } => print!("{}", engine.token_text(id).unwrap_or_default()),
            _ => println!(),
        }
        // An error of the terminal is ignored: the generation below is complete all the same.
        let _ = std::io::stdout().flush();
    })?;
    for g in generations {
        println!("{} latents, then {:?}", g.n_latents, g.text);
    }
    Ok(())
}

fn arguments() -> Result<[String; 3]> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    arguments.try_into().map_err(|_| Error::usage("usage: streaming MODEL_DIR CHECKPOINT_DIR QUESTION"))
}
