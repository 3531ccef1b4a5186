//! One column of one row group: its pages, its part of column and offset index, its statistics.

use parquet::basic::{BoundaryOrder, CompressionCodec, Encoding, PageType};
use parquet::column::writer::ColumnCloseResult;
use parquet::file::metadata::{ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder, PageEncodingStats};
use parquet::schema::types::ColumnDescPtr;

use super::super::schema::{Column, Leaf, LeafCodec};
use super::levels::Structure;
use super::page::{PageKind, PageWriter, put_levels};
use super::values::ColumnValues;
use super::{EncodeError, EncodeSettings, RowOrder, rle};

/// A page ends with the row that brings it to this many entries. Levels compress to almost nothing, so by bytes alone a page of a sparse column
/// would hold entries by the hundred thousand, all of which a lookup by trace id unpacks to find one row.
const MAX_PAGE_ENTRIES: usize = 16 << 10;

/// A column chunk; offsets in `close` count from the start of `bytes`.
pub(super) struct EncodedChunk {
    pub(super) bytes: Vec<u8>,
    pub(super) close: ColumnCloseResult,
}

/// Where a page begins and ends.
struct PageRange {
    rows: std::ops::Range<usize>,
    values: std::ops::Range<usize>,
}

/// Encodes a column. `values` are those of the entries of `structure` at its full definition level.
pub(super) fn encode_chunk<V: ColumnValues>(
    leaf: &Leaf,
    descriptor: ColumnDescPtr,
    structure: &Structure,
    mut values: V,
    pages: &mut PageWriter,
    settings: EncodeSettings,
) -> Result<EncodedChunk, EncodeError> {
    debug_assert_eq!((structure.max_def, structure.max_rep), (leaf.max_def, leaf.max_rep), "levels of {}", leaf.path);
    let mut chunk = std::mem::take(&mut pages.spare_chunk);
    chunk.clear();
    let mut uncompressed_bytes = 0;
    let mut encodings = vec![Encoding::RLE];
    // Tells readers that no page left the dictionary, which then answers what the chunk holds.
    let mut page_encodings: Vec<PageEncodingStats> = Vec::new();
    let has_dictionary = match values.dictionary() {
        None => false,
        Some((entries, body)) => {
            uncompressed_bytes += body.len() + pages.append(PageKind::Dictionary(entries), leaf.codec, &body, &mut chunk)?;
            encodings.push(Encoding::PLAIN);
            page_encodings.push(PageEncodingStats { page_type: PageType::DICTIONARY_PAGE, encoding: Encoding::PLAIN, count: 1 });
            true
        }
    };
    let data_at = chunk.len();

    let mut column_index = ColumnIndexBuilder::new(leaf.value.physical());
    let mut offset_index = OffsetIndexBuilder::new();
    let mut chunk_bounds = None;
    let mut body = std::mem::take(&mut pages.spare_body);
    let ranges = page_ranges(structure, &values, settings.page_size_bytes);
    for PageRange { rows, values: range } in ranges {
        let entries = structure.row_starts[rows.start] as usize..structure.row_starts[rows.end] as usize;
        body.clear();
        put_levels(&structure.rep, entries.clone(), structure.max_rep, &mut body);
        put_levels(&structure.def, entries.clone(), structure.max_def, &mut body);
        let encoding = values.encode(range.clone(), &mut body);
        if !encodings.contains(&encoding) {
            encodings.push(encoding);
        }
        match page_encodings.iter_mut().find(|stats| stats.page_type == PageType::DATA_PAGE && stats.encoding == encoding) {
            Some(stats) => stats.count += 1,
            None => page_encodings.push(PageEncodingStats { page_type: PageType::DATA_PAGE, encoding, count: 1 }),
        }
        let page_at = chunk.len();
        let header_len = pages.append(PageKind::Data(entries.len(), encoding), leaf.codec, &body, &mut chunk)?;
        uncompressed_bytes += header_len + body.len();
        offset_index.append_row_count(rows.len() as i64);
        offset_index.append_offset_and_size(page_at as i64, (chunk.len() - page_at) as i32);

        let bounds = values.bounds(range.clone());
        let (min, max) = match bounds {
            Some(bounds) => values.index_bytes(bounds),
            None if range.is_empty() => (Vec::new(), Vec::new()),
            None => values.unbounded(),
        };
        column_index.append(range.is_empty(), min, max, (entries.len() - range.len()) as i64, None);
        chunk_bounds = match (chunk_bounds, bounds) {
            (Some(so_far), Some(page)) => Some(values.widen(so_far, page)),
            (so_far, page) => so_far.or(page),
        };
    }
    pages.spare_body = body;
    if leaf.column == Column::TraceId && settings.row_order == RowOrder::Ascending {
        column_index.set_boundary_order(BoundaryOrder::ASCENDING);
    }

    let entries = structure.rep.len();
    let statistics = values.statistics(chunk_bounds, (entries - values.len()) as u64);
    let metadata = ColumnChunkMetaData::builder(descriptor)
        .set_encodings(encodings)
        .set_page_encoding_stats(page_encodings)
        .set_compression_codec(match pages.codec(leaf.codec) {
            LeafCodec::Uncompressed => CompressionCodec::UNCOMPRESSED,
            LeafCodec::Zstd => CompressionCodec::ZSTD,
        })
        .set_num_values(entries as i64)
        .set_total_compressed_size(chunk.len() as i64)
        .set_total_uncompressed_size(uncompressed_bytes as i64)
        .set_data_page_offset(data_at as i64)
        .set_dictionary_page_offset(has_dictionary.then_some(0))
        .set_statistics(statistics)
        .build()?;
    let close = ColumnCloseResult {
        bytes_written: chunk.len() as u64,
        rows_written: structure.row_count() as u64,
        metadata,
        bloom_filter: None,
        column_index: Some(column_index.build()?),
        offset_index: Some(offset_index.build()),
    };
    Ok(EncodedChunk { bytes: chunk, close })
}

/// Cuts a column into pages of whole rows: a page ends with the row that brings it to its size or number of entries.
fn page_ranges<V: ColumnValues>(structure: &Structure, values: &V, page_size_bytes: usize) -> Vec<PageRange> {
    let level_bits = rle::bit_width(u32::from(structure.max_rep)) + rle::bit_width(u32::from(structure.max_def));
    let is_dense = values.len() == structure.def.len();
    let mut ranges = Vec::new();
    let (mut first_row, mut first_value, mut value) = (0, 0, 0);
    let (mut size_bits, mut first_entry) = (0, 0);
    for (row, bounds) in structure.row_starts.windows(2).enumerate() {
        let levels = &structure.def[bounds[0] as usize..bounds[1] as usize];
        let count = match values.len() {
            0 => 0,
            _ if is_dense => levels.len(),
            _ => levels.iter().filter(|&&def| def == structure.max_def).count(),
        };
        size_bits += levels.len() * level_bits as usize + values.size_bytes(value..value + count) * 8;
        value += count;
        let is_full = size_bits >= page_size_bytes * 8 || bounds[1] as usize - first_entry >= MAX_PAGE_ENTRIES;
        if is_full || row + 1 == structure.row_count() {
            ranges.push(PageRange { rows: first_row..row + 1, values: first_value..value });
            (first_row, first_value, first_entry, size_bits) = (row + 1, value, bounds[1] as usize, 0);
        }
    }
    assert_eq!(value, values.len(), "every value has an entry");
    ranges
}
