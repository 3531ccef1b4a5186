//! DELTA_BINARY_PACKED integers, and the two byte-array encodings built on them.
//!
//! Header: block size, miniblocks a block, value count (varints), first value (zigzag). A block: smallest delta (zigzag), one width byte a
//! miniblock, the miniblocks. Miniblocks behind the last value have a width but no bytes.

use std::ops::Range;
use std::slice::from_ref;

use super::levels::RangeCursor;
use super::{DecodeError, Result, take, varint, zigzag};

const WHAT: &str = "delta block";

/// Values unpacked at a time; the format makes miniblocks a multiple of it.
const LANE: usize = 32;

/// Bytes that [`unpack_lane`] may look at: 32 values of 64 bits, and the overreach of its last load.
const WINDOW: usize = LANE * 8 + 8;

/// Values per block that we accept; writers use 128.
const MAX_BLOCK: usize = 1 << 16;

/// Hands out `ranges` of the integers of the stream at the start of `bytes`, some at a time, and leaves `bytes` behind it. The stream must hold
/// exactly `count`.
pub(super) fn integers(bytes: &mut &[u8], count: usize, ranges: &[Range<usize>], mut push: impl FnMut(&[i64])) -> Result<()> {
    let block = size(bytes)?;
    let miniblocks = size(bytes)?;
    let total = size(bytes)?;
    let mut value = zigzag(varint(bytes, WHAT)?);
    if block == 0 || miniblocks == 0 || block > MAX_BLOCK || block % miniblocks != 0 || (block / miniblocks) % LANE != 0 {
        return Err(DecodeError::Corrupt("delta header"));
    }
    if total != count {
        return Err(DecodeError::Corrupt("delta value count"));
    }
    if total == 0 {
        return Ok(());
    }
    let mut wanted = RangeCursor(ranges);
    wanted.walk(0..1, |part| push([value].get(part).unwrap_or_default()));
    let per_miniblock = block / miniblocks;
    let mut left = total - 1;
    let mut start = 1;
    while left > 0 {
        let min_delta = zigzag(varint(bytes, WHAT)?);
        for &width in take(bytes, miniblocks, WHAT)? {
            if left == 0 {
                break;
            }
            let width = usize::from(width);
            if width > 64 {
                return Err(DecodeError::Corrupt("delta width"));
            }
            let whole = per_miniblock / 8 * width;
            let used = left.min(per_miniblock);
            // As with packed runs, a cut-off padding of the very last miniblock is tolerated.
            let stored = whole.min(bytes.len()).max((used * width).div_ceil(8));
            let mut packed = take(bytes, stored, WHAT)?;
            left -= used;
            let mut in_miniblock = used;
            while in_miniblock > 0 {
                let lane = in_miniblock.min(LANE);
                let mut values = if width == 0 { [0; LANE] } else { unpack_lane(packed, width) };
                // A lane that is not full is the last one: what the value becomes behind it does not matter.
                if wanted.touches(start + lane) {
                    for delta in &mut values {
                        value = value.wrapping_add(min_delta.wrapping_add(*delta));
                        *delta = value;
                    }
                    wanted.walk(start..start + lane, |part| push(values.get(part).unwrap_or_default()));
                } else {
                    let sum = values.iter().fold(0_i64, |sum, delta| sum.wrapping_add(*delta));
                    value = value.wrapping_add(min_delta.wrapping_mul(LANE as i64)).wrapping_add(sum);
                }
                packed = packed.get(LANE / 8 * width..).unwrap_or_default();
                in_miniblock -= lane;
                start += lane;
            }
        }
    }
    Ok(())
}

fn size(bytes: &mut &[u8]) -> Result<usize> {
    usize::try_from(varint(bytes, WHAT)?).map_err(|_| DecodeError::Corrupt("delta header"))
}

fn unpack_lane(packed: &[u8], width: usize) -> [i64; LANE] {
    match packed.first_chunk::<WINDOW>() {
        Some(window) => unpack_window(window, width),
        None => {
            let mut window = [0; WINDOW];
            for (to, from) in window.iter_mut().zip(packed) {
                *to = *from;
            }
            unpack_window(&window, width)
        }
    }
}

