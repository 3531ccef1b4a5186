//! Reads a block from its first row to its last, in slices of whole rows that fit a given memory.
//!
//! Every page is fetched once and every dictionary decoded once. Small row groups come with one request; of large ones as many pages of every
//! column are held as the bound allows. How much memory rows will take is estimated from the footer: entries of each column, spread over its
//! pages by their stored size.
//!
//! Not here: what is done with the rows; decoding them is CPU work of the caller's ([`SliceBytes::decode`]).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::assemble::{Assembler, Fetched, LeafPages};
use super::decode::chunk::Pages;
use super::decode::strings::Dictionary;
use super::error::BlockReadError;
use super::file::FileLeaf;
use super::projection::Projection;
use super::read::{BlockReader, ReadMeter};
use super::schema::{AttrPart, Column, ValueType};
use super::selection::RowSelection;
use crate::model::ids::TraceId;
use crate::model::span_table::SpanTable;

/// Bytes of an attribute in memory: key and value.
const ATTRIBUTE_BYTES: f64 = 20.0;
/// What a dictionary takes decoded, against its stored bytes.
const DICTIONARY_EXPANSION: f64 = 3.0;
/// A page kept back for the next slices is copied when it is smaller, so that it does not hold the buffer it came with.
const COPIED_PAGE_BYTES: usize = 1 << 20;

/// Memory of a scan.
#[derive(Debug, Clone, Copy)]
pub struct ScanLimits {
    /// Stored bytes held.
    pub fetch_bytes: u64,
    /// Estimated bytes of a decoded slice; one row may exceed it.
    pub slice_bytes: u64,
}

/// A position in a block. Use it from one task.
pub struct RowScan {
    reader: Arc<BlockReader>,
    projection: Arc<Projection>,
    columns: Vec<Column>,
    limits: ScanLimits,
    next_group: usize,
    group: Option<Group>,
}

/// A row group that is being read.
struct Group {
    number: usize,
    rows: usize,
    /// First row not handed out.
    row: usize,
    /// The pages of all rows before it are fetched.
    fetched_to: usize,
    stored_bytes: u64,
    leaves: Vec<GroupLeaf>,
}

struct GroupLeaf {
    position: usize,
    dictionary_range: Option<Range<u64>>,
    dictionary: Option<Arc<Dictionary>>,
    dictionary_bytes: Option<Bytes>,
    chunk: Range<u64>,
    /// Byte range and first row of each page; `None`: the file does not tell, the chunk is taken whole.
    pages: Option<Vec<(Range<u64>, usize)>>,
    whole: Option<Bytes>,
    /// Number and bytes of pages that are held, ascending.
    held: VecDeque<(usize, Bytes)>,
    next_page: usize,
    /// Estimated bytes in memory per stored byte of data pages.
    expansion: f64,
}

/// The bytes of some rows, ready to decode.
pub struct SliceBytes {
    fetched: Fetched,
    projection: Arc<Projection>,
    /// Estimate of what the table will take.
    pub estimated_bytes: u64,
    /// Share of the stored bytes of the row group.
    pub stored_bytes: u64,
}

/// The rows of a slice.
pub struct DecodedSlice {
    pub table: SpanTable,
    dictionaries: Vec<(usize, Arc<Dictionary>)>,
}

impl RowScan {
    pub fn new(reader: Arc<BlockReader>, projection: Projection, limits: ScanLimits) -> Self {
        let columns = reader.columns_of(&projection);
        Self { reader, projection: Arc::new(projection), columns, limits, next_group: 0, group: None }
    }

    /// Stored bytes that the scan holds.
    pub fn held_bytes(&self) -> u64 {
        let of_leaf = |leaf: &GroupLeaf| {
            let pages: usize = leaf.held.iter().map(|(_, bytes)| bytes.len()).sum();
            let others = leaf.whole.as_ref().map_or(0, Bytes::len) + leaf.dictionary_bytes.as_ref().map_or(0, Bytes::len);
            pages + others + leaf.dictionary.as_ref().map_or(0, |dictionary| dictionary.memory_bytes())
        };
        self.group.iter().flat_map(|group| &group.leaves).map(|leaf| of_leaf(leaf) as u64).sum()
    }

