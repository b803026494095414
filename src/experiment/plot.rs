//! The plots of the reports, as SVG.

use std::ops::Range;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::factors::report::{FactorRow, FactorsReport};
use super::figures::{Figures, drawable};
use super::labels::{Labels, MARK, Pixel};
use super::report::{Row, Table1};
use crate::Result;
use crate::chart::{Area, Axes, COLAR, COT, Drawn, FONT, INK, Look, bars, svg, tick};

/// Width and height of a panel.
const PANEL: (u32, u32) = (520, 400);
const LOOK: Look = Look { title: 17, margins: (10, 22), room: (46, 58), ticks: (8, 8), tick: 13, name: 14 };
/// Height of the title above the panels and of the legend below.
const TITLE: u32 = 34;
const LEGEND: u32 = 30;
/// Letters of the points' labels.
const LETTERS: u32 = 12;
/// Panels side by side.
const COLUMNS: u32 = 2;

/// Colours that stay apart for colour-blind eyes; CoT and CoLaR have the first two everywhere.
const COLOURS: [RGBColor; 9] = [
    COT,
    COLAR,
    RGBColor(0, 128, 96),
    RGBColor(120, 94, 150),
    RGBColor(150, 110, 0),
    RGBColor(86, 160, 211),
    RGBColor(190, 80, 140),
    RGBColor(110, 110, 110),
    RGBColor(20, 20, 20),
];

/// A point with half widths of its intervals.
#[derive(Debug, Clone, PartialEq)]
struct Point {
    at: (f64, f64),
    ci: (f64, f64),
    label: String,
    filled: bool,
}

/// Points of one colour.
struct Series {
    name: String,
    colour: RGBColor,
    joined: bool,
    points: Vec<Point>,
}

impl Series {
    /// The points from left to right.
    fn line(&self) -> Vec<(f64, f64)> {
        let mut at: Vec<(f64, f64)> = self.points.iter().map(|p| p.at).collect();
        at.sort_by(|a, b| a.0.total_cmp(&b.0));
        at
    }
}

/// One pair of axes.
struct Panel {
    title: String,
    x: String,
    y: String,
    /// Whether the vertical axis is a percentage, to be cut off at 100.
    percent: bool,
    series: Vec<Series>,
}

/// Accuracy against #L, a panel a test set: one point a method and factor, those of a method joined.
///
/// # Errors
/// [`Error::Usage`] without rows or with figures that are not finite.
pub(super) fn table1(table: &Table1) -> Result<String> {
    drawable(table.rows.iter().flat_map(|r| &r.results))?;
    let panels: Vec<Panel> = table
        .tests
        .iter()
        .enumerate()
        .map(|(t, (name, ..))| Panel {
            title: name.clone(),
            x: "mean reasoning length #L".into(),
            y: "accuracy (%)".into(),
            percent: true,
            series: methods(&table.rows, t),
        })
        .collect();
    picture("Accuracy against reasoning length", &panels)
}

/// The rows' points on a test set, by method, in the order of the table.
fn methods(rows: &[Row], test: usize) -> Vec<Series> {
    let mut series: Vec<Series> = Vec::new();
    for row in rows {
        let Some(f) = row.results.get(test) else { continue };
        let point = Point {
            at: (f.mean_length, 100.0 * f.accuracy),
            ci: (f.mean_length_ci.unwrap_or(0.0), 100.0 * f.accuracy_ci.unwrap_or(0.0)),
            label: if row.compressed { format!("c = {}", row.compression_factor) } else { String::new() },
            filled: true,
        };
        match series.last_mut().filter(|s| s.name == row.label) {
            Some(s) => s.points.push(point),
            None => {
                // CoT and CoLaR have the same colours in every table.
                let place = match row.method.as_str() {
                    "cot" => 0,
                    "colar" => 1,
                    _ => {
                        2 + series.iter().filter(|s| s.colour != COT && s.colour != COLAR).count()
                            % (COLOURS.len() - 2)
                    }
                };
                series.push(Series {
                    name: row.label.clone(),
                    colour: COLOURS[place],
                    joined: row.compressed,
                    points: vec![point],
                });
            }
        }
    }
    series
}

