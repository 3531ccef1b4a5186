//! The map of a `data.parquet`: where which column of which row group lies. Pure; bytes come from the caller.
//!
//! Invariants
//! * Columns are found by path. A leaf that the file lacks reads as empty; one of another shape than ours makes the file unreadable.
//! * No offset or length of the footer is used before it is checked against the file size.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::FixedState;
use parquet::DecodeResult;
use parquet::basic::{Compression, Encoding};
use parquet::errors::ParquetError;
use parquet::file::metadata::page_index::PageIndexProvider;
use parquet::file::metadata::{
    ColumnChunkMask, ColumnChunkMetaData, FileMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataOptions,
    ParquetMetaDataPushDecoder, ParquetMetaDataReader, ParquetStatisticsPolicy, RowGroupMetaData,
};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::statistics::Statistics;
use parquet::schema::types::SchemaDescriptor;

use super::decode::MAX_CHUNK_ENTRIES;
use super::decode::codec::Codec;
use super::decode::page::LeafShape;
use super::dedicated::{DedicatedColumn, DedicatedSlot};
use super::error::BlockReadError;
use super::meta::BlockVersion;
use super::schema::{AttrPart, BlockSchema, Column, Level, ValueType};
use crate::model::ids::TraceId;

/// Bytes behind the footer: its length and the magic.
pub(super) const TAIL_BYTES: u64 = 8;

/// Values, nulls included, that a row group may have for each of its bytes. Runs of equal ones take next to nothing, but every page has its
/// header: blocks of spans have below 20, our pages of 16 Ki nulls some 600.
const MAX_VALUES_PER_BYTE: u64 = 2048;

/// Values that any row group may have: other writers put more nulls into a page.
const FREE_VALUES: u64 = 1 << 24;

/// A leaf of the file that we know.
#[derive(Debug, Clone)]
pub(super) struct FileLeaf {
    /// Position among the file's leaves.
    pub(super) index: usize,
    pub(super) path: String,
    pub(super) value: ValueType,
    pub(super) max_repetition: u8,
    pub(super) max_definition: u8,
}

/// Footer of a file, and what it means.
#[derive(Debug)]
pub(super) struct BlockFile {
    metadata: ParquetMetaData,
    leaves: HashMap<Column, FileLeaf, FixedState>,
    slots: Vec<DedicatedSlot>,
    size_bytes: u64,
}

/// Where the pages of one column chunk lie.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PageLocations {
    /// File offset, length with header, first row; in file order.
    pub(super) pages: Vec<(Range<u64>, usize)>,
}

/// Smallest and largest id of a page.
type IdBounds = (Vec<u8>, Vec<u8>);

/// The page indexes of one row group that lookups need.
#[derive(Debug, Default)]
pub(super) struct GroupIndex {
    /// By position of the leaf.
    pages: Vec<Option<PageLocations>>,
    /// Smallest and largest trace id of each page, perhaps cut; `None` when the file has no column index.
    trace_id_bounds: Option<Vec<IdBounds>>,
}

impl GroupIndex {
    pub(super) fn pages(&self, leaf: usize) -> Option<&PageLocations> {
        self.pages.get(leaf).and_then(Option::as_ref)
    }

    /// Whether page `page` of the trace ids may hold `id`.
    ///
    /// Bounds may be cut: a smallest id then is a prefix, a largest one has its last byte increased. Both compare as they should.
    pub(super) fn may_hold(&self, page: usize, id: TraceId) -> bool {
        match self.trace_id_bounds.as_ref().and_then(|bounds| bounds.get(page)) {
            Some((min, max)) => min.as_slice() <= &id.0[..] && &id.0[..] <= max.as_slice(),
            None => true,
        }
    }
}

