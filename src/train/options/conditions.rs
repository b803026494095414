//! When a flag has an effect: the table by which flags are refused, on the command line and in a TOML file, and which
//! their help names.

use std::collections::BTreeMap;

use serde_json::Value;

use super::defaults::STAGES;
use super::flags::TrainFlags;
use crate::infer::Sampling;
use crate::{Error, Result};

/// A row of the table. A flag has an effect where all rows that name it hold.
pub(crate) struct Condition {
    /// The flags, named as their fields are.
    pub flags: &'static [&'static str],
    /// The flag that decides.
    pub on: &'static str,
    when: When,
}

/// The value that the deciding flag must have; its default counts where it is not given.
enum When {
    /// One of these, as text.
    Is(&'static [&'static str]),
    /// Another number than this.
    Not(f64),
    /// Given, whatever it is.
    Given,
    /// Not given, since it says the same in another way. Of two such, the one given nearer to the user counts.
    Absent,
}

/// The row of flags that go with another at one of these values.
pub(crate) const fn is(
    flags: &'static [&'static str],
    on: &'static str,
    values: &'static [&'static str],
) -> Condition {
    Condition { flags, on, when: When::Is(values) }
}

/// The row of flags that go with another number than this.
pub(crate) const fn not(flags: &'static [&'static str], on: &'static str, number: f64) -> Condition {
    Condition { flags, on, when: When::Not(number) }
}

/// The table of the flags of training. Of several rows that do not hold, the first is named.
pub(crate) const CONDITIONS: &[Condition] = &[
    is(
        &[
            "method",
            "init",
            "accumulate",
            "lora_dropout",
            "monitor",
            "merge",
            "embeds_std",
            "watchdog",
            "template",
            "max_length",
            "latent_head_size",
            "deterministic_head",
            "c_max",
            "cf_list",
            "latent_loss",
            "chunk_labels",
            "latent_noise",
            "ce_weight",
            "latent_weight",
            "pred_embed_forward_weight",
            "auto_prob",
            "stages",
            "stage_steps",
            "thoughts_per_step",
            "thoughts",
            "teacher_weight",
            "student_weight",
            "distill_weight",
        ],
        "stage",
        &["sft"],
    ),
    is(
        &[
            "adapter",
            "cf",
            "group_size",
            "clip_eps",
            "average_per_token_loss",
            "use_latent_loss",
            "use_answer_loss",
            "punish_latent_length",
            "kl_weight",
            "exp_batch_size",
            "samples_per_epoch",
            "filter_solved",
            "verifier",
            "answer_rule",
            "max_latents",
            "max_new_tokens",
            "latent_temperature",
            "eol_temperature",
            "temperature",
            "top_p",
        ],
        "stage",
        &["rl"],
    ),
    is(
        &[
            "latent_head_size",
            "deterministic_head",
            "c_max",
            "cf_list",
            "latent_loss",
            "chunk_labels",
            "latent_noise",
            "latent_weight",
            "entropy_weight",
            "pred_embed_forward_weight",
            "auto_prob",
            "embeds_std",
        ],
        "method",
        &["colar"],
    ),
    is(&["ce_weight"], "method", &["cot", "icot", "coconut", "colar"]),
    is(&["stages", "stage_steps"], "method", &["icot", "coconut"]),
    is(&["thoughts_per_step"], "method", &["coconut"]),
    is(&["thoughts", "teacher_weight", "student_weight", "distill_weight"], "method", &["distill"]),
    is(&["freeze_embedding"], "full", &["true"]),
    is(&["lora_r", "lora_alpha", "lora_dropout", "lora_targets"], "full", &["false"]),
    is(&["latent_noise", "deterministic_head"], "latent_loss", &["mse"]),
    is(&["entropy_weight"], "deterministic_head", &["false"]),
    not(&["stage_steps"], "stages", 1.0),
    not(&["top_p"], "temperature", 0.0),
    Condition {
        flags: &["val_every", "val_samples", "monitor", "save_top_k", "patience"],
        on: "val",
        when: When::Given,
    },
    Condition { flags: &["c_max"], on: "cf_list", when: When::Absent },
    Condition { flags: &["epochs"], on: "max_steps", when: When::Absent },
];

impl Condition {
    /// Whether its flags have an effect where the deciding flag has this value.
    pub fn holds(&self, value: Option<&Value>) -> bool {
        match self.when {
            When::Is(wanted) => value.is_some_and(|v| {
                let text = v.as_str().map_or_else(|| v.to_string(), str::to_owned);
                wanted.contains(&text.as_str())
            }),
            When::Not(number) => value.and_then(Value::as_f64) != Some(number),
            When::Given => value.is_some(),
            When::Absent => value.is_none(),
        }
    }

