//! Event files for TensorBoard.
//!
//! An event file is a row of records, each a protobuf message `Event` between two checksums
//! (TensorFlow's record framing: length, masked CRC-32C of the length, data, masked CRC-32C of the data).
//! Only four shapes of message are needed, so they are encoded here; field numbers are those of
//! TensorFlow's `event.proto` and `summary.proto`.
//!
//! Every start of a run begins a new file in its directory and marks the step that it goes on with
//! ([`EventWriter::start`]), so that steps lost in a kill are not shown twice.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Error, Result};

/// The beginning of the names of event files, by which TensorBoard knows them.
const PREFIX: &str = "events.out.tfevents.";

/// Appends scalars to one event file.
#[derive(Debug)]
pub struct EventWriter {
    out: BufWriter<File>,
    path: PathBuf,
}

impl EventWriter {
    /// Starts an event file in `dir` (created if absent) whose first record is of step `from`: records of that step and
    /// later ones in earlier files are disregarded.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn start(dir: &Path, from: u64) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::io(dir))?;
        let now = wall_time();
        // Files are read in the order of their names, which begin with the second: one that the last file does not have
        // makes this the next, however fast one run followed another.
        let first = (now as u64).max(newest(dir)?.map_or(0, |second: u64| second.saturating_add(1)));
        for second in first.. {
            let path = dir.join(format!("{PREFIX}{second:010}.{}.{}.0", host(), std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    let mut writer = Self { out: BufWriter::new(file), path };
                    writer.record(&version_event(now))?;
                    writer.record(&start_event(now, from))?;
                    return Ok(writer);
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io(path)(e)),
            }
        }
        Err(Error::file(dir, "has no free name for an event file"))
    }

    /// The file written to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds the value of `tag` at `step`.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn scalar(&mut self, step: u64, tag: &str, value: f32) -> Result<()> {
        self.record(&scalar_event(wall_time(), step, tag, value))
    }

    /// Hands everything written so far to the operating system.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(Error::io(&self.path))
    }

    fn record(&mut self, event: &[u8]) -> Result<()> {
        self.out.write_all(&frame(event)).map_err(Error::io(&self.path))
    }
}

/// The second in the name of the last event file of a directory; `None` if it has none.
fn newest(dir: &Path) -> Result<Option<u64>> {
    let mut newest = None;
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let name = entry.map_err(Error::io(dir))?.file_name();
        let second =
            name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('.').next()?.parse().ok());
        newest = newest.max(second);
    }
    Ok(newest)
}

/// Seconds since 1970.
fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The machine's name, as far as it is fit for a file name.
fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String =
        name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(64).collect();
    if name.is_empty() { "localhost".into() } else { name }
}

/// A record around `data`.
fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend_from_slice(&length);
    record.extend_from_slice(&masked_crc(&length).to_le_bytes());
    record.extend_from_slice(data);
    record.extend_from_slice(&masked_crc(data).to_le_bytes());
    record
}

/// The checksum as records store it: turned and shifted, so that a record whose data holds records
/// with checksums does not check itself.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The first event of a file.
fn version_event(wall_time: f64) -> Vec<u8> {
    let mut event = Message::default();
    event.double(1, wall_time);
    event.bytes(3, b"brain.Event:2");
    event.0
}

/// The event that begins a session at `step`.
fn start_event(wall_time: f64, step: u64) -> Vec<u8> {
    let mut session = Message::default();
    // SessionLog.status = START
    session.varint(1, 1);
    let mut event = Message::default();
    event.double(1, wall_time);
    event.varint(2, step);
    event.bytes(7, &session.0);
    event.0
}

/// One scalar.
fn scalar_event(wall_time: f64, step: u64, tag: &str, value: f32) -> Vec<u8> {
    let mut entry = Message::default();
    entry.bytes(1, tag.as_bytes());
    entry.float(2, value);
    let mut summary = Message::default();
    summary.bytes(1, &entry.0);
    let mut event = Message::default();
    event.double(1, wall_time);
    event.varint(2, step);
    event.bytes(5, &summary.0);
    event.0
}

/// A protobuf message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn key(&mut self, field: u64, wire_type: u64) {
        self.raw_varint(field << 3 | wire_type);
    }

    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn varint(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.raw_varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, 2);
        self.raw_varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend_from_slice(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The records that TensorBoard's own writer makes of the same events.
    #[test]
    fn records_are_those_of_the_reference_writer() {
        assert_eq!(
            hex(&frame(&version_event(1.5))),
            "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c"
        );
        assert_eq!(
            hex(&frame(&scalar_event(2.5, 300, "train/loss", 0.25))),
            "2100000000000000017becf609000000000000044010ac022a130a110a0a747261696e2f6c6f7373150000803e3cc9cac5"
        );
        assert_eq!(
            hex(&frame(&start_event(3.5, 300))),
            "100000000000000095fbfe18090000000000000c4010ac023a0208011a55a2e0"
        );
    }

    #[test]
    fn files_sort_by_their_start_however_fast_they_follow() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("events.out.tfevents.odd"), "").unwrap();
        let mut writers: Vec<EventWriter> =
            (0..12).map(|step| EventWriter::start(dir.path(), step).unwrap()).collect();
        assert!(writers.is_sorted_by(|a, b| a.path() < b.path()));
        writers[0].scalar(1, "loss", 1.0).unwrap();
        writers[0].flush().unwrap();
        let begun = frame(&version_event(0.0)).len() + frame(&start_event(0.0, 0)).len();
        let scalar = frame(&scalar_event(0.0, 1, "loss", 1.0)).len();
        assert_eq!(fs::metadata(writers[0].path()).unwrap().len(), (begun + scalar) as u64);
    }
}