impl BlockFile {
    /// `footer` holds the bytes between the page indexes and the tail; `size_bytes` is that of the file.
    pub(super) fn parse(
        footer: &[u8],
        size_bytes: u64,
        version: BlockVersion,
        dedicated: &[DedicatedColumn],
    ) -> Result<Self, BlockReadError> {
        let mut options = ParquetMetaDataOptions::new();
        options.set_size_stats_policy(ParquetStatisticsPolicy::SkipAll);
        let metadata = contain_panics(|| ParquetMetaDataReader::decode_metadata_with_options(footer, Some(&options)))
            .map_err(BlockReadError::Footer)?;
        let schema = BlockSchema::new(version, dedicated);
        let descriptor = metadata.file_metadata().schema_descr_ptr();
        let columns = descriptor.columns();
        let by_path: HashMap<String, usize, FixedState> =
            columns.iter().enumerate().map(|(index, column)| (column.path().string(), index)).collect();
        let mut leaves = HashMap::default();
        for leaf in schema.leaves() {
            let Some(&index) = by_path.get(&leaf.path) else { continue };
            let column = &columns[index];
            let levels = (column.max_rep_level(), column.max_def_level());
            if column.physical_type() != leaf.value.physical() || levels != (i16::from(leaf.max_rep), i16::from(leaf.max_def)) {
                return Err(BlockReadError::Layout("a column has another type or nesting than the format says"));
            }
            leaves.insert(
                leaf.column,
                FileLeaf { index, path: leaf.path.clone(), value: leaf.value, max_repetition: leaf.max_rep, max_definition: leaf.max_def },
            );
        }
        let file = Self { metadata, leaves, slots: schema.slots().to_vec(), size_bytes };
        if file.metadata.row_groups().iter().any(|group| group.num_columns() != columns.len() || group.num_rows() < 0) {
            return Err(BlockReadError::Layout("a row group lacks columns"));
        }
        if file.metadata.row_groups().iter().any(|group| claims_too_much(group, size_bytes)) {
            return Err(BlockReadError::Layout("a row group claims more values than its bytes can hold"));
        }
        Ok(file)
    }

    /// What a block of an unsupported preview version is taken for: no row group at all.
    pub(super) fn empty() -> Self {
        let schema = BlockSchema::new(BlockVersion::VParquet5, &[]);
        let file = FileMetaData::new(2, 0, None, None, Arc::clone(schema.descriptor()), None);
        Self { metadata: ParquetMetaData::new(file, Vec::new()), leaves: HashMap::default(), slots: Vec::new(), size_bytes: 0 }
    }

    pub(super) fn row_groups(&self) -> usize {
        self.metadata.num_row_groups()
    }

    /// Rows of a row group; 0 beyond the last.
    pub(super) fn rows(&self, group: usize) -> usize {
        self.metadata.row_groups().get(group).map_or(0, |group| group.num_rows() as usize)
    }

    /// Stored bytes of a row group's columns.
    pub(super) fn compressed_bytes(&self, group: usize) -> u64 {
        self.metadata.row_groups().get(group).map_or(0, stored_bytes)
    }

    pub(super) fn slots(&self) -> &[DedicatedSlot] {
        &self.slots
    }

    pub(super) fn leaf(&self, column: Column) -> Option<&FileLeaf> {
        self.leaves.get(&column)
    }

    fn chunk(&self, group: usize, leaf: &FileLeaf) -> Result<&ColumnChunkMetaData, BlockReadError> {
        let group = self.metadata.row_groups().get(group).ok_or(BlockReadError::Layout("row group beyond the last"))?;
        Ok(group.column(leaf.index))
    }

    pub(super) fn shape(&self, group: usize, leaf: &FileLeaf, verify: bool) -> Result<LeafShape, BlockReadError> {
        let codec = match self.chunk(group, leaf)?.compression() {
            Compression::UNCOMPRESSED => Codec::Uncompressed,
            Compression::SNAPPY => Codec::Snappy,
            Compression::GZIP(_) => Codec::Gzip,
            Compression::ZSTD(_) => Codec::Zstd,
            Compression::LZO => Codec::Unsupported("compression LZO"),
            Compression::BROTLI(_) => Codec::Unsupported("compression BROTLI"),
            Compression::LZ4 => Codec::Unsupported("compression LZ4"),
            Compression::LZ4_RAW => Codec::Unsupported("compression LZ4_RAW"),
        };
        // Pages that hold more than the footer says are as wrong as those beyond the limit.
        let max_entries = self.entries(group, leaf)?.min(MAX_CHUNK_ENTRIES);
        Ok(LeafShape { max_repetition: leaf.max_repetition, max_definition: leaf.max_definition, codec, verify, max_entries })
    }

