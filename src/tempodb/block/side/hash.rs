//! The hashes that stand for keys and values in side objects. They are stored, so they never change within a format version.

use twox_hash::XxHash64;

/// Seeds of value hashes; those of keys and columns are smaller.
const STRING_SEED: u64 = 1 << 32;
const NUMBER_SEED: u64 = 2 << 32;
const COLUMN_SEED: u64 = 3 << 32;

/// Returns the hash of an attribute key of a scope.
pub(super) fn key(scope: u8, key: &[u8]) -> u64 {
    XxHash64::oneshot(u64::from(scope), key)
}

/// Returns the hash of a string in any attribute; [`entry`] joins it with its key.
pub(super) fn string(value: &[u8]) -> u64 {
    XxHash64::oneshot(STRING_SEED, value)
}

/// Returns the hash of a number. Integers and floats that compare as equal have the same.
pub(super) fn number(value: f64) -> u64 {
    // −0 and 0 are equal.
    XxHash64::oneshot(NUMBER_SEED, &(value + 0.0).to_bits().to_le_bytes())
}

/// Returns the hash of an attribute from those of its key and value.
pub(super) fn entry(key: u64, value: u64) -> u64 {
    key.rotate_left(1) ^ value
}

/// Returns the hash of a value in a fixed column.
pub(super) fn column(column: u8, value: &[u8]) -> u64 {
    XxHash64::oneshot(COLUMN_SEED | u64::from(column), value)
}
