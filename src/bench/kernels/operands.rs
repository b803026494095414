//! Operands of timed operations: matrices of normal values, in enough copies.

use std::sync::{Arc, OnceLock};

use half::{bf16, f16};

use crate::Result;
use crate::bench::timer::Work;
use crate::device::{Device, Draw, Dtype};
use crate::files::mapped::MappedTensor;
use crate::random::Stream;

/// Bytes over which the sets of an operation's operands reach: several times the L2 cache of a GPU (50 MB on an
/// H100), so that weights and caches come from memory, as they do in a model.
const ROTATED: usize = 256 << 20;

/// Most sets. Operands so small that these fit a cache are those of one sequence's decoding, where the operation
/// before left them in a cache as well.
const MOST_SETS: usize = 64;

/// Values that are repeated; a prime number of them, so that no two rows are alike.
const VALUES: usize = 65_521;

/// The number of sets of operands, of `bytes` bytes each, that take turns.
pub(super) fn sets(bytes: u64) -> usize {
    ROTATED.div_ceil(usize::try_from(bytes).unwrap_or(ROTATED).max(1)).clamp(1, MOST_SETS)
}

/// A call on the next of several sets of operands each time.
pub(super) fn rotating<D: Device, T: Send + 'static>(
    sets: usize,
    make: impl FnMut(usize) -> Result<T>,
    run: impl Fn(&D, &mut T) -> Result<()> + Send + 'static,
) -> Result<Work<D>> {
    let mut operands = (0..sets).map(make).collect::<Result<Vec<T>>>()?;
    Ok(Box::new(move |device, i| {
        let i = i % operands.len();
        run(device, &mut operands[i])
    }))
}

fn values() -> &'static [f32] {
    static VALUES_MADE: OnceLock<Vec<f32>> = OnceLock::new();
    VALUES_MADE.get_or_init(|| {
        let mut stream = Stream::new(0, 0xbe9c);
        (0..VALUES).map(|_| stream.normal()).collect()
    })
}

/// Standard normal values in float32, different for each `set`.
pub(super) fn floats<D: Device>(device: &D, rows: usize, cols: usize, set: usize) -> Result<D::Tensor> {
    let start = set * 977 % VALUES;
    let all: Vec<f32> = values().iter().copied().cycle().skip(start).take(rows * cols).collect();
    device.upload(rows, cols, &all)
}

/// Standard normal values in the device's compute dtype.
pub(super) fn activations<D: Device>(device: &D, rows: usize, cols: usize, set: usize) -> Result<D::Tensor> {
    /// Rows that are uploaded; the others are copies made on the device.
    const ROWS: usize = 64;
    if device.compute_dtype() == Dtype::F32 {
        return floats(device, rows, cols, set);
    }
    let source = floats(device, rows.min(ROWS), cols, set)?;
    let from: Vec<u32> = (0..rows as u32).map(|r| r % ROWS as u32).collect();
    let mut out = device.empty(rows, cols)?;
    device.gather_rows(1.0, &source, &device.index(&from)?, &mut out)?;
    Ok(out)
}

/// A weight of the dtype, as a file has it: normal values of deviation 0.02.
pub(super) fn weight<D: Device>(
    device: &D,
    rows: usize,
    cols: usize,
    dtype: Dtype,
    set: usize,
) -> Result<D::Tensor> {
    let each = size_of::<u64>() / dtype.size();
    let some = values().iter().map(|x| 0.02 * x);
    // Whole words; the rest of the last one is not used.
    let pattern: Vec<u64> = match dtype {
        Dtype::F32 => words(some.map(|x| u64::from(x.to_bits())), each),
        Dtype::Bf16 => words(some.map(|x| bf16::from_f32(x).to_bits().into()), each),
        Dtype::F16 => words(some.map(|x| f16::from_f32(x).to_bits().into()), each),
    };
    let start = set * 977;
    let count = (rows * cols).div_ceil(each);
    let words: Arc<[u64]> = (start..start + count).map(|i| pattern[i % pattern.len()]).collect();
    device.adopt(MappedTensor::in_memory(dtype, &[rows, cols], words)?)
}

/// Packs values of `64 / each` bits, the first in the lowest.
fn words(values: impl Iterator<Item = u64>, each: usize) -> Vec<u64> {
    let all: Vec<u64> = values.collect();
    let width = 64 / each;
    all.chunks_exact(each)
        .map(|some| some.iter().enumerate().fold(0, |word, (i, x)| word | x << (i * width)))
        .collect()
}

/// A source of noise for each row.
pub(super) fn draws(rows: usize) -> Vec<Draw> {
    (0..rows as u32).map(|i| Draw { key: 1, counter: [0x10, i] }).collect()
}

/// `count` numbers below `limit`, in no regular order.
pub(super) fn scattered(count: usize, limit: usize, set: usize) -> Vec<u32> {
    (0..count).map(|i| ((set * count + i) * 7919 % limit) as u32).collect()
}
