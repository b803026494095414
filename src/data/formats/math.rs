//! MATH: competition problems with LaTeX solutions, published as a tree of one-problem files.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::records::read_text;
use super::sample::read_json;
use crate::data::Sample;
use crate::{Error, Result};

/// A problem; the published `level` and `type` are not needed.
#[derive(Debug, Deserialize)]
#[serde(expecting = "an object with problem and solution")]
pub struct Problem {
    problem: String,
    solution: String,
}

impl TryFrom<Problem> for Sample {
    type Error = String;

    fn try_from(record: Problem) -> Result<Sample, String> {
        let answer =
            last_boxed(&record.solution).ok_or("the solution has no complete \\boxed{…}")?.to_owned();
        let steps = record
            .solution
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect();
        Ok(Sample { question: record.problem.trim().to_owned(), steps, answer })
    }
}

/// Reads every `*.json` file under `directory`, in the order of their paths.
pub fn load_directory(directory: &Path) -> Result<Vec<Sample>> {
    let mut files = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(current) = waiting.pop() {
        for entry in fs::read_dir(&current).map_err(Error::io(&current))? {
            let entry = entry.map_err(Error::io(&current))?;
            let path = entry.path();
            // The entry's own type: a link to a directory above would never end.
            let kind = entry.file_type().map_err(Error::io(&path))?;
            if kind.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "json") && path.is_file() {
                files.push(path);
            }
        }
    }
    files.sort();
    let read = |path: &PathBuf| read_json::<Problem>(path, &read_text(path)?);
    let samples: Vec<Vec<Sample>> = files.iter().map(read).collect::<Result<_>>()?;
    Ok(samples.into_iter().flatten().collect())
}

/// The content of the last `\boxed` (or its older sibling `\fbox`): up to the brace that closes it,
/// or, in the form `\boxed 7`, up to the end of the formula.
fn last_boxed(solution: &str) -> Option<&str> {
    let after = |command: &str| solution.rfind(command).map(|at| at + command.len());
    let from = after(r"\boxed").max(after(r"\fbox"))?;
    let rest = solution[from..].trim_start();
    let Some(content) = rest.strip_prefix('{') else {
        let bare = rest.split(['$', '\n']).next().unwrap_or_default().trim();
        return (!bare.is_empty()).then_some(bare);
    };
    let mut depth = 1usize;
    let mut escaped = false;
    for (at, byte) in content.bytes().enumerate() {
        match byte {
            // `\{` is a brace to print; `\left\{` may well lack its partner.
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(content[..at].trim());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_box_is_the_answer() {
        for (solution, answer) in [
            (r"so $\boxed{7}$.", Some("7")),
            (r"$\boxed{1}$ or rather $\boxed{\frac{\sqrt{3}}{2}}$", Some(r"\frac{\sqrt{3}}{2}")),
            (r"$\boxed{\left\{ x \mid x > 0 \right.}$", Some(r"\left\{ x \mid x > 0 \right.")),
            (r"$\boxed{a \\}$", Some(r"a \\")),
            (r"is $\boxed 12$.", Some("12")),
            (r"$\fbox{C}$", Some("C")),
            (r"$\boxed{é}$", Some("é")),
            (r"$\boxed{1$", None),
            (r"$\boxed$", None),
            ("7", None),
            ("", None),
        ] {
            assert_eq!(last_boxed(solution), answer, "{solution}");
        }
    }
}
