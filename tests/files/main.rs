//! Files as others write them: published data sets, the golden models, and damaged ones.

#[path = "../common/mod.rs"]
mod common;

mod formats;
mod golden;
mod hostile;
mod peft;
mod pytorch;
