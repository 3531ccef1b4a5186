//! The objects of a trace filter as fuzzing sees them. Checksums, which no mutation survives, are set right.

use super::manifest::Manifest;
use super::run::RunHeader;
use super::shard::{HASH_BITS, MAX_BLOCK_BITS, Unpack, Widths};

pub(in crate::tempodb) fn manifest(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::from_json(bytes) {
        assert_eq!(Manifest::from_json(&manifest.to_json()).expect("what we write can be read"), manifest);
    }
}

/// A header without its checksum.
pub(in crate::tempodb) fn run_header(bytes: &[u8]) {
    let _foreign = RunHeader::decode(bytes);
    let encoded = [bytes, &crc32fast::hash(bytes).to_le_bytes()].concat();
    if let Ok(header) = RunHeader::decode(&encoded) {
        assert!(header.memory_bytes() <= 2 * encoded.len());
        assert_eq!(header.encode(), encoded);
        let _broken = header.find(0, &[]);
    }
}

/// Width of the shard's number, width of a block's number, entries (four bytes), then a shard.
pub(in crate::tempodb) fn shard(bytes: &[u8]) {
    let Some((&[shard_bits, block_bits, a, b, c, d], shard)) = bytes.split_first_chunk::<6>() else { return };
    let widths = Widths { shard_bits: u32::from(shard_bits) % (HASH_BITS + 1), block_bits: u32::from(block_bits) % (MAX_BLOCK_BITS + 1) };
    let Ok(unpack) = Unpack::new(widths, 0, u32::from_le_bytes([a, b, c, d]), shard) else { return };
    let entries = unpack.take_while(Result::is_ok).count();
    assert!(entries <= shard.len() * 8, "an entry takes a bit");
}

/// A header and a shard to start from.
#[cfg(test)]
pub(in crate::tempodb) fn seeds() -> [Vec<u8>; 2] {
    use super::shard::{Entry, pack};
    use crate::tempodb::block::meta::BlockId;

    let widths = Widths { shard_bits: 1, block_bits: 2 };
    let entries: Vec<Entry> = (0..200).map(|number| Entry::new(number * 7_919 * 7_919, number as u32 % 4)).collect();
    let packed = pack(widths, 0, &entries);
    let mut header = RunHeader::new(widths, vec![BlockId(uuid::Uuid::nil()); 4]);
    header.add_shard(&entries, &packed);
    header.add_shard(&[], &pack(widths, 1, &[]));
    let mut header = header.encode();
    header.truncate(header.len() - 4);
    [header, [&[1, 2, 200, 0, 0, 0], &packed[..]].concat()]
}
