//! `train --dry-run`: what a run would be and take.

use crate::cli::shown::{begun, duration};
use crate::cli::sparkline::sparkline;
use crate::train::DryRun;

/// Columns of the learning rate's curve.
const WIDTH: usize = 60;

/// The report, a line a matter.
pub(super) fn report(run: &DryRun) -> String {
    let start = &run.start;
    let mut lines = vec![begun(start)];
    lines.push(format!(
        "time: {} a step; {} in all, on this machine as it is now",
        duration(run.seconds_per_step),
        duration(run.seconds())
    ));
    if let Some(seconds) = run.seconds_per_validation {
        let share = 100.0 * run.validations as f64 * seconds / run.seconds();
        lines.push(format!(
            "validation: {} each, {} of them, {share:.0} % of the time",
            duration(seconds),
            run.validations
        ));
    }
    let longest = run.longest.iter().map(|(tokens, place)| format!("{tokens} tokens (sample {place})"));
    lines.push(format!("longest samples: {}", longest.collect::<Vec<_>>().join(", ")));
    lines.push(match (start.left_out, run.longest.first()) {
        (0, Some((tokens, _))) if *tokens > run.positions => format!(
            "cut: nothing; but the model was made for {} positions, and some samples are longer (--max-length)",
            run.positions
        ),
        (0, _) => "cut: nothing".to_owned(),
        (n, _) => format!("left out: {n} samples longer than --max-length"),
    });
    let rates: Vec<f64> = run.lr.iter().map(|(_, lr)| f64::from(*lr)).collect();
    let (first, last) = (run.lr.first(), run.lr.last());
    if let (Some((_, first)), Some((_, last))) = (first, last) {
        let peak = run.lr.iter().map(|(_, lr)| *lr).fold(0.0, f32::max);
        lines.push(format!("learning rate: {first:e} → {peak:e} → {last:e}  {}", sparkline(&rates, WIDTH)));
    }
    lines.push("nothing was written".to_owned());
    lines.join("\n") + "\n"
}
