//! The report as lines for a person.

use super::report::{Found, Report, State};
use crate::bench::SelfTest;
use crate::device::cpu::level;

/// The report, a line a matter.
pub fn text(report: &Report) -> String {
    let commit = report.commit.map_or_else(String::new, |commit| format!(", commit {commit}"));
    let memory = report.memory_bytes.map_or_else(String::new, |bytes| {
        format!(", {:.1} GiB of memory", bytes as f64 / f64::from(1 << 30))
    });
    let mut lines = vec![
        format!("colar-engine {}{commit}, built for {}", report.version, report.target),
        format!("{} cores that this process may use{memory}", report.cores),
        format!(
            "instruction set {}, of {} ({} chooses another)",
            report.instruction_set,
            report.instruction_sets.join(", "),
            level::VARIABLE
        ),
        match report.gpu_kernels.as_slice() {
            [] => "GPU kernels: none in this build".to_owned(),
            targets => format!("GPU kernels: compiled for {}", targets.join(", ")),
        },
    ];
    for library in &report.gpu_libraries {
        let found = if library.found { "found" } else { "not found" };
        lines.push(format!("{}: {found} ({})", library.name, library.source));
    }
    lines.extend(report.devices.iter().flat_map(device));
    lines.join("\n") + "\n"
}

/// The lines of a device.
fn device(found: &Found) -> Vec<String> {
    let name = found.device;
    match &found.state {
        State::Missing { missing } => {
            // The message itself may begin with the device's name.
            let missing = missing.strip_prefix(&format!("{name}: ")).unwrap_or(missing);
            vec![format!("{name}: {}", missing.replace('`', ""))]
        }
        State::Works(works) => {
            let driver =
                works.driver.as_ref().map_or_else(String::new, |driver| format!(", driver {driver}"));
            let mut lines = vec![format!("{name}: {}{driver}, {}", works.hardware, works.dtype)];
            if let (Some(copy), Some(product)) = (works.copy_gb_per_s, works.product_tflop_per_s) {
                lines.push(format!(
                    "  memory {copy:.1} GB/s (a copy, both ways), products {product:.3} TFLOP/s"
                ));
            }
            lines.push(format!("  {}", outcome(&works.self_test)));
            lines
        }
    }
}

/// How a self-test went.
fn outcome(test: &SelfTest) -> String {
    let result = match (test.passed, test.exact) {
        (true, true) => "right to the bit".to_owned(),
        (true, false) => format!("right, losses within {:.0e}", test.error),
        (false, _) => format!("WRONG, losses {:?}, off by {:.1e}", test.losses, test.error),
    };
    format!("self-test: {result}, in {:.1} s", test.seconds)
}