    /// The condition in words, as the end of "this flag goes"; the deciding flag is named as its field, in backticks.
    pub fn words(&self) -> String {
        let on = self.on;
        match self.when {
            When::Is(["true"]) | When::Given => format!("with `{on}`"),
            When::Is(["false"]) | When::Absent => format!("without `{on}`"),
            When::Is(values) => format!("with `{on}` {}", values.join(" or ")),
            When::Not(number) => format!("with `{on}` other than {number}"),
        }
    }
}

/// The values of flags by the names of their fields.
fn values(flags: &TrainFlags) -> Result<BTreeMap<String, Value>> {
    let fields = match serde_json::to_value(flags) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => return Err(Error::other("flags are no object")),
        Err(e) => return Err(Error::other(e.to_string())),
    };
    Ok(fields.into_iter().map(|(name, value)| (name.replace('-', "_"), value)).collect())
}

/// The values that decide where a flag is not given. Of flags that need only be given, or not, there are none.
fn defaults() -> BTreeMap<String, Value> {
    let values: [(&str, Value); 7] = [
        ("stage", "sft".into()),
        ("method", "colar".into()),
        ("full", false.into()),
        ("latent_loss", "mse".into()),
        ("deterministic_head", false.into()),
        ("stages", STAGES.into()),
        ("temperature", Sampling::default().temperature.into()),
    ];
    values.map(|(name, value)| (name.to_owned(), value)).into()
}

/// The rows that do not hold for these flags.
fn failing(flags: &TrainFlags) -> Result<Vec<&'static Condition>> {
    let mut all = defaults();
    all.extend(values(flags)?);
    Ok(CONDITIONS.iter().filter(|c| !c.holds(all.get(c.on))).collect())
}

/// Fails on a flag that would be without effect beside the others.
///
/// # Errors
/// [`Error::Usage`] naming the flag and what it goes with.
pub(super) fn check(flags: &TrainFlags) -> Result<()> {
    for condition in failing(flags)? {
        if let Some(flag) = flags.first_of(condition.flags) {
            return Err(Error::usage(format!("{flag} goes {}", condition.words())));
        }
    }
    Ok(())
}

impl TrainFlags {
    /// These flags without those that are without effect beside the others.
    pub(super) fn effective(self) -> Self {
        // Flags always have values; were it otherwise, all of them would stay and be refused later.
        let failing = failing(&self).unwrap_or_default();
        failing.into_iter().fold(self, |flags, condition| flags.without(condition.flags))
    }

    /// These flags, and where one is absent, that of `defaults` if it has an effect then. Nobody asked for a default,
    /// so it gives way where a flag would be refused.
    pub(crate) fn or_defaults(self, defaults: TrainFlags) -> Self {
        let all = self.clone().over(defaults.clone());
        let unfit = failing(&all).unwrap_or_default();
        self.over(unfit.into_iter().fold(defaults, |flags, condition| flags.without(condition.flags)))
    }

    /// These flags, and where one is absent, that of `file`, unless these say it in another way.
    pub fn over(self, file: TrainFlags) -> TrainFlags {
        let file = file.not_against(&self);
        self.or(file)
    }