/// Accuracy and #L against the compression factor of the prompt, a series a test set; trained factors are filled.
///
/// # Errors
/// As [`table1`].
pub(super) fn factors(report: &FactorsReport) -> Result<String> {
    drawable(report.rows.iter().flat_map(|r| &r.results))?;
    let panel = |title: &str, y: &str, percent: bool, value: fn(&Figures) -> (f64, Option<f64>)| Panel {
        title: title.into(),
        x: "compression factor c of the prompt".into(),
        y: y.into(),
        percent,
        series: (0..report.tests.len()).map(|t| by_factor(report, t, value)).collect(),
    };
    let panels = [
        panel("accuracy", "accuracy (%)", true, |f| (100.0 * f.accuracy, f.accuracy_ci.map(|ci| 100.0 * ci))),
        panel("reasoning length", "mean #L", false, |f| (f.mean_length, f.mean_length_ci)),
    ];
    picture("Compression factors in training (filled) and others (hollow)", &panels)
}

fn by_factor(report: &FactorsReport, test: usize, value: fn(&Figures) -> (f64, Option<f64>)) -> Series {
    let point = |row: &FactorRow| {
        let (y, ci) = value(row.results.get(test)?);
        let at = (row.compression_factor.parse().ok()?, y);
        Some(Point { at, ci: (0.0, ci.unwrap_or(0.0)), label: String::new(), filled: row.trained })
    };
    Series {
        name: report.tests[test].0.clone(),
        // The colours of one method's test sets; CoT's would mislead.
        colour: COLOURS[1 + test % (COLOURS.len() - 1)],
        joined: true,
        points: report.rows.iter().filter_map(point).collect(),
    }
}

/// Panels in rows, a title above, one legend below.
fn picture(title: &str, panels: &[Panel]) -> Result<String> {
    let columns = COLUMNS.min(panels.len() as u32).max(1);
    let rows = (panels.len() as u32).div_ceil(columns);
    let size = (PANEL.0 * columns, PANEL.1 * rows + TITLE + LEGEND);
    svg(size, |area| {
        let style = (FONT, 20).into_font().color(&INK).pos(Pos::new(HPos::Center, VPos::Top));
        area.draw_text(title, &style, (size.0 as i32 / 2, 12))?;
        let (_, below) = area.split_vertically(TITLE);
        let (drawn, legend) = below.split_vertically(PANEL.1 * rows);
        for (area, p) in drawn.split_evenly((rows as usize, columns as usize)).iter().zip(panels) {
            panel(area, p)?;
        }
        if let Some(first) = panels.first() {
            key(&legend, &first.series)?;
        }
        Ok(())
    })
}

fn panel(area: &Area<'_>, p: &Panel) -> Drawn {
    let (x, y) = ranges(p);
    let axes = Axes { title: &p.title, x, y, names: (&p.x, &p.y), y_tick: &|y| tick(*y) };
    let mut chart = axes.draw(area, &LOOK)?;
    for s in &p.series {
        for point in &s.points {
            chart.draw_series(bars(point.at, point.ci, s.colour))?;
        }
        if s.joined && s.points.len() > 1 {
            chart.draw_series(LineSeries::new(s.line(), s.colour.mix(0.7).stroke_width(2)))?;
        }
        for point in &s.points {
            chart.draw_series([EmptyElement::at(point.at) + Circle::new((0, 0), MARK, WHITE.filled())])?;
            let style = if point.filled { s.colour.filled() } else { s.colour.stroke_width(2) };
            chart.draw_series([EmptyElement::at(point.at) + Circle::new((0, 0), MARK, style)])?;
        }
    }
    let placed = {
        let plotting = chart.plotting_area();
        let pixel = |at: (f64, f64)| plotting.map_coordinate(&at);
        place(&p.series, Labels::new(plotting.get_pixel_range(), LETTERS), &pixel)
    };
    // Pixels count from the corner of the whole picture, not of the panel.
    let (left, top) = area.get_base_pixel();
    for ((x, y), text, colour) in placed {
        let style = (FONT, LETTERS).into_font().color(&colour).pos(Pos::new(HPos::Left, VPos::Top));
        area.draw_text(text, &style, (x - left, y - top))?;
    }
    Ok(())
}

/// The labels of the points, their upper left corners, and their colours.
fn place<'s>(
    series: &'s [Series],
    mut labels: Labels,
    pixel: &dyn Fn((f64, f64)) -> Pixel,
) -> Vec<(Pixel, &'s str, RGBColor)> {
    for s in series {
        for Point { at: (x, y), ci: (dx, dy), .. } in &s.points {
            labels.mark(pixel((*x, *y)));
            labels.line(pixel((x - dx, *y)), pixel((x + dx, *y)));
            labels.line(pixel((*x, y - dy)), pixel((*x, y + dy)));
        }
        if s.joined {
            s.line().windows(2).for_each(|ends| labels.line(pixel(ends[0]), pixel(ends[1])));
        }
    }
    let points = series.iter().flat_map(|s| s.points.iter().map(|p| (p, s.colour)));
    points
        .filter(|(p, _)| !p.label.is_empty())
        .map(|(p, colour)| (labels.place(pixel(p.at), &p.label), p.label.as_str(), colour))
        .collect()
}