    /// Bytes of a chunk's pages before compression, as the footer says.
    pub(super) fn uncompressed_bytes(&self, group: usize, leaf: &FileLeaf) -> Result<u64, BlockReadError> {
        u64::try_from(self.chunk(group, leaf)?.uncompressed_size()).map_err(|_| BlockReadError::Layout("negative size of a column chunk"))
    }

    /// The columns as the file has them.
    pub(super) fn schema(&self) -> &SchemaDescriptor {
        self.metadata.file_metadata().schema_descr()
    }

    /// Level entries of a chunk, as the footer says.
    pub(super) fn entries(&self, group: usize, leaf: &FileLeaf) -> Result<usize, BlockReadError> {
        usize::try_from(self.chunk(group, leaf)?.num_values()).map_err(|_| BlockReadError::Layout("negative number of values"))
    }

    /// All bytes of a chunk.
    pub(super) fn chunk_range(&self, group: usize, leaf: &FileLeaf) -> Result<Range<u64>, BlockReadError> {
        let chunk = self.chunk(group, leaf)?;
        // Some writers say 0 where there is no dictionary.
        let start =
            chunk.dictionary_page_offset().filter(|&offset| offset > 0).unwrap_or(chunk.data_page_offset()).min(chunk.data_page_offset());
        self.checked_range(start, chunk.compressed_size())
    }

    /// The bytes of a chunk before its first data page; `None` when there is no dictionary.
    pub(super) fn dictionary_range(&self, group: usize, leaf: &FileLeaf) -> Result<Option<Range<u64>>, BlockReadError> {
        let chunk = self.chunk(group, leaf)?;
        let Some(start) = chunk.dictionary_page_offset().filter(|&offset| offset > 0 && offset < chunk.data_page_offset()) else {
            return Ok(None);
        };
        self.checked_range(start, chunk.data_page_offset().saturating_sub(start)).map(Some)
    }

    fn checked_range(&self, start: i64, length: i64) -> Result<Range<u64>, BlockReadError> {
        let range =
            u64::try_from(start).ok().zip(u64::try_from(length).ok()).and_then(|(start, length)| Some(start..start.checked_add(length)?));
        range.filter(|range| range.end <= self.size_bytes).ok_or(BlockReadError::Layout("a column chunk lies outside the file"))
    }

    /// Whether all values of a string chunk are in its dictionary. `false` when the footer does not tell.
    pub(super) fn is_all_dictionary(&self, group: usize, leaf: &FileLeaf) -> Result<bool, BlockReadError> {
        let chunk = self.chunk(group, leaf)?;
        Ok(match chunk.page_encoding_stats_mask() {
            Some(data_pages) => data_pages.is_only(Encoding::RLE_DICTIONARY) || data_pages.is_only(Encoding::PLAIN_DICTIONARY),
            None => chunk.num_values() == 0,
        })
    }

    /// Smallest and largest value of an integer chunk, in the order of its type. `None` when the footer does not tell.
    pub(super) fn int_bounds(&self, group: usize, leaf: &FileLeaf) -> Result<Option<IntBounds>, BlockReadError> {
        let unsigned = matches!(leaf.value, ValueType::UInt32 | ValueType::UInt64);
        let bounds = match new_style(self.chunk(group, leaf)?) {
            Some(Statistics::Int32(stats)) => stats.min_opt().zip(stats.max_opt()).map(|(&min, &max)| {
                if unsigned { (i128::from(min as u32), i128::from(max as u32)) } else { (i128::from(min), i128::from(max)) }
            }),
            Some(Statistics::Int64(stats)) => stats.min_opt().zip(stats.max_opt()).map(|(&min, &max)| {
                if unsigned { (i128::from(min as u64), i128::from(max as u64)) } else { (i128::from(min), i128::from(max)) }
            }),
            _ => None,
        };
        Ok(bounds.filter(|(min, max)| min <= max).map(|(min, max)| IntBounds { min, max }))
    }

    /// Whether a chunk certainly holds no value at all.
    pub(super) fn is_all_null(&self, group: usize, leaf: &FileLeaf) -> Result<bool, BlockReadError> {
        let chunk = self.chunk(group, leaf)?;
        let nulls = chunk.statistics().and_then(Statistics::null_count_opt);
        Ok(chunk.num_values() == 0 || nulls.is_some_and(|nulls| u64::try_from(chunk.num_values()) == Ok(nulls)))
    }

