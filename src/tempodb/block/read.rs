//! A block opened for reading: traces by id, row groups by projection, and cheap tests of what a row group may hold.
//!
//! Fetching is asynchronous, decoding is not: [`BlockReader::fetch_row_group`] returns bytes whose [`FetchedRowGroup::decode`] belongs on
//! the CPU pool; [`BlockReader::read_row_group`] does both in place.
//!
//! Not here: what a query is, merging of pieces, which blocks to open.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use object_store::path::Path;
use tokio::sync::OnceCell;

use super::assemble::{self, Assembler, Fetched, LeafPages};
use super::attrs;
use super::bloom::{self, BloomShard};
use super::decode::chunk::Pages;
use super::decode::strings::Dictionary;
use super::derive::Derived;
use super::dictionary_cache::DictionaryCache;
use super::error::BlockReadError;
use super::file::{BlockFile, FileLeaf, GroupIndex, TAIL_BYTES};
use super::index::RowGroupIndex;
use super::meta::{BlockMeta, is_preview};
use super::objects::BlockObjects;
use super::projection::Projection;
use super::schema::{Column, Level};
use super::selection::RowSelection;
use super::validate;
use crate::model::ids::{TenantId, TraceId};
use crate::model::span_table::SpanTable;
use crate::tempodb::backend::{Backend, ReadCost};
use crate::tempodb::cache::{BlockCaches, CacheRole};

/// Footers beyond this are refused: they have some 150 bytes a column and row group.
const MAX_FOOTER_BYTES: u64 = 64 << 20;

/// Adds up what reads cost, over any number of calls and readers.
#[derive(Debug, Default)]
pub struct ReadMeter {
    requests: AtomicU64,
    bytes: AtomicU64,
    cached_bytes: AtomicU64,
}

impl ReadMeter {
    pub fn add(&self, cost: ReadCost) {
        self.requests.fetch_add(cost.requests, Ordering::Relaxed);
        self.bytes.fetch_add(cost.bytes, Ordering::Relaxed);
    }

    /// Adds bytes of `data.parquet` that a cache had.
    pub fn add_cached(&self, bytes: u64) {
        self.cached_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Requests sent to object storage, and bytes of `data.parquet` that they brought.
    pub fn cost(&self) -> ReadCost {
        ReadCost { requests: self.requests.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }

    /// Bytes of `data.parquet` that were looked at, wherever they came from.
    pub fn inspected_bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed) + self.cached_bytes.load(Ordering::Relaxed)
    }
}

/// How blocks are read.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// Compare every page that is read with its checksum. Costs about 1 ms for 10 MB.
    pub verify_checksums: bool,
    /// Shared by all readers.
    pub dictionaries: Arc<DictionaryCache>,
    pub caches: Arc<BlockCaches>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { verify_checksums: true, dictionaries: Arc::new(DictionaryCache::new(0)), caches: Arc::default() }
    }
}

/// An open block: its footer, and page indexes as they are needed.
#[derive(Debug)]
pub struct BlockReader {
    objects: BlockObjects,
    meta: Arc<BlockMeta>,
    file: Arc<BlockFile>,
    options: ReadOptions,
    group_indexes: Vec<OnceCell<GroupIndex>>,
    /// `None` inside: the block has no index object.
    index: OnceCell<Option<RowGroupIndex>>,
}

impl BlockReader {
    /// Reads the footer: one request when the meta knows its size. A block of a preview version opens as an empty one.
    pub async fn open(
        backend: &Backend,
        tenant: &TenantId,
        meta: Arc<BlockMeta>,
        options: ReadOptions,
        meter: &ReadMeter,
    ) -> Result<Self, BlockReadError> {
        let objects = BlockObjects::new(backend, Arc::clone(&options.caches), tenant, meta.block_id);
        Self::open_objects(objects, meta, options, meter).await
    }

    /// Opens a data file that stands elsewhere than a block's, such as a file of the write-ahead log. Its name is not part of any cache's
    /// keys, so `options` must be without caches.
    pub async fn open_at(
        backend: &Backend,
        tenant: &TenantId,
        meta: Arc<BlockMeta>,
        data: Path,
        options: ReadOptions,
        meter: &ReadMeter,
    ) -> Result<Self, BlockReadError> {
        let objects = BlockObjects::new(backend, Arc::clone(&options.caches), tenant, meta.block_id).with_data(data);
        Self::open_objects(objects, meta, options, meter).await
    }

