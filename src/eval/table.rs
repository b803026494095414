//! The table of results: one row a method and compression factor, as the paper's table 1.
//!
//! The text form is Markdown with padded cells, so it reads as well in a terminal as in a document.
//! The JSON form is a list of objects, for scripts; a field that was not measured is left out there.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::accuracy::Evaluation;
use super::samples::{LengthBin, Share};
use super::stats::estimate;
use crate::files::atomic::write_atomic;
use crate::model::prompt::Method;
use crate::{Error, Result};

/// One row. Fields ending in `_ci` are half widths of 95 % confidence intervals over seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TableRow {
    /// The data set's name, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// The method of reasoning.
    pub method: Method,
    /// Whether reinforcement learning followed the supervised training.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rl: bool,
    /// The compression factor as text; `1` under CoT. In JSON a number, where it is one.
    #[serde(rename = "cf", serialize_with = "serialize_compression_factor")]
    pub compression_factor: String,
    /// Share of correct answers, from 0 to 1, mean over seeds.
    pub accuracy: f64,
    /// Its interval, for several seeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_ci: Option<f64>,
    /// Mean reasoning length #L: latents, or under CoT tokens of the reasoning text.
    pub mean_length: f64,
    /// Its interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_length_ci: Option<f64>,
    /// #L over correctly answered questions; `None` where a run had none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_length_correct: Option<f64>,
    /// Its interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_length_correct_ci: Option<f64>,
    /// Mean tokens of the answer, the end of sequence included.
    pub mean_answer_tokens: f64,
    /// Its interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_answer_tokens_ci: Option<f64>,
    /// Share of answers that a limit ended and not the model, from 0 to 1, mean over seeds.
    pub unfinished: f64,
    /// The probability that one of several answers is right, for each number that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pass_at: Vec<Share>,
    /// Whether the answer that most of the runs gave is right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub majority: Option<Share>,
    /// Accuracy by #L.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub by_length: Vec<LengthBin>,
    /// Questions of the data set.
    pub n: usize,
    /// Runs over it.
    pub seeds: usize,
}

impl TableRow {
    /// The row of several runs that differ in their seed alone; `None` without a run.
    pub fn from_runs(method: Method, compression_factor: &str, runs: &[Evaluation]) -> Option<Self> {
        let over = |value: &dyn Fn(&Evaluation) -> f64| estimate(&runs.iter().map(value).collect::<Vec<_>>());
        let accuracy = over(&|e| e.accuracy)?;
        let length = over(&|e| e.mean_length)?;
        let answer = over(&|e| e.mean_answer_tokens)?;
        let unfinished = over(&|e| e.unfinished)?.mean;
        // A run without a correct answer has no such length, and a mean over the other runs would be another figure.
        let correct: Option<Vec<f64>> = runs.iter().map(|e| e.mean_length_correct).collect();
        let correct = correct.and_then(|lengths| estimate(&lengths));
        Some(TableRow {
            set: None,
            method,
            rl: false,
            compression_factor: compression_factor.to_owned(),
            accuracy: accuracy.mean,
            accuracy_ci: accuracy.half_width,
            mean_length: length.mean,
            mean_length_ci: length.half_width,
            mean_length_correct: correct.map(|c| c.mean),
            mean_length_correct_ci: correct.and_then(|c| c.half_width),
            mean_answer_tokens: answer.mean,
            mean_answer_tokens_ci: answer.half_width,
            unfinished,
            pass_at: Vec::new(),
            majority: None,
            by_length: Vec::new(),
            n: runs.first()?.n,
            seeds: runs.len(),
        })
    }

    /// The row of a model that reinforcement learning trained on.
    pub fn after_rl(self) -> Self {
        TableRow { rl: true, ..self }
    }

    /// `CoLaR c = 2`, `CoLaR + RL c = 2`, or the method's name where it has no compression factor (`CoT`).
    pub fn label(&self) -> String {
        Self::name_of(self.method, self.rl, &self.compression_factor)
    }

    /// The label of a row of this method and factor.
    pub fn name_of(method: Method, rl: bool, compression_factor: &str) -> String {
        match method {
            Method::Colar => format!("CoLaR{} c = {compression_factor}", if rl { " + RL" } else { "" }),
            Method::Cot | Method::Icot | Method::Coconut | Method::Distill => method.label().to_owned(),
        }
    }
}

/// A compression factor in JSON: a number where the text is one, else the text (`auto`).
pub fn compression_factor_value(compression_factor: &str) -> Value {
    if let Ok(whole) = compression_factor.parse::<u64>() {
        return whole.into();
    }
    match compression_factor.parse::<f64>() {
        Ok(x) if x.is_finite() => x.into(),
        _ => compression_factor.into(),
    }
}

/// [`compression_factor_value`], for fields.
pub(super) fn serialize_compression_factor<S: Serializer>(
    compression_factor: &str,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    compression_factor_value(compression_factor).serialize(serializer)
}

