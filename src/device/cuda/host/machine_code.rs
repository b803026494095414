//! Launches against the machine code of their kernels: what nvcc and ptxas wrote into the cubins about parameters,
//! threads, registers and shared memory, as `docs/kernel-report.tsv` has it.
//!
//! The driver of a GPU reads the parameters of a launch by that description, and refuses, when the kernel first runs, a
//! block or a grid that does not fit. Here both are known without one.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::sync::LazyLock;

use super::super::driver::{Launch, Limits};
use super::super::kernels::Kernel;

/// The table that `scripts/kernel-report` makes of the kernels, and holds against them where nvcc is.
const TABLE: &str = include_str!("../../../../docs/kernel-report.tsv");

/// Registers of a multiprocessor, on every architecture from sm_80 to sm_90; a warp takes them by [`REGISTER_UNIT`].
const REGISTERS: u32 = 64 << 10;
const REGISTER_UNIT: u32 = 256;

/// The architectures that the kernels are compiled for.
const ARCHITECTURES: [&str; 2] = ["sm_80", "sm_90a"];

/// A kernel compiled for an architecture.
#[derive(Debug, PartialEq, Eq)]
struct Compiled {
    file: &'static str,
    arch: &'static str,
    /// Offset and size in bytes of each parameter.
    params: Vec<[u32; 2]>,
    /// The most threads of a block.
    threads: u32,
    code: Code,
}

/// The part of a kernel's machine code that bounds how many of its blocks run, and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of shared memory of fixed size.
    pub shared: u32,
    /// The loop that brings the most from global memory in a round, if there is one, in the kernel or a function it calls.
    pub hot: Option<HotLoop>,
}

impl Code {
    /// Registers that a block of so many threads takes of a multiprocessor.
    fn registers_of_block(&self, threads: u32) -> u32 {
        threads.div_ceil(32) * (32 * self.registers).next_multiple_of(REGISTER_UNIT)
    }

    /// Blocks of so many threads that a multiprocessor has the registers for.
    pub(super) fn blocks_by_registers(&self, threads: u32) -> u32 {
        REGISTERS / self.registers_of_block(threads).max(1)
    }
}

/// A loop of the machine code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HotLoop {
    /// Loads from global memory in a round.
    pub loads: u32,
    /// Their bytes for a thread.
    pub bytes: u32,
    /// The most of them that are issued before anything waits for one.
    pub ahead: u32,
    /// All instructions of a round.
    pub instructions: u32,
}

/// The machine code of a kernel on sm_90a; `None` for one of the tests.
pub(super) fn on_hopper(kernel: &str) -> Option<Code> {
    COMPILED.get(kernel)?.iter().find(|compiled| compiled.arch == "sm_90a").map(|compiled| compiled.code)
}

/// By the kernel's name, a form an architecture.
type Table = BTreeMap<&'static str, Vec<Compiled>>;

/// The kernels of the table.
static COMPILED: LazyLock<Table> = LazyLock::new(|| read(TABLE));

/// Reads the rows of kernels, and of functions that they call the loops.
fn read(table: &'static str) -> Table {
    let mut lines = table.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('\t'));
    let columns: Vec<&str> = lines.next().map(Iterator::collect).unwrap_or_default();
    let mut found = Table::new();
    for line in lines {
        let row: BTreeMap<&str, &'static str> = columns.iter().copied().zip(line).collect();
        let number = |text: &str| text.parse().expect("a number, as scripts/kernel-report writes it");
        let of_loop = row.get("loop").copied().filter(|&text| text != "-").unwrap_or_default();
        let hot = match of_loop.split_whitespace().map(number).collect::<Vec<u32>>()[..] {
            [loads, bytes, ahead, instructions] => Some(HotLoop { loads, bytes, ahead, instructions }),
            _ => None,
        };
        if row["function"] != "-" {
            let of_kernel = found.get_mut(row["kernel"]).into_iter().flatten();
            for kernel in of_kernel.filter(|kernel| kernel.arch == row["arch"]) {
                kernel.code.hot = [kernel.code.hot, hot].into_iter().flatten().max_by_key(|hot| hot.bytes);
            }
            continue;
        }
        let params = row["params"].split_whitespace().filter_map(|p| p.split_once('+'));
        let compiled = Compiled {
            file: row["file"],
            arch: row["arch"],
            params: params.map(|(offset, size)| [number(offset), number(size)]).collect(),
            threads: number(row["threads"]),
            code: Code { registers: number(row["registers"]), shared: number(row["shared"]), hot },
        };
        found.entry(row["kernel"]).or_default().push(compiled);
    }
    found
}

/// Offset and size of parameters of these kinds, as C lays them out.
fn layout(codes: &[u8]) -> Vec<[u32; 2]> {
    let mut end = 0u32;
    let place = |code: &u8| {
        let size = if matches!(code, b'p' | b'U') { 8 } else { 4 };
        let offset = end.next_multiple_of(size);
        end = offset + size;
        [offset, size]
    };
    codes.iter().map(place).collect()
}

/// A line for every one of `kernels` whose machine code is not what launches take it to be, and for machine code of none
/// of them.
pub fn differences(kernels: impl Iterator<Item = &'static Kernel>) -> Vec<String> {
    differences_from(&COMPILED, kernels)
}

