//! The host's twins of tensor-core instructions do what the PTX ISA specifies: the places of elements in fragments
//! are written here once more, after its tables.

use colar_engine::device::cuda::driver::{Arg, Driver, Launch};
use colar_engine::device::cuda::host::{HostDriver, HostMemory, twins};
use colar_engine::device::cuda::kernels::Kernel;
use colar_engine::random::Stream;
use half::bf16;

fn driver() -> HostDriver {
    HostDriver::new(1, 17).unwrap()
}

fn launch(d: &HostDriver, kernel: &'static Kernel, block: u32, args: &[Arg]) -> Result<(), String> {
    // SAFETY: the buffers are as long as the kernels need; the device detects other faults.
    unsafe { d.launch(&Launch { kernel, grid: [1, 1], block, shared: 0, args, together: false }) }
        .map_err(|e| e.to_string())
}

fn up(d: &HostDriver, words: &[u32]) -> HostMemory {
    let memory = d.alloc(4 * words.len()).unwrap();
    d.upload(&memory, bytemuck::cast_slice(words)).unwrap();
    memory
}

fn down(d: &HostDriver, memory: &HostMemory, words: usize) -> Vec<u32> {
    let mut values = vec![0u32; words];
    d.download(memory, bytemuck::cast_slice_mut(&mut values)).unwrap();
    values
}

/// Two bf16 in a register, the first in the lower half.
fn pair(low: f32, high: f32) -> u32 {
    u32::from(bf16::from_f32(low).to_bits()) | u32::from(bf16::from_f32(high).to_bits()) << 16
}

#[test]
fn mma_is_a_product() {
    let d = driver();
    let mut stream = Stream::new(3, 4);
    // Small whole numbers: every sum is exact in any order.
    let mut numbers = |n: usize| -> Vec<f32> { (0..n).map(|_| stream.below(33) as f32 - 16.0).collect() };
    let (a, b, c) = (numbers(16 * 16), numbers(16 * 8), numbers(16 * 8));
    // Section "Matrix Fragments for mma.m16n8k16 with floating point type": element i of a lane's part.
    let a_at = |lane: usize, i: usize| {
        let row = lane / 4 + if (0..2).contains(&i) || (4..6).contains(&i) { 0 } else { 8 };
        (row, lane % 4 * 2 + (i & 1) + if i < 4 { 0 } else { 8 })
    };
    let b_at = |lane: usize, i: usize| (lane % 4 * 2 + (i & 1) + if i < 2 { 0 } else { 8 }, lane / 4);
    let c_at = |lane: usize, i: usize| (lane / 4 + if i < 2 { 0 } else { 8 }, lane % 4 * 2 + (i & 1));
    let (mut left, mut right, mut sums) = (Vec::new(), Vec::new(), Vec::new());
    for lane in 0..32 {
        let element = |i| a[a_at(lane, i).0 * 16 + a_at(lane, i).1];
        left.extend((0..4).map(|r| pair(element(2 * r), element(2 * r + 1))));
        let element = |i| b[b_at(lane, i).0 * 8 + b_at(lane, i).1];
        right.extend((0..2).map(|r| pair(element(2 * r), element(2 * r + 1))));
        sums.extend((0..4).map(|i| c[c_at(lane, i).0 * 8 + c_at(lane, i).1].to_bits()));
    }
    let (left, right, sums) = (up(&d, &left), up(&d, &right), up(&d, &sums));
    let args = [Arg::from(&left), Arg::from(&right), Arg::from(&sums)];
    launch(&d, &twins::twin_mma, 32, &args).unwrap();
    let got = down(&d, &sums, 128);
    for lane in 0..32 {
        for i in 0..4 {
            let (row, col) = c_at(lane, i);
            let product: f32 = (0..16).map(|k| a[row * 16 + k] * b[k * 8 + col]).sum();
            let want = c[row * 8 + col] + product;
            assert_eq!(f32::from_bits(got[4 * lane + i]), want, "lane {lane}, element {i}");
        }
    }
}

#[test]
fn ldmatrix_deals_out_rows_and_columns() {
    let d = driver();
    // Element e of 16 bits is e. Rows of 32 bytes, so that a matrix's rows do not stand end to end.
    let words: Vec<u32> = (0..256).map(|i| (2 * i) | ((2 * i + 1) << 16)).collect();
    let rows: Vec<u32> = (0..32).map(|i| (i * 11 + 5) % 32 * 32 + i % 2 * 16).collect();
    for transposed in [false, true] {
        let (offsets, bytes, out) = (up(&d, &rows), up(&d, &words), up(&d, &[0; 128]));
        let args = [Arg::from(&offsets), Arg::from(&bytes), Arg::U32(transposed.into()), Arg::from(&out)];
        launch(&d, &twins::twin_ldmatrix, 32, &args).unwrap();
        let got = down(&d, &out, 128);
        for (at, &got) in got.iter().enumerate() {
            let (lane, matrix) = (at / 4, at % 4);
            let element = |i: usize| {
                let (row, col) = (lane / 4, lane % 4 * 2 + i);
                let (row, col) = if transposed { (col, row) } else { (row, col) };
                rows[8 * matrix + row] / 2 + col as u32
            };
            assert_eq!(got, element(0) | element(1) << 16, "{transposed}, lane {lane}, matrix {matrix}");
        }
    }
    let (bytes, out) = (up(&d, &words), up(&d, &[0; 128]));
    for (offset, what) in [(8, "no multiple of 16"), (1040, "outside of shared memory")] {
        let offsets = up(&d, &[offset; 32]);
        let args = [Arg::from(&offsets), Arg::from(&bytes), Arg::U32(0), Arg::from(&out)];
        let error = launch(&d, &twins::twin_ldmatrix, 32, &args).unwrap_err();
        assert!(error.contains("twin_ldmatrix") && error.contains(what), "{error}");
    }
}

/// A kernel that does not wait for a group, or for too few of them, finds NaN where it should arrive.
#[test]
fn copies_arrive_when_they_are_waited_for() {
    let d = driver();
    let words: Vec<u32> = (0..512).map(|i| 1000 + i).collect();
    let valid: Vec<u32> = (0..64).map(|i| i % 17).collect();
    for (pending, arrived) in [(0, 2), (1, 1), (2, 0)] {
        let (input, lens, out) = (up(&d, &words), up(&d, &valid), up(&d, &[0; 512]));
        let args = [Arg::from(&input), Arg::from(&lens), Arg::U32(pending), Arg::from(&out)];
        launch(&d, &twins::twin_copy, 64, &args).unwrap();
        let got = down(&d, &out, 512);
        let got: &[u8] = bytemuck::cast_slice(&got);
        let input: &[u8] = bytemuck::cast_slice(&words);
        for (at, &got) in got.iter().enumerate() {
            let (group, thread, byte) = (at / 1024, at / 16 % 64, at as u32 % 16);
            let held = group == 0 || byte < valid[thread];
            let want = if group >= arrived {
                0xff
            } else if held {
                input[at]
            } else {
                0
            };
            assert_eq!(got, want, "{pending} pending, group {group}, thread {thread}, byte {byte}");
        }
    }
    let (input, out) = (up(&d, &words), up(&d, &[0; 512]));
    let error = launch(&d, &twins::twin_copy_astray, 32, &[Arg::from(&input), Arg::from(&out)]).unwrap_err();
    assert!(error.contains("twin_copy_astray") && error.contains("outside of shared memory"), "{error}");
}
