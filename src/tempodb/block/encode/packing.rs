//! Small pieces of the byte formats: varints, bit packing.

/// Appends an unsigned LEB128 number.
pub(super) fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed number as zigzag varint.
pub(super) fn put_zigzag(value: i64, out: &mut Vec<u8>) {
    put_varint((value << 1 ^ value >> 63) as u64, out);
}

/// Appends `N` values (a multiple of 8) of `width` ≤ 64 bits each, least significant bits first; higher bits must be zero.
pub(super) fn pack<const N: usize>(values: [u64; N], width: u32, out: &mut Vec<u8>) {
    if width == 0 {
        return;
    }
    if N == 8 && width <= 8 {
        let word = values.iter().rev().fold(0, |word, value| word << width | value);
        out.extend_from_slice(&word.to_le_bytes()[..width as usize]);
        return;
    }
    if N == 8 && width <= 16 {
        let half = |values: &[u64]| values.iter().rev().fold(0u64, |word, value| word << width | value);
        let word = u128::from(half(&values[..N / 2])) | u128::from(half(&values[N / 2..])) << (4 * width);
        out.extend_from_slice(&word.to_le_bytes()[..width as usize]);
        return;
    }
    let mut pending: u128 = 0;
    let mut bits = 0;
    for value in values {
        pending |= u128::from(value) << bits;
        bits += width;
        if bits >= 64 {
            out.extend_from_slice(&(pending as u64).to_le_bytes());
            pending >>= 64;
            bits -= 64;
        }
    }
    out.extend_from_slice(&(pending as u64).to_le_bytes()[..(bits / 8) as usize]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_and_zigzag() {
        let mut out = Vec::new();
        put_varint(300, &mut out);
        put_zigzag(-1, &mut out);
        put_zigzag(i64::MIN, &mut out);
        assert_eq!(out, [0xac, 0x02, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
    }

    #[test]
    fn packs_across_words() {
        let mut out = Vec::new();
        pack([0x1ff; 8], 9, &mut out);
        assert_eq!(out, [0xff; 9]);
    }
}
