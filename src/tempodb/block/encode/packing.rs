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
    let (mut words, mut word) = ([[0; 8]; N], 0);
    let (mut pending, mut bits) = (0_u64, 0);
    for value in values {
        pending |= value << bits;
        bits += width;
        if bits >= 64 {
            words[word] = pending.to_le_bytes();
            word += 1;
            bits -= 64;
            // The bits of the value that had no place; none when it ends with the word.
            pending = value.checked_shr(width - bits).unwrap_or(0);
        }
    }
    out.extend_from_slice(words[..word].as_flattened());
    out.extend_from_slice(&pending.to_le_bytes()[..(bits / 8) as usize]);
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

    #[test]
    fn packs_every_width_like_bit_by_bit() {
        for width in 1..=64 {
            let values: [u64; 32] = std::array::from_fn(|i| (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - width));
            let mut expected = vec![0; 4 * width];
            for at in 0..32 * width {
                expected[at / 8] |= ((values[at / width] >> (at % width) & 1) as u8) << (at % 8);
            }
            let mut out = Vec::new();
            pack(values, width as u32, &mut out);
            assert_eq!(out, expected, "width {width}");
        }
    }
}
