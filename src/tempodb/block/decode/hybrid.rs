//! The RLE / bit-packed hybrid: levels, dictionary codes, booleans.
//!
//! A run starts with a varint: low bit 0 = repeat one value (header >> 1) times, 1 = (header >> 1) groups of 8 packed values.

use std::ops::Range;

use super::levels::{RangeCursor, count_equal};
use super::{DecodeError, Result, take, varint};

const WHAT: &str = "run";

/// Bytes that [`unpack_group`] may look at: 8 values of 32 bits, and the overreach of its last 8-byte load.
const WINDOW: usize = 40;

enum Run<'a> {
    Repeat { value: u32, count: usize },
    Packed { bytes: &'a [u8], count: usize },
}

impl Run<'_> {
    fn count(&self) -> usize {
        match self {
            Self::Repeat { value: _, count } | Self::Packed { bytes: _, count } => *count,
        }
    }

    /// Appends the values of `range`, which lies within the run.
    fn append(&self, width: u32, range: Range<usize>, out: &mut Vec<u32>) {
        match self {
            Self::Repeat { value, count: _ } => out.resize(out.len() + range.len(), *value),
            Self::Packed { bytes, count: _ } => {
                let (start, before) = (out.len(), range.start % 8);
                let groups = bytes.get(range.start / 8 * width as usize..).unwrap_or_default();
                unpack(groups, width, before + range.len(), out);
                if before > 0 {
                    out.drain(start..start + before);
                }
            }
        }
    }
}

/// Calls `visit` for runs until they make up `count` values; the last one is clipped.
fn for_each_run<'a>(mut bytes: &'a [u8], width: u32, count: usize, mut visit: impl FnMut(Run<'a>)) -> Result<()> {
    let mut left = count;
    while left > 0 {
        let header = varint(&mut bytes, WHAT)?;
        let length = usize::try_from(header >> 1).map_err(|_| DecodeError::Corrupt(WHAT))?;
        if length == 0 {
            return Err(DecodeError::Corrupt("empty run"));
        }
        if header & 1 == 0 {
            let mut value = 0_u32;
            for (at, &byte) in take(&mut bytes, width.div_ceil(8) as usize, WHAT)?.iter().enumerate() {
                value |= u32::from(byte) << (8 * at);
            }
            if width < 32 && value >> width != 0 {
                return Err(DecodeError::Corrupt("run value"));
            }
            let count = length.min(left);
            left -= count;
            visit(Run::Repeat { value, count });
        } else {
            let count = length.saturating_mul(8).min(left);
            left -= count;
            // The last group is padded by the format; writers that cut the padding off are tolerated.
            let whole = length.saturating_mul(width as usize);
            let needed = (count * width as usize).div_ceil(8);
            let stored = whole.min(bytes.len()).max(needed);
            let packed = take(&mut bytes, stored, WHAT)?;
            visit(Run::Packed { bytes: packed, count });
        }
    }
    Ok(())
}

/// Appends `ranges` (ascending, disjoint) of `count` values of `width` ≤ 32 bits.
pub(super) fn decode_u32(bytes: &[u8], width: u32, count: usize, ranges: &[Range<usize>], out: &mut Vec<u32>) -> Result<()> {
    if width > 32 {
        return Err(DecodeError::Corrupt("bit width"));
    }
    out.reserve(ranges.iter().map(|range| range.end.min(count).saturating_sub(range.start)).sum());
    let (mut start, mut wanted) = (0, RangeCursor(ranges));
    for_each_run(bytes, width, count, |run| {
        let end = start + run.count();
        wanted.walk(start..end, |part| run.append(width, part, out));
        start = end;
    })
}

/// Appends `count` levels of `width` ≤ 3 bits; each is at most `max`, or the page is refused.
pub(super) fn decode_levels(bytes: &[u8], max: u8, count: usize, out: &mut Vec<u8>) -> Result<()> {
    let width = u8::BITS - max.leading_zeros();
    debug_assert!(width <= 3, "levels of blocks are at most 6");
    let start = out.len();
    out.reserve(count + 8);
    for_each_run(bytes, width, count, |run| match run {
        Run::Repeat { value, count } => out.resize(out.len() + count, value as u8),
        Run::Packed { bytes, count } => unpack_levels(bytes, width, count, out),
    })?;
    let too_high = out.get(start..).unwrap_or_default().iter().fold(false, |found, &level| found | (level > max));
    if too_high { Err(DecodeError::Corrupt("level")) } else { Ok(()) }
}

/// Returns how many of `count` levels are the highest possible, `max`, with the checks of [`decode_levels`]. Uses the room behind `scratch`.
pub(super) fn count_levels(bytes: &[u8], max: u8, count: usize, scratch: &mut Vec<u8>) -> Result<usize> {
    let width = u8::BITS - max.leading_zeros();
    let start = scratch.len();
    let (mut highest, mut too_high) = (0, false);
    for_each_run(bytes, width, count, |run| match run {
        Run::Repeat { value, count } => {
            highest += if value == u32::from(max) { count } else { 0 };
            too_high |= value > u32::from(max);
        }
        Run::Packed { bytes, count } => {
            unpack_levels(bytes, width, count, scratch);
            let levels = scratch.get(start..).unwrap_or_default();
            highest += count_equal(levels, max);
            too_high |= levels.iter().fold(false, |found, &level| found | (level > max));
            scratch.truncate(start);
        }
    })?;
    if too_high { Err(DecodeError::Corrupt("level")) } else { Ok(highest) }
}

fn unpack_levels(bytes: &[u8], width: u32, count: usize, out: &mut Vec<u8>) {
    match width {
        1 => unpack_levels_of::<1>(bytes, count, out),
        2 => unpack_levels_of::<2>(bytes, count, out),
        _ => unpack_levels_of::<3>(bytes, count, out),
    }
}