fn unpack_window(window: &[u8; WINDOW], width: usize) -> [i64; LANE] {
    macro_rules! dispatch {
        ($($w:literal)*) => {
            match width {
                $($w => unpack_narrow(window, $w),)*
                _ if width <= 56 => unpack_narrow(window, width),
                _ => unpack_wide(window, width),
            }
        };
    }
    // Widths of counts, sizes and times within a trace: positions of values are constants for each.
    dispatch!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32)
}

#[inline(always)]
fn unpack_narrow(window: &[u8; WINDOW], width: usize) -> [i64; LANE] {
    let mask = u64::MAX >> (64 - width);
    let mut values = [0; LANE];
    for (i, value) in values.iter_mut().enumerate() {
        *value = (word_at(window, i * width / 8) >> (i * width % 8) & mask) as i64;
    }
    values
}

#[expect(clippy::indexing_slicing, reason = "width <= 64, so the last load ends at 31 * 64 / 8 + 9 <= WINDOW")]
fn unpack_wide(window: &[u8; WINDOW], width: usize) -> [i64; LANE] {
    let mask = u64::MAX >> (64 - width);
    std::array::from_fn(|i| {
        let (byte, bit) = (i * width / 8, i * width % 8);
        let high = u64::from(window[byte + 8]);
        let high = if bit == 0 { 0 } else { high << (64 - bit) };
        ((word_at(window, byte) >> bit | high) & mask) as i64
    })
}

#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "callers stay 8 bytes below WINDOW")]
fn word_at(window: &[u8; WINDOW], byte: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&window[byte..byte + 8]);
    u64::from_le_bytes(word)
}

/// Lengths of DELTA_LENGTH_BYTE_ARRAY values in `lengths` (cleared first); leaves `bytes` at the concatenated values, of which there are enough.
pub(super) fn lengths(bytes: &mut &[u8], count: usize, lengths: &mut Vec<u32>) -> Result<()> {
    lengths.clear();
    lengths.reserve(count);
    let mut is_valid = true;
    let mut total = 0_u64;
    integers(bytes, count, from_ref(&(0..count)), |some| {
        for length in some {
            is_valid &= u32::try_from(*length).is_ok();
            total = total.wrapping_add(*length as u32 as u64);
        }
        lengths.extend(some.iter().map(|length| *length as u32));
    })?;
    if !is_valid {
        return Err(DecodeError::Corrupt("byte array length"));
    }
    if total > bytes.len() as u64 { Err(DecodeError::Truncated("byte array")) } else { Ok(()) }
}

/// Calls `visit` with `ranges` of the `count` values of a DELTA_LENGTH_BYTE_ARRAY page.
pub(super) fn delta_length_byte_arrays(
    mut bytes: &[u8],
    count: usize,
    ranges: &[Range<usize>],
    scratch: &mut Vec<u32>,
    mut visit: impl FnMut(&[u8]),
) -> Result<()> {
    lengths(&mut bytes, count, scratch)?;
    let mut at = 0;
    for range in ranges {
        let before = scratch.get(at..range.start).unwrap_or_default().iter().map(|length| *length as usize).sum();
        take(&mut bytes, before, "byte array")?;
        for &length in scratch.get(range.clone()).unwrap_or_default() {
            visit(take(&mut bytes, length as usize, "byte array")?);
        }
        at = range.end;
    }
    Ok(())
}

