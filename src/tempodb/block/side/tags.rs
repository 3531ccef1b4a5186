//! `tempo-rs.tags`: the attributes of a block, and their values as far as they are few.
//!
//! One section: a zstd frame of lists. A list belongs to an attribute of a scope or to a column that is no attribute, and holds either
//! all its values or the most frequent ones and the mark that there are more. The most frequent come first.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;

use foldhash::fast::FixedState;

use super::container::{ByteReader, Header, Kind, SideError, encode};
use super::survey::{Number, Survey};
use super::{AttrScope, TextColumn};
use crate::model::span_table::SpanTable;
use crate::model::strings::StrId;
use crate::tempodb::block::projection::ValueKinds;

/// Values of a complete list: more than somebody reads in a menu.
const MAX_VALUES: usize = 2_000;
/// Bytes of the values of a complete list.
const MAX_LIST_BYTES: usize = 64 << 10;
/// Values kept of a list that is not complete.
const KEPT_VALUES: usize = 100;
/// Longer values are not kept. Attributes are cut at this length when they are received.
const MAX_VALUE_BYTES: usize = 2_048;
/// Lists of an object; further attributes are left out.
const MAX_LISTS: usize = 20_000;
/// Bytes of an object before compression. The largest lists give way.
const MAX_OBJECT_BYTES: usize = 512 << 10;
/// What readers accept.
const MAX_DECODED_BYTES: usize = 4 << 20;
/// The text columns' numbers follow those of the scopes.
const COLUMN_CODES: u8 = 16;
const COMPRESSION_LEVEL: i32 = 3;

/// What a list is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TagList {
    Attr(AttrScope, Box<[u8]>),
    Column(TextColumn),
}

impl TagList {
    pub fn attr(scope: AttrScope, key: &[u8]) -> Self {
        Self::Attr(scope, key.into())
    }
}

/// A value; arrays are their elements. Values that are no string, number or boolean are not listed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TagItem {
    Str(Box<[u8]>),
    Bool(bool),
    Int(i64),
    /// By its bits.
    Double(u64),
}

impl TagItem {
    pub fn len_bytes(&self) -> usize {
        match self {
            Self::Str(text) => text.len(),
            Self::Bool(_) => 1,
            Self::Int(_) | Self::Double(_) => 8,
        }
    }
}

/// The values of an attribute in a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagValueList {
    pub kinds: ValueKinds,
    /// Whether there are no other values.
    pub is_complete: bool,
    pub values: Vec<TagItem>,
}

/// The object, decoded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockTags {
    /// Whether there are no other attributes.
    pub has_all_lists: bool,
    pub lists: HashMap<TagList, TagValueList, FixedState>,
}

/// Collects the lists of a block, row group by row group.
#[derive(Debug, Default)]
pub(super) struct TagsBuilder {
    lists: BTreeMap<TagList, Collected>,
    left_out: bool,
}

#[derive(Debug)]
struct Collected {
    kinds: ValueKinds,
    is_complete: bool,
    counts: HashMap<TagItem, u64, FixedState>,
    bytes: usize,
}

impl Default for Collected {
    fn default() -> Self {
        Self { kinds: ValueKinds::NONE, is_complete: true, counts: HashMap::default(), bytes: 0 }
    }
}

impl TagsBuilder {
    pub(super) fn add(&mut self, table: &SpanTable, survey: &Survey) {
        for (scope, keys) in AttrScope::ALL.into_iter().zip(&survey.scopes) {
            for key in keys {
                let Some(list) = self.list(TagList::attr(scope, table.strings.get(key.key))) else { continue };
                list.kinds = list.kinds.union(key.kinds);
                list.is_complete &= !key.has_more_numbers;
                list.add_strings(table, &key.strings);
                list.add_numbers(&key.numbers);
            }
        }
        for (column, values) in TextColumn::ALL.into_iter().zip(&survey.columns) {
            let Some(list) = self.list(TagList::Column(column)) else { continue };
            list.kinds = ValueKinds::STR;
            list.add_strings(table, values);
        }
    }

    fn list(&mut self, list: TagList) -> Option<&mut Collected> {
        if self.lists.len() >= MAX_LISTS && !self.lists.contains_key(&list) {
            self.left_out = true;
            return None;
        }
        Some(self.lists.entry(list).or_default())
    }