/// The names of the series, in a line.
fn key(area: &Area<'_>, series: &[Series]) -> Drawn {
    let mut x = 66;
    for s in series {
        area.draw(&Circle::new((x, 14), MARK, s.colour.filled()))?;
        let style = (FONT, 14).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw_text(&s.name, &style, (x + 10, 14))?;
        x += 34 + 8 * s.name.chars().count() as i32;
    }
    Ok(())
}

/// Axes from 0, so that half as much looks half as much, with room for marks and intervals.
fn ranges(p: &Panel) -> (Range<f64>, Range<f64>) {
    let (mut right, mut high) = (0.0f64, 0.0f64);
    for point in p.series.iter().flat_map(|s| &s.points) {
        right = right.max(point.at.0 + point.ci.0);
        high = high.max(point.at.1 + point.ci.1);
    }
    let right = (1.12 * right).max(1.0);
    let high = if p.percent { ((high + 4.0) / 10.0).ceil() * 10.0 } else { (1.1 * high).max(1.0) };
    let high = if p.percent { high.clamp(10.0, 102.0) } else { high };
    // A mark at 0 is seen whole.
    (-0.03 * right..right, -0.03 * high..high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::factors::report::tests::report;
    use crate::experiment::inputs::AVERAGE;
    use crate::experiment::report::tests::table;

    #[test]
    fn every_method_and_test_set_is_in_the_picture() {
        let svg = table1(&table()).unwrap();
        for text in ["CoT", "iCoT", "CoLaR", "c = 5", "hard", "accuracy (%)", "#L"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(!svg.contains(AVERAGE));
        // Two panels of five points, each on a white ground, and a legend of three.
        assert_eq!(svg.matches("<circle").count(), 2 * 5 * 2 + 3);
        assert_eq!(svg, table1(&table()).unwrap(), "drawn twice, the same");
        let none = Table1 { rows: Vec::new(), ..table() };
        assert_eq!(table1(&none).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn colours_do_not_depend_on_the_company() {
        let rows = table().rows;
        let all = methods(&rows, 0);
        assert_eq!(all.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["CoT", "iCoT", "CoLaR"]);
        assert_eq!((all[0].colour, all[2].colour), (COT, COLAR));
        assert_eq!(methods(&rows[2..], 1)[0].colour, COLAR);
        assert_eq!(all[2].points.len(), 3);
    }

    #[test]
    fn axes_hold_what_is_drawn() {
        let point = |x, y, dx, dy| Point { at: (x, y), ci: (dx, dy), label: String::new(), filled: true };
        let panel = |percent, points| Panel {
            title: String::new(),
            x: String::new(),
            y: String::new(),
            percent,
            series: vec![Series { name: String::new(), colour: COT, joined: false, points }],
        };
        for (percent, points) in [
            (true, vec![point(0.0, 0.0, 0.0, 0.0)]),
            (true, vec![point(30.0, 99.0, 1.0, 2.0)]),
            (false, vec![point(8.0, 130.0, 0.0, 4.0)]),
        ] {
            let p = panel(percent, points.clone());
            let (x, y) = ranges(&p);
            for q in points {
                assert!(
                    x.contains(&(q.at.0 + q.ci.0)) && y.contains(&(q.at.1 + q.ci.1)),
                    "{q:?} {x:?} {y:?}"
                );
                assert!(x.contains(&q.at.0) && y.contains(&q.at.1));
            }
        }
    }

    #[test]
    fn the_picture_tells_trained_factors_apart() {
        let svg = factors(&report()).unwrap();
        let hollow = |svg: &str| svg.matches("fill=\"none\"").count();
        let all = FactorsReport {
            rows: report().rows.into_iter().map(|r| FactorRow { trained: true, ..r }).collect(),
            ..report()
        };
        // Two unseen factors in two panels.
        assert_eq!(svg.matches("<circle").count(), factors(&all).unwrap().matches("<circle").count());
        assert_eq!(hollow(&svg) - hollow(&factors(&all).unwrap()), 4);
    }
}
