//! In what the options of runs differ.

use std::collections::BTreeSet;

use super::side::Side;

/// Options by which no two runs are told apart: where a run was kept.
const PLACES: [&str; 1] = ["out"];

/// An option that not all runs have alike.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Difference {
    /// Its key in `config.toml`.
    pub option: String,
    /// Its values, run by run; none where a run does not have it.
    pub values: Vec<Option<String>>,
}

/// The options that differ between the runs that have any.
pub fn differences(sides: &[Side]) -> Vec<Difference> {
    let tables: Vec<&toml::Table> = sides.iter().filter_map(|side| side.config.as_ref()).collect();
    let keys: BTreeSet<&String> = tables.iter().flat_map(|table| table.keys()).collect();
    let of_key = |key: &String| Difference {
        option: key.clone(),
        values: sides.iter().map(|side| Some(shown(side.config.as_ref()?.get(key)?))).collect(),
    };
    let differ = |key: &&String| {
        let mut values = tables.iter().map(|table| table.get(*key));
        let first = values.next().flatten();
        !PLACES.contains(&key.as_str()) && values.any(|value| value != first)
    };
    keys.into_iter().filter(differ).map(of_key).collect()
}

/// A value as one would type it.
fn shown(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        // Float32 options are stored as float64.
        toml::Value::Float(x) => format!("{}", *x as f32),
        toml::Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_told() {
        let side = |config: Option<&str>| Side {
            name: String::new(),
            config: config.map(|text| text.parse().unwrap()),
            records: None,
            predictions: Vec::new(),
        };
        let sides = [
            side(Some("lr = 0.0010000000474974513\nseed = 1\nout = \"a\"\nlora-targets = [\"q_proj\"]")),
            side(None),
            side(Some(
                "lr = 0.002\nseed = 1\nout = \"b\"\nlora-targets = [\"q_proj\", \"v_proj\"]\nfull = true",
            )),
        ];
        let found = differences(&sides);
        let texts =
            |d: &Difference| d.values.iter().map(|v| v.clone().unwrap_or_default()).collect::<Vec<_>>();
        let rows: Vec<(String, Vec<String>)> = found.iter().map(|d| (d.option.clone(), texts(d))).collect();
        let row = |option: &str, values: [&str; 3]| (option.to_owned(), values.map(str::to_owned).to_vec());
        assert_eq!(
            rows,
            [
                row("full", ["", "", "true"]),
                row("lora-targets", ["q_proj", "", "q_proj,v_proj"]),
                row("lr", ["0.001", "", "0.002"]),
            ]
        );
        assert!(differences(&sides[..2]).is_empty());
    }
}
