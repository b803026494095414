//! The curves of a run, drawn from its metrics: how rewards, latents and policy moved.

use std::path::Path;

use plotters::prelude::*;

use crate::Result;
use crate::chart::{Area, Axes, COLAR as TRAIN, COT as VAL, Drawn, FONT, Look, fine_tick, range, svg};
use crate::files::atomic::write_atomic;
use crate::train::metrics::Records;

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

/// Draws the metrics in `from` (JSON lines) to the SVG file `to`, whole or not at all.
///
/// # Errors
/// [`Error::Io`] naming a file.
pub(super) fn write(from: &Path, to: &Path) -> Result<()> {
    let svg = draw(&Records::read(from)?)?;
    write_atomic(to, |out| out.write_all(svg.as_bytes()))
}

fn draw(records: &Records) -> Result<String> {
    let rows = (PANELS.len() as u32).div_ceil(COLUMNS);
    svg((PANEL.0 * COLUMNS, PANEL.1 * rows + 24), |area| {
        let (panels, legend) = area.split_vertically(PANEL.1 * rows);
        for (panel, &(title, train, val)) in
            panels.split_evenly((rows as usize, COLUMNS as usize)).iter().zip(&PANELS)
        {
            let val = val.map(|name| records.series("val", name)).unwrap_or_default();
            draw_panel(panel, title, &records.series("train", train), &val)?;
        }
        let style = |colour: &RGBColor| (FONT, 13).into_font().color(colour);
        legend.draw_text("rollouts of the step", &style(&TRAIN), (14, 2))?;
        legend.draw_text("validation questions, greedy", &style(&VAL), (160, 2))?;
        Ok(())
    })
}

fn draw_panel(area: &Area<'_>, title: &str, train: &[(f64, f64)], val: &[(f64, f64)]) -> Drawn {
    let all = || train.iter().chain(val);
    let (x, y) = (range(all().map(|p| p.0)), range(all().map(|p| p.1)));
    let span = y.end - y.start;
    let axes = Axes { title, x, y, names: ("", ""), y_tick: &|at| fine_tick(*at, span) };
    let mut chart = axes.draw(area, &LOOK)?;
    chart.draw_series(LineSeries::new(train.iter().copied(), TRAIN.stroke_width(1)))?;
    chart.draw_series(LineSeries::new(val.iter().copied(), VAL.stroke_width(2)))?;
    chart.draw_series(val.iter().map(|&p| Circle::new(p, 3, VAL.filled())))?;
    Ok(())
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
}
