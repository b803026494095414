//! The head of every report: the device and build that were measured, and the date.

use serde::Serialize;

use crate::device::{Description, Device};

/// Device, date and build of a measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The device's name on the command line.
    pub device: &'static str,
    /// The processor, as its maker calls it.
    pub hardware: String,
    /// The version of its driver, if it has one.
    pub driver: Option<String>,
    /// The date and time, in UTC.
    pub date: String,
    /// `COLAR_COMMIT` at the time of the build, which `scripts/gpu-bundle` sets to the commit.
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
