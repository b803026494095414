//! What a measurement was made on and when: the head of every report.

use serde::Serialize;

use crate::device::{Description, Device};

/// Where and when something was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The device's name on the command line.
    pub device: &'static str,
    /// The processor, as its maker calls it.
    pub hardware: String,
    /// The version of what drives it, where something does.
    pub driver: Option<String>,
    /// When, in universal time.
    pub date: String,
    /// What `COLAR_COMMIT` was when the engine was built: `scripts/gpu-bundle` gives the commit.
    pub commit: Option<&'static str>,
}

impl Setting {
    /// This device, now.
    pub fn of<D: Device>(device: &D) -> Self {
        let Description { hardware, driver } = device.description();
        Setting {
            device: device.name(),
            hardware,
            driver,
            date: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            commit: option_env!("COLAR_COMMIT"),
        }
    }
}