    async fn open_objects(
        objects: BlockObjects,
        meta: Arc<BlockMeta>,
        options: ReadOptions,
        meter: &ReadMeter,
    ) -> Result<Self, BlockReadError> {
        if is_preview(&meta.format) {
            return Ok(Self::of_file(objects, meta, BlockFile::empty(), options));
        }
        let version = meta.version()?;
        let size = if meta.size_bytes == 0 { objects.data_size().await? } else { meta.size_bytes };
        let behind = size.checked_sub(TAIL_BYTES).ok_or(BlockReadError::Layout("the file is shorter than a footer"))?;
        let mut footer_size = u64::from(meta.footer_size_bytes);
        if footer_size == 0 {
            let tail = read_footer(&objects, behind..size, meter).await?;
            let (length, magic) = tail.split_at_checked(4).ok_or(BlockReadError::Layout("the file is shorter than a footer"))?;
            if magic != b"PAR1" {
                return Err(BlockReadError::Layout("the file does not end like a Parquet file"));
            }
            footer_size = length.iter().rev().fold(0, |length, &byte| length << 8 | u64::from(byte));
        }
        let start = behind.checked_sub(footer_size).filter(|_| footer_size <= MAX_FOOTER_BYTES);
        let start = start.ok_or(BlockReadError::Layout("the footer does not fit into the file"))?;
        let footer = read_footer(&objects, start..behind, meter).await?;
        let file = BlockFile::parse(&footer, size, version, &meta.dedicated_columns)?;
        Ok(Self::of_file(objects, meta, file, options))
    }

    fn of_file(objects: BlockObjects, meta: Arc<BlockMeta>, file: BlockFile, options: ReadOptions) -> Self {
        let group_indexes = (0..file.row_groups()).map(|_| OnceCell::new()).collect();
        Self { objects, meta, file: Arc::new(file), options, group_indexes, index: OnceCell::new() }
    }

    pub fn meta(&self) -> &Arc<BlockMeta> {
        &self.meta
    }

    pub fn row_groups(&self) -> usize {
        self.file.row_groups()
    }

    /// Traces in a row group.
    pub fn rows(&self, group: usize) -> usize {
        self.file.rows(group)
    }

    /// Stored bytes of a row group, all columns.
    pub fn row_group_bytes(&self, group: usize) -> u64 {
        self.file.compressed_bytes(group)
    }

    /// Returns the spans of a trace; `None` when the block does not hold it. `inspectedBytes` do not count bloom and index objects.
    pub async fn find_trace(&self, id: TraceId, meter: &ReadMeter) -> Result<Option<SpanTable>, BlockReadError> {
        if !may_contain(&self.objects, &self.meta, id).await? {
            return Ok(None);
        }
        match self.fetch_trace(id, meter).await? {
            Some(fetched) => fetched.decode().map(Some),
            None => Ok(None),
        }
    }

    /// Finds the row of a trace and fetches its pages. Does not ask the bloom filter: that is done before a block is opened.
    pub async fn fetch_trace(&self, id: TraceId, meter: &ReadMeter) -> Result<Option<FetchedRowGroup>, BlockReadError> {
        let Some((group, row)) = self.locate_trace(id, meter).await? else { return Ok(None) };
        self.fetch_row_group(group, &Projection::all(), Some(&RowSelection::from_range(row..row + 1)), meter).await.map(Some)
    }

    /// Fetches the trace ids of a row group.
    pub async fn fetch_trace_ids(&self, group: usize, meter: &ReadMeter) -> Result<FetchedTraceIds, BlockReadError> {
        self.fetch(group, &[Column::TraceId], None, meter).await.map(FetchedTraceIds)
    }

    /// Returns row group and row of a trace.
    pub async fn locate_trace(&self, id: TraceId, meter: &ReadMeter) -> Result<Option<(usize, usize)>, BlockReadError> {
        if self.row_groups() == 0 {
            return Ok(None);
        }
        let candidates = match self.index().await? {
            // An index that does not fit the file is not trusted.
            Some(index) if index.last_ids.len() == self.row_groups() => match index.row_group_of(id) {
                Some(group) => group..group + 1,
                None => return Ok(None),
            },
            _ => 0..self.row_groups(),
        };
        for group in candidates {
            if self.file.may_hold_trace(group, id)?
                && let Some(row) = self.find_row(group, id, meter).await?
            {
                return Ok(Some((group, row)));
            }
        }
        Ok(None)
    }

    async fn index(&self) -> Result<Option<&RowGroupIndex>, BlockReadError> {
        let index = self.index.get_or_try_init(async || match self.objects.index().await {
            Ok(bytes) => RowGroupIndex::from_json(&bytes).map(Some).map_err(BlockReadError::CorruptIndex),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        });
        Ok(index.await?.as_ref())
    }

