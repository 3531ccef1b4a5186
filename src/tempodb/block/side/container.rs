//! The frame of a side object: header, section table, sections, each with its checksum. All numbers are little endian.
//!
//! ```text
//! magic "tRso" | kind u8 | version u8 | 0 u16 | size of data.parquet u64 | sections u32
//! per section: length u32 | CRC-32 u32          in the order in which they follow
//! CRC-32 of all that
//! sections
//! ```
//!
//! The size of `data.parquet` ties the object to its block: a copy beside another file is not believed.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::ops::Range;

const MAGIC: [u8; 4] = *b"tRso";
/// Objects of other versions count as absent.
const VERSION: u8 = 1;
/// A section a row group and some; a table of this size fits into the first read.
pub(super) const MAX_SECTIONS: usize = 1 << 14;
const FIXED_BYTES: usize = 20;
const SECTION_BYTES: usize = 8;
const CRC_BYTES: usize = 4;

/// What an object is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Tags = 1,
    Pruning = 2,
}

/// Why an object is treated as if it were not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SideError {
    #[error("not a side object of the wanted kind")]
    Foreign,
    #[error("side object of unknown version {0}")]
    UnknownVersion(u8),
    #[error("side object of another block")]
    OtherBlock,
    #[error("side object is corrupt: {0}")]
    Corrupt(&'static str),
}

/// Where the sections of an object lie.
#[derive(Debug, Clone)]
pub(super) struct Header {
    sections: Vec<Section>,
}

#[derive(Debug, Clone)]
struct Section {
    range: Range<u64>,
    crc: u32,
}

/// Returns the object of these sections; `None` when there are too many or one is too long.
pub(super) fn encode(kind: Kind, data_bytes: u64, sections: &[Vec<u8>]) -> Option<Vec<u8>> {
    if sections.len() > MAX_SECTIONS {
        return None;
    }
    let mut out = Vec::from(MAGIC);
    out.extend_from_slice(&[kind as u8, VERSION, 0, 0]);
    out.extend_from_slice(&data_bytes.to_le_bytes());
    out.extend_from_slice(&u32::try_from(sections.len()).ok()?.to_le_bytes());
    for section in sections {
        out.extend_from_slice(&u32::try_from(section.len()).ok()?.to_le_bytes());
        out.extend_from_slice(&crc32fast::hash(section).to_le_bytes());
    }
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    sections.iter().for_each(|section| out.extend_from_slice(section));
    Some(out)
}

impl Header {
    /// Reads the header from the first bytes of an object. `data_bytes` is the size of the block's `data.parquet`.
    pub(super) fn parse(kind: Kind, data_bytes: u64, bytes: &[u8]) -> Result<Self, SideError> {
        let mut fixed = ByteReader(bytes);
        if fixed.take(MAGIC.len())? != MAGIC || fixed.u8()? != kind as u8 {
            return Err(SideError::Foreign);
        }
        match fixed.u8()? {
            VERSION => {}
            other => return Err(SideError::UnknownVersion(other)),
        }
        fixed.take(2)?;
        let described = fixed.u64()?;
        let count = usize::try_from(fixed.u32()?).ok().filter(|count| *count <= MAX_SECTIONS);
        let table_bytes = count.and_then(|count| count.checked_mul(SECTION_BYTES)).ok_or(SideError::Corrupt("too many sections"))?;
        let mut table = ByteReader(fixed.take(table_bytes)?);
        let checked = FIXED_BYTES.saturating_add(table_bytes);
        if crc32fast::hash(bytes.get(..checked).ok_or(SHORT)?) != fixed.u32()? {
            return Err(SideError::Corrupt("checksum of the header"));
        }
        if described != data_bytes {
            return Err(SideError::OtherBlock);
        }
        let mut start = checked.saturating_add(CRC_BYTES) as u64;
        let mut sections = Vec::with_capacity(table_bytes / SECTION_BYTES);
        while !table.is_empty() {
            let (length, crc) = (table.u32()?, table.u32()?);
            let end = start.saturating_add(u64::from(length));
            sections.push(Section { range: start..end, crc });
            start = end;
        }
        Ok(Self { sections })
    }

    pub(super) fn sections(&self) -> usize {
        self.sections.len()
    }

    /// Returns the bytes of the object that hold a section.
    pub(super) fn range(&self, section: usize) -> Result<Range<u64>, SideError> {
        self.sections.get(section).map(|section| section.range.clone()).ok_or(SideError::Corrupt("a section is missing"))
    }

    /// Compares a section with its checksum.
    pub(super) fn check(&self, section: usize, bytes: &[u8]) -> Result<(), SideError> {
        match self.sections.get(section) {
            Some(section) if crc32fast::hash(bytes) == section.crc => Ok(()),
            _ => Err(SideError::Corrupt("checksum of a section")),
        }
    }
}

const SHORT: SideError = SideError::Corrupt("it ends early");

/// Reads numbers from foreign bytes.
pub(super) struct ByteReader<'a>(pub(super) &'a [u8]);

impl<'a> ByteReader<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], SideError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SideError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(SHORT)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, SideError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, SideError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, SideError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Reads a number in groups of seven bits, lowest first.
    pub(super) fn varint(&mut self) -> Result<u64, SideError> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(SideError::Corrupt("a number is too long"))
    }

    /// Reads a number of items that take at least `item_bytes` each, so that it is no more than what can follow.
    pub(super) fn count(&mut self, item_bytes: usize) -> Result<usize, SideError> {
        let count = usize::try_from(self.varint()?).map_err(|_| SHORT)?;
        if count.saturating_mul(item_bytes) > self.0.len() { Err(SHORT) } else { Ok(count) }
    }

    /// Reads a length and that many bytes.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], SideError> {
        let length = self.count(1)?;
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sections_are_found_and_checked() {
        let sections = [b"one".to_vec(), Vec::new(), b"three".to_vec()];
        let mut object = encode(Kind::Tags, 77, &sections).unwrap();
        let header = Header::parse(Kind::Tags, 77, &object).unwrap();
        assert_eq!(header.sections(), 3);
        for (at, section) in sections.iter().enumerate() {
            let range = header.range(at).unwrap();
            let found = &object[range.start as usize..range.end as usize];
            assert_eq!(found, section);
            header.check(at, found).unwrap();
        }
        assert!(header.range(3).is_err() && header.check(0, b"two").is_err());
        assert_eq!(Header::parse(Kind::Pruning, 77, &object).unwrap_err(), SideError::Foreign);
        assert_eq!(Header::parse(Kind::Tags, 78, &object).unwrap_err(), SideError::OtherBlock);
        object[5] = 9;
        assert_eq!(Header::parse(Kind::Tags, 77, &object).unwrap_err(), SideError::UnknownVersion(9));
    }

    proptest! {
        #[test]
        fn changed_headers_are_noticed(at in 0..44_usize, to: u8) {
            let object = encode(Kind::Tags, 77, &[vec![1], vec![2, 3]]).unwrap();
            let mut changed = object.clone();
            changed[at.min(39)] = to;
            prop_assert_eq!(Header::parse(Kind::Tags, 77, &changed).is_ok(), changed == object);
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in vec(any::<u8>(), 0..100)) {
            let mut reader = ByteReader(&bytes);
            while !reader.is_empty() && reader.count(3).is_ok() && reader.bytes().is_ok() {}
            let _ = Header::parse(Kind::Tags, 0, &bytes);
        }
    }
}
