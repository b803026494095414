//! The name that was meant by one that does not exist.

use strsim::jaro;

/// Names from other programs, and what means the same here.
const SYNONYMS: [(&str, &str); 21] = [
    ("n", "limit"),
    ("num-samples", "limit"),
    ("max-samples", "limit"),
    ("runs", "seeds"),
    ("learning-rate", "lr"),
    ("steps", "max-steps"),
    ("num-epochs", "epochs"),
    ("num-train-epochs", "epochs"),
    ("bs", "batch-size"),
    ("gradient-accumulation-steps", "accumulate"),
    ("gradient-checkpointing", "recompute"),
    ("max-grad-norm", "clip"),
    ("rank", "lora-r"),
    ("lora-rank", "lora-r"),
    ("target-modules", "lora-targets"),
    ("checkpoint", "adapter"),
    ("dataset", "data"),
    ("output", "out"),
    ("output-dir", "out"),
    ("compression-factor", "cf"),
    ("max-tokens", "max-new-tokens"),
];

/// Similarity from which a name counts as a slip of the other: that of clap, so that files and flags agree.
const SIMILAR: f64 = 0.7;

/// The name among `known` that `given` most likely stands for: one that means the same in other programs, or the most
/// similar one. Underscores count as dashes.
pub(crate) fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let given = given.replace('_', "-").to_lowercase();
    let meant = SYNONYMS.iter().find(|(other, _)| *other == given).map(|(_, own)| *own);
    if let Some(own) = known.clone().find(|&name| Some(name) == meant) {
        return Some(own);
    }
    let similar =
        known.map(|name| (jaro(&given, name), name)).filter(|(similarity, _)| *similarity > SIMILAR);
    similar.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_and_names_of_other_programs() {
        let known = ["lr", "batch-size", "limit", "max-steps", "epochs", "out"];
        for (given, meant) in [
            ("bacth-size", Some("batch-size")),
            ("batch_size", Some("batch-size")),
            ("n", Some("limit")),
            ("learning_rate", Some("lr")),
            ("epoch", Some("epochs")),
            ("output-dir", Some("out")),
            ("zzz", None),
            ("", None),
        ] {
            assert_eq!(nearest(given, known.into_iter()), meant, "{given}");
        }
        // A synonym is no help where the flag it stands for does not exist.
        assert_eq!(nearest("n", ["seed", "device"].into_iter()), None);
    }
}
