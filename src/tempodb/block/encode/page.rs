//! Data pages (version 1) and dictionary pages: header, checksum, compression.
//!
//! ```text
//! header   thrift compact PageHeader, without statistics
//! body     compressed as a whole: [u32 length, repetition levels] [u32 length, definition levels] values
//! ```
//!
//! Version 1 is chosen because it compresses the levels, which are two thirds of what we store before compression (block-format §3.7).

use std::ops::Range;

use parquet::basic::Encoding;

use super::super::schema::LeafCodec;
use super::levels::Levels;
use super::packing::put_zigzag;
use super::{EncodeError, rle};

/// Fast, and within 2 % of the size of level 3.
const ZSTD_LEVEL: i32 = 1;

/// Thrift compact field headers: id difference to the previous field << 4 | type.
const I32_FIELD: u8 = 1 << 4 | 5;
const DATA_PAGE_HEADER_FIELD: u8 = 1 << 4 | 12;
const DICTIONARY_PAGE_HEADER_FIELD: u8 = 3 << 4 | 12;
const STOP: u8 = 0;

/// What a page header says of the values.
#[derive(Debug, Clone, Copy)]
pub(super) enum PageKind {
    /// Entries, nulls included; encoding of the values.
    Data(usize, Encoding),
    /// Entries.
    Dictionary(usize),
}

/// Appends pages to a chunk.
pub(super) struct PageWriter {
    zstd: zstd::bulk::Compressor<'static>,
    compressed: Vec<u8>,
    is_compressing: bool,
    /// Buffers of a chunk and of a page that are in use while a chunk is encoded, and then reused.
    pub(super) spare_chunk: Vec<u8>,
    pub(super) spare_body: Vec<u8>,
}

impl PageWriter {
    /// `is_compressing` false stores every column uncompressed.
    pub(super) fn new(is_compressing: bool) -> Result<Self, EncodeError> {
        let zstd = zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(EncodeError::Compress)?;
        Ok(Self { zstd, compressed: Vec::new(), is_compressing, spare_chunk: Vec::new(), spare_body: Vec::new() })
    }

    /// Returns the codec that columns asking for `wanted` really get.
    pub(super) fn codec(&self, wanted: LeafCodec) -> LeafCodec {
        if self.is_compressing { wanted } else { LeafCodec::Uncompressed }
    }

    /// Appends header and `body`; returns the length of the header.
    pub(super) fn append(&mut self, kind: PageKind, codec: LeafCodec, body: &[u8], chunk: &mut Vec<u8>) -> Result<usize, EncodeError> {
        let stored = match self.codec(codec) {
            LeafCodec::Uncompressed => body,
            LeafCodec::Zstd => {
                self.compressed.clear();
                self.compressed.reserve(zstd::zstd_safe::compress_bound(body.len()));
                self.zstd.compress_to_buffer(body, &mut self.compressed).map_err(EncodeError::Compress)?;
                &self.compressed
            }
        };
        let header_at = chunk.len();
        put_header(kind, page_len(body)?, page_len(stored)?, crc32fast::hash(stored), chunk);
        let header_len = chunk.len() - header_at;
        chunk.extend_from_slice(stored);
        Ok(header_len)
    }
}

fn page_len(bytes: &[u8]) -> Result<i32, EncodeError> {
    i32::try_from(bytes.len()).map_err(|_| EncodeError::PageTooLarge(bytes.len()))
}

fn put_header(kind: PageKind, uncompressed: i32, compressed: i32, crc: u32, out: &mut Vec<u8>) {
    let page_type = match kind {
        PageKind::Data(..) => 0,
        PageKind::Dictionary(_) => 2,
    };
    for number in [page_type, uncompressed, compressed, crc as i32] {
        put_i32_field(number, out);
    }
    match kind {
        PageKind::Data(entries, encoding) => {
            out.push(DATA_PAGE_HEADER_FIELD);
            for number in [entries as i32, encoding as i32, Encoding::RLE as i32, Encoding::RLE as i32] {
                put_i32_field(number, out);
            }
        }
        PageKind::Dictionary(entries) => {
            out.push(DICTIONARY_PAGE_HEADER_FIELD);
            put_i32_field(entries as i32, out);
            put_i32_field(Encoding::PLAIN as i32, out);
        }
    }
    out.extend_from_slice(&[STOP, STOP]);
}

fn put_i32_field(value: i32, out: &mut Vec<u8>) {
    out.push(I32_FIELD);
    put_zigzag(i64::from(value), out);
}

/// Appends the levels of a page, preceded by their length; nothing when all are zero by schema.
pub(super) fn put_levels(levels: &Levels, entries: Range<usize>, max: u8, out: &mut Vec<u8>) {
    if max == 0 {
        return;
    }
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    levels.encode(entries, rle::bit_width(u32::from(max)), out);
    let length = (out.len() - length_at - 4) as u32;
    out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
}

/// Appends byte arrays as PLAIN: each preceded by its length.
pub(super) fn put_plain_byte_arrays<'a>(values: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
    for value in values {
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(value);
    }
}

/// Appends dictionary codes: the width, then the hybrid.
pub(super) fn put_codes(codes: &[u32], max: u32, out: &mut Vec<u8>) {
    let width = rle::bit_width(max);
    out.push(width as u8);
    rle::encode(codes, width, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_thrift_compact() {
        let mut out = Vec::new();
        put_header(PageKind::Data(3, Encoding::PLAIN), 10, 10, 1, &mut out);
        assert_eq!(out, [0x15, 0, 0x15, 20, 0x15, 20, 0x15, 2, 0x1c, 0x15, 6, 0x15, 0, 0x15, 6, 0x15, 6, 0, 0]);
        let mut varint = Vec::new();
        put_zigzag(i64::from(i32::MIN), &mut varint);
        out.clear();
        put_header(PageKind::Dictionary(0), 0, 0, 0x8000_0000, &mut out);
        assert_eq!(out[..8], [0x15, 4, 0x15, 0, 0x15, 0, 0x15, varint[0]]);
        assert_eq!(out[out.len() - 7..], [0x3c, 0x15, 0, 0x15, 0, 0, 0]);
    }
}
