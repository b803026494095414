//! A curve in one line of text.

/// The blocks, from the lowest to the highest.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A column for every value, or for the mean of several where there are more than `width`, from the least value to the
/// greatest. Values that are not finite are blanks.
pub(super) fn sparkline(values: &[f64], width: usize) -> String {
    let per_column = values.len().div_ceil(width.max(1)).max(1);
    let means: Vec<f64> =
        values.chunks(per_column).map(|part| part.iter().sum::<f64>() / part.len() as f64).collect();
    let finite = || means.iter().copied().filter(|x| x.is_finite());
    let (low, high) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)));
    let block = |x: f64| match x {
        x if !x.is_finite() => ' ',
        // All alike: a line in the middle.
        _ if high <= low => BLOCKS[3],
        x => BLOCKS[(((x - low) / (high - low)) * 7.0).round() as usize],
    };
    means.into_iter().map(block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_span_all_blocks() {
        assert_eq!(sparkline(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 20), "▁▂▃▄▅▆▇█");
        assert_eq!(sparkline(&[8.0, 6.0, 1.0, 1.0], 2), "█▁");
        assert_eq!(sparkline(&[2.0, 2.0], 9), "▄▄");
        assert_eq!(sparkline(&[1.0, f64::NAN, 2.0], 9), "▁ █");
        assert_eq!(sparkline(&[], 9), "");
        assert_eq!(sparkline(&[1.0; 1000], 60).chars().count(), 59);
    }
}