    /// Returns the row of `id`, reading only the pages of trace ids that may hold it.
    async fn find_row(&self, group: usize, id: TraceId, meter: &ReadMeter) -> Result<Option<usize>, BlockReadError> {
        let leaf = self.file.leaf(Column::TraceId).ok_or(BlockReadError::Layout("no column with trace ids"))?;
        let index = self.group_index(group, meter).await?;
        let (first_rows, selection) = match index.pages(leaf.index) {
            Some(locations) => {
                let ends = locations.pages.iter().skip(1).map(|(_, row)| *row).chain([self.rows(group)]);
                let pages = locations.pages.iter().zip(ends).enumerate();
                let kept = pages.filter(|(page, _)| index.may_hold(*page, id)).map(|(_, ((_, start), end))| *start..end);
                let rows: Vec<usize> = kept.flatten().collect();
                let selection = RowSelection::from_rows(rows.iter().copied());
                (rows, selection)
            }
            None => ((0..self.rows(group)).collect(), RowSelection::from_range(0..self.rows(group))),
        };
        if selection.is_empty() {
            return Ok(None);
        }
        let fetched = self.fetch(group, &[Column::TraceId], Some(&selection), meter).await?;
        let ids = Assembler::new(&fetched).trace_ids()?;
        Ok(ids.iter().position(|found| *found == id).and_then(|at| first_rows.get(at).copied()))
    }

    pub(super) async fn group_index(&self, group: usize, meter: &ReadMeter) -> Result<&GroupIndex, BlockReadError> {
        let cell = self.group_indexes.get(group).ok_or(BlockReadError::Layout("row group beyond the last"))?;
        cell.get_or_try_init(async || self.load_group_index(group, meter).await).await
    }

    /// Reads the page indexes of a row group without keeping them.
    pub(super) async fn load_group_index(&self, group: usize, meter: &ReadMeter) -> Result<GroupIndex, BlockReadError> {
        let (offsets, trace_ids) = (self.file.offset_index_range(group)?, self.file.trace_id_index_range(group)?);
        let starts = (offsets.start, trace_ids.start);
        let wanted = [(CacheRole::ParquetOffsetIndex, offsets), (CacheRole::ParquetColumnIndex, trace_ids)];
        let buffers = self.objects.ranges(&wanted, meter).await?;
        let [offsets, trace_ids] = <[Bytes; 2]>::try_from(buffers).map_err(|_| BlockReadError::Layout("page index"))?;
        self.file.parse_group_index(group, (starts.0, offsets), (starts.1, trace_ids))
    }

    /// Fetches and decodes columns of a row group, in place. An index beyond the last row group gives an empty table.
    pub async fn read_row_group(
        &self,
        group: usize,
        projection: &Projection,
        rows: Option<&RowSelection>,
        meter: &ReadMeter,
    ) -> Result<SpanTable, BlockReadError> {
        if group >= self.row_groups() {
            return Ok(SpanTable::default());
        }
        self.fetch_row_group(group, projection, rows, meter).await?.decode()
    }

    /// Fetches what decoding `projection` needs; with `rows` only the pages that touch them.
    pub async fn fetch_row_group(
        &self,
        group: usize,
        projection: &Projection,
        rows: Option<&RowSelection>,
        meter: &ReadMeter,
    ) -> Result<FetchedRowGroup, BlockReadError> {
        let fetched = self.fetch(group, &self.columns_of(projection), rows, meter).await?;
        Ok(FetchedRowGroup { fetched, projection: projection.clone(), meta: Arc::clone(&self.meta), options: self.options.clone() })
    }

    /// Fetches columns of spans ([`Projection::is_of_spans`]) without what tells which trace a span is of.
    pub async fn fetch_spans(&self, group: usize, projection: &Projection, meter: &ReadMeter) -> Result<FetchedSpans, BlockReadError> {
        let fetched = self.fetch(group, &self.columns_below_skeleton(projection), None, meter).await?;
        Ok(FetchedSpans(FetchedRowGroup {
            fetched,
            projection: projection.clone(),
            meta: Arc::clone(&self.meta),
            options: self.options.clone(),
        }))
    }

