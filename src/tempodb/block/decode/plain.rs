//! PLAIN values, and booleans in both of their encodings.

use std::ops::Range;

use super::{DecodeError, Result, hybrid, take};

/// Calls `visit` with `ranges` of length-prefixed byte arrays.
pub(super) fn byte_arrays(mut bytes: &[u8], ranges: &[Range<usize>], mut visit: impl FnMut(&[u8])) -> Result<()> {
    let mut next = || {
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or(DecodeError::Truncated("byte array"))?;
        bytes = rest;
        take(&mut bytes, u32::from_le_bytes(*length) as usize, "byte array")
    };
    let mut at = 0;
    for range in ranges {
        for _ in at..range.start {
            next()?;
        }
        for _ in range.clone() {
            visit(next()?);
        }
        at = range.end;
    }
    Ok(())
}

/// Appends `ranges` of fixed-size values of `N` bytes.
pub(super) fn fixed<const N: usize, T>(
    bytes: &[u8],
    ranges: &[Range<usize>],
    out: &mut Vec<T>,
    convert: impl Fn([u8; N]) -> T,
) -> Result<()> {
    for range in ranges {
        let values = bytes.as_chunks::<N>().0.get(range.clone()).ok_or(DecodeError::Truncated("values"))?;
        out.extend(values.iter().map(|&value| convert(value)));
    }
    Ok(())
}

/// Appends `count` bit-packed booleans.
pub(super) fn booleans(mut bytes: &[u8], count: usize, out: &mut Vec<bool>) -> Result<()> {
    let end = out.len() + count;
    out.reserve(count + 8);
    for &byte in take(&mut bytes, count.div_ceil(8), "booleans")? {
        out.extend((0..8).map(|bit| byte >> bit & 1 == 1));
    }
    out.truncate(end);
    Ok(())
}

/// Appends `count` booleans in RLE encoding: a 4-byte length, then runs of width 1.
pub(super) fn rle_booleans(mut bytes: &[u8], count: usize, out: &mut Vec<bool>) -> Result<()> {
    let length = take(&mut bytes, 4, "booleans")?.iter().rev().fold(0, |length, &byte| length << 8 | usize::from(byte));
    let mut levels = Vec::new();
    hybrid::decode_levels(take(&mut bytes, length, "booleans")?, 1, count, &mut levels)?;
    out.extend(levels.into_iter().map(|level| level == 1));
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::encode_hybrid;
    use super::*;

    proptest! {
        #[test]
        fn booleans_round_trip(values in prop::collection::vec(any::<bool>(), 0..100)) {
            let mut packed = vec![0_u8; values.len().div_ceil(8)];
            for (i, &value) in values.iter().enumerate() {
                packed[i / 8] |= u8::from(value) << (i % 8);
            }
            let mut out = Vec::new();
            booleans(&packed, values.len(), &mut out).unwrap();
            prop_assert_eq!(&out, &values);

            let runs = encode_hybrid(&values.iter().map(|&value| u32::from(value)).collect::<Vec<_>>(), 1);
            let rle = [(runs.len() as u32).to_le_bytes().to_vec(), runs].concat();
            let mut out = Vec::new();
            rle_booleans(&rle, values.len(), &mut out).unwrap();
            prop_assert_eq!(&out, &values);
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40), count in 0_usize..100) {
            let ranges = [count / 3..count / 2, count / 2..count];
            let _ = byte_arrays(&bytes, &ranges, |_| {});
            let _ = fixed(&bytes, &ranges, &mut Vec::new(), i64::from_le_bytes);
            let _ = booleans(&bytes, count, &mut Vec::new());
            let _ = rle_booleans(&bytes, count, &mut Vec::new());
        }
    }
}