    /// Returns the object of a block.
    pub(super) fn finish(mut self, data_bytes: u64) -> std::io::Result<Option<Vec<u8>>> {
        self.shrink();
        let mut raw = vec![u8::from(!self.left_out)];
        put_varint(&mut raw, self.lists.len() as u64);
        for (list, collected) in self.lists {
            put_list(&mut raw, &list, collected);
        }
        let mut section = Vec::new();
        put_varint(&mut section, raw.len() as u64);
        section.extend(zstd::bulk::compress(&raw, COMPRESSION_LEVEL)?);
        Ok(encode(Kind::Tags, data_bytes, &[section]))
    }

    /// Shortens the largest lists until all fit.
    fn shrink(&mut self) {
        let names: usize = self.lists.keys().map(|list| if let TagList::Attr(_, key) = list { key.len() + 8 } else { 8 }).sum();
        let mut total = names + self.lists.values().map(|list| list.bytes).sum::<usize>();
        let mut by_size: Vec<&mut Collected> = self.lists.values_mut().collect();
        by_size.sort_by_key(|list| std::cmp::Reverse(list.bytes));
        for list in &mut by_size {
            if total <= MAX_OBJECT_BYTES {
                return;
            }
            let before = list.bytes;
            list.keep_most_frequent();
            total -= before - list.bytes;
        }
        for list in by_size {
            if total <= MAX_OBJECT_BYTES {
                return;
            }
            total -= list.bytes;
            (list.is_complete, list.bytes) = (false, 0);
            list.counts.clear();
        }
    }
}

impl Collected {
    fn add_strings(&mut self, table: &SpanTable, strings: &[(StrId, u32)]) {
        let mut strings = std::borrow::Cow::Borrowed(strings);
        if strings.len() > MAX_VALUES {
            self.is_complete = false;
            let (frequent, ..) = strings.to_mut().select_nth_unstable_by_key(KEPT_VALUES, |(id, count)| (std::cmp::Reverse(*count), *id));
            strings = std::borrow::Cow::Owned(frequent.to_vec());
        }
        for (id, count) in strings.iter() {
            let text = table.strings.get(*id);
            if text.len() > MAX_VALUE_BYTES {
                self.is_complete = false;
            } else {
                self.add(TagItem::Str(text.into()), *count);
            }
        }
        self.bound();
    }

    fn add_numbers(&mut self, numbers: &[(Number, u32)]) {
        for (number, count) in numbers {
            let item = match number {
                Number::Bool(is_true) => TagItem::Bool(*is_true),
                Number::Int(number) => TagItem::Int(*number),
                Number::Double(bits) => TagItem::Double(*bits),
            };
            self.add(item, *count);
        }
        self.bound();
    }

    fn add(&mut self, item: TagItem, count: u32) {
        let bytes = item.len_bytes() + 2;
        let known = self.counts.entry(item).or_insert_with(|| {
            self.bytes += bytes;
            0
        });
        *known += u64::from(count);
    }

    fn bound(&mut self) {
        if self.counts.len() > MAX_VALUES || self.bytes > MAX_LIST_BYTES {
            self.keep_most_frequent();
        }
    }

    /// Drops all but the most frequent values, for good.
    fn keep_most_frequent(&mut self) {
        self.is_complete = false;
        let kept = in_order(std::mem::take(&mut self.counts)).into_iter().take(KEPT_VALUES);
        let mut bytes = 0;
        let kept = kept.take_while(|(item, _)| {
            bytes += item.len_bytes() + 2;
            bytes <= MAX_LIST_BYTES
        });
        self.counts = kept.collect();
        self.bytes = self.counts.keys().map(|item| item.len_bytes() + 2).sum();
    }
}

/// Returns the items, the most frequent first.
fn in_order(counts: HashMap<TagItem, u64, FixedState>) -> Vec<(TagItem, u64)> {
    let mut items: Vec<_> = counts.into_iter().collect();
    items.sort_unstable_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then_with(|| a.cmp(b)));
    items
}