    /// Fetches what of `wanted` is not in a table of the same rows that was decoded with `known`.
    pub async fn fetch_rest(
        &self,
        group: usize,
        wanted: &Projection,
        known: &Projection,
        rows: Option<&RowSelection>,
        meter: &ReadMeter,
    ) -> Result<FetchedRest, BlockReadError> {
        if Derived::of(wanted, &self.file) != Derived::default() {
            return Ok(FetchedRest::Everything(self.fetch_row_group(group, wanted, rows, meter).await?));
        }
        let projection = wanted.without(known);
        let fetched = self.fetch(group, &self.columns_below_skeleton(&projection), rows, meter).await?;
        Ok(FetchedRest::Rest(FetchedRowGroup { fetched, projection, meta: Arc::clone(&self.meta), options: self.options.clone() }))
    }

    /// Returns the columns that decoding `projection` takes.
    pub(super) fn columns_of(&self, projection: &Projection) -> Vec<Column> {
        let mut columns = assemble::skeleton_columns(&self.file);
        columns.extend(self.columns_below_skeleton(projection));
        columns
    }

    fn columns_below_skeleton(&self, projection: &Projection) -> Vec<Column> {
        let mut columns = assemble::columns_of(projection, &self.file);
        for (level, selection) in [
            (Level::Resource, &projection.resources.attrs),
            (Level::Scope, &projection.scopes.attrs),
            (Level::Span, &projection.spans.attrs),
            (Level::Event, &projection.events.attrs),
            (Level::Link, &projection.links.attrs),
        ] {
            columns.extend(attrs::columns_of(level, selection, &self.file));
        }
        columns
    }

    /// Returns what is wrong with the columns of the file, in words: other readers address them by position.
    pub fn column_problem(&self) -> Option<String> {
        validate::column_problem(self.file.schema(), &self.meta)
    }

    /// Fetches the pages of `columns`; those that the file lacks are left out.
    pub(super) async fn fetch(
        &self,
        group: usize,
        columns: &[Column],
        rows: Option<&RowSelection>,
        meter: &ReadMeter,
    ) -> Result<Fetched, BlockReadError> {
        let index = match rows {
            Some(_) => Some(self.group_index(group, meter).await?),
            None => None,
        };
        let mut fetched = Fetched {
            file: Arc::clone(&self.file),
            group,
            rows: rows.cloned(),
            pages: HashMap::default(),
            dictionaries: HashMap::default(),
            verify: self.options.verify_checksums,
        };
        let mut ranges = Vec::new();
        // Leaf, first row, and whether the chunk is whole, of each range.
        let mut owners: Vec<(usize, Option<usize>, bool)> = Vec::new();
        for leaf in columns.iter().filter_map(|&column| self.file.leaf(column)) {
            if fetched.pages.contains_key(&leaf.index) {
                continue;
            }
            let cached = self.options.dictionaries.get((self.meta.block_id, group, leaf.index));
            let locations = index.and_then(|index| index.pages(leaf.index));
            match (rows, locations) {
                (Some(rows), Some(locations)) => {
                    if let (None, Some(range)) = (&cached, self.file.dictionary_range(group, leaf)?) {
                        ranges.push(range);
                        owners.push((leaf.index, None, false));
                    }
                    let ends = locations.pages.iter().skip(1).map(|(_, row)| *row).chain([self.rows(group)]);
                    for ((range, start), end) in locations.pages.iter().zip(ends).filter(|((_, start), end)| rows.touches(*start, *end)) {
                        debug_assert!(*start <= end, "checked when the index was parsed");
                        ranges.push(range.clone());
                        owners.push((leaf.index, Some(*start), false));
                    }
                }
                _ => {
                    ranges.push(self.file.chunk_range(group, leaf)?);
                    owners.push((leaf.index, None, true));
                }
            }
            fetched.pages.insert(leaf.index, LeafPages { pages: Vec::new(), is_whole: false });
            if let Some(dictionary) = cached {
                fetched.dictionaries.insert(leaf.index, dictionary);
            }
        }
        let buffers = self.read(ranges, meter).await?;
        for ((leaf, first_row, is_whole), bytes) in owners.into_iter().zip(buffers) {
            if let Some(pages) = fetched.pages.get_mut(&leaf) {
                pages.pages.push(Pages { first_row, is_wanted_whole: false, bytes });
                pages.is_whole = is_whole;
            }
        }
        Ok(fetched)
    }

    pub(super) fn file(&self) -> &Arc<BlockFile> {
        &self.file
    }

    pub(super) fn options(&self) -> &ReadOptions {
        &self.options
    }

    /// Reads dictionaries, pages and chunks of `data.parquet`.
    pub(super) async fn read(&self, ranges: Vec<Range<u64>>, meter: &ReadMeter) -> Result<Vec<Bytes>, BlockReadError> {
        let wanted: Vec<_> = ranges.into_iter().map(|range| (CacheRole::ParquetPage, range)).collect();
        Ok(self.objects.ranges(&wanted, meter).await?)
    }

