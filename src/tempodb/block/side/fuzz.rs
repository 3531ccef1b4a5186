//! Side objects as fuzzing sees them. Checksums, which no mutation survives, are set right.

use bytes::Bytes;

use super::container::{Header, Kind};
use super::pruning::{BlockSummary, GroupSummary};
use super::tags::BlockTags;
use crate::base::binary_fuse::BinaryFuse;

/// A `tempo-rs.pruning` as it stands; its header alone; a summary; a filter.
pub(in crate::tempodb) fn pruning(bytes: &[u8]) {
    let _foreign = BlockSummary::parse(bytes, described_bytes(bytes), true);
    with_checksum(Kind::Pruning, bytes);
    let _broken = GroupSummary::decode(bytes);
    if let Some(filter) = BinaryFuse::decode(&Bytes::copy_from_slice(bytes)) {
        let _either = [0, 1, u64::MAX].map(|entry| filter.contains(entry));
    }
}

/// A `tempo-rs.tags` as it stands; its header alone; the lists of its section.
pub(in crate::tempodb) fn tags(bytes: &[u8]) {
    let _foreign = BlockTags::decode(bytes, described_bytes(bytes));
    with_checksum(Kind::Tags, bytes);
    if let Ok(tags) = BlockTags::decode_lists(bytes) {
        let _size = tags.memory_bytes();
    }
}

fn with_checksum(kind: Kind, bytes: &[u8]) {
    let header = [bytes, &crc32fast::hash(bytes).to_le_bytes()].concat();
    let Ok(header) = Header::parse(kind, described_bytes(bytes), &header) else { return };
    for section in 0..header.sections() {
        let range = header.range(section).expect("a section that is counted");
        assert!(range.start <= range.end);
    }
}

/// The size of `data.parquet` that the object says, so that the check of it is passed.
fn described_bytes(bytes: &[u8]) -> u64 {
    bytes.get(8..).and_then(<[u8]>::first_chunk).map_or(0, |size| u64::from_le_bytes(*size))
}

/// Parts of an object's sections to start from: those of the pruning object, or the unpacked lists of the tags.
#[cfg(test)]
pub(in crate::tempodb) fn parts(object: &[u8]) -> Vec<Vec<u8>> {
    let count = u32::from_le_bytes(object[16..20].try_into().unwrap()) as usize;
    let table_end = 20 + 8 * count;
    let mut parts = vec![object[..table_end].to_vec()];
    let mut start = table_end + 4;
    for place in object[20..table_end].as_chunks::<8>().0 {
        let end = start + u32::from_le_bytes([place[0], place[1], place[2], place[3]]) as usize;
        let section = &object[start..end];
        start = end;
        let frame = memchr::memmem::find(section, &[0x28, 0xb5, 0x2f, 0xfd]).filter(|at| *at < 10);
        parts.push(frame.map_or_else(|| section.to_vec(), |at| zstd::decode_all(&section[at..]).unwrap()));
    }
    parts
}
