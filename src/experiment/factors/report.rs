//! The report of `experiment factors`, in words and in data.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::eval::table::markdown;
use crate::experiment::figures::Figures;
use crate::infer::Sampling;

/// A factor and the figures under it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FactorRow {
    /// The factor as the prompt states it.
    #[serde(rename = "cf")]
    pub compression_factor: String,
    /// Whether training had this factor.
    pub trained: bool,
    /// Figures of every test set.
    pub results: Vec<Figures>,
}

/// The outcome of `experiment factors`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FactorsReport {
    /// The checkpoints, relative to the report's directory where they lie in it.
    pub checkpoints: Vec<PathBuf>,
    /// Test sets: name and number of questions.
    pub tests: Vec<(String, usize)>,
    /// Sampling settings of the answers.
    pub sampling: Sampling,
    /// A row a factor.
    pub rows: Vec<FactorRow>,
}

impl FactorsReport {
    /// The report in Markdown; a factor that training knew is marked.
    pub fn markdown(&self) -> String {
        let mut heads = vec!["c".to_owned()];
        for (name, _) in &self.tests {
            heads.extend([format!("{name} (%)"), "#L".to_owned()]);
        }
        let cells = |r: &FactorRow| {
            let first = &r.compression_factor;
            let first = if r.trained { format!("**{first}**") } else { first.clone() };
            std::iter::once(first).chain(r.results.iter().flat_map(Figures::cells)).collect::<Vec<_>>()
        };
        let tests: Vec<String> = self.tests.iter().map(|(name, n)| format!("{name} ({n})")).collect();
        format!(
            "Accuracy in percent and mean number of latents #L over {} checkpoint{}, by the compression factor c of the \
             prompt; factors of training in bold. Test sets (questions): {}.\n\n{}",
            self.checkpoints.len(),
            if self.checkpoints.len() == 1 { "" } else { "s" },
            tests.join(", "),
            markdown(&heads, &self.rows.iter().map(cells).collect::<Vec<_>>())
        )
    }
}

#[cfg(test)]
pub(in crate::experiment) mod tests {
    use super::*;
    use crate::experiment::figures::tests::figures;

    pub fn report() -> FactorsReport {
        let row = |compression_factor: &str, trained, a: f64, l: f64| FactorRow {
            compression_factor: compression_factor.into(),
            trained,
            results: vec![figures("test", &[a, a + 0.02], &[l, l + 0.5])],
        };
        FactorsReport {
            checkpoints: vec!["a".into(), "b".into()],
            tests: vec![("test".into(), 50)],
            sampling: Sampling::default(),
            rows: vec![row("1", true, 0.9, 20.0), row("1.5", false, 0.7, 14.0), row("8", false, 0.1, 3.0)],
        }
    }

    #[test]
    fn the_report_in_words() {
        insta::assert_snapshot!(report().markdown());
    }
}