    /// Fetches the next rows; `None` behind the last. Dictionaries that decoding found should be handed back before ([`Self::keep`]).
    pub async fn fetch_next(&mut self, meter: &ReadMeter) -> Result<Option<SliceBytes>, BlockReadError> {
        loop {
            if let Some(group) = self.group.as_mut().filter(|group| group.row < group.rows) {
                let end = group.slice_end(self.limits.slice_bytes as f64);
                if end > group.fetched_to {
                    group.fetch(&self.reader, end, self.limits.fetch_bytes, meter).await?;
                }
                return Ok(Some(group.take(&self.reader, &self.projection, end)));
            }
            self.group = None;
            if self.next_group >= self.reader.row_groups() {
                return Ok(None);
            }
            self.group = Some(Group::open(&self.reader, self.next_group, &self.columns, meter).await?);
            self.next_group += 1;
        }
    }

    /// Keeps the dictionaries of a decoded slice for the next ones and returns its table.
    pub fn keep(&mut self, slice: DecodedSlice) -> SpanTable {
        if let Some(group) = &mut self.group {
            for (position, dictionary) in slice.dictionaries {
                if let Some(leaf) = group.leaves.iter_mut().find(|leaf| leaf.position == position) {
                    leaf.dictionary = Some(dictionary);
                    leaf.dictionary_bytes = None;
                }
            }
        }
        slice.table
    }
}

impl SliceBytes {
    /// Decodes the rows. CPU-bound: about a microsecond a span.
    pub fn decode(self) -> Result<DecodedSlice, BlockReadError> {
        let mut assembler = Assembler::new(&self.fetched);
        let table = assembler.assemble(&self.projection)?;
        let dictionaries = std::mem::take(&mut assembler.decoded);
        Ok(DecodedSlice { table, dictionaries })
    }
}

impl Group {
    async fn open(reader: &BlockReader, number: usize, columns: &[Column], meter: &ReadMeter) -> Result<Self, BlockReadError> {
        let file = reader.file();
        let index = reader.load_group_index(number, meter).await?;
        let mut leaves: Vec<GroupLeaf> = Vec::with_capacity(columns.len());
        for &column in columns {
            let Some(leaf) = file.leaf(column) else { continue };
            if leaves.iter().any(|known| known.position == leaf.index) {
                continue;
            }
            let chunk = file.chunk_range(number, leaf)?;
            let dictionary_range = file.dictionary_range(number, leaf)?;
            let data_bytes = (chunk.end - chunk.start) - dictionary_range.as_ref().map_or(0, |range| range.end - range.start);
            let mut decoded = file.entries(number, leaf)? as f64 * entry_bytes(column, leaf);
            if leaf.value == ValueType::String {
                let dictionary = dictionary_range.as_ref().map_or(0.0, |range| (range.end - range.start) as f64 * DICTIONARY_EXPANSION);
                decoded += (file.uncompressed_bytes(number, leaf)? as f64 - dictionary).max(0.0);
            }
            let expansion = (decoded / data_bytes.max(1) as f64).max(1.0);
            let pages = index.pages(leaf.index).map(|locations| locations.pages.clone()).filter(|pages| !pages.is_empty());
            leaves.push(GroupLeaf {
                position: leaf.index,
                dictionary_range: dictionary_range.filter(|_| pages.is_some()),
                dictionary: None,
                dictionary_bytes: None,
                chunk,
                pages,
                whole: None,
                held: VecDeque::new(),
                next_page: 0,
                expansion,
            });
        }
        let stored_bytes = leaves.iter().map(|leaf| leaf.chunk.end - leaf.chunk.start).sum();
        Ok(Self { number, rows: file.rows(number), row: 0, fetched_to: 0, stored_bytes, leaves })
    }

