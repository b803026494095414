//! Accuracy against reasoning length, as an SVG plot.

use std::ops::Range;
use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::table::TableRow;
use crate::chart::{Area, Axes, COLAR, COT, Drawn, FONT, GRID, INK, Look, bars, svg, tick};
use crate::files::atomic::write_atomic;
use crate::model::prompt::Method;
use crate::{Error, Result};

/// Width and height in pixels.
const SIZE: (u32, u32) = (760, 480);
const LOOK: Look = Look { title: 21, margins: (14, 26), room: (52, 64), ticks: (9, 9), tick: 14, name: 16 };
/// The points of CoLaR after reinforcement learning.
const RL: RGBColor = RGBColor(0, 128, 96);
/// The points of implicit CoT, Coconut and distillation.
const OTHERS: RGBColor = RGBColor(120, 94, 150);

/// Draws `rows` to the file `path`, whole or not at all.
///
/// # Errors
/// As [`render`], and [`Error::Io`] naming `path`.
pub fn write(path: &Path, title: &str, rows: &[TableRow]) -> Result<()> {
    let svg = render(title, rows)?;
    write_atomic(path, |out| out.write_all(svg.as_bytes()))
}

/// The plot as SVG text: CoLaR points joined in the order of their length and labelled by their
/// factor, those after reinforcement learning as triangles, CoT points as diamonds, other methods as squares
/// with their names, 95 % intervals as bars where the rows have them.
///
/// # Errors
/// [`Error::Usage`] without rows or with figures that are not finite.
pub fn render(title: &str, rows: &[TableRow]) -> Result<String> {
    if rows.is_empty() {
        return Err(Error::usage("there is nothing to plot"));
    }
    if rows.iter().any(|r| !(r.accuracy.is_finite() && r.mean_length.is_finite())) {
        return Err(Error::usage("a figure to plot is not finite"));
    }
    svg(SIZE, |area| draw(area, title, rows))
}

/// A row's point and half widths, accuracy in percent.
struct Point {
    at: (f64, f64),
    ci: (f64, f64),
    label: String,
}

impl Point {
    fn of(row: &TableRow) -> Self {
        Point {
            at: (row.mean_length, 100.0 * row.accuracy),
            ci: (row.mean_length_ci.unwrap_or(0.0), 100.0 * row.accuracy_ci.unwrap_or(0.0)),
            label: match (row.method, row.rl) {
                (Method::Colar, false) => format!("c = {}", row.compression_factor),
                (Method::Colar, true) => format!("c = {}, RL", row.compression_factor),
                (method, _) => method.label().to_owned(),
            },
        }
    }
}

/// The points of these methods, by length.
fn points(rows: &[TableRow], methods: &[Method], rl: bool) -> Vec<Point> {
    let rows = rows.iter().filter(|r| methods.contains(&r.method) && r.rl == rl);
    let mut points: Vec<Point> = rows.map(Point::of).collect();
    points.sort_by(|a, b| a.at.0.total_cmp(&b.at.0));
    points
}