/// The table as Markdown with padded cells, one line a row. Columns that not every table has follow the others: answers
/// that a limit cut off, which count as wrong and under a higher limit may be right, pass@k, and the majority's answer.
/// Names of data sets stand before the methods where there are several. Accuracies by #L are a table of their own below.
pub fn text(rows: &[TableRow]) -> String {
    let percent = |share: f64| format!("{:.1}", 100.0 * share);
    let share = |s: &Share| figure(100.0 * s.mean, s.ci.map(|ci| 100.0 * ci));
    let mut columns: Vec<(String, Vec<String>)> = Vec::new();
    let mut column = |head: &str, cell: &dyn Fn(&TableRow) -> String| {
        columns.push((head.to_owned(), rows.iter().map(cell).collect()));
    };
    column("method", &of_set);
    column("accuracy (%)", &|r| figure(100.0 * r.accuracy, r.accuracy_ci.map(|ci| 100.0 * ci)));
    column("#L", &|r| figure(r.mean_length, r.mean_length_ci));
    column("#L correct", &|r| {
        r.mean_length_correct.map_or("–".to_owned(), |l| figure(l, r.mean_length_correct_ci))
    });
    column("answer tokens", &|r| figure(r.mean_answer_tokens, r.mean_answer_tokens_ci));
    column("n", &|r| if r.seeds > 1 { format!("{} × {}", r.n, r.seeds) } else { r.n.to_string() });
    if rows.iter().any(|r| r.unfinished > 0.0) {
        column("cut off (%)", &|r| percent(r.unfinished));
    }
    let ks: BTreeSet<usize> = rows.iter().flat_map(|r| r.pass_at.iter().map(|s| s.k)).collect();
    for k in ks {
        let of = |r: &TableRow| r.pass_at.iter().find(|s| s.k == k).map_or("–".to_owned(), share);
        column(&format!("pass@{k} (%)"), &of);
    }
    if rows.iter().any(|r| r.majority.is_some()) {
        column("majority (%)", &|r| r.majority.as_ref().map_or("–".to_owned(), share));
    }
    let heads: Vec<String> = columns.iter().map(|(head, _)| head.clone()).collect();
    let cells: Vec<Vec<String>> =
        (0..rows.len()).map(|i| columns.iter().map(|(_, cells)| cells[i].clone()).collect()).collect();
    markdown(&heads, &cells) + &lengths(rows)
}

/// The label of a row, behind its data set's name if it has one.
fn of_set(row: &TableRow) -> String {
    row.set.as_ref().map_or(row.label(), |set| format!("{set}: {}", row.label()))
}

/// Accuracies by #L below a table; nothing where they were not asked for.
fn lengths(rows: &[TableRow]) -> String {
    let of_row = |r: &TableRow| {
        let label = of_set(r);
        let line = |b: &LengthBin| {
            let range = if b.from == b.to { b.from.to_string() } else { format!("{}–{}", b.from, b.to) };
            vec![label.clone(), range, format!("{:.1}", 100.0 * b.accuracy), b.n.to_string()]
        };
        r.by_length.iter().map(line).collect::<Vec<_>>()
    };
    let cells: Vec<Vec<String>> = rows.iter().flat_map(of_row).collect();
    if cells.is_empty() {
        return String::new();
    }
    let heads = ["accuracy by length", "#L", "accuracy (%)", "answers"].map(str::to_owned);
    format!("\n{}", markdown(&heads, &cells))
}