    /// These flags without those that say in another way what flags of `nearer` say.
    fn not_against(self, nearer: &TrainFlags) -> Self {
        let pairs = CONDITIONS.iter().filter(|c| matches!(c.when, When::Absent));
        pairs.fold(self, |flags, pair| {
            let (one, other) = (pair.flags, std::slice::from_ref(&pair.on));
            let flags = if nearer.first_of(one).is_some() { flags.without(other) } else { flags };
            if nearer.first_of(other).is_some() { flags.without(one) } else { flags }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(text: &str) -> TrainFlags {
        toml::from_str(text).unwrap()
    }

    /// Every row refuses each of its flags, wherever the deciding flag is what the row does not want.
    #[test]
    fn a_flag_without_effect_is_refused_and_named() {
        for (text, says) in [
            ("method = \"cot\"\nc-max = 3", "`c_max` goes with `method` colar"),
            ("method = \"icot\"\ncf-list = [1, 2]", "`cf_list` goes with `method` colar"),
            ("method = \"cot\"\nembeds-std = 0.02", "`embeds_std` goes with `method` colar"),
            ("stages = 2", "`stages` goes with `method` icot or coconut"),
            (
                "method = \"distill\"\nce-weight = 0.5",
                "`ce_weight` goes with `method` cot or icot or coconut or colar",
            ),
            (
                "method = \"icot\"\nstages = 1\nstage-steps = 4",
                "`stage_steps` goes with `stages` other than 1",
            ),
            ("group-size = 4", "`group_size` goes with `stage` rl"),
            ("stage = \"rl\"\ninit = \"a\"", "`init` goes with `stage` sft"),
            (
                "stage = \"rl\"\ntemperature = 0.0\ntop-p = 0.5",
                "`top_p` goes with `temperature` other than 0",
            ),
            ("full = true\nlora-r = 7", "`lora_r` goes without `full`"),
            ("freeze-embedding = true", "`freeze_embedding` goes with `full`"),
            (
                "latent-loss = \"nll\"\nlatent-noise = \"expected\"",
                "`latent_noise` goes with `latent_loss` mse",
            ),
            (
                "deterministic-head = true\nentropy-weight = 1.0",
                "`entropy_weight` goes without `deterministic_head`",
            ),
            ("c-max = 3\ncf-list = [1]", "`c_max` goes without `cf_list`"),
            ("epochs = 3\nmax-steps = 1", "`epochs` goes without `max_steps`"),
            ("save-top-k = 3", "`save_top_k` goes with `val`"),
        ] {
            let error = check(&flags(text)).unwrap_err();
            assert_eq!((error.exit_code(), error.to_string().as_str()), (2, says), "{text}");
            assert!(check(&flags(text).effective()).is_ok(), "{text}");
        }
        for text in [
            "",
            "method = \"coconut\"\nstages = 2\nstage-steps = 3",
            "method = \"cot\"\nmerge = \"mean\"",
            "stage = \"rl\"\nentropy-weight = 0.1\ntop-p = 0.5",
            "full = true\nfreeze-embedding = true",
            "latent-loss = \"mse\"\nlatent-noise = \"expected\"",
            "val = \"v\"\nval-every = 3\nmonitor = \"loss\"",
        ] {
            assert!(check(&flags(text)).is_ok(), "{text}");
            assert_eq!(flags(text).effective(), flags(text));
        }
    }

    /// The flags that a run stores its options as are accepted again.
    #[test]
    fn stored_options_are_accepted() {
        for text in
            ["", "full = true", "method = \"cot\"\nmax-steps = 3", "latent-loss = \"nll\"\nval = \"v\""]
        {
            let given = flags(&format!("model = \"m\"\ndata = \"d\"\nout = \"o\"\n{text}"));
            let options = given.resolve().unwrap();
            assert_eq!(TrainFlags::from(&options).resolve().unwrap(), options, "{text}");
        }
    }

    #[test]
    fn of_two_ways_to_say_it_the_nearer_counts() {
        let over = |near: &str, far: &str| flags(near).over(flags(far));
        assert_eq!(over("c-max = 3", "cf-list = [2]\nseed = 1"), flags("c-max = 3\nseed = 1"));
        assert_eq!(over("cf-list = [2]", "c-max = 3"), flags("cf-list = [2]"));
        assert_eq!(over("epochs = 2", "max-steps = 3"), flags("epochs = 2"));
        assert_eq!(over("max-steps = 3", "epochs = 2"), flags("max-steps = 3"));
        assert_eq!(over("seed = 2", "seed = 1\nc-max = 4"), flags("seed = 2\nc-max = 4"));
    }

    #[test]
    fn a_default_gives_way() {
        let noise = flags("latent-noise = \"expected\"\nlr = 1.0");
        assert_eq!(
            flags("latent-loss = \"nll\"").or_defaults(noise.clone()),
            flags("latent-loss = \"nll\"\nlr = 1.0")
        );
        assert_eq!(
            flags("seed = 1").or_defaults(noise),
            flags("seed = 1\nlatent-noise = \"expected\"\nlr = 1.0")
        );
    }

    #[test]
    fn the_values_that_decide_are_the_options_own() {
        use crate::train::{RlOptions, TrainOptions};
        let mut options = values(&RlOptions::default().to_flags()).unwrap();
        options.extend(values(&TrainOptions::default().to_flags()).unwrap());
        options.insert("stage".to_owned(), "sft".into());
        for (name, value) in defaults() {
            assert_eq!(options[&name], value, "{name}");
        }
        let decide = |c: &&Condition| matches!(c.when, When::Is(_) | When::Not(_));
        assert!(CONDITIONS.iter().filter(decide).all(|c| defaults().contains_key(c.on)));
    }

    /// A field that was renamed would be without effect here.
    #[test]
    fn the_names_are_those_of_flags() {
        use clap::Args;
        let command = TrainFlags::augment_args(clap::Command::new("train"));
        for name in CONDITIONS.iter().flat_map(|c| c.flags.iter().chain([&c.on])) {
            let long = name.replace('_', "-");
            assert!(command.get_arguments().any(|a| a.get_long() == Some(&long)), "{name}");
        }
    }
}
