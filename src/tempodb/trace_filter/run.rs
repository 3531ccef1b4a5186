//! One object of the filter: what stands where. Runs are immutable.
//!
//! ```text
//! object                    all integers little-endian
//!  0  magic                 "TRIDRUN1"
//!  8  shards                one after the other (see `shard`)
//!  …  header                its length is in the manifest
//!
//! header
//!  0  shard bits            u8
//!  1  block bits            u8
//!  2  zero                  u16
//!  4  blocks                u32
//!  8  entries               u64
//! 16  blocks × { id 16 bytes, entries u32 }
//!  …  2^(shard bits) × { bytes u32, entries u32, CRC-32 u32 }
//!  …  CRC-32 of the header up to here
//! ```

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::ops::Range;

use bytes::{Buf, BufMut};
use uuid::Uuid;

use super::shard::{CorruptShard, Entry, HASH_BITS, MAX_BLOCK_BITS, Unpack, Widths};
use crate::tempodb::block::meta::BlockId;

pub(super) const MAGIC: &[u8; 8] = b"TRIDRUN1";
/// Longest header we read: that of a run of a billion traces takes a tenth.
pub(super) const MAX_HEADER_BYTES: u64 = 32 << 20;
/// Longest shard we read. Hashes spread evenly; only ids made for the purpose fill one shard.
pub(super) const MAX_SHARD_BYTES: u32 = 16 << 20;

/// Entries of a shard on average: a lookup reads some 20 KB, and the table of shards stays small.
const SHARD_ENTRIES: u64 = 8192;
const MAX_SHARD_BITS: u32 = 20;

const FIXED_BYTES: usize = 16;
const BLOCK_BYTES: usize = 20;
const PLACE_BYTES: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("header of a trace filter is corrupt: {0}")]
pub(super) struct CorruptHeader(&'static str);

/// Where a shard lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ShardPlace {
    pub(super) offset: u64,
    pub(super) bytes: u32,
    pub(super) entries: u32,
    pub(super) crc: u32,
}

impl ShardPlace {
    pub(super) fn range(self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.bytes.into())
    }
}

/// What a run holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunHeader {
    pub(super) widths: Widths,
    pub(super) entries: u64,
    /// The covered blocks, by their number, and how many entries each has.
    pub(super) blocks: Vec<(BlockId, u32)>,
    pub(super) shards: Vec<ShardPlace>,
}

/// Returns the widths of a run of `entries` over `blocks`.
pub(super) fn widths_for(entries: u64, blocks: usize) -> Widths {
    let shards = entries.div_ceil(SHARD_ENTRIES).max(1);
    let bits = |count: u64| u64::BITS.saturating_sub(count.saturating_sub(1).leading_zeros());
    Widths { shard_bits: bits(shards).min(MAX_SHARD_BITS), block_bits: bits(blocks as u64).min(MAX_BLOCK_BITS) }
}

impl RunHeader {
    /// A header without shards; they are added in order.
    pub(super) fn new(widths: Widths, blocks: Vec<BlockId>) -> Self {
        Self { widths, entries: 0, blocks: blocks.into_iter().map(|block| (block, 0)).collect(), shards: Vec::new() }
    }

