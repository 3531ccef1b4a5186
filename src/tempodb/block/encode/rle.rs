//! The RLE / bit-packing hybrid of Parquet: levels and dictionary codes.
//!
//! ```text
//! run := header, body
//! RLE run:        header = varint(count << 1),      body = the value in ceil(width / 8) bytes
//! bit-packed run: header = varint(groups << 1 | 1), body = groups × 8 values of `width` bits, least significant bits first
//! ```

use super::packing::{pack, put_varint};

/// Packed runs are made of so many values, and a repeated run begins where one of these would.
const GROUP: usize = 8;

/// Returns the bits needed for values up to `max`.
pub(super) fn bit_width(max: u32) -> u32 {
    u32::BITS - max.leading_zeros()
}

/// Appends `values`, each below `2^width`.
pub(super) fn encode<T: Copy + Eq + Into<u32>>(values: &[T], width: u32, out: &mut Vec<u8>) {
    let mut packed_from = 0;
    let mut at = 0;
    while let Some(group) = values[at..].first_chunk::<GROUP>() {
        let value = group[0];
        // Without `all`, which looks at one value after the other.
        if group.iter().fold(true, |same, other| same & (*other == value)) {
            let run = GROUP + run_length(&values[at + GROUP..], value);
            put_packed(&values[packed_from..at], width, out);
            put_varint((run as u64) << 1, out);
            out.extend_from_slice(&value.into().to_le_bytes()[..width.div_ceil(8) as usize]);
            at += run;
            packed_from = at;
        } else {
            at += GROUP;
        }
    }
    put_packed(&values[packed_from..], width, out);
}

/// Returns how many of the first values are `value`.
fn run_length<T: Copy + Eq>(values: &[T], value: T) -> usize {
    const STRIDE: usize = 32;
    let is_run = |stride: &&[T; STRIDE]| stride.iter().fold(true, |same, other| same & (*other == value));
    let whole = values.as_chunks::<STRIDE>().0.iter().take_while(is_run).count() * STRIDE;
    whole + values[whole..].iter().take_while(|other| **other == value).count()
}

fn put_packed<T: Copy + Into<u32>>(values: &[T], width: u32, out: &mut Vec<u8>) {
    if values.is_empty() {
        return;
    }
    put_varint((values.len().div_ceil(GROUP) as u64) << 1 | 1, out);
    out.reserve(values.len().div_ceil(GROUP) * width as usize);
    let (groups, rest) = values.as_chunks::<GROUP>();
    for group in groups {
        pack(group.map(|value| u64::from(value.into())), width, out);
    }
    if !rest.is_empty() {
        let mut last = [0; GROUP];
        for (slot, value) in last.iter_mut().zip(rest) {
            *slot = u64::from((*value).into());
        }
        pack(last, width, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A plain reading of the grammar above.
    fn decode(mut bytes: &[u8], width: u32, count: usize) -> Vec<u32> {
        let mut values = Vec::new();
        while values.len() < count {
            let mut header = 0u64;
            for shift in (0..).step_by(7) {
                let (byte, rest) = bytes.split_first().unwrap();
                bytes = rest;
                header |= u64::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            if header & 1 == 0 {
                let (body, rest) = bytes.split_at(width.div_ceil(8) as usize);
                bytes = rest;
                let value = body.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
                values.extend(std::iter::repeat_n(value, (header >> 1) as usize));
            } else {
                let (body, rest) = bytes.split_at((header >> 1) as usize * width as usize);
                bytes = rest;
                for index in 0..(header >> 1) as usize * 8 {
                    let bit = |bit: usize| u32::from(body[bit / 8] >> (bit % 8) & 1);
                    values.push((0..width as usize).map(|i| bit(index * width as usize + i) << i).sum());
                }
            }
        }
        assert!(bytes.is_empty());
        values.truncate(count);
        values
    }

    #[test]
    fn long_runs_and_short_runs() {
        let mut out = Vec::new();
        encode(&[3u32; 20], 2, &mut out);
        assert_eq!(out, [40, 3]);
        out.clear();
        encode(&[0u32, 1, 2, 3, 4, 5, 6, 7], 3, &mut out);
        assert_eq!(out, [3, 0b1000_1000, 0b1100_0110, 0b1111_1010]);
    }

    proptest! {
        #[test]
        fn decodes_to_the_same(runs in prop::collection::vec((0u32..u32::MAX, 1usize..40), 0..30), width in 0u32..=32) {
            let mask = if width == 0 { 0 } else { u32::MAX >> (32 - width) };
            let values: Vec<u32> = runs.iter().flat_map(|(value, count)| std::iter::repeat_n(value & mask, *count)).collect();
            let mut out = Vec::new();
            encode(&values, width, &mut out);
            prop_assert_eq!(decode(&out, width, values.len()), values);
        }
    }
}
