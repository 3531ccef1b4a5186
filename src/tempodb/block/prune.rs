//! Cheap tests of what a row group may hold, before anything else of it is decoded: dictionaries for strings, chunk statistics for integers.
//!
//! Every answer errs on the side of "may": values outside dictionaries, absent statistics and unknown columns prune nothing.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::FixedState;

use super::assemble::column_error;
use super::attrs::dedicated_scope;
use super::decode::chunk::decode_dictionary;
use super::decode::strings::Dictionary;
use super::dedicated::{DedicatedKind, DedicatedSlot};
use super::error::BlockReadError;
pub use super::file::IntBounds;
use super::file::{BlockFile, FileLeaf};
use super::meta::BlockId;
use super::read::{BlockReader, ReadMeter, ReadOptions};
use super::schema::{AttrPart, Column, Level};
use super::text_test::TextTest;

/// A string that a predicate may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StringColumn {
    RootServiceName,
    RootSpanName,
    ServiceName,
    ScopeName,
    ScopeVersion,
    SpanName,
    EventName,
    /// String values of an attribute of a resource, scope, span, event or link, dedicated or not.
    Attr(Level, Vec<u8>),
}

/// An integer that a predicate may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IntColumn {
    TraceStart,
    TraceEnd,
    TraceDuration,
    SpanStart,
    SpanDuration,
    SpanKind,
    StatusCode,
    EventTimeSinceStart,
    /// Integer values of an attribute, dedicated or not.
    Attr(Level, Vec<u8>),
}

/// What is known of the integers of a row group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// There is no integer.
    Empty,
    /// All lie within these bounds, which other attributes may widen.
    Within(IntBounds),
    Unknown,
}

impl Range {
    /// Returns what is known of the integers of both.
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Empty, known) | (known, Self::Empty) => known,
            (Self::Within(a), Self::Within(b)) => Self::Within(IntBounds { min: a.min.min(b.min), max: a.max.max(b.max) }),
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
        }
    }
}

/// Bytes of the dictionaries that tell whether a row group may hold a string.
#[derive(Debug)]
pub struct StringProbe {
    block: BlockId,
    group: usize,
    file: Arc<BlockFile>,
    options: ReadOptions,
    bytes: HashMap<usize, Bytes, FixedState>,
    /// Any of these columns may hold it.
    alternatives: Vec<Alternative>,
}

#[derive(Debug)]
struct Alternative {
    values: Source,
    /// The key that must be in the dictionary of attribute keys.
    key: Option<(Source, Vec<u8>)>,
}

#[derive(Debug)]
enum Source {
    /// All values of the leaf are in its dictionary.
    Dictionary(FileLeaf),
    /// The dictionary does not tell.
    Unknown,
}

impl BlockReader {
    /// Whether a value of `column` in the row group may satisfy `test`; fetches and decodes in place. `false` is certain.
    pub async fn row_group_may_contain(
        &self,
        group: usize,
        column: &StringColumn,
        test: &(dyn Fn(&[u8]) -> bool + Sync),
        meter: &ReadMeter,
    ) -> Result<bool, BlockReadError> {
        self.fetch_string_probe(group, column, meter).await?.may_contain(&TextTest::new(test))
    }

    /// Fetches the dictionaries of `column` that are not in the cache.
    pub async fn fetch_string_probe(&self, group: usize, column: &StringColumn, meter: &ReadMeter) -> Result<StringProbe, BlockReadError> {
        let file = self.file();
        let mut alternatives = Vec::new();
        if group < self.row_groups() {
            match column {
                StringColumn::Attr(level, key) => {
                    for slot in slots_of(file, *level, key, DedicatedKind::String) {
                        self.add_alternative(group, Column::of_slot(slot), None, &mut alternatives)?;
                    }
                    if file.has_encoded_values(group, *level)? {
                        let keys = file.leaf(Column::Attr(*level, AttrPart::Key)).map(|leaf| source(file, group, leaf)).transpose()?;
                        alternatives.push(Alternative { values: Source::Unknown, key: keys.map(|keys| (keys, key.clone())) });
                    }
                    let key = Some((Column::Attr(*level, AttrPart::Key), key.as_slice()));
                    self.add_alternative(group, Column::Attr(*level, AttrPart::Value), key, &mut alternatives)?;
                }
                StringColumn::RootServiceName => self.add_alternative(group, Column::RootServiceName, None, &mut alternatives)?,
                StringColumn::RootSpanName => self.add_alternative(group, Column::RootSpanName, None, &mut alternatives)?,
                StringColumn::ServiceName => self.add_alternative(group, Column::ResourceServiceName, None, &mut alternatives)?,
                StringColumn::ScopeName => self.add_alternative(group, Column::ScopeName, None, &mut alternatives)?,
                StringColumn::ScopeVersion => self.add_alternative(group, Column::ScopeVersion, None, &mut alternatives)?,
                StringColumn::SpanName => self.add_alternative(group, Column::SpanName, None, &mut alternatives)?,
                StringColumn::EventName => self.add_alternative(group, Column::EventName, None, &mut alternatives)?,
            }
        }
        let mut leaves = Vec::new();
        let mut ranges = Vec::new();
        for leaf in alternatives.iter().flat_map(Alternative::leaves).filter(|leaf| !self.has_cached_dictionary(group, leaf)) {
            if let Some(range) = file.dictionary_range(group, leaf)? {
                leaves.push(leaf.index);
                ranges.push(range);
            }
        }
        let buffers = if ranges.is_empty() { Vec::new() } else { self.read(ranges, meter).await? };
        Ok(StringProbe {
            block: self.meta().block_id,
            group,
            file: Arc::clone(file),
            options: self.options().clone(),
            bytes: leaves.into_iter().zip(buffers).collect(),
            alternatives,
        })
    }

