//! `experiment table1 --dry-run`: what the comparison would take.

use crate::cli::shown::duration;
use crate::experiment::Forecast;

/// The report, a line a method.
pub(super) fn report(forecast: &Forecast) -> String {
    let of_parts = format!("{} parts, {} of them finished", forecast.parts, forecast.finished);
    if forecast.methods.is_empty() {
        return format!("{of_parts}: only the report is left\nnothing was written\n");
    }
    let width = forecast.methods.iter().map(|m| m.name.len()).max().unwrap_or(0);
    let mut lines = vec![of_parts];
    for m in &forecast.methods {
        let mut line = format!(
            "{:width$}  {} updates at {}: {}",
            m.name,
            m.updates,
            duration(m.seconds_per_update),
            duration(m.training_seconds())
        );
        if m.answers > 0 {
            line += &format!(
                "; {} answers at no more than {}: {}",
                m.answers,
                duration(m.seconds_per_answer),
                duration(m.answering_seconds())
            );
        }
        lines.push(line);
    }
    let bytes = forecast.methods.iter().map(|m| m.bytes).max().unwrap_or(0);
    let jobs = match forecast.jobs {
        1 => String::new(),
        jobs => format!(", {jobs} runs at a time"),
    };
    let runs = if forecast.jobs == 1 { "run" } else { "runs together" };
    let mib = (bytes * forecast.jobs).div_ceil(1 << 20);
    lines.push(format!(
        "in all: no more than {} on this machine as it is now{jobs}",
        duration(forecast.seconds())
    ));
    lines.push(format!("memory of the largest {runs}: {mib} MiB"));
    lines.push("nothing was written".to_owned());
    lines.join("\n") + "\n"
}
