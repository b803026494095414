//! The time of one call of an operation among many.
//!
//! A call is timed in batches, one call directly after the other, each on the next set of operands. A GPU that
//! has nothing to do until the host has asked for the next call would show the host's time, some microseconds a
//! launch; so before each batch it is given other work, for as long as the host needs to ask for the batch.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Result;
use crate::device::Device;

/// A call of an operation, on the set of operands of this number.
pub type Work<D> = Box<dyn FnMut(&D, usize) -> Result<()> + Send>;

/// Seconds that a batch should take.
const BATCH: f64 = 2e-3;

/// Most calls of a batch: as many as a GPU's queue takes without making the host wait.
const MOST_CALLS: usize = 64;

/// Most batches.
const MOST_BATCHES: usize = 31;

/// Shape of the buffer that is cleared to keep a device busy: 128 MiB of floats, which takes far longer to clear than
/// to ask for.
const LEAD: [usize; 2] = [1 << 12, 1 << 13];

/// Most clearings before a batch.
const MOST_LEADS: usize = 64;

/// The time of a call.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Timing {
    /// Median over the batches of the mean of a batch, microseconds.
    pub median_us: f64,
    /// The least mean of a batch.
    pub min_us: f64,
    /// The largest.
    pub max_us: f64,
    /// Batches.
    pub batches: usize,
    /// Calls of a batch.
    pub calls: usize,
}

/// A stop-watch of a device.
pub struct Timer<D: Device> {
    device: D,
    /// The buffer that an asynchronous device clears before a batch, and the seconds that one clearing takes.
    lead: Option<(D::Tensor, f64)>,
    /// Seconds the host needs to ask for a batch, as last seen.
    asking: f64,
}

impl<D: Device> Timer<D> {
    /// Finds out whether the device is asynchronous.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn new(device: &D) -> Result<Self> {
        let mut timer = Timer { device: device.clone(), lead: None, asking: 0.0 };
        let [rows, cols] = LEAD;
        let mut lead = device.zeros(rows, cols)?;
        let seconds = |t: &mut D::Tensor| -> Result<(f64, f64)> {
            let mut asked = Duration::ZERO;
            let took = device.time(
                || Ok(()),
                || {
                    let start = Instant::now();
                    device.clear(t)?;
                    asked = start.elapsed();
                    Ok(())
                },
            )?;
            Ok((took.as_secs_f64(), asked.as_secs_f64()))
        };
        // The first call may load code that later ones find loaded.
        seconds(&mut lead)?;
        let (took, asked) = seconds(&mut lead)?;
        if asked < 0.5 * took {
            timer.lead = Some((lead, took));
        }
        Ok(timer)
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The time of `calls` calls on sets of operands from number `first`, in as many batches as it takes.
    ///
    /// # Errors
    /// Errors of the work.
    pub fn run(&mut self, calls: usize, first: usize, work: &mut Work<D>) -> Result<Duration> {
        let (end, mut total) = (first + calls, Duration::ZERO);
        for first in (first..end).step_by(MOST_CALLS) {
            total += self.batch((end - first).min(MOST_CALLS), first, work)?;
        }
        Ok(total)
    }

    /// The time of one batch.
    fn batch(&mut self, calls: usize, first: usize, work: &mut Work<D>) -> Result<Duration> {
        let (device, asking) = (&self.device, &mut self.asking);
        let lead = &mut self.lead;
        let expected = *asking;
        device.time(
            || {
                let Some((tensor, seconds)) = lead else { return Ok(()) };
                let clearings = (1.5 * expected / *seconds).ceil() as usize;
                (0..clearings.clamp(1, MOST_LEADS)).try_for_each(|_| device.clear(tensor))
            },
            || {
                let start = Instant::now();
                (first..first + calls).try_for_each(|i| work(device, i))?;
                *asking = start.elapsed().as_secs_f64();
                Ok(())
            },
        )
    }

    /// Times a call for about `seconds`, after one that does not count.
    ///
    /// # Errors
    /// Errors of the work.
    pub fn measure(&mut self, seconds: f64, work: &mut Work<D>) -> Result<Timing> {
        self.batch(1, 0, work)?;
        let mut one = self.batch(1, 1, work)?.as_secs_f64();
        let calls = ((BATCH / one.max(1e-9)) as usize).clamp(1, MOST_CALLS);
        let mut next = 2;
        let mut means = Vec::new();
        if calls == 1 {
            means.push(one);
        } else {
            // The time the host needs to ask for a batch of this size, and that of a call among others.
            one = self.batch(calls, next, work)?.as_secs_f64() / calls as f64;
            next += calls;
        }
        let batches = (seconds / (one * calls as f64)) as usize;
        let batches = batches.clamp(if seconds > 0.0 { 3 } else { 1 }, MOST_BATCHES);
        while means.len() < batches {
            means.push(self.batch(calls, next, work)?.as_secs_f64() / calls as f64);
            next += calls;
        }
        let least = means.iter().copied().fold(f64::INFINITY, f64::min);
        let most = means.iter().copied().fold(0.0, f64::max);
        let batches = means.len();
        Ok(Timing { median_us: 1e6 * median(means), min_us: 1e6 * least, max_us: 1e6 * most, batches, calls })
    }
}

/// The median of some seconds; 0 of none.
pub(super) fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    match seconds.len() {
        0 => 0.0,
        n if n % 2 == 1 => seconds[n / 2],
        n => 0.5 * (seconds[n / 2 - 1] + seconds[n / 2]),
    }
}
