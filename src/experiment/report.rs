//! The report of a comparison, in words and in data.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::figures::Figures;
use super::measure::Measured;
use super::plan::Plan;
use super::train::seconds_per_step;
use super::written::within;
use crate::Result;
use crate::eval::stats::estimate;
use crate::eval::table::markdown;
use crate::infer::Sampling;
use crate::model::config::shortest;

/// A method at a compression factor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name on the command line.
    pub method: String,
    /// Its name in the table.
    pub label: String,
    /// The compression factor that its prompts state: one of the table's, or the method's own.
    #[serde(rename = "speed")]
    pub compression_factor: String,
    /// Whether the method compresses, so that the factor is one of the table's.
    pub compressed: bool,
    /// Figures of every test set, then of their average if there are several.
    pub results: Vec<Figures>,
}

impl Row {
    /// `CoT`, or `CoLaR c = 2`.
    pub fn name(&self) -> String {
        if self.compressed {
            format!("{} c = {}", self.label, self.compression_factor)
        } else {
            self.label.clone()
        }
    }
}

/// The result of the search for a learning rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RateSearch {
    /// The method's name on the command line.
    pub method: String,
    /// Its name in the table.
    pub label: String,
    /// The learning rates.
    pub lrs: Vec<f64>,
    /// Accuracy on the validation split at each, from 0 to 1; `None` where training diverged.
    pub accuracies: Vec<Option<f64>>,
    /// The one that was chosen.
    pub chosen: f64,
    /// The checkpoints by seed, relative to the experiment's directory.
    pub checkpoints: Vec<PathBuf>,
    /// Mean seconds of an update on this machine, over all seeds; `None` where they were not recorded.
    pub seconds_per_update: Option<f64>,
}

/// The outcome of `experiment table1`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table1 {
    /// The model directory, relative to the experiment's where it lies in it.
    pub model: PathBuf,
    /// Test sets: name, file and number of questions.
    pub tests: Vec<(String, PathBuf, usize)>,
    /// Training seeds.
    pub seeds: Vec<u64>,
    /// Updates of every method.
    pub updates: u64,
    /// Updates of CoT before them.
    pub warm_updates: u64,
    /// Sampling settings of the tests' answers; every training seed draws under its own seed.
    pub sampling: Sampling,
    /// The table.
    pub rows: Vec<Row>,
    /// The search.
    pub search: Vec<RateSearch>,
}

/// Collects the figures. `chosen` has, for each variant, the chosen rate's place and the accuracies of the search;
/// `result` gives the figures by variant, rate, seed, test and compression factor.
///
/// # Errors
/// Errors of `result`.
pub(super) fn collect(
    p: &Plan,
    chosen: &[(usize, Vec<Option<f64>>)],
    sizes: &[usize],
    result: impl Fn(usize, f32, usize, usize, &str) -> Result<Measured>,
) -> Result<Table1> {
    let (mut rows, mut search) = (Vec::new(), Vec::new());
    for (i, (v, (lr, accuracies))) in p.variants.iter().zip(chosen).enumerate() {
        let lr = p.lrs[*lr];
        for compression_factor in v.compression_factors(&p.compression_factors) {
            let mut results = Vec::new();
            for (t, test) in p.tests.iter().enumerate() {
                let by_seed = (0..p.seeds.len())
                    .map(|seed| result(i, lr, seed, t, &compression_factor))
                    .collect::<Result<Vec<_>>>()?;
                results.extend(Figures::of_measured(&test.name, &by_seed));
            }
            if results.len() > 1 {
                results.extend(Figures::average(&results));
            }
            let compressed = v.method.fixed_compression_factor().is_none();
            rows.push(Row {
                method: v.name.into(),
                label: v.label.into(),
                compression_factor,
                compressed,
                results,
            });
        }
        let dirs: Vec<PathBuf> = p.seeds.iter().map(|&seed| p.run_dir(v, lr, seed)).collect();
        let seconds: Vec<f64> = dirs.iter().filter_map(|dir| seconds_per_step(dir)).collect();
        search.push(RateSearch {
            method: v.name.into(),
            label: v.label.into(),
            lrs: p.lrs.iter().map(|&lr| shortest(lr)).collect(),
            accuracies: accuracies.clone(),
            chosen: shortest(lr),
            checkpoints: dirs.iter().map(|dir| within(&p.root, &dir.join("best"))).collect(),
            seconds_per_update: estimate(&seconds).map(|e| e.mean),
        });
    }
    let tests = p.tests.iter().zip(sizes);
    Ok(Table1 {
        model: within(&p.root, &p.given.model),
        tests: tests.map(|(t, &n)| (t.name.clone(), within(&p.root, &t.file), n)).collect(),
        seeds: p.seeds.clone(),
        updates: p.updates,
        warm_updates: p.warm_updates,
        sampling: p.sampling,
        rows,
        search,
    })
}