fn put_list(out: &mut Vec<u8>, list: &TagList, collected: Collected) {
    match list {
        TagList::Attr(scope, key) => {
            out.push(*scope as u8);
            put_bytes(out, key);
        }
        TagList::Column(column) => out.push(COLUMN_CODES + *column as u8),
    }
    out.extend_from_slice(&[collected.kinds.bits(), u8::from(collected.is_complete)]);
    put_varint(out, collected.counts.len() as u64);
    for (item, _) in in_order(collected.counts) {
        match item {
            TagItem::Str(text) => {
                out.push(0);
                put_bytes(out, &text);
            }
            TagItem::Bool(is_true) => out.extend_from_slice(&[1, u8::from(is_true)]),
            TagItem::Int(number) => {
                out.push(2);
                out.extend_from_slice(&number.to_le_bytes());
            }
            TagItem::Double(bits) => {
                out.push(3);
                out.extend_from_slice(&bits.to_le_bytes());
            }
        }
    }
}

fn put_varint(out: &mut Vec<u8>, number: u64) {
    crate::model::wire::put_varint(out, number);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

impl BlockTags {
    /// Decodes an object. CPU-bound: some 100 microseconds.
    pub fn decode(object: &[u8], data_bytes: u64) -> Result<Self, SideError> {
        let header = Header::parse(Kind::Tags, data_bytes, object)?;
        let range = header.range(0)?;
        let range = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let section = range.and_then(|(from, to)| object.get(from..to)).ok_or(SideError::Corrupt("it ends early"))?;
        header.check(0, section)?;
        let mut reader = ByteReader(section);
        let length = usize::try_from(reader.varint()?).ok().filter(|length| *length <= MAX_DECODED_BYTES);
        let length = length.ok_or(SideError::Corrupt("it is too large"))?;
        let mut raw = Vec::new();
        let unpacked = zstd::stream::read::Decoder::new(reader.0).and_then(|frame| frame.take(length as u64 + 1).read_to_end(&mut raw));
        if unpacked.is_err() || raw.len() != length {
            return Err(SideError::Corrupt("a zstd frame"));
        }
        Self::decode_lists(&raw)
    }

    pub(super) fn decode_lists(raw: &[u8]) -> Result<Self, SideError> {
        let mut reader = ByteReader(raw);
        let has_all_lists = reader.u8()? == 1;
        let count = reader.count(4)?;
        let mut lists = HashMap::with_capacity_and_hasher(count, FixedState::default());
        for _ in 0..count {
            let code = reader.u8()?;
            let list = match AttrScope::ALL.get(usize::from(code)) {
                Some(scope) => TagList::attr(*scope, reader.bytes()?),
                None => {
                    let column = code.checked_sub(COLUMN_CODES).and_then(|column| TextColumn::ALL.get(usize::from(column)));
                    TagList::Column(*column.ok_or(SideError::Corrupt("an unknown list"))?)
                }
            };
            let kinds = ValueKinds::from_bits(reader.u8()?);
            let is_complete = reader.u8()? == 1;
            // The item count is bounded by what can follow, and each is decoded before room for the next is needed.
            let items = reader.count(2)?;
            let values = (0..items).map(|_| decode_item(&mut reader)).collect::<Result<Vec<_>, _>>()?;
            lists.insert(list, TagValueList { kinds, is_complete, values });
        }
        Ok(Self { has_all_lists, lists })
    }

    /// Calls `found` with the attributes of `scopes`.
    pub fn names(&self, scopes: &[AttrScope], mut found: impl FnMut(AttrScope, &[u8])) {
        for (list, values) in &self.lists {
            match list {
                TagList::Attr(scope, key) if scopes.contains(scope) => found(*scope, key),
                TagList::Column(TextColumn::ServiceName) if scopes.contains(&AttrScope::Resource) => {
                    if values.values.iter().any(|value| value.len_bytes() > 0) {
                        found(AttrScope::Resource, super::SERVICE_NAME);
                    }
                }
                TagList::Attr(..) | TagList::Column(_) => {}
            }
        }
    }

    pub fn memory_bytes(&self) -> usize {
        let list = |list: &TagValueList| list.values.iter().map(|item| size_of::<TagItem>() + item.len_bytes()).sum::<usize>();
        self.lists.values().map(|values| size_of::<(TagList, TagValueList)>() + 32 + list(values)).sum()
    }
}

fn decode_item(reader: &mut ByteReader<'_>) -> Result<TagItem, SideError> {
    Ok(match reader.u8()? {
        0 => TagItem::Str(reader.bytes()?.into()),
        1 => TagItem::Bool(reader.u8()? != 0),
        2 => TagItem::Int(i64::from_le_bytes(reader.u64()?.to_le_bytes())),
        3 => TagItem::Double(reader.u64()?),
        _ => return Err(SideError::Corrupt("an unknown value")),
    })
}