    /// Returns the end of the longest run of rows from the current one that is estimated to fit `bytes`; at least one row.
    ///
    /// It ends where pages of the most columns end, if that is not much shorter: every page that goes on is decoded twice.
    fn slice_end(&self, bytes: f64) -> usize {
        let (mut fits, mut too_much) = (self.row + 1, self.rows + 1);
        while too_much - fits > 1 {
            let middle = fits + (too_much - fits) / 2;
            if self.decoded_bytes(middle) <= bytes {
                fits = middle;
            } else {
                too_much = middle;
            }
        }
        if fits == self.rows {
            return fits;
        }
        let least = self.row + (fits - self.row) / 2;
        let mut pages_ending: BTreeMap<usize, usize> = BTreeMap::new();
        for pages in self.leaves.iter().filter_map(|leaf| leaf.pages.as_ref()) {
            let first = pages.partition_point(|(_, first_row)| *first_row <= least);
            for (_, first_row) in pages.iter().skip(first).take_while(|(_, first_row)| *first_row <= fits) {
                *pages_ending.entry(*first_row).or_default() += 1;
            }
        }
        pages_ending.into_iter().max_by_key(|(_, pages)| *pages).map_or(fits, |(row, _)| row)
    }

    /// Estimates what the rows from the current one to `end` take in memory.
    ///
    /// The last row of a page is the one that filled it and may hold most of it, so it counts as the whole page.
    fn decoded_bytes(&self, end: usize) -> f64 {
        let share = |first: usize, last: usize| {
            if end >= last {
                return 1.0;
            }
            (end - self.row.max(first)) as f64 / (last - first).max(1) as f64
        };
        let of_leaf = |leaf: &GroupLeaf| {
            let dictionary = leaf.dictionary_range.as_ref().map_or(0.0, |range| (range.end - range.start) as f64 * DICTIONARY_EXPANSION);
            let Some(pages) = &leaf.pages else {
                return (leaf.chunk.end - leaf.chunk.start) as f64 * leaf.expansion * share(0, self.rows);
            };
            let first = pages.partition_point(|(_, first_row)| *first_row <= self.row).saturating_sub(1);
            let touched = (first..pages.len()).take_while(|page| *page == first || pages[*page].1 < end);
            let data: f64 = touched
                .map(|page| {
                    let (range, first_row) = &pages[page];
                    let last_row = pages.get(page + 1).map_or(self.rows, |(_, row)| *row);
                    (range.end - range.start) as f64 * leaf.expansion * share(*first_row, last_row)
                })
                .sum();
            // Strings that are not needed are not taken over, so a dictionary counts no more than the values.
            data + dictionary.min(data * 2.0)
        };
        self.leaves.iter().map(of_leaf).sum()
    }

    /// Fetches the pages of all rows before `end`, and more up to `limit` stored bytes.
    async fn fetch(&mut self, reader: &BlockReader, end: usize, limit: u64, meter: &ReadMeter) -> Result<(), BlockReadError> {
        let rest = (self.rows - self.row).max(1) as f64;
        let rest_bytes = self.stored_bytes as f64 * rest / self.rows.max(1) as f64;
        let ahead = if rest_bytes <= limit as f64 { rest } else { rest * limit as f64 / rest_bytes };
        let to = end.max((self.row + ahead as usize).min(self.rows));
        let mut ranges = Vec::new();
        // Leaf, and page; `None`: the dictionary, or the chunk as a whole.
        let mut owners: Vec<(usize, Option<usize>)> = Vec::new();
        for (at, leaf) in self.leaves.iter_mut().enumerate() {
            for (_, bytes) in &mut leaf.held {
                if bytes.len() < COPIED_PAGE_BYTES {
                    *bytes = Bytes::copy_from_slice(bytes);
                }
            }
            if let Some(range) = leaf.dictionary_range.clone().filter(|_| leaf.dictionary.is_none() && leaf.dictionary_bytes.is_none()) {
                ranges.push(range);
                owners.push((at, None));
            }
            let Some(pages) = &leaf.pages else {
                if leaf.whole.is_none() {
                    ranges.push(leaf.chunk.clone());
                    owners.push((at, None));
                }
                continue;
            };
            while let Some((range, _)) = pages.get(leaf.next_page).filter(|(_, first_row)| *first_row < to) {
                ranges.push(range.clone());
                owners.push((at, Some(leaf.next_page)));
                leaf.next_page += 1;
            }
        }
        for ((at, page), bytes) in owners.into_iter().zip(reader.read(ranges, meter).await?) {
            let leaf = &mut self.leaves[at];
            match page {
                Some(page) => leaf.held.push_back((page, bytes)),
                None if leaf.pages.is_some() => leaf.dictionary_bytes = Some(bytes),
                None => leaf.whole = Some(bytes),
            }
        }
        self.fetched_to = to;
        Ok(())
    }