impl Table1 {
    /// The table of results, in Markdown.
    pub fn results(&self) -> String {
        let tests: Vec<&str> =
            self.rows.first().map_or(Vec::new(), |r| r.results.iter().map(|f| f.test.as_str()).collect());
        let mut heads = vec!["method".to_owned()];
        for test in tests {
            heads.extend([format!("{test} (%)"), "#L".to_owned()]);
        }
        let cells = |r: &Row| {
            std::iter::once(r.name()).chain(r.results.iter().flat_map(Figures::cells)).collect::<Vec<_>>()
        };
        markdown(&heads, &self.rows.iter().map(cells).collect::<Vec<_>>())
    }

    /// The table of the search, in Markdown: accuracy on the validation split, the chosen rate in bold.
    pub fn searched(&self) -> String {
        let Some(first) = self.search.first() else { return String::new() };
        let mut heads = vec!["validation accuracy (%) at".to_owned()];
        heads.extend(first.lrs.iter().map(|lr| format!("{lr:e}")));
        heads.push("s an update".to_owned());
        let cell = |f: &RateSearch, i: usize| match f.accuracies[i] {
            None => "diverged".to_owned(),
            Some(a) if f.lrs[i] == f.chosen => format!("**{:.1}**", 100.0 * a),
            Some(a) => format!("{:.1}", 100.0 * a),
        };
        let cells = |f: &RateSearch| {
            let mut row = vec![f.label.clone()];
            row.extend((0..f.lrs.len()).map(|i| cell(f, i)));
            row.push(f.seconds_per_update.map_or("–".to_owned(), |s| format!("{s:.3}")));
            row
        };
        markdown(&heads, &self.search.iter().map(cells).collect::<Vec<_>>())
    }

    /// A sentence or two that explain the figures.
    fn caption(&self) -> String {
        let tests: Vec<String> = self.tests.iter().map(|(name, _, n)| format!("{name} ({n})")).collect();
        let s = &self.sampling;
        let how = if s.temperature == 0.0 && s.latent_temperature == 0.0 && s.eol_temperature == 0.0 {
            "at temperature 0".to_owned()
        } else {
            format!("at temperature {} and top-p {}", s.temperature, s.top_p)
        };
        let interval = if self.seeds.len() > 1 { ", with 95 % intervals (Student's t)" } else { "" };
        format!(
            "Accuracy in percent and mean reasoning length #L over {} training seed{}{interval}, answers drawn {how}. \
             Test sets (questions): {}. Every method: {} updates of CoT, shared, then {} of its own.\n",
            self.seeds.len(),
            if self.seeds.len() == 1 { "" } else { "s" },
            tests.join(", "),
            self.warm_updates,
            self.updates,
        )
    }

    /// The whole report in Markdown.
    pub fn markdown(&self) -> String {
        format!("{}\n{}\n{}", self.caption(), self.results(), self.searched())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::experiment::figures::tests::figures;
    use crate::experiment::measure::read_json;
    use crate::experiment::written::write_report;

    pub fn table() -> Table1 {
        let row =
            |method: &str, label: &str, compression_factor: &str, compressed, a: [f64; 2], l: [f64; 2]| {
                let mut results =
                    vec![figures("test", &a, &l), figures("hard", &[a[0] / 2.0, a[1] / 2.0], &l)];
                results.extend(Figures::average(&results));
                Row {
                    method: method.into(),
                    label: label.into(),
                    compression_factor: compression_factor.into(),
                    compressed,
                    results,
                }
            };
        let found = |method: &str, label: &str, accuracies: [Option<f64>; 2], chosen| RateSearch {
            method: method.into(),
            label: label.into(),
            lrs: vec![0.001, 0.002],
            accuracies: accuracies.to_vec(),
            chosen,
            checkpoints: vec![format!("runs/{method}/lr1e-3/seed0/best").into()],
            seconds_per_update: (method == "cot").then_some(0.1875),
        };
        Table1 {
            model: "model".into(),
            tests: vec![
                ("test".into(), "data/test.jsonl".into(), 200),
                ("hard".into(), "h.jsonl".into(), 100),
            ],
            seeds: vec![0, 1],
            updates: 8,
            warm_updates: 5,
            sampling: Sampling::default(),
            rows: vec![
                row("cot", "CoT", "1", false, [0.99, 0.97], [21.0, 21.2]),
                row("icot", "iCoT", "auto", false, [0.4, 0.42], [0.0, 0.0]),
                row("colar", "CoLaR", "1", true, [0.9, 0.94], [21.5, 21.9]),
                row("colar", "CoLaR", "2", true, [0.8, 0.84], [11.0, 11.0]),
                row("colar", "CoLaR", "5", true, [0.3, 0.28], [5.0, 5.2]),
            ],
            search: vec![
                found("cot", "CoT", [Some(0.98), Some(0.97)], 0.001),
                found("colar", "CoLaR", [Some(0.6), None], 0.001),
            ],
        }
    }

    #[test]
    fn the_report_in_words() {
        insta::assert_snapshot!(table().markdown());
    }

    #[test]
    fn the_report_in_json_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let table = table();
        let paths = write_report(dir.path(), "table1", &table.markdown(), &table, "<svg/>").unwrap();
        assert_eq!(paths.len(), 3);
        let back: Table1 = read_json(&paths[1]).unwrap();
        assert_eq!(back, table);
    }
}
