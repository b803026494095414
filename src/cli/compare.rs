//! `compare`: runs side by side.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::terminal;
use crate::eval::table::{figure, markdown};
use crate::experiment::compare::{Difference, Paired, Side, differences, paired, write_curves};
use crate::{Error, Result};

/// Compare runs: options that differ, curves in one plot, and accuracies question by question
///
/// A run is its directory; its answers are those that `eval --save-predictions RUN/predictions.jsonl` wrote. A file
/// of such answers can stand in the place of a run. Accuracies are compared with the first over the questions that both
/// were asked, with 95 % confidence intervals over questions.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  colar-engine compare runs/cot runs/colar --plot curves.svg
  colar-engine compare greedy.jsonl sampled.jsonl --json")]
pub struct CompareArgs {
    /// Runs, or files of answers
    #[arg(value_name = "RUN", num_args = 2.., required = true)]
    sides: Vec<PathBuf>,
    /// Draw losses, rewards and validations of all runs
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// Runs `compare`.
///
/// # Errors
/// Errors of reading the runs; [`Error::Usage`] for a plot of no curves.
pub fn run(args: &CompareArgs) -> Result<()> {
    let sides = args.sides.iter().map(|path| Side::open(path)).collect::<Result<Vec<_>>>()?;
    let (options, answers) = (differences(&sides), paired(&sides));
    if let Some(path) = &args.plot {
        write_curves(path, &sides)?;
    }
    if args.json {
        let names: Vec<&str> = sides.iter().map(|side| side.name.as_str()).collect();
        let all = json!({ "runs": names, "options": options, "answers": answers });
        let text = serde_json::to_string_pretty(&all).map_err(|e| Error::other(e.to_string()))?;
        return terminal::print(&(text + "\n"));
    }
    let parts = [settings(&sides, &options), accuracies(&sides, &answers)];
    terminal::print(&parts.join("\n"))
}

/// The options that differ, a row each.
fn settings(sides: &[Side], options: &[Difference]) -> String {
    if sides.iter().filter(|side| side.config.is_some()).count() < 2 {
        return "options: fewer than two of these are runs with a config.toml\n".to_owned();
    }
    if options.is_empty() {
        return "options: the same\n".to_owned();
    }
    let heads: Vec<String> =
        std::iter::once("option".to_owned()).chain(sides.iter().map(|side| side.name.clone())).collect();
    let row = |d: &Difference| {
        let values = d.values.iter().map(|value| value.clone().unwrap_or_else(|| "–".to_owned()));
        std::iter::once(d.option.clone()).chain(values).collect::<Vec<_>>()
    };
    markdown(&heads, &options.iter().map(row).collect::<Vec<_>>())
}

/// Accuracies, and their differences from the first.
fn accuracies(sides: &[Side], answers: &[Paired]) -> String {
    if answers.is_empty() {
        return "accuracy: no answers are saved (eval --save-predictions RUN/predictions.jsonl)\n".to_owned();
    }
    let named = answers.iter().any(|row| row.set.is_some());
    let mut heads = vec!["answers".to_owned()];
    heads.extend(named.then(|| "data".to_owned()));
    heads.extend(
        ["method", "accuracy (%)", "n", "difference (points)", "from", "better", "worse", "pairs"]
            .map(str::to_owned),
    );
    let row = |r: &Paired| {
        let mut cells = vec![sides[r.side].name.clone()];
        cells.extend(named.then(|| r.set.clone().unwrap_or_default()));
        cells.extend([
            r.label.clone(),
            figure(100.0 * r.accuracy, r.accuracy_ci.map(|ci| 100.0 * ci)),
            r.n.to_string(),
        ]);
        let of_pairs = match &r.against {
            Some(a) => [
                format!(
                    "{}{}",
                    if a.difference > 0.0 { "+" } else { "" },
                    figure(100.0 * a.difference, a.ci.map(|ci| 100.0 * ci))
                ),
                a.label.clone(),
                a.better.to_string(),
                a.worse.to_string(),
                a.n.to_string(),
            ],
            None => [(); 5].map(|()| "–".to_owned()),
        };
        cells.extend(of_pairs);
        cells
    };
    markdown(&heads, &answers.iter().map(row).collect::<Vec<_>>())
}
