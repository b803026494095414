//! The parts that all plots share: colours, letters, axes, and the way from a drawing to SVG text.
//!
//! Text is rendered by the viewer, so the machine that draws needs no font.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::{Error, Result};

/// CoLaR: a blue that stays apart from the orange for colour-blind eyes and in grey.
pub(crate) const COLAR: RGBColor = RGBColor(0, 94, 168);
/// CoT.
pub(crate) const COT: RGBColor = RGBColor(213, 94, 0);
pub(crate) const INK: RGBColor = RGBColor(38, 38, 38);
pub(crate) const GRID: RGBColor = RGBColor(226, 226, 226);
pub(crate) const FONT: &str = "Helvetica, Arial, sans-serif";

pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(crate) type Drawn<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;
pub(crate) type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Runs `draw` on a white drawing area of this width and height in pixels; returns the SVG text.
///
/// # Errors
/// [`Error::Other`] with the error of `draw`.
pub(crate) fn svg(size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Drawn) -> Result<String> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    let whole = || -> Drawn {
        area.fill(&WHITE)?;
        draw(&area)?;
        Ok(area.present()?)
    };
    whole().map_err(|e| Error::other(format!("the plot: {e}")))?;
    drop(area);
    Ok(svg)
}

/// Sizes of the parts of a pair of axes, in pixels.
pub(crate) struct Look {
    /// Letters of the title.
    pub title: u32,
    /// Margins: on all sides, and on the right.
    pub margins: (u32, u32),
    /// Room for the labels below and on the left.
    pub room: (u32, u32),
    /// About how many ticks either axis has.
    pub ticks: (usize, usize),
    /// Letters of the ticks.
    pub tick: u32,
    /// Letters of the axes' names.
    pub name: u32,
}

/// A pair of axes.
pub(crate) struct Axes<'t> {
    pub title: &'t str,
    pub x: Range<f64>,
    pub y: Range<f64>,
    /// Names of the axes; an empty one is not drawn.
    pub names: (&'t str, &'t str),
    /// The ticks of the vertical axis as text.
    pub y_tick: &'t dyn Fn(&f64) -> String,
}

impl Axes<'_> {
    /// Draws the axes and returns the chart, to which points can then be added.
    ///
    /// # Errors
    /// Errors of the drawing backend.
    pub fn draw<'a, 'b>(&self, area: &'a Area<'b>, look: &Look) -> Drawn<Chart<'a, 'b>> {
        let letters = |size: u32| (FONT, size).into_font().color(&INK);
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, letters(look.title))
            .margin(look.margins.0)
            .margin_right(look.margins.1)
            .x_label_area_size(look.room.0)
            .y_label_area_size(look.room.1)
            .build_cartesian_2d(self.x.clone(), self.y.clone())?;
        let mut mesh = chart.configure_mesh();
        mesh.bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(INK)
            .x_labels(look.ticks.0)
            .y_labels(look.ticks.1)
            .x_label_formatter(&|x| tick(*x))
            .y_label_formatter(self.y_tick)
            .label_style(letters(look.tick))
            .axis_desc_style(letters(look.name));
        if !self.names.0.is_empty() {
            mesh.x_desc(self.names.0);
        }
        if !self.names.1.is_empty() {
            mesh.y_desc(self.names.1);
        }
        mesh.draw()?;
        drop(mesh);
        Ok(chart)
    }
}

/// The intervals of a point as bars, in the directions in which they have a half width.
pub(crate) fn bars(
    (x, y): (f64, f64),
    (dx, dy): (f64, f64),
    colour: RGBColor,
) -> Vec<PathElement<(f64, f64)>> {
    let style = colour.mix(0.55).stroke_width(2);
    let mut bars = Vec::new();
    if dy > 0.0 {
        bars.push(PathElement::new([(x, y - dy), (x, y + dy)], style));
    }
    if dx > 0.0 {
        bars.push(PathElement::new([(x - dx, y), (x + dx, y)], style));
    }
    bars
}

/// A tick as a whole number, or with one decimal where it is none.
pub(crate) fn tick(x: f64) -> String {
    if (x - x.round()).abs() < 1e-6 { format!("{x:.0}") } else { format!("{x:.1}") }
}

/// A number on an axis of this span, with as many digits as tell its ticks apart.
pub(crate) fn fine_tick(y: f64, span: f64) -> String {
    if y.abs() < 1e-12 * span {
        return "0".to_owned();
    }
    let digits = (1.0 - (span / 5.0).log10()).ceil().max(0.0) as usize;
    if digits > 4 && y.abs() < 0.01 { format!("{y:.1e}") } else { format!("{y:.digits$}") }
}

/// From the least to the greatest value, with a margin; never empty.
pub(crate) fn range(values: impl Iterator<Item = f64>) -> Range<f64> {
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
    fn neighbouring_ticks_differ() {
        for (low, span) in [(0.0, 1.0), (-0.64, 0.02), (1.0, 2e-4), (8.0, 9.0), (3e-4, 1e-3), (120.0, 400.0)]
        {
            let (a, b) = (fine_tick(low + 0.2 * span, span), fine_tick(low + 0.4 * span, span));
            assert_ne!(a, b);
        }
        assert_eq!(fine_tick(0.0, 1.0), "0");
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
