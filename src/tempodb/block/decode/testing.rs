//! Straightforward encoders for the tests of the decoders, and selections of values.

use std::ops::Range;

use proptest::prelude::*;

/// What [`arb_ranges`] makes ranges of.
pub(super) fn arb_gaps() -> impl Strategy<Value = Vec<(usize, usize)>> {
    prop::collection::vec((1_usize..60, 1_usize..60), 0..8)
}

/// Returns ascending, disjoint ranges within `0..len`.
pub(super) fn arb_ranges(gaps: &[(usize, usize)], len: usize) -> Vec<Range<usize>> {
    let mut end = 0;
    let ranges = gaps.iter().map(|(gap, length)| {
        let start = end + gap;
        end = start + length;
        start.min(len)..end.min(len)
    });
    ranges.filter(|range| !range.is_empty()).collect()
}

pub(super) fn selected<T: Clone>(values: &[T], ranges: &[Range<usize>]) -> Vec<T> {
    ranges.iter().flat_map(|range| &values[range.clone()]).cloned().collect()
}

pub(super) fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_zigzag(value: i64, out: &mut Vec<u8>) {
    put_varint((value << 1 ^ value >> 63) as u64, out);
}

fn put_packed(values: impl Iterator<Item = u64>, width: u32, out: &mut Vec<u8>) {
    let (mut buffer, mut bits) = (0_u128, 0);
    for value in values {
        buffer |= u128::from(value) << bits;
        bits += width;
        while bits >= 8 {
            out.push(buffer as u8);
            buffer >>= 8;
            bits -= 8;
        }
    }
    assert_eq!(bits, 0, "whole groups only");
}

/// Repeats of eight and more become repeat runs, the rest packed runs.
pub(super) fn encode_hybrid(values: &[u32], width: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = values;
    while let Some(&first) = rest.first() {
        let equal = rest.iter().take_while(|&&value| value == first).count();
        if equal >= 8 {
            put_varint((equal as u64) << 1, &mut out);
            out.extend_from_slice(&first.to_le_bytes()[..width.div_ceil(8) as usize]);
            rest = &rest[equal..];
        } else {
            let group = &rest[..rest.len().min(8)];
            put_varint(3, &mut out);
            put_packed((0..8).map(|i| u64::from(group.get(i).copied().unwrap_or(0))), width, &mut out);
            rest = &rest[group.len()..];
        }
    }
    out
}

/// Blocks of 128 values in 4 miniblocks.
pub(super) fn encode_delta(values: &[i64]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(128, &mut out);
    put_varint(4, &mut out);
    put_varint(values.len() as u64, &mut out);
    put_zigzag(values.first().copied().unwrap_or(0), &mut out);
    let deltas: Vec<i64> = values.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    for block in deltas.chunks(128) {
        let min = block.iter().copied().min().expect("chunks are not empty");
        put_zigzag(min, &mut out);
        let adjusted: Vec<u64> = block.iter().map(|delta| delta.wrapping_sub(min) as u64).collect();
        let widths: Vec<u32> =
            adjusted.chunks(32).map(|mini| mini.iter().map(|value| 64 - value.leading_zeros()).max().unwrap_or(0)).collect();
        out.extend((0..4).map(|i| widths.get(i).copied().unwrap_or(0) as u8));
        for (mini, &width) in adjusted.chunks(32).zip(&widths) {
            put_packed((0..32).map(|i| mini.get(i).copied().unwrap_or(0)), width, &mut out);
        }
    }
    out
}
