//! `bench kernels --count`: what the kernels would move on a GPU, and the time that follows.

use crate::Result;
use crate::bench::counts::{CountOptions, CountedLaunch, CountedRow, counts};
use crate::cli::bench::common::as_json;
use crate::cli::terminal;
use crate::device::cuda::host::traffic::{Access, SECTOR, Site};

/// Lines of the source that are shown of a launch.
const LINES: usize = 4;

/// Counts, and prints each row as it is there, or all as JSON in the end.
///
/// # Errors
/// As [`counts`].
pub(super) fn run(options: &CountOptions, json: bool) -> Result<()> {
    if json {
        let rows = counts(options, &mut |_| ())?;
        return terminal::print(&format!("{}\n", as_json(&rows)?));
    }
    terminal::note("the kernels are compiled with a call at every access, which takes a minute");
    // Who no longer reads is told nothing.
    let show = |text: String| terminal::print(&text).unwrap_or_default();
    let mut begun = false;
    counts(options, &mut |row| {
        if !std::mem::replace(&mut begun, true) {
            show(head());
        }
        show(text(row));
    })?;
    Ok(())
}

fn head() -> String {
    format!(
        "Counted on the CPU, of at most 8 blocks of a launch unless they wait for each other. Times are predictions for an H100 \
         SXM:\nnone was measured. MB: read and written at least, and through the second-level cache. x: sectors of global memory, \
         and\nwavefronts of shared memory, over the fewest that the same bytes take.\n\n\
         {:>13}  {:>8}  {:>9}  {:>9}  {:>6}  {:>6}  operation, kernel\n",
        "predicted, us", "bound", "memory MB", "cache MB", "global", "shared",
    )
}

fn text(row: &CountedRow) -> String {
    let mut out = match row.launches.as_slice() {
        [] => format!("{:>13}  {:>8}  {} {}: a product of the library\n", "-", "-", row.operation, row.shape),
        _ => format!("{:13.1}  {:>8}  {} {}\n", row.predicted_us, "", row.operation, row.shape),
    };
    for launch in &row.launches {
        out += &of_launch(launch);
    }
    out
}

fn of_launch(launch: &CountedLaunch) -> String {
    let (t, p) = (&launch.traffic, &launch.prediction);
    let megabytes = |sectors: f64| 1e-6 * SECTOR * sectors;
    let [x, y] = t.grid;
    let mut out = format!(
        "{:13.1}  {:>8}  {:9.2}  {:9.2}  {:>6}  {:>6}    {} <{}x{y}, {}>\n",
        p.predicted_us,
        p.bound.name(),
        megabytes(t.read + t.written),
        megabytes(t.block_read + t.block_written),
        ratio(t.sum(false, |s| s.sectors), t.sum(false, |s| s.least_sectors)),
        ratio(t.sum(true, |s| s.wavefronts), t.sum(true, |s| s.least_wavefronts)),
        t.kernel,
        x,
        t.threads,
    );
    for line in launch.lines.iter().take(LINES).filter(|line| line.site.excess() > 0.0) {
        let site = &line.site;
        let (taken, least) = match site.shared {
            true => (site.wavefronts, site.least_wavefronts),
            false => (site.sectors, site.least_sectors),
        };
        out += &format!("{:69}{} {} at {}\n", "", ratio(taken, least), of(site), line.line);
    }
    out
}

/// An access in words.
fn of(site: &Site) -> String {
    let verb = match site.access {
        Access::Write => "write",
        Access::Read => "read",
        Access::Atomic => "atomic",
    };
    let memory = if site.shared { "shared" } else { "global" };
    format!("{memory} {verb} of {} bytes", site.bytes)
}

fn ratio(taken: f64, least: f64) -> String {
    if least > 0.0 { format!("x{:.2}", taken / least) } else { "-".to_owned() }
}
