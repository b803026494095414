//! Where a run goes that was not told where.

use std::path::PathBuf;

/// `runs/<time>` for the present UTC time, to the second: names sort by age.
pub fn new_run_dir() -> PathBuf {
    let now = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    PathBuf::from("runs").join(now)
}
