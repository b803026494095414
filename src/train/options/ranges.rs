//! The numbers that the flags of training take: checked, and named by the help, from one table.

use crate::infer::LENGTH;
use crate::range::Range;

/// Most steps, epochs and the like.
const MOST_STEPS: u64 = 1_000_000_000;

/// Ranges, with the flags that have them, named as their fields are.
const RANGES: &[(Range, &[&str])] = &[
    (Range::Whole(0, u64::MAX), &["seed"]),
    (
        Range::Whole(1, MOST_STEPS),
        &[
            "epochs",
            "max_steps",
            "stage_steps",
            "save_every",
            "val_every",
            "samples_per_epoch",
            "patience",
            "max_length",
        ],
    ),
    (Range::Whole(0, MOST_STEPS), &["warmup", "val_samples", "watchdog"]),
    (Range::Whole(1, 1 << 16), &["lora_r", "batch_size", "accumulate", "latent_head_size", "exp_batch_size"]),
    (Range::Whole(2, 1 << 16), &["group_size"]),
    (LENGTH, &["max_latents", "max_new_tokens"]),
    (Range::Whole(1, 1024), &["c_max", "cf_list", "stages", "thoughts_per_step", "thoughts", "save_top_k"]),
    (crate::device::THREADS, &["threads"]),
    (
        Range::Finite,
        &[
            "ce_weight",
            "latent_weight",
            "entropy_weight",
            "pred_embed_forward_weight",
            "teacher_weight",
            "student_weight",
            "distill_weight",
        ],
    ),
    (Range::Above(0.0), &["lora_alpha", "embeds_std", "lr", "lr_sweep"]),
    (
        Range::Least(0.0),
        &["weight_decay", "clip", "kl_weight", "latent_temperature", "eol_temperature", "temperature"],
    ),
    (Range::Between(0.0, 1.0), &["auto_prob"]),
    (Range::Below(0.0, 1.0), &["clip_eps", "lora_dropout"]),
    (Range::AboveTo(0.0, 1.0), &["top_p"]),
];

/// The range of a flag, by its field; `None` for what is no number.
pub(crate) fn range(flag: &str) -> Option<Range> {
    RANGES.iter().find(|(_, flags)| flags.contains(&flag)).map(|(range, _)| *range)
}

#[cfg(test)]
mod tests {
    use crate::train::TrainFlags;

    fn says(text: &str) -> Option<String> {
        let flags: TrainFlags = toml::from_str(text).unwrap();
        let error = flags.check_ranges().err()?;
        assert_eq!(error.exit_code(), 2);
        Some(error.to_string())
    }

    #[test]
    fn a_number_outside_its_range_is_refused_with_it() {
        for (text, want) in [
            ("c-max = 1025", "`c_max` takes 1 to 1024, not 1025"),
            ("cf-list = [1, 0]", "`cf_list` takes 1 to 1024, not 0"),
            ("save-top-k = 0", "`save_top_k` takes 1 to 1024, not 0"),
            ("threads = 100000", "`threads` takes 0 to 1024, not 100000"),
            ("lr = nan", "`lr` takes numbers above 0, not NaN"),
            ("auto-prob = 1.5", "`auto_prob` takes 0 to 1, not 1.5"),
            ("ce-weight = inf", "`ce_weight` takes finite numbers, not inf"),
        ] {
            assert_eq!(says(text).as_deref(), Some(want));
        }
        assert_eq!(says("c-max = 1024\nlr = 1e-9\nentropy-weight = -1.0\nmethod = \"cot\""), None);
    }
}
