//! Files, read so that no content can bring the engine down, and written so that none is ever half
//! written.

pub mod atomic;
mod destination;
#[cfg(all(target_os = "linux", feature = "cli"))]
pub mod faults;
pub mod hidden;
pub mod json;
#[cfg(feature = "train")]
pub mod lock;
pub mod mapped;
#[cfg(feature = "cli")]
pub mod new_run;
pub mod pytorch;
#[cfg(feature = "train")]
pub mod runs;
pub mod safetensors;
pub mod staged;
pub mod stand_in;
pub mod weights;

/// The names of a directory's entries, hidden ones included, in order.
#[cfg(test)]
fn names(dir: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
