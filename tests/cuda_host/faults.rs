//! Every fault of a kernel is detected: each wrong kernel of `cuda/host/faults.cu` is launched and reported.

use std::process::Command;

use colar_engine::device::cuda::driver::{Arg, Driver, Launch};
use colar_engine::device::cuda::host::{HostDriver, HostMemory, faults};
use colar_engine::device::cuda::kernels::Kernel;

fn driver(seed: u64) -> HostDriver {
    HostDriver::new(1, seed).unwrap()
}

fn launch(
    d: &HostDriver,
    kernel: &'static Kernel,
    block: u32,
    shared: u32,
    args: &[Arg],
) -> Result<(), String> {
    // SAFETY: the device detects the faults of these kernels, which is tested here.
    unsafe { d.launch(&Launch { kernel, grid: [1, 1], block, shared, args, together: false }) }
        .map_err(|e| e.to_string())
}

fn floats(d: &HostDriver, memory: &HostMemory, n: usize) -> Vec<f32> {
    let mut values = vec![0.0f32; n];
    d.download(memory, bytemuck::cast_slice_mut(&mut values)).unwrap();
    values
}

fn told(result: Result<(), String>, kernel: &str, what: &str) {
    let error = result.expect_err(kernel);
    assert!(error.contains(kernel) && error.contains(what) && !error.contains('\n'), "{error}");
}

#[test]
fn a_write_just_past_the_end() {
    let d = driver(1);
    // The buffer ends 12 bytes before a multiple of 16: the write stays on the page.
    let out = d.alloc(4 * 33).unwrap();
    let args = [Arg::U32(33), Arg::from(&out)];
    told(launch(&d, &faults::fault_write_beyond, 32, 0, &args), "fault_write_beyond", "past the end");
}

/// Run by the test below in a process of its own, which it ends.
#[test]
fn child_reads_far_past_the_end() {
    if std::env::var_os("COLAR_FAULT_CHILD").is_none() {
        return;
    }
    let d = driver(1);
    let (input, out) = (d.alloc(4 * 32).unwrap(), d.alloc(4 * 32).unwrap());
    let _ =
        launch(&d, &faults::fault_read_beyond, 32, 0, &[Arg::from(&input), Arg::U64(32), Arg::from(&out)]);
    println!("the access went unnoticed");
}

#[test]
fn a_read_past_the_end_ends_the_program() {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::child_reads_far_past_the_end", "--nocapture", "--test-threads", "1"])
        .env("COLAR_FAULT_CHILD", "1")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(!child.status.success() && !out.contains("unnoticed"), "{out}");
    assert!(err.contains("kernel fault_read_beyond accessed memory outside of its buffers"), "{err}");
}

#[test]
fn what_nothing_wrote_is_nan() {
    let d = driver(1);
    let (input, out) = (d.alloc(4 * 32).unwrap(), d.alloc(4 * 32).unwrap());
    launch(&d, &faults::fault_copy, 32, 0, &[Arg::from(&input), Arg::from(&out)]).unwrap();
    assert!(floats(&d, &out, 32).iter().all(|x| x.is_nan()));
    // A buffer that is freed is no longer one.
    drop(input);
    let stale = d.alloc(4 * 32).unwrap();
    let freed = Arg::from(&stale);
    drop(stale);
    told(
        launch(&d, &faults::fault_copy, 32, 0, &[freed, Arg::from(&out)]),
        "fault_copy",
        "no buffer's address",
    );
}

#[test]
fn a_missing_barrier_shows() {
    let d = driver(2);
    let out = d.alloc(4 * 256).unwrap();
    let want: Vec<f32> = (0..256).rev().map(|i| i as f32).collect();
    for _ in 0..4 {
        launch(&d, &faults::fault_race, 256, 0, &[Arg::U32(1), Arg::from(&out)]).unwrap();
        assert_eq!(floats(&d, &out, 256), want);
        launch(&d, &faults::fault_race, 256, 0, &[Arg::U32(0), Arg::from(&out)]).unwrap();
        assert_ne!(floats(&d, &out, 256), want);
    }
}

#[test]
fn a_barrier_or_exchange_that_some_miss() {
    let d = driver(3);
    let out = d.alloc(4 * 64).unwrap();
    told(
        launch(&d, &faults::fault_barrier, 64, 0, &[Arg::from(&out)]),
        "fault_barrier",
        "a barrier needs all",
    );
    let result = launch(&d, &faults::fault_exchange, 32, 0, &[Arg::from(&out)]);
    told(result, "fault_exchange", "an exchange or barrier needs all");
    // The driver goes on.
    launch(&d, &faults::fault_race, 64, 0, &[Arg::U32(1), Arg::from(&out)]).unwrap();
}

#[test]
fn a_grid_that_does_not_meet() {
    let d = driver(6);
    let [numbers, out] = [(); 2].map(|()| d.alloc(4 * 192).unwrap());
    let arrived = d.alloc(4).unwrap();
    let run = |wait: u32, grid: u32, together: bool| {
        let args = [Arg::U32(wait), Arg::from(&numbers), Arg::from(&out), Arg::from(&arrived)];
        let kernel = &faults::fault_grid;
        let launch = Launch { kernel, grid: [grid, 1], block: 64, shared: 0, args: &args, together };
        // SAFETY: as above.
        unsafe { d.launch(&launch) }.map_err(|e| e.to_string())
    };
    let want: Vec<f32> = (0..192).map(|i| ((i + 64) % 192) as f32).collect();
    run(1, 3, true).unwrap();
    assert_eq!(floats(&d, &out, 192), want);
    // Without the barrier some block reads what the next has not written.
    d.upload(&numbers, &[0xff; 4 * 192]).unwrap();
    run(0, 3, true).unwrap();
    assert_ne!(floats(&d, &out, 192), want);
    told(run(2, 3, true), "fault_grid", "wait at the grid's barrier");
    told(run(3, 3, true), "fault_grid", "others do not");
    told(run(1, 3, false), "fault_grid", "was not launched together");
    told(run(1, 4, true), "fault_grid", "blocks together, at most 3");
    // The driver goes on.
    run(1, 3, true).unwrap();
}

#[test]
fn shared_memory_past_its_end() {
    let d = driver(4);
    let out = d.alloc(4 * 32).unwrap();
    let run = |fixed: u32, count: u32, shared: u32| {
        launch(&d, &faults::fault_shared, 32, shared, &[Arg::U32(fixed), Arg::U32(count), Arg::from(&out)])
    };
    run(1, 31, 0).unwrap();
    run(0, 4, 20).unwrap();
    told(run(1, 32, 0), "fault_shared", "shared memory");
    told(run(0, 5, 20), "fault_shared", "shared memory");
}

#[test]
fn launches_that_do_not_fit_the_kernel() {
    let d = driver(5);
    let out = d.alloc(4 * 256).unwrap();
    let good = [Arg::U32(1), Arg::from(&out)];
    let kernel = &faults::fault_race;
    told(launch(&d, kernel, 256, 0, &good[..1]), "fault_race", "takes parameters up, was given u");
    told(
        launch(&d, kernel, 256, 0, &[Arg::F32(1.0), good[1]]),
        "fault_race",
        "takes parameters up, was given fp",
    );
    for block in [0, 33, 288] {
        told(launch(&d, kernel, block, 0, &good), "fault_race", "threads a block");
    }
    told(launch(&d, kernel, 256, 1 << 20, &good), "fault_race", "shared memory");
}
