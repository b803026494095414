//! The time that the process's threads ran.

/// Clock ticks a second in `/proc`, whatever the kernel's own clock: part of Linux's interface.
const TICKS: f64 = 100.0;

/// Seconds that all threads of the process have run so far, if the operating system tells it.
pub(super) fn seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the program's name, may hold anything, a bracket too; after it the state is the third.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::hint::black_box;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn it_grows_while_a_thread_runs() {
        let before = seconds().unwrap();
        let begun = Instant::now();
        // Until the clock has moved, however busy the machine is.
        while seconds().unwrap() <= before {
            assert!(begun.elapsed() < Duration::from_secs(60));
            black_box((0..100_000u64).map(black_box).sum::<u64>());
        }
    }
}