/// Calls `visit` with `ranges` of the `count` values of a DELTA_BYTE_ARRAY page. `limit` bounds the sum of value lengths, which prefixes can inflate.
pub(super) fn delta_byte_arrays(
    mut bytes: &[u8],
    count: usize,
    ranges: &[Range<usize>],
    limit: usize,
    mut visit: impl FnMut(&[u8]),
) -> Result<()> {
    let mut prefixes = Vec::with_capacity(count);
    integers(&mut bytes, count, from_ref(&(0..count)), |lengths| prefixes.extend_from_slice(lengths))?;
    let mut suffixes = Vec::new();
    lengths(&mut bytes, count, &mut suffixes)?;
    let mut value = Vec::new();
    let mut total = 0_usize;
    let mut wanted = RangeCursor(ranges);
    for (at, (prefix, suffix)) in prefixes.into_iter().zip(suffixes).enumerate() {
        let prefix =
            usize::try_from(prefix).ok().filter(|&prefix| prefix <= value.len()).ok_or(DecodeError::Corrupt("byte array prefix"))?;
        value.truncate(prefix);
        value.extend_from_slice(take(&mut bytes, suffix as usize, "byte array")?);
        total = total.saturating_add(value.len());
        if total > limit {
            return Err(DecodeError::TooLarge("byte arrays of a page"));
        }
        if wanted.includes(at) {
            visit(&value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{arb_gaps, arb_ranges, encode_delta, selected};
    use super::*;

    fn decode(bytes: &[u8], count: usize) -> Result<(Vec<i64>, usize)> {
        let mut values = Vec::new();
        let mut rest = bytes;
        integers(&mut rest, count, from_ref(&(0..count)), |some| values.extend_from_slice(some))?;
        Ok((values, rest.len()))
    }

    #[test]
    fn reads_the_examples_of_the_format() {
        // parquet-format, Encodings.md: 1..5 and 7,5,3,1,2,3,4,5.
        assert_eq!(decode(&[128, 1, 4, 5, 2, 2, 0, 0, 0, 0, 9], 5).unwrap(), (vec![1, 2, 3, 4, 5], 1));
        let packed = [128, 1, 4, 8, 14, 3, 2, 0, 0, 0, 0xc0, 0x3f, 0, 0, 0, 0, 0, 0];
        assert_eq!(decode(&packed, 8).unwrap(), (vec![7, 5, 3, 1, 2, 3, 4, 5], 0));
    }

    proptest! {
        #[test]
        fn integers_round_trip(values in prop::collection::vec(prop_oneof![any::<i64>(), -5_i64..5, Just(7), 1_700_000_000_000_000_000_i64..1_700_000_100_000_000_000], 0..400), gaps in arb_gaps()) {
            let mut bytes = encode_delta(&values);
            bytes.extend([1, 2, 3]);
            prop_assert_eq!(decode(&bytes, values.len()).unwrap(), (values.clone(), 3));
            let ranges = arb_ranges(&gaps, values.len());
            let mut some = Vec::new();
            integers(&mut &bytes[..], values.len(), &ranges, |part| some.extend_from_slice(part)).unwrap();
            prop_assert_eq!(some, selected(&values, &ranges));
        }

        #[test]
        fn byte_arrays_round_trip(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..100), gaps in arb_gaps()) {
            let lengths: Vec<i64> = values.iter().map(|value| value.len() as i64).collect();
            let bytes = [encode_delta(&lengths), values.concat()].concat();
            for ranges in [vec![Range { start: 0, end: values.len() }], arb_ranges(&gaps, values.len())] {
                let mut seen = Vec::new();
                delta_length_byte_arrays(&bytes, values.len(), &ranges, &mut Vec::new(), |value| seen.push(value.to_vec())).unwrap();
                prop_assert_eq!(seen, selected(&values, &ranges));
            }

            let mut previous: &[u8] = &[];
            let (mut prefixes, mut suffixes, mut tails) = (vec![], vec![], vec![]);
            for value in &values {
                let prefix = value.iter().zip(previous).take_while(|(a, b)| a == b).count();
                prefixes.push(prefix as i64);
                suffixes.push((value.len() - prefix) as i64);
                tails.extend_from_slice(&value[prefix..]);
                previous = value;
            }
            let bytes = [encode_delta(&prefixes), encode_delta(&suffixes), tails].concat();
            for ranges in [vec![Range { start: 0, end: values.len() }], arb_ranges(&gaps, values.len())] {
                let mut seen = Vec::new();
                delta_byte_arrays(&bytes, values.len(), &ranges, 1 << 20, |value| seen.push(value.to_vec())).unwrap();
                prop_assert_eq!(seen, selected(&values, &ranges));
            }
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80), count in 0_usize..300) {
            let _ = decode(&bytes, count);
            let _ = delta_length_byte_arrays(&bytes, count, from_ref(&(0..count)), &mut Vec::new(), |_| {});
            let _ = delta_byte_arrays(&bytes, count, from_ref(&(0..count)), 1000, |_| {});
            let head = [&[128, 1, 4, count as u8, 0][..], &bytes].concat();
            let _ = decode(&head, count & 0x7f);
        }
    }
}
