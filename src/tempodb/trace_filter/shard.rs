//! Entries of a trace filter, and how a shard of them is packed.
//!
//! An entry says that a block holds a trace: 40 bits of the id's hash, and the block's number within the run. Entries of a shard share the
//! first bits of the hash and are sorted; a shard holds the differences of the remaining bits as Rice codes, each followed by the block's number.
//!
//! ```text
//! 0  k            u8   width of the low part of a difference
//! 1  entries      bits, from the least significant of each byte: (difference >> k) zeros, a one, k low bits, block number
//! ```

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use twox_hash::XxHash64;

use crate::model::ids::TraceId;

/// Bits of the hash that are kept. An id that is in no block meets an entry of a run of 100 million with a chance of 1 : 10,000.
pub(super) const HASH_BITS: u32 = 40;
/// Bits of a block's number within a run.
pub(super) const MAX_BLOCK_BITS: u32 = 64 - HASH_BITS;

/// Seed of the hash; part of the format.
const HASH_SEED: u64 = 0x7472_6163_6569_6473;

/// Hash and block number in one integer, so that sorting integers sorts entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Entry(u64);

impl Entry {
    /// `block` is below 2^[`MAX_BLOCK_BITS`].
    pub(super) fn new(hash: u64, block: u32) -> Self {
        debug_assert!(hash < 1 << HASH_BITS && u64::from(block) < 1 << MAX_BLOCK_BITS);
        Self(hash << MAX_BLOCK_BITS | u64::from(block))
    }

    pub(super) fn hash(self) -> u64 {
        self.0 >> MAX_BLOCK_BITS
    }

    pub(super) fn block(self) -> u32 {
        (self.0 & ((1 << MAX_BLOCK_BITS) - 1)) as u32
    }
}

/// Returns the [`HASH_BITS`] bits by which an id is found.
pub(super) fn hash_of(id: TraceId) -> u64 {
    XxHash64::oneshot(HASH_SEED, &id.0) >> (64 - HASH_BITS)
}

/// The widths by which a run packs its shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Widths {
    /// First bits of the hash, which choose the shard; at most [`HASH_BITS`].
    pub(super) shard_bits: u32,
    /// At most [`MAX_BLOCK_BITS`].
    pub(super) block_bits: u32,
}

impl Widths {
    pub(super) fn shard_of(self, hash: u64) -> usize {
        hash.wrapping_shr(self.rest_bits()) as usize
    }

    /// Returns the smallest hash of a shard; that of the shard behind the last is beyond all hashes.
    pub(super) fn first_hash(self, shard: usize) -> u64 {
        (shard as u64).wrapping_shl(self.rest_bits())
    }

    fn rest_bits(self) -> u32 {
        HASH_BITS.saturating_sub(self.shard_bits)
    }
}

/// A shard does not hold what its run says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("shard is corrupt")]
pub(super) struct CorruptShard;

/// Packs the entries of one shard, which are sorted and different.
pub(super) fn pack(widths: Widths, shard: usize, entries: &[Entry]) -> Vec<u8> {
    let range = 1_u64.checked_shl(widths.rest_bits()).unwrap_or(u64::MAX);
    let mean = range.checked_div(entries.len() as u64).unwrap_or(1).max(1);
    // The quotients then add up to less than two bits an entry, whatever the ids are.
    let low_bits = mean.ilog2();
    let mut bits = BitWriter { bytes: vec![low_bits as u8], buffer: 0, used: 0 };
    let mut last = widths.first_hash(shard);
    for entry in entries {
        let difference = entry.hash().wrapping_sub(last);
        debug_assert!(difference < range, "entries are sorted and belong to the shard");
        last = entry.hash();
        bits.zeros(difference.wrapping_shr(low_bits));
        bits.put(1, 1);
        bits.put(difference & mask(low_bits), low_bits);
        bits.put(entry.block().into(), widths.block_bits);
    }
    bits.finish()
}

/// Reads the entries of a shard in order; ends with an error when the bytes are not what [`pack`] writes.
pub(super) struct Unpack<'a> {
    bits: BitReader<'a>,
    low_bits: u32,
    block_bits: u32,
    last: u64,
    /// Beyond all hashes of the shard.
    end: u64,
    left: u32,
}

impl<'a> Unpack<'a> {
    pub(super) fn new(widths: Widths, shard: usize, entries: u32, bytes: &'a [u8]) -> Result<Self, CorruptShard> {
        let (&low_bits, bytes) = bytes.split_first().ok_or(CorruptShard)?;
        let low_bits = u32::from(low_bits);
        if low_bits > HASH_BITS || widths.block_bits > MAX_BLOCK_BITS {
            return Err(CorruptShard);
        }
        let (last, end) = (widths.first_hash(shard), widths.first_hash(shard.saturating_add(1)));
        Ok(Self { bits: BitReader { bytes, buffer: 0, filled: 0 }, low_bits, block_bits: widths.block_bits, last, end, left: entries })
    }