/// A Markdown table with padded cells: the first column aligned to the left, the others to the right. Every row
/// has a cell a head.
pub(crate) fn markdown(heads: &[String], rows: &[Vec<String>]) -> String {
    let width = |c: usize| {
        let cells = rows.iter().filter_map(|row| row.get(c)).chain(heads.get(c));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut out = line(heads, &widths);
    for (c, width) in widths.iter().enumerate() {
        // Numbers are aligned to the right, in Markdown by a colon at the end of the dashes.
        out +=
            &if c == 0 { format!("|:{}-", "-".repeat(*width)) } else { format!("|-{}:", "-".repeat(*width)) };
    }
    out += "|\n";
    for row in rows {
        out += &line(row, &widths);
    }
    out
}

/// A mean, with its interval where there is one.
pub(crate) fn figure(mean: f64, ci: Option<f64>) -> String {
    match ci {
        Some(ci) => format!("{mean:.1} ± {ci:.1}"),
        None => format!("{mean:.1}"),
    }
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let mut out = String::new();
    for (c, (cell, &width)) in cells.iter().zip(widths).enumerate() {
        out += &if c == 0 { format!("| {cell:<width$} ") } else { format!("| {cell:>width$} ") };
    }
    out + "|\n"
}

/// The table as a JSON list, one object a row, with a final newline.
///
/// # Errors
/// [`Error::Other`] if a figure cannot be written as JSON.
pub fn json(rows: &[TableRow]) -> Result<String> {
    let text = serde_json::to_string_pretty(rows).map_err(|e| Error::other(format!("the table: {e}")))?;
    Ok(text + "\n")
}

/// Writes the JSON form to `path`, whole or not at all.
///
/// # Errors
/// [`Error::Io`] naming `path`.
pub fn write_json(path: &Path, rows: &[TableRow]) -> Result<()> {
    let text = json(rows)?;
    write_atomic(path, |out| out.write_all(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(accuracy: f64, mean_length: f64, mean_length_correct: Option<f64>) -> Evaluation {
        Evaluation {
            n: 200,
            correct: (200.0 * accuracy) as usize,
            accuracy,
            mean_length,
            mean_length_correct,
            mean_answer_tokens: 5.0,
            unfinished: 0.0,
            outcomes: Vec::new(),
        }
    }

    fn rows() -> Vec<TableRow> {
        let cot = TableRow::from_runs(Method::Cot, "1", &[evaluation(0.99, 21.0, Some(21.0))]);
        let runs = [evaluation(0.9, 11.0, Some(10.0)), evaluation(0.92, 11.5, Some(10.5))];
        let two = TableRow::from_runs(Method::Colar, "2", &runs);
        let auto = TableRow::from_runs(Method::Colar, "auto", &[evaluation(0.0, 3.5, None)]);
        let rl = TableRow::from_runs(Method::Colar, "2", &[evaluation(0.95, 8.0, Some(8.0))]);
        [cot, two, auto, rl.map(TableRow::after_rl)].into_iter().flatten().collect()
    }

    #[test]
    fn text_is_aligned_markdown() {
        let expected = "\
| method           | accuracy (%) |         #L | #L correct | answer tokens |       n |
|:-----------------|-------------:|-----------:|-----------:|--------------:|--------:|
| CoT              |         99.0 |       21.0 |       21.0 |           5.0 |     200 |
| CoLaR c = 2      |  91.0 ± 12.7 | 11.2 ± 3.2 | 10.2 ± 3.2 |     5.0 ± 0.0 | 200 × 2 |
| CoLaR c = auto   |          0.0 |        3.5 |          – |           5.0 |     200 |
| CoLaR + RL c = 2 |         95.0 |        8.0 |        8.0 |           5.0 |     200 |
";
        assert_eq!(text(&rows()), expected);
        let mut cut = rows();
        cut[2].unfinished = 0.125;
        let shown = text(&cut);
        let column: Vec<&str> =
            shown.lines().map(|l| l.trim_end_matches('|').rsplit('|').next().unwrap().trim()).collect();
        assert_eq!(column, ["cut off (%)", "------------:", "0.0", "0.0", "12.5", "0.0"]);
    }

    #[test]
    fn columns_that_were_asked_for_follow() {
        let mut rows = rows();
        rows.truncate(2);
        let share = |k, mean| Share { k, mean, ci: Some(0.02) };
        rows[0].set = Some("gsm".into());
        rows[1].set = Some("math".into());
        rows[1].pass_at = vec![share(1, 0.9), share(5, 0.95)];
        rows[1].majority = Some(share(5, 0.94));
        rows[1].by_length = vec![
            LengthBin { from: 3, to: 3, accuracy: 1.0, n: 10 },
            LengthBin { from: 4, to: 9, accuracy: 0.5, n: 12 },
        ];
        let shown = text(&rows);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[0].starts_with("| method  ") && lines[2].starts_with("| gsm: CoT "), "{shown}");
        assert!(lines[0].ends_with("| pass@1 (%) | pass@5 (%) | majority (%) |"), "{shown}");
        assert!(lines[2].ends_with("|          – |          – |            – |"), "{shown}");
        assert!(lines[3].ends_with("| 90.0 ± 2.0 | 95.0 ± 2.0 |   94.0 ± 2.0 |"), "{shown}");
        assert_eq!(lines[5], "| accuracy by length |  #L | accuracy (%) | answers |");
        assert_eq!(lines[8], "| math: CoLaR c = 2  | 4–9 |         50.0 |      12 |");
    }

    #[test]
    fn json_holds_what_was_measured() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table.json");
        write_json(&path, &rows()).unwrap();
        let list: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            list[0],
            serde_json::json!({"method": "cot", "cf": 1, "accuracy": 0.99, "mean_length": 21.0,
                "mean_length_correct": 21.0, "mean_answer_tokens": 5.0, "unfinished": 0.0, "n": 200,
                "seeds": 1})
        );
        assert_eq!(list[1]["cf"], 2);
        assert!(list[1]["accuracy_ci"].as_f64().unwrap() > 0.12);
        assert_eq!(list[2]["cf"], "auto");
        assert_eq!(list[2].get("mean_length_correct"), None);
        assert_eq!((list[2].get("rl"), &list[3]["rl"]), (None, &Value::Bool(true)));
    }

    #[test]
    fn factors_are_numbers_where_they_can_be() {
        assert_eq!(compression_factor_value("7").to_string(), "7");
        assert_eq!(compression_factor_value("1.5").to_string(), "1.5");
        assert_eq!(compression_factor_value("auto").to_string(), "\"auto\"");
        assert_eq!(compression_factor_value("inf").to_string(), "\"inf\"");
    }
}
