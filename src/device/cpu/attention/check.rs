//! The shapes that attention's unsafe code relies on.

use std::ops::Range;

use super::columns::{Columns, ColumnsMut};
use crate::device::attention::{HeadShape, Span};

/// Asserts that a call's rows and columns are there and that no two of its results share one.
pub(super) fn check(
    shape: HeadShape,
    scale: f32,
    spans: &[Span],
    q: &[&Columns<'_>],
    kv: &[&Columns<'_>],
    q_out: &[&ColumnsMut<'_>],
    kv_out: &[&ColumnsMut<'_>],
) {
    let HeadShape { heads, kv_heads, head_dim } = shape;
    assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "{heads} heads over {kv_heads}");
    assert!(scale > 0.0, "scale {scale}");
    for s in spans {
        assert!(s.q_len <= s.k_len, "{} queries, {} keys", s.q_len, s.k_len);
        q.iter().for_each(|q| q.check(s.q_start, s.q_len, heads * head_dim));
        kv.iter().for_each(|k| k.check(s.k_start, s.k_len, kv_heads * head_dim));
        q_out.iter().for_each(|q| q.check(s.q_start, s.q_len, heads * head_dim));
        kv_out.iter().for_each(|k| k.check(s.k_start, s.k_len, kv_heads * head_dim));
    }
    apart(spans.iter().map(|s| s.q_start..s.q_start + s.q_len));
    if !kv_out.is_empty() {
        apart(spans.iter().map(|s| s.k_start..s.k_start + s.k_len));
    }
}

/// Asserts that no two ranges meet.
fn apart(ranges: impl Iterator<Item = Range<usize>>) {
    let mut ranges: Vec<_> = ranges.filter(|r| !r.is_empty()).collect();
    ranges.sort_by_key(|r| r.start);
    assert!(ranges.is_sorted_by(|a, b| a.end <= b.start), "spans share rows");
}