fn draw(area: &Area<'_>, title: &str, rows: &[TableRow]) -> Drawn {
    let [colar, rl] = [false, true].map(|rl| points(rows, &[Method::Colar], rl));
    let cot = points(rows, &[Method::Cot], false);
    let others = points(rows, &[Method::Icot, Method::Coconut, Method::Distill], false);
    let (x, y) = ranges(colar.iter().chain(&rl).chain(&cot).chain(&others));
    let names = ("mean reasoning length (latents or tokens)", "accuracy (%)");
    let mut chart = Axes { title, x, y, names, y_tick: &|y| tick(*y) }.draw(area, &LOOK)?;

    for (series, colour) in [(&colar, COLAR), (&rl, RL), (&cot, COT), (&others, OTHERS)] {
        for p in series {
            chart.draw_series(bars(p.at, p.ci, colour))?;
        }
    }
    if !colar.is_empty() {
        chart
            .draw_series(LineSeries::new(colar.iter().map(|p| p.at), COLAR.stroke_width(2)))?
            .label("CoLaR, by compression factor")
            .legend(|(x, y)| {
                EmptyElement::at((x, y))
                    + PathElement::new([(0, 0), (22, 0)], COLAR.stroke_width(2))
                    + Circle::new((11, 0), 4, COLAR.filled())
            });
        chart.draw_series(colar.iter().map(|p| Circle::new(p.at, 5, COLAR.filled())))?;
    }
    if !rl.is_empty() {
        chart
            .draw_series(rl.iter().map(|p| TriangleMarker::new(p.at, 7, RL.filled())))?
            .label("CoLaR after reinforcement learning")
            .legend(|(x, y)| TriangleMarker::new((x + 11, y), 7, RL.filled()));
    }
    if !cot.is_empty() {
        chart
            .draw_series(cot.iter().map(|p| EmptyElement::at(p.at) + diamond((0, 0))))?
            .label("CoT")
            .legend(|(x, y)| diamond((x + 11, y)));
    }
    if !others.is_empty() {
        chart
            .draw_series(others.iter().map(|p| EmptyElement::at(p.at) + square((0, 0))))?
            .label("other methods")
            .legend(|(x, y)| square((x + 11, y)));
    }
    // Without compression CoLaR thinks about as long as CoT: labels on opposite sides stay apart.
    for (series, colour, side, offset) in [
        (&colar, COLAR, Pos::new(HPos::Left, VPos::Top), (9, 7)),
        (&rl, RL, Pos::new(HPos::Right, VPos::Top), (-9, 7)),
        (&cot, COT, Pos::new(HPos::Right, VPos::Center), (-12, -1)),
        (&others, OTHERS, Pos::new(HPos::Left, VPos::Bottom), (9, -5)),
    ] {
        let style = (FONT, 15).into_font().color(&colour).pos(side);
        for p in series {
            let label = Text::new(p.label.clone(), offset, style.clone());
            chart.draw_series([EmptyElement::at(p.at) + label])?;
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .margin(12)
        .background_style(WHITE)
        .border_style(GRID)
        .label_font((FONT, 15).into_font().color(&INK))
        .draw()?;
    Ok(())
}

/// The marker of CoT.
fn diamond((x, y): (i32, i32)) -> Polygon<(i32, i32)> {
    const R: i32 = 7;
    Polygon::new([(x - R, y), (x, y - R), (x + R, y), (x, y + R)], COT.filled())
}

/// The marker of the methods that neither compress nor write all steps.
fn square((x, y): (i32, i32)) -> Rectangle<(i32, i32)> {
    const R: i32 = 5;
    Rectangle::new([(x - R, y - R), (x + R, y + R)], OTHERS.filled())
}

/// Lengths from 0, so that half as long looks half as long; accuracies between multiples of ten that leave
/// room for markers, labels and error bars, and little more than 0 to 100.
fn ranges<'a>(points: impl Iterator<Item = &'a Point>) -> (Range<f64>, Range<f64>) {
    let (mut right, mut low, mut high) = (0.0f64, f64::INFINITY, f64::NEG_INFINITY);
    for p in points {
        right = right.max(p.at.0 + p.ci.0);
        low = low.min(p.at.1 - p.ci.1);
        high = high.max(p.at.1 + p.ci.1);
    }
    let low = (((low - 5.0) / 10.0).floor() * 10.0).max(0.0);
    let high = (((high + 3.0) / 10.0).ceil() * 10.0).min(100.0).max(low + 10.0);
    let span = high - low;
    // A point at 0 or 100 % keeps its whole marker.
    let below = if low == 0.0 { 0.06 * span } else { 0.0 };
    (0.0..(1.14 * right).max(1.0), low - below..high + 0.02 * span)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::Evaluation;

    fn row(
        method: Method,
        compression_factor: &str,
        accuracy: f64,
        mean_length: f64,
        ci: Option<f64>,
    ) -> TableRow {
        let run = Evaluation {
            n: 100,
            correct: 0,
            accuracy,
            mean_length,
            mean_length_correct: None,
            mean_answer_tokens: 5.0,
            unfinished: 0.0,
            outcomes: Vec::new(),
        };
        TableRow { accuracy_ci: ci, ..TableRow::from_runs(method, compression_factor, &[run]).unwrap() }
    }

    fn rows(ci: Option<f64>) -> Vec<TableRow> {
        vec![
            row(Method::Cot, "1", 0.99, 21.0, ci),
            row(Method::Colar, "5", 0.47, 5.5, ci),
            row(Method::Colar, "2", 0.91, 11.3, ci),
        ]
    }

    #[test]
    fn the_picture_says_what_it_shows() {
        let svg = render("A < B & C", &rows(None)).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in
            ["A &lt; B &amp; C", "accuracy (%)", "mean reasoning length", "c = 2", "c = 5", "CoT", "CoLaR"]
        {
            assert!(svg.contains(text), "{text}");
        }
        assert_eq!(svg, render("A < B & C", &rows(None)).unwrap(), "drawn twice, the same");
        // One marker a CoLaR point and one in the legend.
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(!svg.contains("RL"));
        let after = row(Method::Colar, "2", 0.95, 8.0, None).after_rl();
        let svg = render("", &[rows(None), vec![after]].concat()).unwrap();
        assert!(svg.contains("c = 2, RL") && !svg.contains("other methods"));
        let others = [Method::Icot, Method::Coconut, Method::Distill].map(|m| row(m, "auto", 0.6, 3.0, None));
        let svg = render("", &others).unwrap();
        for text in ["iCoT", "Coconut", "Distill", "other methods"] {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn intervals_become_bars() {
        let lines = |svg: String| svg.matches("<line").count() + svg.matches("<polyline").count();
        let without = lines(render("", &rows(None)).unwrap());
        assert_eq!(lines(render("", &rows(Some(0.02))).unwrap()), without + 3);
    }

    #[test]
    fn edges_have_room_and_nonsense_is_refused() {
        let at = |accuracy: f64| [Point::of(&row(Method::Cot, "1", accuracy, 4.0, None))];
        assert_eq!(ranges(at(1.0).iter()).1, 90.0..100.2);
        assert_eq!(ranges(at(0.0).iter()).1, -0.6..10.2);
        assert!(render("", &[row(Method::Cot, "1", 0.0, 0.0, None)]).is_ok());
        assert!(render("", &[]).is_err());
        assert!(render("", &[row(Method::Cot, "1", f64::NAN, 1.0, None)]).is_err());
    }
}
