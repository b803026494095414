//! The curves of several runs in one plot: the loss of training, or its rewards, and validation.

use std::path::Path;

use plotters::prelude::*;

use super::side::Side;
use crate::chart::{Area, Axes, COLAR, COT, Drawn, FONT, Look, fine_tick, range, svg};
use crate::files::atomic::write_atomic;
use crate::train::metrics::Records;
use crate::{Error, Result};

/// Width and height of a panel in pixels.
const PANEL: (u32, u32) = (470, 330);
/// Height of a line of the legend.
const LINE: u32 = 20;
const LOOK: Look = Look { title: 16, margins: (10, 18), room: (26, 64), ticks: (7, 6), tick: 12, name: 12 };

/// The colours of runs, in their order; a seventh run has the first again.
const COLOURS: [RGBColor; 6] = [
    COLAR,
    COT,
    RGBColor(0, 128, 96),
    RGBColor(120, 94, 150),
    RGBColor(170, 130, 0),
    RGBColor(110, 110, 110),
];

/// Panels: a title, the kind of record, and the metric.
const PANELS: [(&str, &str, &str); 4] = [
    ("training loss", "train", "loss"),
    ("reward of rollouts", "train", "reward"),
    ("validation loss", "val", "loss"),
    ("validation accuracy", "val", "accuracy"),
];

/// Draws the curves of all runs to the SVG file `to`, whole or not at all: a panel for every measure that one of them has.
///
/// # Errors
/// [`Error::Usage`] if none has any; [`Error::Io`] naming `to`.
pub fn write(to: &Path, sides: &[Side]) -> Result<()> {
    let runs: Vec<(&str, &Records)> =
        sides.iter().filter_map(|side| Some((side.name.as_str(), side.records.as_ref()?))).collect();
    let drawn: Vec<_> = PANELS
        .iter()
        .filter(|(_, kind, name)| runs.iter().any(|(_, r)| !r.series(kind, name).is_empty()))
        .collect();
    if drawn.is_empty() {
        return Err(Error::usage("there are no curves to draw: none of these is a run with metrics"));
    }
    let columns = drawn.len().min(2);
    let rows = drawn.len().div_ceil(columns);
    let heights = (PANEL.1 * rows as u32, LINE * runs.len() as u32 + 8);
    let text = svg((PANEL.0 * columns as u32, heights.0 + heights.1), |area| {
        let (panels, legend) = area.split_vertically(heights.0);
        for (panel, (title, kind, name)) in panels.split_evenly((rows, columns)).iter().zip(&drawn) {
            draw_panel(panel, title, &runs.iter().map(|(_, r)| r.series(kind, name)).collect::<Vec<_>>())?;
        }
        for (i, (name, _)) in runs.iter().enumerate() {
            let style = (FONT, 13).into_font().color(&colour(i));
            legend.draw_text(name, &style, (14, (i as u32 * LINE + 2) as i32))?;
        }
        Ok(())
    })?;
    write_atomic(to, |out| out.write_all(text.as_bytes()))
}

fn colour(run: usize) -> RGBColor {
    COLOURS[run % COLOURS.len()]
}

fn draw_panel(area: &Area<'_>, title: &str, series: &[Vec<(f64, f64)>]) -> Drawn {
    let all = || series.iter().flatten();
    let (x, y) = (range(all().map(|p| p.0)), range(all().map(|p| p.1)));
    let span = y.end - y.start;
    let axes = Axes { title, x, y, names: ("", ""), y_tick: &|at| fine_tick(*at, span) };
    let mut chart = axes.draw(area, &LOOK)?;
    for (i, points) in series.iter().enumerate() {
        chart.draw_series(LineSeries::new(points.iter().copied(), colour(i).stroke_width(2)))?;
        // One point is no line.
        if points.len() == 1 {
            chart.draw_series(points.iter().map(|&p| Circle::new(p, 3, colour(i).filled())))?;
        }
    }
    Ok(())
}