    fn read(&mut self) -> Option<Entry> {
        let quotient = self.bits.zeros()?;
        let low = self.bits.take(self.low_bits)?;
        let block = self.bits.take(self.block_bits)?;
        let difference = quotient.checked_mul(1_u64.wrapping_shl(self.low_bits))?.checked_add(low)?;
        self.last = self.last.checked_add(difference).filter(|hash| *hash < self.end)?;
        Some(Entry::new(self.last, block as u32))
    }
}

impl Iterator for Unpack<'_> {
    type Item = Result<Entry, CorruptShard>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let entry = self.read().ok_or(CorruptShard);
        if entry.is_err() {
            self.left = 0;
        }
        Some(entry)
    }
}

fn mask(bits: u32) -> u64 {
    1_u64.wrapping_shl(bits).wrapping_sub(1)
}

struct BitWriter {
    bytes: Vec<u8>,
    buffer: u64,
    /// Bits in the buffer, below 8 between calls.
    used: u32,
}

impl BitWriter {
    /// Writes the low `count` bits, at most 48, of `value`, whose other bits are 0.
    fn put(&mut self, value: u64, count: u32) {
        debug_assert!(count <= 48);
        self.buffer |= value.wrapping_shl(self.used);
        self.used = self.used.saturating_add(count);
        while self.used >= 8 {
            self.bytes.push(self.buffer as u8);
            self.buffer >>= 8;
            self.used = self.used.saturating_sub(8);
        }
    }

    fn zeros(&mut self, count: u64) {
        let mut left = count;
        while left > 0 {
            let step = left.min(32);
            self.put(0, step as u32);
            left = left.saturating_sub(step);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if self.used > 0 {
            self.bytes.push(self.buffer as u8);
        }
        self.bytes
    }
}

struct BitReader<'a> {
    bytes: &'a [u8],
    buffer: u64,
    filled: u32,
}

impl BitReader<'_> {
    /// Fills the buffer to more than 56 bits while there are bytes.
    fn fill(&mut self) {
        while self.filled <= 56
            && let Some((&byte, rest)) = self.bytes.split_first()
        {
            self.buffer |= u64::from(byte).wrapping_shl(self.filled);
            self.filled = self.filled.saturating_add(8);
            self.bytes = rest;
        }
    }

    /// Reads zeros and the one behind them; returns the number of zeros.
    fn zeros(&mut self) -> Option<u64> {
        let mut zeros = 0_u64;
        loop {
            self.fill();
            if self.filled == 0 {
                return None;
            }
            let here = self.buffer.trailing_zeros().min(self.filled);
            zeros = zeros.checked_add(here.into())?;
            self.drop(here);
            if self.filled > 0 {
                self.drop(1);
                return Some(zeros);
            }
        }
    }

    /// Reads at most 48 bits.
    fn take(&mut self, count: u32) -> Option<u64> {
        self.fill();
        let value = self.buffer & mask(count);
        self.filled.checked_sub(count)?;
        self.drop(count);
        Some(value)
    }

    fn drop(&mut self, count: u32) {
        self.buffer = self.buffer.checked_shr(count).unwrap_or(0);
        self.filled = self.filled.saturating_sub(count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unpack(widths: Widths, shard: usize, entries: u32, bytes: &[u8]) -> Result<Vec<Entry>, CorruptShard> {
        Unpack::new(widths, shard, entries, bytes)?.collect()
    }

    fn arb_widths() -> impl Strategy<Value = Widths> {
        (0..=20_u32, 0..=MAX_BLOCK_BITS).prop_map(|(shard_bits, block_bits)| Widths { shard_bits, block_bits })
    }

    proptest! {
        #[test]
        fn entries_come_back(
            widths in arb_widths(),
            shard in any::<u64>(),
            entries in prop::collection::vec((any::<u64>(), any::<u32>()), 0..400),
            is_dense in any::<bool>(),
        ) {
            let shard = (shard & mask(widths.shard_bits)) as usize;
            let spread = if is_dense { 9 } else { widths.rest_bits() };
            let entry = |(hash, block): (u64, u32)| {
                Entry::new(widths.first_hash(shard) + (hash & mask(spread)), (u64::from(block) & mask(widths.block_bits)) as u32)
            };
            let mut entries: Vec<Entry> = entries.into_iter().map(entry).collect();
            entries.sort_unstable();
            entries.dedup();
            let bytes = pack(widths, shard, &entries);
            prop_assert_eq!(unpack(widths, shard, entries.len() as u32, &bytes), Ok(entries.clone()));
            prop_assert!(entries.iter().all(|entry| widths.shard_of(entry.hash()) == shard));
            let expected_bits = entries.len() as u64 * u64::from(3 + widths.rest_bits() + widths.block_bits);
            prop_assert!(bytes.len() as u64 * 8 <= 32 + expected_bits, "{} bytes for {}", bytes.len(), entries.len());
        }

        #[test]
        fn foreign_bytes_do_not_panic(widths in arb_widths(), bytes in prop::collection::vec(any::<u8>(), 0..200), entries in any::<u32>()) {
            let shard = mask(widths.shard_bits) as usize;
            if let Ok(unpack) = Unpack::new(widths, shard, entries, &bytes) {
                // Every entry takes at least one bit, so this ends.
                let read = unpack.take_while(Result::is_ok).count();
                prop_assert!(read <= bytes.len() * 8);
            }
        }
    }
}