/// Spreads 8 fields of `W` bits to 8 bytes at a time.
fn unpack_levels_of<const W: usize>(bytes: &[u8], count: usize, out: &mut Vec<u8>) {
    let end = out.len() + count;
    let byte_mask = u64::from_le_bytes([(1_u8 << W) - 1; 8]);
    let (half, quarter) = (((1_u64 << (4 * W)) - 1) * 0x1_0000_0001, ((1_u64 << (2 * W)) - 1) * 0x1_0001_0001_0001);
    let start = out.len();
    out.resize(start + count.next_multiple_of(8), 0);
    let spread = |group: &[u8; W]| {
        let mut x = group.iter().rev().fold(0_u64, |x, &byte| x << 8 | u64::from(byte));
        x = (x | x << (32 - 4 * W)) & half;
        x = (x | x << (16 - 2 * W)) & quarter;
        ((x | x << (8 - W)) & byte_mask).to_le_bytes()
    };
    let (groups, rest) = bytes.as_chunks::<W>();
    let (slots, _) = out.get_mut(start..).unwrap_or_default().as_chunks_mut::<8>();
    let mut slots = slots.iter_mut();
    for (to, group) in slots.by_ref().zip(groups) {
        *to = spread(group);
    }
    if let Some(to) = slots.next() {
        let mut last = [0; W];
        last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        *to = spread(&last);
    }
    out.truncate(end);
}

fn unpack(bytes: &[u8], width: u32, count: usize, out: &mut Vec<u32>) {
    macro_rules! dispatch {
        ($($w:literal)*) => {
            match width {
                $($w => unpack_width::<$w>(bytes, count, out),)*
                _ => out.resize(out.len() + count, 0),
            }
        };
    }
    dispatch!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32);
}

fn unpack_width<const W: usize>(bytes: &[u8], count: usize, out: &mut Vec<u32>) {
    let end = out.len() + count;
    let groups = count.div_ceil(8);
    let in_window = bytes.len().checked_sub(WINDOW).map_or(0, |last| last / W + 1).min(groups);
    // Arrays of a known number, so that the vector grows once and not group by group.
    out.extend((0..in_window).flat_map(|group| {
        let window = bytes.get(group * W..).and_then(<[u8]>::first_chunk::<WINDOW>);
        window.map_or([0; 8], unpack_group::<W>)
    }));
    for group in in_window..groups {
        let mut window = [0; WINDOW];
        for (to, from) in window.iter_mut().zip(bytes.get(group * W..).unwrap_or_default()) {
            *to = *from;
        }
        out.extend_from_slice(&unpack_group::<W>(&window));
    }
    out.truncate(end);
}

#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "offsets are constants after unrolling: 7 * 32 / 8 + 8 <= WINDOW")]
fn unpack_group<const W: usize>(window: &[u8; WINDOW]) -> [u32; 8] {
    let mask = (1_u64 << W) - 1;
    std::array::from_fn(|i| {
        let (byte, bit) = (i * W / 8, i * W % 8);
        let mut word = [0; 8];
        word.copy_from_slice(&window[byte..byte + 8]);
        ((u64::from_le_bytes(word) >> bit) & mask) as u32
    })
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use proptest::prelude::*;

    use super::super::testing::{arb_gaps, arb_ranges, encode_hybrid, selected};
    use super::*;

    proptest! {
        #[test]
        fn codes_round_trip(width in 0_u32..=32, runs in prop::collection::vec((any::<u32>(), 1_usize..40, any::<bool>()), 1..8), gaps in arb_gaps()) {
            let mask = ((1_u64 << width) - 1) as u32;
            let values: Vec<u32> = runs.iter().flat_map(|&(seed, len, equal)| (0..len as u32).map(move |i| {
                (if equal { seed } else { seed.wrapping_mul(i.wrapping_add(77).wrapping_mul(2_654_435_761)) }) & mask
            })).collect();
            let mut decoded = vec![5];
            let all = 0..values.len();
            decode_u32(&encode_hybrid(&values, width), width, values.len(), from_ref(&all), &mut decoded).unwrap();
            prop_assert_eq!(&decoded[1..], &values[..]);
            let ranges = arb_ranges(&gaps, values.len());
            decoded.truncate(1);
            decode_u32(&encode_hybrid(&values, width), width, values.len(), &ranges, &mut decoded).unwrap();
            prop_assert_eq!(&decoded[1..], selected(&values, &ranges));
        }

        #[test]
        fn levels_round_trip(max in 1_u8..=6, seeds in prop::collection::vec(any::<u8>(), 1..300)) {
            let values: Vec<u32> = seeds.iter().map(|seed| u32::from(seed % (max + 1))).collect();
            let mut decoded = Vec::new();
            decode_levels(&encode_hybrid(&values, u8::BITS - max.leading_zeros()), max, values.len(), &mut decoded).unwrap();
            prop_assert_eq!(decoded.iter().map(|&level| u32::from(level)).collect::<Vec<_>>(), &values[..]);
            let counted = count_levels(&encode_hybrid(&values, u8::BITS - max.leading_zeros()), max, values.len(), &mut decoded).unwrap();
            prop_assert_eq!(counted, values.iter().filter(|&&level| level == u32::from(max)).count());
            prop_assert_eq!(decoded.len(), values.len());
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60), width in 0_u32..40, count in 0_usize..500) {
            let _ = decode_u32(&bytes, width, count, from_ref(&(0..count)), &mut Vec::new());
            let mut levels = Vec::new();
            if decode_levels(&bytes, 5, count, &mut levels).is_ok() {
                prop_assert!(levels.len() == count && levels.iter().all(|&level| level <= 5));
            }
        }
    }
}