    /// Whether values of generic attributes of `level` may be inside encoded messages, where neither dictionaries nor statistics tell of them.
    pub(super) fn has_encoded_values(&self, group: usize, level: Level) -> Result<bool, BlockReadError> {
        if level == Level::Link && self.leaf(Column::SpanLinks).is_some() {
            return Ok(true);
        }
        let parts = [AttrPart::ValueArray, AttrPart::ValueMessage];
        for leaf in parts.into_iter().filter_map(|part| self.leaf(Column::Attr(level, part))) {
            if !self.is_all_null(group, leaf)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Largest value of a boolean chunk is `false`, and the footer says so.
    pub(super) fn is_all_false(&self, group: usize, leaf: &FileLeaf) -> Result<bool, BlockReadError> {
        Ok(match new_style(self.chunk(group, leaf)?) {
            Some(Statistics::Boolean(stats)) => stats.max_opt() == Some(&false),
            _ => false,
        })
    }

    /// The bytes of the offset indexes of a row group; empty when it has none.
    pub(super) fn offset_index_range(&self, group: usize) -> Result<Range<u64>, BlockReadError> {
        let group = self.metadata.row_groups().get(group).ok_or(BlockReadError::Layout("row group beyond the last"))?;
        let ranges = group.columns().iter().filter_map(|chunk| chunk.offset_index_offset().zip(chunk.offset_index_length()));
        self.joined(ranges)
    }

    /// Parses what lies in [`Self::offset_index_range`] and [`Self::trace_id_index_range`].
    pub(super) fn parse_group_index(
        &self,
        group: usize,
        offsets: (u64, Bytes),
        trace_ids: (u64, Bytes),
    ) -> Result<GroupIndex, BlockReadError> {
        Ok(GroupIndex { pages: self.parse_offset_index(group, offsets)?, trace_id_bounds: self.parse_trace_id_index(group, trace_ids)? })
    }

    fn parse_offset_index(&self, group: usize, bytes: (u64, Bytes)) -> Result<Vec<Option<PageLocations>>, BlockReadError> {
        let mask = ColumnChunkMask::row_groups([group]);
        let index =
            self.page_index(bytes, |decoder| decoder.with_offset_index_policy(PageIndexPolicy::Optional).with_offset_index_mask(mask))?;
        let columns = self.metadata.file_metadata().schema_descr().num_columns();
        let mut pages = Vec::with_capacity(columns);
        for leaf in 0..columns {
            let Some(offsets) = index.as_ref().and_then(|index| index.offset_index(group, leaf)) else {
                pages.push(None);
                continue;
            };
            let mut locations = PageLocations::default();
            for page in offsets.page_locations() {
                let range = self.checked_range(page.offset, i64::from(page.compressed_page_size))?;
                let row = usize::try_from(page.first_row_index).ok().filter(|row| *row <= self.rows(group));
                let row = row.ok_or(BlockReadError::Layout("a row of an offset index is not in its row group"))?;
                locations.pages.push((range, row));
            }
            if !locations.pages.is_sorted_by_key(|(_, row)| row) {
                return Err(BlockReadError::Layout("rows of an offset index are not ascending"));
            }
            pages.push(Some(locations));
        }
        Ok(pages)
    }

    /// The bytes of the column index of the trace ids of a row group; empty when it has none.
    pub(super) fn trace_id_index_range(&self, group: usize) -> Result<Range<u64>, BlockReadError> {
        let Some(leaf) = self.leaf(Column::TraceId) else { return Ok(0..0) };
        let chunk = self.chunk(group, leaf)?;
        self.joined(chunk.column_index_offset().zip(chunk.column_index_length()).into_iter())
    }

    fn parse_trace_id_index(&self, group: usize, bytes: (u64, Bytes)) -> Result<Option<Vec<IdBounds>>, BlockReadError> {
        let Some(leaf) = self.leaf(Column::TraceId) else { return Ok(None) };
        let mask = ColumnChunkMask::row_groups_and_columns([group], [leaf.index]);
        let index =
            self.page_index(bytes, |decoder| decoder.with_column_index_policy(PageIndexPolicy::Optional).with_column_index_mask(mask))?;
        let Some(ColumnIndexMetaData::BYTE_ARRAY(bounds)) = index.as_ref().and_then(|index| index.column_index(group, leaf.index)) else {
            return Ok(None);
        };
        let pages = bounds.min_values_iter().zip(bounds.max_values_iter());
        // A page without bounds cannot be left out.
        Ok(pages.map(|(min, max)| Some((min?.to_vec(), max?.to_vec()))).collect())
    }

    /// Whether the statistics of a row group allow it to hold `id`.
    pub(super) fn may_hold_trace(&self, group: usize, id: TraceId) -> Result<bool, BlockReadError> {
        let Some(leaf) = self.leaf(Column::TraceId) else { return Ok(true) };
        let Some(statistics) = new_style(self.chunk(group, leaf)?) else { return Ok(true) };
        let is_above = statistics.min_bytes_opt().is_none_or(|min| min <= &id.0[..]);
        Ok(is_above && statistics.max_bytes_opt().is_none_or(|max| &id.0[..] <= max))
    }

    /// The smallest range over all of `ranges` (offset and length).
    fn joined(&self, ranges: impl Iterator<Item = (i64, i32)>) -> Result<Range<u64>, BlockReadError> {
        let mut joined: Option<Range<u64>> = None;
        for (offset, length) in ranges {
            let range = self.checked_range(offset, i64::from(length))?;
            joined = Some(match joined {
                Some(joined) => joined.start.min(range.start)..joined.end.max(range.end),
                None => range,
            });
        }
        Ok(joined.unwrap_or(0..0))
    }

    fn page_index(
        &self,
        (start, bytes): (u64, Bytes),
        choose: impl FnOnce(ParquetMetaDataPushDecoder) -> ParquetMetaDataPushDecoder,
    ) -> Result<Option<Arc<dyn PageIndexProvider>>, BlockReadError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let decoded = contain_panics(|| {
            let decoder = ParquetMetaDataPushDecoder::try_new_with_metadata(self.size_bytes, self.metadata.clone())?;
            let mut decoder = choose(decoder.with_page_index_policy(PageIndexPolicy::Skip));
            decoder.push_range(start..start + bytes.len() as u64, bytes)?;
            decoder.try_decode_page_index()
        });
        match decoded.map_err(BlockReadError::Footer)? {
            DecodeResult::Data((_, index)) => Ok(index.map(|index| Arc::new(index) as Arc<dyn PageIndexProvider>)),
            DecodeResult::NeedsData(_) | DecodeResult::Finished => Err(BlockReadError::Layout("page index lies outside its range")),
        }
    }
}

/// Bytes of a row group's columns, as the footer says.
fn stored_bytes(group: &RowGroupMetaData) -> u64 {
    let of_chunk = |chunk: &ColumnChunkMetaData| u64::try_from(chunk.compressed_size()).unwrap_or(0);
    group.columns().iter().map(of_chunk).fold(0, u64::saturating_add)
}

/// Whether a row group says that it has more values than its bytes can hold. What decoding allocates is in proportion to that number.
fn claims_too_much(group: &RowGroupMetaData, size_bytes: u64) -> bool {
    let of_chunk = |chunk: &ColumnChunkMetaData| u64::try_from(chunk.num_values()).unwrap_or(0);
    let rows = u64::try_from(group.num_rows()).unwrap_or(0);
    let values = group.columns().iter().map(of_chunk).fold(rows, u64::saturating_add);
    let bytes = stored_bytes(group).min(size_bytes);
    values > bytes.saturating_mul(MAX_VALUES_PER_BYTE).max(FREE_VALUES)
}

/// Statistics whose bounds are in the order of the column's type.
fn new_style(chunk: &ColumnChunkMetaData) -> Option<&Statistics> {
    chunk.statistics().filter(|statistics| !statistics.is_min_max_deprecated())
}

/// Inclusive bounds of the values of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntBounds {
    pub min: i128,
    pub max: i128,
}

/// The crate's footer parser is not ours to harden: a panic on broken bytes becomes an error of the block.
fn contain_panics<T>(parse: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(parse))
        .unwrap_or_else(|_| Err(ParquetError::General("the footer parser panicked".to_owned())))
}
