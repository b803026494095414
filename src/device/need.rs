//! Memory that a run needs on a device, part by part, so that a run that does not fit is refused before it begins.

use crate::{Error, Result};

/// How long a part of the memory is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    /// It is there already, and is named for the reader of the message.
    Held,
    /// It is about to be allocated and outlives the run: weights.
    Kept,
    /// It comes and goes with the run: the cache, activations.
    Run,
}

/// A part of the memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Its purpose, for a message: "the key-value cache of 300 positions for a batch of 8".
    pub what: String,
    /// How many bytes.
    pub bytes: usize,
    /// How long.
    pub stay: Stay,
    /// Advice to need less, for a message: "a smaller `batch_size`".
    pub less: &'static str,
}

/// Free and present memory of a device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes left for new buffers.
    pub free: usize,
    /// All there is.
    pub total: usize,
}

/// A number of bytes as people read it.
fn show(bytes: usize) -> String {
    let kib = bytes as f64 / 1024.0;
    match kib {
        _ if kib < 1024.0 => format!("{kib:.1} KiB"),
        _ if kib < 1024.0 * 1024.0 => format!("{:.1} MiB", kib / 1024.0),
        _ => format!("{:.2} GiB", kib / (1024.0 * 1024.0)),
    }
}

/// Fails unless all parts that are not there yet fit the room.
pub(super) fn check_room(device: &str, needs: &[Need], room: Room) -> Result<()> {
    let new = || needs.iter().filter(|n| n.stay != Stay::Held);
    let sum = new().fold(0usize, |sum, n| sum.saturating_add(n.bytes));
    if sum <= room.free {
        return Ok(());
    }
    let list = |parts: Vec<&Need>| -> String {
        parts.iter().map(|n| format!("{} {}", n.what, show(n.bytes))).collect::<Vec<_>>().join(", ")
    };
    let held: Vec<&Need> = needs.iter().filter(|n| n.stay == Stay::Held).collect();
    let beside = if held.is_empty() { String::new() } else { format!(", beside {}", list(held)) };
    let less = new().max_by_key(|n| n.bytes).map_or("a smaller model", |n| n.less);
    Err(Error::other(format!(
        "{device}: {} more are needed, {} of {} are free: {}{beside}; {less} needs less",
        show(sum),
        show(room.free),
        show(room.total),
        list(new().collect())
    )))
}
