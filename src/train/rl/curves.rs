//! The curves of a run, drawn from its metrics: how rewards, latents and policy moved.

use std::ops::Range;
use std::path::Path;

use plotters::prelude::*;
use serde_json::{Map, Value};

use crate::chart::{Area, Axes, COLAR as TRAIN, COT as VAL, Drawn, FONT, Look, svg};
use crate::files::atomic::write_atomic;
use crate::{Error, Result};

/// Width and height of a panel in pixels, and panels side by side.
const PANEL: (u32, u32) = (360, 230);
const COLUMNS: u32 = 3;
const LOOK: Look = Look { title: 14, margins: (8, 16), room: (24, 56), ticks: (6, 5), tick: 11, name: 11 };

/// A panel: its title, the training metric and the validation metric it shows.
const PANELS: [(&str, &str, Option<&str>); 9] = [
    ("reward", "reward", Some("reward")),
    ("accuracy", "accuracy", Some("accuracy")),
    ("latents of a chain", "n_latents", Some("mean_length")),
    ("entropy of a latent (nats per dimension)", "entropy", None),
    ("ratio of new to old probability", "ratio", None),
    ("share of clipped elements", "clip_fraction", None),
    ("KL to the start, latents", "kl_latent", None),
    ("KL to the start, answer tokens", "kl_answer", None),
    ("gradient norm", "grad_norm", None),
];

type Points = Vec<(f64, f64)>;

/// Draws the metrics in `from` (JSON lines) to the SVG file `to`, whole or not at all.
///
/// # Errors
/// [`Error::Io`] naming a file.
pub(super) fn write(from: &Path, to: &Path) -> Result<()> {
    let text = std::fs::read_to_string(from).map_err(Error::io(from))?;
    let lines: Vec<Map<String, Value>> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let svg = draw(&lines)?;
    write_atomic(to, |out| out.write_all(svg.as_bytes()))
}

/// The values of a metric by step.
fn series(lines: &[Map<String, Value>], kind: &str, name: &str) -> Points {
    let of_kind = lines.iter().filter(|line| line.get("kind").is_some_and(|k| k == kind));
    of_kind
        .filter_map(|line| Some((line.get("step")?.as_f64()?, line.get(name)?.as_f64()?)))
        .filter(|(_, y)| y.is_finite())
        .collect()
}

fn draw(lines: &[Map<String, Value>]) -> Result<String> {
    let rows = (PANELS.len() as u32).div_ceil(COLUMNS);
    svg((PANEL.0 * COLUMNS, PANEL.1 * rows + 24), |area| {
        let (panels, legend) = area.split_vertically(PANEL.1 * rows);
        for (panel, &(title, train, val)) in
            panels.split_evenly((rows as usize, COLUMNS as usize)).iter().zip(&PANELS)
        {
            let val = val.map(|name| series(lines, "val", name)).unwrap_or_default();
            draw_panel(panel, title, &series(lines, "train", train), &val)?;
        }
        let style = |colour: &RGBColor| (FONT, 13).into_font().color(colour);
        legend.draw_text("rollouts of the step", &style(&TRAIN), (14, 2))?;
        legend.draw_text("validation questions, greedy", &style(&VAL), (160, 2))?;
        Ok(())
    })
}

fn draw_panel(area: &Area<'_>, title: &str, train: &Points, val: &Points) -> Drawn {
    let all = || train.iter().chain(val);
    let (x, y) = (range(all().map(|p| p.0)), range(all().map(|p| p.1)));
    let span = y.end - y.start;
    let axes = Axes { title, x, y, names: ("", ""), y_tick: &|at| tick(*at, span) };
    let mut chart = axes.draw(area, &LOOK)?;
    chart.draw_series(LineSeries::new(train.iter().copied(), TRAIN.stroke_width(1)))?;
    chart.draw_series(LineSeries::new(val.iter().copied(), VAL.stroke_width(2)))?;
    chart.draw_series(val.iter().map(|&p| Circle::new(p, 3, VAL.filled())))?;
    Ok(())
}

/// A number on an axis of this span, with as many digits as tell its ticks apart.
fn tick(y: f64, span: f64) -> String {
    if y.abs() < 1e-12 * span {
        return "0".to_owned();
    }
    let digits = (1.0 - (span / 5.0).log10()).ceil().max(0.0) as usize;
    if digits > 4 && y.abs() < 0.01 { format!("{y:.1e}") } else { format!("{y:.digits$}") }
}

/// From the least to the greatest value, with a margin; never empty.
fn range(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return 0.0..1.0;
    }
    let margin = ((high - low) * 0.06).max(1e-3 * high.abs()).max(1e-9);
    low - margin..high + margin
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_any_length_is_drawn() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("metrics.jsonl"), dir.path().join("rl.svg"));
        for steps in [0, 1, 40] {
            let mut text = String::from("{\"kind\":\"val\",\"step\":0,\"reward\":0.5,\"accuracy\":1}\n");
            for step in 1..=steps {
                let y = 1.0 / f64::from(step);
                text +=
                    &format!("{{\"kind\":\"train\",\"step\":{step},\"reward\":{y},\"grad_norm\":null}}\n");
            }
            std::fs::write(&from, text).unwrap();
            write(&from, &to).unwrap();
            let svg = std::fs::read_to_string(&to).unwrap();
            assert!(svg.trim_end().ends_with("</svg>") && svg.contains("gradient norm"));
        }
    }

    #[test]
    fn neighbouring_ticks_differ() {
        for (low, span) in [(0.0, 1.0), (-0.64, 0.02), (1.0, 2e-4), (8.0, 9.0), (3e-4, 1e-3), (120.0, 400.0)]
        {
            let (a, b) = (tick(low + 0.2 * span, span), tick(low + 0.4 * span, span));
            assert_ne!(a, b);
        }
        assert_eq!(tick(0.0, 1.0), "0");
    }

    #[test]
    fn ranges_are_never_empty() {
        assert_eq!(range([].into_iter()), 0.0..1.0);
        for values in [vec![0.0], vec![2.5, 2.5], vec![-1.0, 3.0]] {
            let r = range(values.iter().copied());
            assert!(values.iter().all(|v| r.contains(v)) && r.start < r.end);
        }
    }
}