    /// Takes note of the next shard.
    pub(super) fn add_shard(&mut self, entries: &[Entry], packed: &[u8]) {
        let offset = self.shards.last().map_or(MAGIC.len() as u64, |last| last.range().end);
        let place = ShardPlace { offset, bytes: packed.len() as u32, entries: entries.len() as u32, crc: crc32fast::hash(packed) };
        self.shards.push(place);
        self.entries = self.entries.saturating_add(entries.len() as u64);
        for entry in entries {
            if let Some((_, count)) = self.blocks.get_mut(entry.block() as usize) {
                *count = count.saturating_add(1);
            }
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u8(self.widths.shard_bits as u8);
        out.put_u8(self.widths.block_bits as u8);
        out.put_u16_le(0);
        out.put_u32_le(self.blocks.len() as u32);
        out.put_u64_le(self.entries);
        for (block, entries) in &self.blocks {
            out.put_slice(block.0.as_bytes());
            out.put_u32_le(*entries);
        }
        for place in &self.shards {
            out.put_u32_le(place.bytes);
            out.put_u32_le(place.entries);
            out.put_u32_le(place.crc);
        }
        out.put_u32_le(crc32fast::hash(&out));
        out
    }

    /// Reads a header; allocates in proportion to its bytes.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, CorruptHeader> {
        let (mut body, crc) = bytes.split_last_chunk::<4>().ok_or(CorruptHeader("too short"))?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return Err(CorruptHeader("wrong checksum"));
        }
        if body.len() < FIXED_BYTES {
            return Err(CorruptHeader("too short"));
        }
        let (shard_bits, block_bits, zero) = (u32::from(body.get_u8()), u32::from(body.get_u8()), body.get_u16_le());
        let (block_count, entries) = (body.get_u32_le() as usize, body.get_u64_le());
        if shard_bits > MAX_SHARD_BITS.min(HASH_BITS) || block_bits > MAX_BLOCK_BITS || zero != 0 {
            return Err(CorruptHeader("unknown widths"));
        }
        let shard_count = 1_usize.wrapping_shl(shard_bits);
        let expected = block_count.checked_mul(BLOCK_BYTES).zip(shard_count.checked_mul(PLACE_BYTES));
        if expected.and_then(|(blocks, places)| blocks.checked_add(places)) != Some(body.len()) {
            return Err(CorruptHeader("wrong length"));
        }
        let mut blocks = Vec::with_capacity(block_count);
        for _ in 0..block_count {
            let mut id = [0; 16];
            body.copy_to_slice(&mut id);
            blocks.push((BlockId(Uuid::from_bytes(id)), body.get_u32_le()));
        }
        let (mut shards, mut offset) = (Vec::with_capacity(shard_count), MAGIC.len() as u64);
        for _ in 0..shard_count {
            let place = ShardPlace { offset, bytes: body.get_u32_le(), entries: body.get_u32_le(), crc: body.get_u32_le() };
            if place.bytes > MAX_SHARD_BYTES {
                return Err(CorruptHeader("a shard is too long"));
            }
            offset = place.range().end;
            shards.push(place);
        }
        Ok(Self { widths: Widths { shard_bits, block_bits }, entries, blocks, shards })
    }

    /// Heap bytes, for the bound of the cache.
    pub(super) fn memory_bytes(&self) -> usize {
        let blocks = self.blocks.len().saturating_mul(size_of::<(BlockId, u32)>());
        blocks.saturating_add(self.shards.len().saturating_mul(size_of::<ShardPlace>()))
    }

    /// Returns the entries of a shard after a check of its bytes.
    pub(super) fn unpack<'a>(&self, shard: usize, bytes: &'a [u8]) -> Result<Unpack<'a>, CorruptShard> {
        let place = self.shards.get(shard).ok_or(CorruptShard)?;
        if bytes.len() != place.bytes as usize || crc32fast::hash(bytes) != place.crc {
            return Err(CorruptShard);
        }
        Unpack::new(self.widths, shard, place.entries, bytes)
    }

    /// Returns the blocks that have an entry with `hash`; `bytes` are those of its shard.
    pub(super) fn find(&self, hash: u64, bytes: &[u8]) -> Result<Vec<BlockId>, CorruptShard> {
        let mut found = Vec::new();
        for entry in self.unpack(self.widths.shard_of(hash), bytes)? {
            let entry = entry?;
            if entry.hash() > hash {
                break;
            }
            if entry.hash() == hash {
                found.push(self.blocks.get(entry.block() as usize).ok_or(CorruptShard)?.0);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::shard::{hash_of, pack};
    use super::*;
    use crate::model::ids::TraceId;

    /// A run over ids of blocks, as its header and its object.
    fn run(blocks: &[Vec<[u8; 16]>]) -> (RunHeader, Vec<u8>) {
        let mut entries: Vec<Entry> = Vec::new();
        for (number, ids) in blocks.iter().enumerate() {
            entries.extend(ids.iter().map(|id| Entry::new(hash_of(TraceId(*id)), number as u32)));
        }
        entries.sort_unstable();
        entries.dedup();
        // Small shards, so that there are several.
        let widths = Widths { shard_bits: 3, ..widths_for(entries.len() as u64, blocks.len()) };
        let mut header = RunHeader::new(widths, (0..blocks.len()).map(|n| BlockId(Uuid::from_u128(n as u128))).collect());
        let mut object = MAGIC.to_vec();
        for shard in 0..8 {
            let of_shard: Vec<Entry> = entries.iter().copied().filter(|entry| widths.shard_of(entry.hash()) == shard).collect();
            let packed = pack(widths, shard, &of_shard);
            header.add_shard(&of_shard, &packed);
            object.extend(packed);
        }
        (header, object)
    }

    fn find(header: &RunHeader, object: &[u8], id: [u8; 16]) -> Result<Vec<BlockId>, CorruptShard> {
        let hash = hash_of(TraceId(id));
        let range = header.shards.get(header.widths.shard_of(hash)).unwrap().range();
        header.find(hash, object.get(range.start as usize..range.end as usize).unwrap())
    }

    proptest! {
        #[test]
        fn every_id_of_every_block_is_found(blocks in prop::collection::vec(prop::collection::vec(any::<[u8; 16]>(), 0..60), 1..20)) {
            let (header, object) = run(&blocks);
            let read = RunHeader::decode(&header.encode()).unwrap();
            prop_assert_eq!(&read, &header);
            for (number, ids) in blocks.iter().enumerate() {
                for id in ids {
                    prop_assert!(find(&read, &object, *id).unwrap().contains(&BlockId(Uuid::from_u128(number as u128))));
                }
            }
            let total: u64 = read.blocks.iter().map(|(_, entries)| u64::from(*entries)).sum();
            prop_assert_eq!(total, read.entries);
        }

        #[test]
        fn damage_is_noticed(ids in prop::collection::vec(any::<[u8; 16]>(), 1..60), at in any::<prop::sample::Index>(), bit in 0..8) {
            let (header, object) = run(std::slice::from_ref(&ids));
            let mut bytes = header.encode();
            let at_header = at.index(bytes.len());
            *bytes.get_mut(at_header).unwrap() ^= 1_u8 << bit;
            prop_assert!(RunHeader::decode(&bytes).is_err());
            let mut object = object;
            let at_object = at.index(object.len() - MAGIC.len()) + MAGIC.len();
            *object.get_mut(at_object).unwrap() ^= 1_u8 << bit;
            let damaged = header.shards.iter().position(|place| place.range().contains(&(at_object as u64))).unwrap();
            for id in ids {
                let is_damaged = header.widths.shard_of(hash_of(TraceId(id))) == damaged;
                prop_assert_eq!(find(&header, &object, id).is_err(), is_damaged);
            }
        }

        #[test]
        fn foreign_headers_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut with_crc = bytes.clone();
            with_crc.extend(crc32fast::hash(&bytes).to_le_bytes());
            let read = RunHeader::decode(&with_crc);
            prop_assert!(read.is_err() || bytes.len() >= FIXED_BYTES);
        }
    }

    #[test]
    fn a_billion_traces_have_a_header_that_is_read() {
        let widths = widths_for(1_000_000_000, 100_000);
        assert_eq!(widths, Widths { shard_bits: 17, block_bits: 17 });
        let bytes = (1_u64 << widths.shard_bits) * PLACE_BYTES as u64 + 100_000 * BLOCK_BYTES as u64;
        assert!(bytes < MAX_HEADER_BYTES);
        assert_eq!(widths_for(0, 0), Widths { shard_bits: 0, block_bits: 0 });
        assert_eq!(widths_for(1, 1), Widths { shard_bits: 0, block_bits: 0 });
        assert_eq!(widths_for(SHARD_ENTRIES + 1, 3), Widths { shard_bits: 1, block_bits: 2 });
    }
}
