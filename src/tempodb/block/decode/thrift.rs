//! The page header: a struct in Thrift's compact protocol, of which we keep the fields that decoding needs.
//!
//! Field header: one byte, high nibble = id delta (0: the id follows as zigzag varint), low nibble = type. 0 ends a struct.

#![deny(clippy::arithmetic_side_effects)]

use super::{DecodeError, Result, take, varint, zigzag};

/// Nesting of the structs that we skip. Real headers have two levels.
const MAX_DEPTH: u8 = 16;

const WHAT: &str = "page header";

const TRUE: u8 = 1;
const FALSE: u8 = 2;
const STRUCT: u8 = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageKind {
    DataV1,
    DataV2,
    Dictionary,
    Index,
}

/// Parquet encodings by their number in the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tempodb::block) enum Encoding {
    Plain,
    /// PLAIN_DICTIONARY or RLE_DICTIONARY: same bytes in data pages.
    Dictionary,
    Rle,
    DeltaBinaryPacked,
    DeltaLengthByteArray,
    DeltaByteArray,
}

impl Encoding {
    fn from_number(number: i64) -> Result<Self> {
        Ok(match number {
            0 => Self::Plain,
            2 | 8 => Self::Dictionary,
            3 => Self::Rle,
            5 => Self::DeltaBinaryPacked,
            6 => Self::DeltaLengthByteArray,
            7 => Self::DeltaByteArray,
            4 => return Err(DecodeError::Unsupported("encoding BIT_PACKED")),
            9 => return Err(DecodeError::Unsupported("encoding BYTE_STREAM_SPLIT")),
            _ => return Err(DecodeError::Corrupt("page encoding")),
        })
    }
}

/// What a page header says; sizes are checked to be non-negative, nothing else is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PageHeader {
    pub(super) kind: PageKind,
    pub(super) uncompressed_size: usize,
    pub(super) compressed_size: usize,
    pub(super) crc: Option<u32>,
    /// Level entries of a data page, entries of a dictionary page.
    pub(super) num_values: usize,
    pub(super) encoding: Encoding,
    /// v2 only.
    pub(super) num_nulls: usize,
    pub(super) repetition_bytes: usize,
    pub(super) definition_bytes: usize,
    /// Whether the values of a v2 page are compressed.
    pub(super) is_compressed: bool,
}

/// Parses the header at the start of `bytes` and leaves `bytes` behind it.
pub(super) fn page_header(bytes: &mut &[u8]) -> Result<PageHeader> {
    let mut kind = None;
    let (mut uncompressed, mut compressed, mut crc) = (None, None, None);
    let mut body = None;
    let mut fields = Fields::new(bytes);
    while let Some((id, kind_of_field)) = fields.next()? {
        match id {
            1 => kind = Some(fields.integer(kind_of_field)?),
            2 => uncompressed = Some(fields.size(kind_of_field)?),
            3 => compressed = Some(fields.size(kind_of_field)?),
            4 => crc = Some(fields.integer(kind_of_field)? as u32),
            5 | 7 | 8 if kind_of_field == STRUCT => body = Some((id, body_of(id, fields.bytes)?)),
            _ => skip(fields.bytes, kind_of_field, MAX_DEPTH)?,
        }
    }
    let kind = match kind {
        Some(0) => PageKind::DataV1,
        Some(1) => PageKind::Index,
        Some(2) => PageKind::Dictionary,
        Some(3) => PageKind::DataV2,
        _ => return Err(DecodeError::Corrupt("page type")),
    };
    let body = match (kind, body) {
        (PageKind::DataV1, Some((5, body))) | (PageKind::Dictionary, Some((7, body))) | (PageKind::DataV2, Some((8, body))) => body,
        (PageKind::Index, _) => Body::default(),
        _ => return Err(DecodeError::Corrupt(WHAT)),
    };
    Ok(PageHeader {
        kind,
        uncompressed_size: uncompressed.ok_or(DecodeError::Corrupt(WHAT))?,
        compressed_size: compressed.ok_or(DecodeError::Corrupt(WHAT))?,
        crc,
        num_values: body.num_values,
        encoding: Encoding::from_number(body.encoding)?,
        num_nulls: body.num_nulls,
        repetition_bytes: body.repetition_bytes,
        definition_bytes: body.definition_bytes,
        is_compressed: !body.is_plain,
    })
}

#[derive(Default)]
struct Body {
    num_values: usize,
    encoding: i64,
    num_nulls: usize,
    repetition_bytes: usize,
    definition_bytes: usize,
    is_plain: bool,
}

/// `DataPageHeader` (5), `DictionaryPageHeader` (7) or `DataPageHeaderV2` (8).
fn body_of(header: i64, bytes: &mut &[u8]) -> Result<Body> {
    let mut body = Body::default();
    let mut fields = Fields::new(bytes);
    while let Some((id, kind)) = fields.next()? {
        match (header, id) {
            (_, 1) => body.num_values = fields.size(kind)?,
            (5 | 7, 2) | (8, 4) => body.encoding = fields.integer(kind)?,
            (5, 3 | 4) => {
                if fields.integer(kind)? != 3 {
                    return Err(DecodeError::Unsupported("level encoding other than RLE"));
                }
            }
            (8, 2) => body.num_nulls = fields.size(kind)?,
            (8, 5) => body.definition_bytes = fields.size(kind)?,
            (8, 6) => body.repetition_bytes = fields.size(kind)?,
            (8, 7) => match kind {
                TRUE => body.is_plain = false,
                FALSE => body.is_plain = true,
                _ => return Err(DecodeError::Corrupt(WHAT)),
            },
            _ => skip(fields.bytes, kind, MAX_DEPTH)?,
        }
    }
    Ok(body)
}

