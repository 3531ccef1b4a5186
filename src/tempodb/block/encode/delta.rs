//! DELTA_BINARY_PACKED and DELTA_LENGTH_BYTE_ARRAY.
//!
//! ```text
//! header: varint block size, varint miniblocks a block, varint value count, zigzag first value
//! block:  zigzag least delta, one width byte a miniblock, the miniblocks: 32 × (delta − least delta) of that width
//! ```
//!
//! Differences wrap in the width of the type, as readers undo them.

use super::packing::{pack, put_varint, put_zigzag};

const BLOCK: usize = 128;
const MINIBLOCK: usize = 32;

/// An integer type of a delta-coded column.
pub(super) trait DeltaInt: Copy {
    /// self − other, wrapping in this width, sign-extended.
    fn difference(self, other: Self) -> i64;
    /// Cuts a wrapped difference of differences to this width.
    fn mask(difference: u64) -> u64;
    fn sign_extended(self) -> i64;
}

macro_rules! delta_int {
    ($type:ty, $signed:ty, $unsigned:ty) => {
        impl DeltaInt for $type {
            fn difference(self, other: Self) -> i64 {
                i64::from(self.wrapping_sub(other) as $signed)
            }

            fn mask(difference: u64) -> u64 {
                u64::from(difference as $unsigned)
            }

            fn sign_extended(self) -> i64 {
                i64::from(self as $signed)
            }
        }
    };
}

delta_int!(i32, i32, u32);
delta_int!(u32, i32, u32);
delta_int!(i64, i64, u64);
delta_int!(u64, i64, u64);

/// Appends all values as one DELTA_BINARY_PACKED run.
pub(super) fn encode<T: DeltaInt>(values: &[T], out: &mut Vec<u8>) {
    put_varint(BLOCK as u64, out);
    put_varint((BLOCK / MINIBLOCK) as u64, out);
    put_varint(values.len() as u64, out);
    put_zigzag(values.first().map_or(0, |first| first.sign_extended()), out);
    let mut start = 1;
    while start < values.len() {
        let end = (start + BLOCK).min(values.len());
        encode_block(&values[start - 1..end], out);
        start = end;
    }
}

/// Appends the differences of neighbours: at most a block of them.
fn encode_block<T: DeltaInt>(values: &[T], out: &mut Vec<u8>) {
    let mut deltas = [0i64; BLOCK];
    let count = values.len() - 1;
    let mut least = i64::MAX;
    for (delta, pair) in deltas.iter_mut().zip(values.windows(2)) {
        *delta = pair[1].difference(pair[0]);
        least = least.min(*delta);
    }
    put_zigzag(least, out);
    let widths_at = out.len();
    out.extend_from_slice(&[0; BLOCK / MINIBLOCK]);
    for (number, chunk) in deltas[..count].chunks(MINIBLOCK).enumerate() {
        let mut packed = [0u64; MINIBLOCK];
        let mut all_bits = 0;
        for (slot, delta) in packed.iter_mut().zip(chunk) {
            *slot = T::mask(delta.wrapping_sub(least) as u64);
            all_bits |= *slot;
        }
        let width = u64::BITS - all_bits.leading_zeros();
        out[widths_at + number] = width as u8;
        pack(packed, width, out);
    }
}

/// Appends byte arrays as DELTA_LENGTH_BYTE_ARRAY: all lengths, then all bytes.
pub(super) fn encode_byte_arrays<'a>(values: impl Iterator<Item = &'a [u8]> + Clone, out: &mut Vec<u8>) {
    let lengths: Vec<i32> = values.clone().map(|value| value.len() as i32).collect();
    encode(&lengths, out);
    out.reserve(lengths.iter().map(|length| *length as usize).sum());
    for value in values {
        // Ids have a fixed length, and copying one is then a single instruction.
        match value.first_chunk::<8>() {
            Some(id) if value.len() == 8 => out.extend_from_slice(id),
            Some(_) | None => out.extend_from_slice(value),
        }
    }
}
