//! One page: checksum, decompression, and the cut into levels and values.

#![deny(clippy::arithmetic_side_effects)]

use super::codec::{Codec, decompress};
use super::levels::{Levels, count_equal};
use super::thrift::{Encoding, PageHeader, PageKind, page_header};
use super::{DecodeError, Result, hybrid, take};

/// Level entries of a page. Writers cut pages at some hundred kilobytes, levels included.
const MAX_PAGE_ENTRIES: usize = 1 << 24;

/// What a reader must know of a leaf to decode its pages.
#[derive(Debug, Clone, Copy)]
pub(in crate::tempodb::block) struct LeafShape {
    pub(in crate::tempodb::block) max_repetition: u8,
    pub(in crate::tempodb::block) max_definition: u8,
    pub(in crate::tempodb::block) codec: Codec,
    /// Compare page bytes with the checksum in the header, if it has one.
    pub(in crate::tempodb::block) verify: bool,
    /// Level entries that the pages of a chunk hold together, at most.
    pub(in crate::tempodb::block) max_entries: usize,
}

/// A page as stored.
pub(super) struct StoredPage<'a> {
    pub(super) header: PageHeader,
    body: &'a [u8],
}

/// A data page whose levels were appended to a [`Levels`].
pub(super) struct DataPage<'a> {
    pub(super) encoding: Encoding,
    /// Number of values, nulls not counted.
    pub(super) count: usize,
    pub(super) values: &'a [u8],
}

/// Takes the next page off `bytes`.
pub(super) fn next_page<'a>(bytes: &mut &'a [u8], verify: bool) -> Result<StoredPage<'a>> {
    let header = page_header(bytes)?;
    let body = take(bytes, header.compressed_size, "page")?;
    match header.crc {
        Some(crc) if verify && crc32fast::hash(body) != crc => Err(DecodeError::Checksum),
        _ => Ok(StoredPage { header, body }),
    }
}

impl StoredPage<'_> {
    /// Decompresses a dictionary page.
    pub(super) fn dictionary<'b>(&'b self, codec: Codec, scratch: &'b mut Vec<u8>) -> Result<&'b [u8]> {
        decompress_or_borrow(codec, self.body, self.header.uncompressed_size, scratch)
    }

    /// Decodes the levels of a data page, appends them to `levels` if `want_levels`, and returns its values.
    pub(super) fn data<'b>(
        &'b self,
        shape: &LeafShape,
        want_levels: bool,
        levels: &mut Levels,
        scratch: &'b mut Vec<u8>,
    ) -> Result<DataPage<'b>> {
        let header = &self.header;
        if header.num_values > MAX_PAGE_ENTRIES {
            return Err(DecodeError::TooLarge("number of values of a page"));
        }
        let (repetition, definition, values) = match header.kind {
            PageKind::DataV1 => {
                let mut rest = decompress_or_borrow(shape.codec, self.body, header.uncompressed_size, scratch)?;
                let repetition = v1_levels(&mut rest, shape.max_repetition)?;
                let definition = v1_levels(&mut rest, shape.max_definition)?;
                (repetition, definition, rest)
            }
            PageKind::DataV2 => {
                let mut rest = self.body;
                let repetition = take(&mut rest, header.repetition_bytes, "repetition levels")?;
                let definition = take(&mut rest, header.definition_bytes, "definition levels")?;
                let levels = header.repetition_bytes.saturating_add(header.definition_bytes);
                let size = header.uncompressed_size.checked_sub(levels).ok_or(DecodeError::Corrupt("page size"))?;
                let codec = if header.is_compressed && size > 0 { shape.codec } else { Codec::Uncompressed };
                let values = if size == 0 { &[] } else { decompress_or_borrow(codec, rest, size, scratch)? };
                (repetition, definition, values)
            }
            PageKind::Dictionary | PageKind::Index => return Err(DecodeError::Corrupt("page type")),
        };
        let entries = header.num_values;
        if shape.max_definition == 0 {
            return Ok(DataPage { encoding: header.encoding, count: entries, values });
        }
        // Without nulls there is one value an entry; a v2 header tells so without a look at the levels.
        let known = if header.kind == PageKind::DataV2 {
            Some(entries.checked_sub(header.num_nulls).ok_or(DecodeError::Corrupt("null count"))?)
        } else {
            None
        };
        let count = match known {
            Some(count) if !want_levels => count,
            _ if !want_levels => hybrid::count_levels(definition, shape.max_definition, entries, &mut levels.definition)?,
            _ => {
                let start = levels.definition.len();
                hybrid::decode_levels(definition, shape.max_definition, entries, &mut levels.definition)?;
                let decoded = levels.definition.get(start..).unwrap_or_default();
                let count = count_equal(decoded, shape.max_definition);
                if known.is_some_and(|known| known != count) {
                    return Err(DecodeError::Corrupt("null count"));
                }
                if shape.max_repetition > 0 {
                    hybrid::decode_levels(repetition, shape.max_repetition, entries, &mut levels.repetition)?;
                }
                count
            }
        };
        Ok(DataPage { encoding: header.encoding, count, values })
    }
}

/// Levels of a v1 page: absent if their maximum is 0, else a 4-byte length and that many bytes.
fn v1_levels<'a>(rest: &mut &'a [u8], max: u8) -> Result<&'a [u8]> {
    if max == 0 {
        return Ok(&[]);
    }
    let (length, behind) = rest.split_first_chunk::<4>().ok_or(DecodeError::Truncated("levels"))?;
    *rest = behind;
    take(rest, u32::from_le_bytes(*length) as usize, "levels")
}

fn decompress_or_borrow<'a>(codec: Codec, body: &'a [u8], size: usize, scratch: &'a mut Vec<u8>) -> Result<&'a [u8]> {
    if codec == Codec::Uncompressed {
        return if body.len() == size { Ok(body) } else { Err(DecodeError::Corrupt("page size")) };
    }
    decompress(codec, body, size, scratch)?;
    Ok(scratch)
}