/// Walks the fields of one struct.
struct Fields<'a, 'b> {
    bytes: &'a mut &'b [u8],
    last: i64,
}

impl<'a, 'b> Fields<'a, 'b> {
    fn new(bytes: &'a mut &'b [u8]) -> Self {
        Self { bytes, last: 0 }
    }

    /// Returns id and type of the next field; its value must be read or skipped before the next call.
    fn next(&mut self) -> Result<Option<(i64, u8)>> {
        let head = byte(self.bytes)?;
        if head == 0 {
            return Ok(None);
        }
        let delta = head >> 4;
        self.last = if delta == 0 { zigzag(varint(self.bytes, WHAT)?) } else { self.last.wrapping_add(i64::from(delta)) };
        Ok(Some((self.last, head & 15)))
    }

    /// Reads an i16, i32 or i64.
    fn integer(&mut self, kind: u8) -> Result<i64> {
        if !(4..=6).contains(&kind) {
            return Err(DecodeError::Corrupt(WHAT));
        }
        Ok(zigzag(varint(self.bytes, WHAT)?))
    }

    fn size(&mut self, kind: u8) -> Result<usize> {
        let value = self.integer(kind)?;
        // The format stores sizes as i32.
        u32::try_from(value).map(|size| size as usize).map_err(|_| DecodeError::Corrupt("size in a page header"))
    }
}

fn byte(bytes: &mut &[u8]) -> Result<u8> {
    let (&byte, rest) = bytes.split_first().ok_or(DecodeError::Truncated(WHAT))?;
    *bytes = rest;
    Ok(byte)
}

/// Skips a value of `kind` that stands in a field.
fn skip(bytes: &mut &[u8], kind: u8, depth: u8) -> Result<()> {
    let depth = depth.checked_sub(1).ok_or(DecodeError::Corrupt(WHAT))?;
    match kind {
        TRUE | FALSE => {}
        3 => drop(byte(bytes)?),
        4..=6 => drop(varint(bytes, WHAT)?),
        7 => drop(take(bytes, 8, WHAT)?),
        8 => skip_binary(bytes)?,
        9 | 10 => {
            let head = byte(bytes)?;
            let count = if head >> 4 == 15 { varint(bytes, WHAT)? } else { u64::from(head >> 4) };
            for _ in 0..count {
                skip_element(bytes, head & 15, depth)?;
            }
        }
        11 => {
            let count = varint(bytes, WHAT)?;
            let kinds = if count == 0 { 0 } else { byte(bytes)? };
            for _ in 0..count {
                skip_element(bytes, kinds >> 4, depth)?;
                skip_element(bytes, kinds & 15, depth)?;
            }
        }
        STRUCT => {
            let mut fields = Fields::new(bytes);
            while let Some((_, kind)) = fields.next()? {
                skip(fields.bytes, kind, depth)?;
            }
        }
        _ => return Err(DecodeError::Corrupt(WHAT)),
    }
    Ok(())
}

/// Skips an element of a collection; there a bool takes a byte, so a count cannot run without consuming input.
fn skip_element(bytes: &mut &[u8], kind: u8, depth: u8) -> Result<()> {
    match kind {
        TRUE | FALSE => byte(bytes).map(drop),
        _ => skip(bytes, kind, depth),
    }
}

fn skip_binary(bytes: &mut &[u8]) -> Result<()> {
    let len = usize::try_from(varint(bytes, WHAT)?).map_err(|_| DecodeError::Corrupt(WHAT))?;
    take(bytes, len, WHAT).map(drop)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A v2 header: type 3, sizes 100/60, crc −1, body {10 values, 2 nulls, 5 rows, DBP, def 3 bytes, rep 4 bytes, uncompressed, statistics}.
    const V2: &[u8] = &[
        0x15, 6, 0x15, 200, 1, 0x15, 120, 0x15, 1, 0x4c, 0x15, 20, 0x15, 4, 0x15, 10, 0x15, 10, 0x15, 6, 0x15, 8, 0x12, 0x1c, 0x18, 1, 7,
        0, 0, 0,
    ];

    #[test]
    fn reads_a_v2_header_and_stops_behind_it() {
        let mut bytes = [V2, &[9, 9]].concat();
        bytes.truncate(V2.len() + 2);
        let mut rest = bytes.as_slice();
        let header = page_header(&mut rest).unwrap();
        assert_eq!(rest, [9, 9]);
        assert_eq!((header.kind, header.uncompressed_size, header.compressed_size), (PageKind::DataV2, 100, 60));
        assert_eq!((header.num_values, header.num_nulls, header.encoding), (10, 2, Encoding::DeltaBinaryPacked));
        assert_eq!((header.definition_bytes, header.repetition_bytes, header.is_compressed), (3, 4, false));
        assert_eq!(header.crc, Some(u32::MAX));
    }

    #[test]
    fn refuses_negative_sizes_and_deep_nesting() {
        let negative = [0x15, 0, 0x15, 1, 0];
        assert_eq!(page_header(&mut negative.as_slice()), Err(DecodeError::Corrupt("size in a page header")));
        let deep = [0x9c; 100];
        assert!(page_header(&mut deep.as_slice()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_header_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = page_header(&mut bytes.as_slice());
        }

        #[test]
        fn a_damaged_header_does_not_panic(at in 0..V2.len(), value in any::<u8>(), cut in 0..V2.len()) {
            let mut bytes = V2.to_vec();
            bytes[at] = value;
            let _ = page_header(&mut bytes.as_slice());
            let _ = page_header(&mut &bytes[..cut]);
        }
    }
}
