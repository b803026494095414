//! The files of a report.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::measure::write_json;
use crate::Result;
use crate::files::atomic::write_atomic;

/// The place of `path` in the experiment, if it lies there.
pub(super) fn within(root: &Path, path: &Path) -> PathBuf {
    path.strip_prefix(root).map_or_else(|_| path.to_owned(), Path::to_owned)
}

/// Writes a report in its three forms, `NAME.md`, `NAME.json` and `NAME.svg`, and says where.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) naming the file.
pub(super) fn write_report(
    dir: &Path,
    name: &str,
    text: &str,
    json: &impl Serialize,
    svg: &str,
) -> Result<Vec<PathBuf>> {
    let path = |ext: &str| dir.join(format!("{name}.{ext}"));
    write_atomic(&path("md"), |out| out.write_all(text.as_bytes()))?;
    write_json(&path("json"), json)?;
    write_atomic(&path("svg"), |out| out.write_all(svg.as_bytes()))?;
    Ok(["md", "json", "svg"].map(path).to_vec())
}