fn differences_from(table: &Table, kernels: impl Iterator<Item = &'static Kernel>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut left: Vec<&str> = table.keys().copied().collect();
    for kernel in kernels {
        left.retain(|name| *name != kernel.name);
        let forms = table.get(kernel.name).map(Vec::as_slice).unwrap_or_default();
        for arch in ARCHITECTURES {
            match forms.iter().find(|c| c.arch == arch) {
                Some(compiled) => lines.extend(difference(kernel, compiled)),
                None => lines.push(format!("{}: no machine code for {arch}", kernel.name)),
            }
        }
    }
    lines.extend(left.iter().map(|name| format!("{name}: machine code that nothing launches")));
    lines
}

fn difference(kernel: &Kernel, compiled: &Compiled) -> Option<String> {
    // SAFETY: without arguments the entry point returns a static of the library.
    let signature = unsafe { &*(kernel.entry)(std::ptr::null()) };
    // SAFETY: a string literal of the library.
    let packed = layout(unsafe { CStr::from_ptr(signature.codes) }.to_bytes());
    let (name, arch) = (kernel.name, compiled.arch);
    if compiled.file != kernel.file {
        return Some(format!("{name} ({arch}): in the file {}, looked up in {}", compiled.file, kernel.file));
    }
    if compiled.params != packed {
        return Some(format!(
            "{name} ({arch}): parameters at {:?}, launches pack {packed:?}",
            compiled.params
        ));
    }
    if compiled.threads != signature.threads {
        return Some(format!(
            "{name} ({arch}): {} threads, launches take {}",
            compiled.threads, signature.threads
        ));
    }
    None
}

/// Whether a block of a launch fits a multiprocessor, with its registers and all of its shared memory, and the
/// blocks of a launch that waits for all of them the multiprocessors. Kernels of the tests have no machine code, and fit.
pub(super) fn fits(launch: &Launch<'_>, limits: Limits) -> Result<(), String> {
    COMPILED.get(launch.kernel.name).into_iter().flatten().try_for_each(|c| c.fits(launch, limits))
}

impl Compiled {
    fn fits(&self, launch: &Launch<'_>, limits: Limits) -> Result<(), String> {
        let shared = self.code.shared + launch.shared;
        if shared > limits.shared {
            return Err(format!(
                "{} and {} bytes of shared memory under {}, at most {}",
                self.code.shared, launch.shared, self.arch, limits.shared
            ));
        }
        let registers = self.code.registers_of_block(launch.block);
        if registers > REGISTERS {
            return Err(format!(
                "{} threads take {registers} registers under {}, a multiprocessor has {REGISTERS}",
                launch.block, self.arch
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::host::faults::fault_copy;

    const HEAD: &str = "# head\nfile\tkernel\tfunction\tarch\tparams\tthreads\tregisters\tshared\n";

    /// The differences between `fault_copy`, of two pointers and 32 threads, and a row of the table for each architecture.
    fn of(row: &str) -> Vec<String> {
        let rows = ARCHITECTURES.map(|arch| row.replace("ARCH", arch)).join("\n");
        let table = read(Box::leak(format!("{HEAD}{rows}\n").into_boxed_str()));
        differences_from(&table, [&fault_copy].into_iter())
    }

    #[test]
    fn a_difference_is_named() {
        assert_eq!(of("faults\tfault_copy\t-\tARCH\t0+8 8+8\t32\t16\t0"), [""; 0]);
        for (row, named) in [
            ("norm\tfault_copy\t-\tARCH\t0+8 8+8\t32\t16\t0", "in the file norm, looked up in faults"),
            (
                "faults\tfault_copy\t-\tARCH\t0+8\t32\t16\t0",
                "parameters at [[0, 8]], launches pack [[0, 8], [8, 8]]",
            ),
            ("faults\tfault_copy\t-\tARCH\t0+8 8+4\t32\t16\t0", "[8, 4]"),
            ("faults\tfault_copy\t-\tARCH\t0+8 8+8\t64\t16\t0", "64 threads, launches take 32"),
        ] {
            let lines = of(row);
            assert!(lines.len() == 2 && lines[0].contains(named), "{row}: {lines:?}");
        }
        assert_eq!(
            of("faults\tfault_old\t-\tARCH\t0+8 8+8\t32\t16\t0"),
            [
                "fault_copy: no machine code for sm_80",
                "fault_copy: no machine code for sm_90a",
                "fault_old: machine code that nothing launches"
            ]
        );
    }

    #[test]
    fn parameters_lie_as_in_c() {
        assert_eq!(layout(b"pupUf"), [[0, 8], [8, 4], [16, 8], [24, 8], [32, 4]]);
        assert_eq!(layout(b"uup"), [[0, 4], [4, 4], [8, 8]]);
    }

    #[test]
    fn a_block_that_no_multiprocessor_holds() {
        let of = |registers, shared| Compiled {
            file: "faults",
            arch: "sm_80",
            params: Vec::new(),
            threads: 1024,
            code: Code { registers, shared, hot: None },
        };
        let limits = Limits { blocks: 108, shared: 163 << 10, threads: 512 };
        let launch = |block, shared| Launch {
            kernel: &fault_copy,
            grid: [108, 1],
            block,
            shared,
            args: &[],
            together: true,
        };
        of(128, 0).fits(&launch(512, 163 << 10), limits).unwrap();
        let error = of(129, 0).fits(&launch(512, 0), limits).unwrap_err();
        assert_eq!(error, "512 threads take 69632 registers under sm_80, a multiprocessor has 65536");
        let error = of(64, 16).fits(&launch(512, 163 << 10), limits).unwrap_err();
        assert_eq!(error, "16 and 166912 bytes of shared memory under sm_80, at most 166912");
    }
}