    /// Hands out the rows up to `end`, whose pages are held, and lets go of pages that no later row needs.
    fn take(&mut self, reader: &BlockReader, projection: &Arc<Projection>, end: usize) -> SliceBytes {
        let estimated_bytes = self.decoded_bytes(end) as u64;
        let stored_bytes = (self.stored_bytes as f64 * (end - self.row) as f64 / self.rows.max(1) as f64) as u64;
        let mut fetched = Fetched {
            file: Arc::clone(reader.file()),
            group: self.number,
            rows: Some(RowSelection::from_range(self.row..end)),
            pages: HashMap::default(),
            dictionaries: HashMap::default(),
            verify: reader.options().verify_checksums,
        };
        for leaf in &mut self.leaves {
            let mut taken = Vec::new();
            if let Some(bytes) = &leaf.whole {
                taken.push(Pages { first_row: None, is_wanted_whole: false, bytes: bytes.clone() });
            }
            if let Some(bytes) = &leaf.dictionary_bytes {
                taken.push(Pages { first_row: None, is_wanted_whole: false, bytes: bytes.clone() });
            }
            let pages = leaf.pages.as_deref().unwrap_or_default();
            let end_of = |page: usize| pages.get(page + 1).map_or(self.rows, |(_, row)| *row);
            while leaf.held.front().is_some_and(|(page, _)| end_of(*page) <= self.row) {
                leaf.held.pop_front();
            }
            for (page, bytes) in &leaf.held {
                match pages.get(*page) {
                    Some((_, first_row)) if *first_row < end => {
                        let is_wanted_whole = *first_row >= self.row && end_of(*page) <= end;
                        taken.push(Pages { first_row: Some(*first_row), is_wanted_whole, bytes: bytes.clone() });
                    }
                    Some(_) | None => break,
                }
            }
            while leaf.held.front().is_some_and(|(page, _)| end_of(*page) <= end) {
                leaf.held.pop_front();
            }
            fetched.pages.insert(leaf.position, LeafPages { pages: taken, is_whole: false });
            if let Some(dictionary) = &leaf.dictionary {
                fetched.dictionaries.insert(leaf.position, Arc::clone(dictionary));
            }
        }
        self.row = end;
        SliceBytes { fetched, projection: Arc::clone(projection), estimated_bytes, stored_bytes }
    }
}

/// Returns what an entry of a column takes in a table.
fn entry_bytes(column: Column, leaf: &FileLeaf) -> f64 {
    match (column, leaf.value) {
        (Column::Attr(_, AttrPart::Key), _) => ATTRIBUTE_BYTES,
        // Values are in the slots that the keys pay for.
        (Column::Attr(..), _) => 1.0,
        (Column::Dedicated(..), _) => ATTRIBUTE_BYTES,
        (Column::TraceId | Column::LinkTraceId, _) => 16.0,
        (_, ValueType::Bytes | ValueType::Int64 | ValueType::UInt64 | ValueType::Double) => 8.0,
        (_, ValueType::String | ValueType::Int32 | ValueType::UInt32) => 4.0,
        (_, ValueType::Bool) => 1.0,
    }
}

impl BlockReader {
    /// Returns the trace ids of a row group, in file order.
    pub async fn trace_ids(&self, group: usize, meter: &ReadMeter) -> Result<Vec<TraceId>, BlockReadError> {
        let fetched = self.fetch(group, &[Column::TraceId], None, meter).await?;
        Assembler::new(&fetched).trace_ids()
    }
}
