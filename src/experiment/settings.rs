//! The settings file of a comparison: flags of training by table, and which of them a table may have.

use std::collections::BTreeMap;

use crate::train::TrainFlags;
use crate::{Error, Result};

/// Flags that the plan itself sets.
const PLANNED: &[&str] = &[
    "stage",
    "method",
    "model",
    "data",
    "val",
    "out",
    "init",
    "adapter",
    "lr",
    "max_steps",
    "epochs",
    "seed",
    "val_every",
    "val_samples",
    "monitor",
    "save_top_k",
    "patience",
    "threads",
    "device",
    "dtype",
    "no_mmap",
];

/// Flags that are the same for all methods.
const SHARED: &[&str] = &[
    "template",
    "escape_marks",
    "max_length",
    "watchdog",
    "full",
    "freeze_embedding",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_targets",
    "batch_size",
    "accumulate",
    "warmup",
    "schedule",
    "weight_decay",
    "clip",
    "save_every",
];

/// The table of the flags that all runs share.
pub(super) const COMMON: &str = "common";
/// The table of the CoT training before.
pub(super) const WARM_UP: &str = "warm-up";

/// Fails on an unknown table of the settings, and on a flag that a table may not have.
pub(super) fn check(settings: &BTreeMap<String, TrainFlags>) -> Result<()> {
    for (table, flags) in settings {
        let method = super::variants::VARIANTS.iter().any(|v| v.name == table);
        if !method && table != COMMON && table != WARM_UP {
            return Err(Error::usage(format!(
                "`settings`: [{table}] is neither {COMMON} nor {WARM_UP} nor a method"
            )));
        }
        if let Some(flag) = flags.first_of(PLANNED) {
            return Err(Error::usage(format!("`settings`: {flag} in [{table}] is the experiment's to set")));
        }
        if let Some(flag) = flags.first_of(SHARED).filter(|_| method) {
            return Err(Error::usage(format!(
                "`settings`: {flag} in [{table}] must be the same for all methods: it goes into [{COMMON}]"
            )));
        }
    }
    Ok(())
}
