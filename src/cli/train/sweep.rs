//! `train --lr-sweep`: learning rates in short runs, and a table.

use crate::eval::table::markdown;
use crate::train::SweepRow;

/// A row a rate, and the rate whose loss, or validation where there is one, was best.
pub(super) fn table(rows: &[SweepRow]) -> String {
    let heads = ["learning rate", "first loss", "last loss", "validation loss", "validation accuracy (%)"];
    let figure = |x: Option<f64>| x.map_or_else(|| "–".to_owned(), |x| format!("{x:.4}"));
    let cells = |row: &SweepRow| {
        vec![
            format!("{:e}", row.lr),
            figure(row.first),
            row.diverged.clone().unwrap_or_else(|| figure(row.last)),
            figure(row.validation.map(|v| v.loss)),
            row.validation
                .and_then(|v| v.accuracy)
                .map_or_else(|| "–".to_owned(), |accuracy| format!("{:.1}", 100.0 * accuracy)),
        ]
    };
    let table = markdown(&heads.map(str::to_owned), &rows.iter().map(cells).collect::<Vec<_>>());
    match best(rows) {
        Some(row) => format!(
            "{table}\nthe least loss: --lr {:e}; runs this short favour rates that are too high for long ones\n",
            row.lr
        ),
        None => format!("{table}\nall of them diverged: try smaller ones\n"),
    }
}

/// The row of the least validation loss, or where nothing is validated, of the least loss at the end.
fn best(rows: &[SweepRow]) -> Option<&SweepRow> {
    let measure = |row: &SweepRow| row.validation.map(|v| v.loss).or(row.last);
    let sound = rows.iter().filter(|row| row.diverged.is_none());
    sound
        .filter_map(|row| Some((measure(row)?, row)))
        .min_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, row)| row)
}