    pub(super) fn has_cached_dictionary(&self, group: usize, leaf: &FileLeaf) -> bool {
        self.cached_dictionary(group, leaf).is_some()
    }

    pub(super) fn cached_dictionary(&self, group: usize, leaf: &FileLeaf) -> Option<Arc<Dictionary>> {
        self.options.dictionaries.get((self.meta.block_id, group, leaf.index))
    }
}

/// Whether a block may hold a trace, by its bloom filter; `false` is certain. Reads nothing else of the block.
pub async fn bloom_may_contain(
    backend: &Backend,
    tenant: &TenantId,
    meta: &BlockMeta,
    id: TraceId,
    options: &ReadOptions,
) -> Result<bool, BlockReadError> {
    let objects = BlockObjects::new(backend, Arc::clone(&options.caches), tenant, meta.block_id);
    may_contain(&objects, meta, id).await
}

async fn may_contain(objects: &BlockObjects, meta: &BlockMeta, id: TraceId) -> Result<bool, BlockReadError> {
    let shard = bloom::shard_of(id, meta.bloom_shards);
    let bytes = objects.bloom(meta, shard).await.map_err(|cause| BlockReadError::Bloom { shard, cause })?;
    let bloom = BloomShard::decode(&bytes).map_err(|cause| BlockReadError::CorruptBloom { shard, cause })?;
    Ok(bloom.may_contain(id))
}

async fn read_footer(objects: &BlockObjects, range: Range<u64>, meter: &ReadMeter) -> Result<Bytes, BlockReadError> {
    let buffers = objects.ranges(&[(CacheRole::ParquetFooter, range)], meter).await?;
    Ok(buffers.into_iter().next().unwrap_or_default())
}

/// Bytes of chosen columns of a row group, ready to decode.
#[derive(Debug)]
pub struct FetchedRowGroup {
    fetched: Fetched,
    projection: Projection,
    meta: Arc<BlockMeta>,
    options: ReadOptions,
}

impl FetchedRowGroup {
    /// Decodes what was asked for. CPU-bound: about half a microsecond a span for all columns.
    pub fn decode(&self) -> Result<SpanTable, BlockReadError> {
        self.assemble(|assembler| assembler.assemble(&self.projection))
    }

    fn assemble(
        &self,
        assemble: impl FnOnce(&mut Assembler<'_>) -> Result<SpanTable, BlockReadError>,
    ) -> Result<SpanTable, BlockReadError> {
        let mut assembler = Assembler::new(&self.fetched);
        let table = assemble(&mut assembler);
        for (leaf, dictionary) in &assembler.decoded {
            self.options.dictionaries.put((self.meta.block_id, self.fetched.group, *leaf), dictionary);
        }
        table
    }
}

/// Bytes of columns of spans.
#[derive(Debug)]
pub struct FetchedSpans(FetchedRowGroup);

impl FetchedSpans {
    /// Returns all spans in one trace, whose id is zero. CPU-bound.
    pub fn decode(&self) -> Result<SpanTable, BlockReadError> {
        self.0.assemble(|assembler| assembler.assemble_spans_alone(&self.0.projection))
    }
}

/// Bytes of what completes a table.
#[derive(Debug)]
pub enum FetchedRest {
    Rest(FetchedRowGroup),
    /// Columns that the file lacks are derived from others, so that all is decoded again.
    Everything(FetchedRowGroup),
}

impl FetchedRest {
    /// Returns `known`, which has the rows that were named, with all that was wanted. CPU-bound.
    pub fn decode(&self, known: SpanTable) -> Result<SpanTable, BlockReadError> {
        match self {
            Self::Rest(fetched) => fetched.assemble(|assembler| assembler.assemble_rest(&fetched.projection, known)),
            Self::Everything(fetched) => fetched.decode(),
        }
    }
}

/// Bytes of the trace ids of a row group.
#[derive(Debug)]
pub struct FetchedTraceIds(Fetched);

impl FetchedTraceIds {
    /// Returns one id per trace, in order.
    pub fn decode(&self) -> Result<Vec<TraceId>, BlockReadError> {
        let ids = Assembler::new(&self.0).trace_ids()?;
        if ids.len() != self.0.file.rows(self.0.group) {
            return Err(BlockReadError::Layout("a row group has another number of trace ids than of traces"));
        }
        Ok(ids)
    }
}