    /// A column that the file lacks or that has no values is no alternative.
    fn add_alternative(
        &self,
        group: usize,
        values: Column,
        key: Option<(Column, &[u8])>,
        alternatives: &mut Vec<Alternative>,
    ) -> Result<(), BlockReadError> {
        let file = self.file();
        let Some(values) = file.leaf(values) else { return Ok(()) };
        if file.is_all_null(group, values)? {
            return Ok(());
        }
        let key = match key {
            Some((column, key)) => match file.leaf(column) {
                Some(leaf) => Some((source(file, group, leaf)?, key.to_vec())),
                None => return Ok(()),
            },
            None => None,
        };
        alternatives.push(Alternative { values: source(file, group, values)?, key });
        Ok(())
    }

    /// Returns the bounds of the integers of `column` in the row group, from the footer alone.
    pub fn int_range(&self, group: usize, column: &IntColumn) -> Result<Range, BlockReadError> {
        if group >= self.row_groups() {
            return Ok(Range::Empty);
        }
        let file = self.file();
        match column {
            IntColumn::Attr(level, _) if file.has_encoded_values(group, *level)? => return Ok(Range::Unknown),
            IntColumn::EventTimeSinceStart if file.leaf(Column::EventUnixTime).is_some() => return Ok(Range::Unknown),
            _ => {}
        }
        let columns = match column {
            IntColumn::TraceStart => vec![Column::TraceStart],
            IntColumn::TraceEnd => vec![Column::TraceEnd],
            IntColumn::TraceDuration => vec![Column::TraceDuration],
            IntColumn::SpanStart => vec![Column::SpanStart],
            IntColumn::SpanDuration => vec![Column::SpanDuration],
            IntColumn::SpanKind => vec![Column::SpanKind],
            IntColumn::StatusCode => vec![Column::StatusCode],
            IntColumn::EventTimeSinceStart => vec![Column::EventTime],
            IntColumn::Attr(level, key) => {
                let slots = slots_of(file, *level, key, DedicatedKind::Int).map(Column::of_slot);
                slots.chain([Column::Attr(*level, AttrPart::ValueInt)]).collect()
            }
        };
        let mut range = Range::Empty;
        for leaf in columns.into_iter().filter_map(|column| file.leaf(column)) {
            if file.is_all_null(group, leaf)? {
                continue;
            }
            range = range.or(file.int_bounds(group, leaf)?.map_or(Range::Unknown, Range::Within));
        }
        Ok(range)
    }
}

pub(super) fn slots_of<'a>(
    file: &'a BlockFile,
    level: Level,
    key: &'a [u8],
    kind: DedicatedKind,
) -> impl Iterator<Item = &'a DedicatedSlot> {
    let scope = dedicated_scope(level);
    file.slots().iter().filter(move |slot| Some(slot.scope) == scope && slot.kind == kind && slot.name.as_bytes() == key)
}

fn source(file: &BlockFile, group: usize, leaf: &FileLeaf) -> Result<Source, BlockReadError> {
    Ok(if file.is_all_dictionary(group, leaf)? { Source::Dictionary(leaf.clone()) } else { Source::Unknown })
}

impl Alternative {
    fn leaves(&self) -> impl Iterator<Item = &FileLeaf> {
        [Some(&self.values), self.key.as_ref().map(|(source, _)| source)].into_iter().flatten().filter_map(|source| match source {
            Source::Dictionary(leaf) => Some(leaf),
            Source::Unknown => None,
        })
    }
}

impl StringProbe {
    /// Whether a value may satisfy `test`. CPU-bound: a foreign dictionary may take tens of milliseconds to decompress.
    pub fn may_contain(&self, test: &TextTest<'_>) -> Result<bool, BlockReadError> {
        for alternative in &self.alternatives {
            if let Some((source, key)) = &alternative.key
                && !self.any(source, |keys| keys.iter().any(|candidate| candidate == key.as_slice()))?
            {
                continue;
            }
            if self.any(&alternative.values, |values| !values.passing(test, 1).is_empty())? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn any(&self, source: &Source, has_any: impl FnOnce(&Dictionary) -> bool) -> Result<bool, BlockReadError> {
        let leaf = match source {
            Source::Dictionary(leaf) => leaf,
            Source::Unknown => return Ok(true),
        };
        Ok(self.dictionary(leaf)?.is_none_or(|dictionary| has_any(&dictionary)))
    }

    fn dictionary(&self, leaf: &FileLeaf) -> Result<Option<Arc<Dictionary>>, BlockReadError> {
        let key = (self.block, self.group, leaf.index);
        if let Some(known) = self.options.dictionaries.get(key) {
            return Ok(Some(known));
        }
        let Some(bytes) = self.bytes.get(&leaf.index) else { return Ok(None) };
        let shape = self.file.shape(self.group, leaf, self.options.verify_checksums)?;
        let decoded = decode_dictionary(&shape, bytes).map_err(|cause| column_error(leaf, self.group, cause))?;
        let Some(dictionary) = decoded.map(Arc::new) else { return Ok(None) };
        self.options.dictionaries.put(key, &dictionary);
        Ok(Some(dictionary))
    }
}
