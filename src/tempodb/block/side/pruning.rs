//! `tempo-rs.pruning`: per row group what could match at all.
//!
//! Sections: first a summary of each row group (bounds, sets of statuses and kinds, hashes of attribute keys and of the values of columns with
//! few values), then a filter of each row group over its pairs of attribute and value, strings and whole numbers, and over the values
//! of columns that have too many for the summary. Most questions end with the summaries; a filter is fetched only for a value.
//!
//! Not here: reading the object ([`super::store`]), what a query's conditions are (the querier).

use std::ops::RangeInclusive;

use bytes::Bytes;

use super::container::{ByteReader, Header, Kind, SideError, encode};
use super::survey::{Number, Survey};
use super::{AttrScope, TextColumn, hash};
use crate::base::binary_fuse::BinaryFuse;
use crate::model::span_table::SpanTable;
use crate::tempodb::block::prune::IntColumn;

/// Keys of a scope that a summary lists; beyond it nothing is said about keys.
const MAX_KEYS: usize = 4_096;
/// Values of a column that a summary lists; further ones are in the filter.
const MAX_LISTED: usize = 256;
/// The bit for every number that has no bit of its own.
const OTHER_BIT: u64 = 1 << 63;
/// Says that there is no list.
const NO_LIST: u64 = u64::MAX;

/// What a row group holds, in some hundred bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupSummary {
    pub traces: u32,
    pub spans: u32,
    pub trace_start_nanos: Bounds,
    pub trace_end_nanos: Bounds,
    pub trace_duration_nanos: Bounds,
    pub span_start_nanos: Bounds,
    pub span_duration_nanos: Bounds,
    pub event_time_nanos: Bounds,
    /// Bit `n` for number `n`.
    statuses: u64,
    kinds: u64,
    /// By scope: hashes of the keys, ascending. `None`: too many.
    keys: [Option<Vec<u32>>; AttrScope::ALL.len()],
    /// By column: hashes of the values, ascending. `None`: they are in the filter.
    columns: [Option<Vec<u32>>; TextColumn::ALL.len()],
}

/// Smallest and largest of some numbers; of none when `min > max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub min: u64,
    pub max: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { min: u64::MAX, max: 0 }
    }
}

impl Bounds {
    fn of(numbers: &[u64]) -> Self {
        numbers.iter().fold(Self::default(), |bounds, number| Self { min: bounds.min.min(*number), max: bounds.max.max(*number) })
    }

    fn is_empty(self) -> bool {
        self.min > self.max
    }

    /// Whether one of the numbers, taken as signed, may lie within `wanted`.
    fn may_touch(self, wanted: &RangeInclusive<i64>) -> bool {
        if self.is_empty() {
            return false;
        }
        match (i64::try_from(self.min), i64::try_from(self.max)) {
            (Ok(min), Ok(max)) => min <= *wanted.end() && max >= *wanted.start(),
            // Some wrap to negative ones.
            _ => true,
        }
    }
}

/// The filter of a row group.
pub type GroupFilter = BinaryFuse<Bytes>;

/// What the builder has of a row group.
#[derive(Debug)]
pub(super) struct BuiltGroup {
    summary: Vec<u8>,
    filter: Vec<u8>,
}

impl BuiltGroup {
    pub(super) fn new(table: &SpanTable, survey: &Survey) -> Self {
        let mut entries = Vec::new();
        let summary = GroupSummary::new(table, survey, &mut entries);
        for (scope, keys) in AttrScope::ALL.into_iter().zip(&survey.scopes) {
            for key in keys {
                let hashed = hash::key(scope as u8, table.strings.get(key.key));
                entries.extend(key.strings.iter().map(|(id, _)| hash::entry(hashed, hash::string(table.strings.get(*id)))));
                let whole = key.numbers.iter().filter_map(|(number, _)| match number {
                    Number::Int(number) => Some(*number as f64),
                    Number::Double(bits) => Some(f64::from_bits(*bits)).filter(|number| number.fract() == 0.0),
                    Number::Bool(_) => None,
                });
                entries.extend(whole.map(|number| hash::entry(hashed, hash::number(number))));
            }
        }
        // Without a filter an empty section says nothing, and every value may be there.
        let filter = BinaryFuse::new(&mut entries).map(|filter| filter.encode()).unwrap_or_default();
        Self { summary: summary.encode(), filter }
    }
}

/// Returns the object of a block; `None` when it has too many row groups for one.
pub(super) fn encode_object(groups: Vec<BuiltGroup>, data_bytes: u64) -> Option<Vec<u8>> {
    let (summaries, filters): (Vec<_>, Vec<_>) = groups.into_iter().map(|group| (group.summary, group.filter)).unzip();
    encode(Kind::Pruning, data_bytes, &[summaries, filters].concat())
}

impl GroupSummary {
    /// Values of columns that do not fit are added to `entries`.
    fn new(table: &SpanTable, survey: &Survey, entries: &mut Vec<u64>) -> Self {
        let bits = |numbers: &[i32]| numbers.iter().fold(0, |bits, number| bits | bit(i64::from(*number)));
        let mut keys = AttrScope::ALL.map(|scope| {
            let found = &survey.scopes[scope as usize];
            sorted(found.iter().map(|key| hash::key(scope as u8, table.strings.get(key.key)) as u32), MAX_KEYS)
        });
        // A service name is an attribute for whoever asks, and a column here.
        if let Some(keys) = &mut keys[AttrScope::Resource as usize] {
            let service = hash::key(AttrScope::Resource as u8, super::SERVICE_NAME) as u32;
            if let Err(at) = keys.binary_search(&service) {
                keys.insert(at, service);
            }
        }
        let columns = TextColumn::ALL.map(|column| {
            let hashes: Vec<u64> =
                survey.columns[column as usize].iter().map(|(id, _)| hash::column(column as u8, table.strings.get(*id))).collect();
            let listed = sorted(hashes.iter().map(|hash| *hash as u32), MAX_LISTED);
            if listed.is_none() {
                entries.extend(hashes);
            }
            listed
        });
        Self {
            traces: table.trace_count() as u32,
            spans: table.span_count() as u32,
            trace_start_nanos: Bounds::of(&table.traces.start_unix_nanos),
            trace_end_nanos: Bounds::of(&table.traces.end_unix_nanos),
            trace_duration_nanos: Bounds::of(&table.traces.duration_nanos),
            span_start_nanos: Bounds::of(&table.spans.start_unix_nanos),
            span_duration_nanos: Bounds::of(&table.spans.duration_nanos),
            event_time_nanos: Bounds::of(&table.events.time_since_start_nanos),
            statuses: bits(&table.spans.status_code),
            kinds: bits(&table.spans.kind),
            keys,
            columns,
        }
    }

    fn bounds(&self) -> [Bounds; 6] {
        [
            self.trace_start_nanos,
            self.trace_end_nanos,
            self.trace_duration_nanos,
            self.span_start_nanos,
            self.span_duration_nanos,
            self.event_time_nanos,
        ]
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.traces.to_le_bytes());
        out.extend_from_slice(&self.spans.to_le_bytes());
        let numbers = self.bounds().into_iter().flat_map(|bounds| [bounds.min, bounds.max]).chain([self.statuses, self.kinds]);
        numbers.for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
        for list in self.keys.iter().chain(&self.columns) {
            let length = list.as_ref().map_or(NO_LIST, |list| list.len() as u64);
            out.extend_from_slice(&length.to_le_bytes());
            list.iter().flatten().for_each(|hash| out.extend_from_slice(&hash.to_le_bytes()));
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, SideError> {
        let mut reader = ByteReader(bytes);
        let (traces, spans) = (reader.u32()?, reader.u32()?);
        let mut bounds = || Ok::<_, SideError>(Bounds { min: reader.u64()?, max: reader.u64()? });
        let mut summary = Self {
            traces,
            spans,
            trace_start_nanos: bounds()?,
            trace_end_nanos: bounds()?,
            trace_duration_nanos: bounds()?,
            span_start_nanos: bounds()?,
            span_duration_nanos: bounds()?,
            event_time_nanos: bounds()?,
            statuses: reader.u64()?,
            kinds: reader.u64()?,
            ..Self::default()
        };
        for list in summary.keys.iter_mut().chain(&mut summary.columns) {
            *list = match reader.u64()? {
                NO_LIST => None,
                length => {
                    let bytes = usize::try_from(length).ok().and_then(|length| length.checked_mul(4));
                    let bytes = reader.take(bytes.ok_or(SideError::Corrupt("a list is too long"))?)?;
                    Some(bytes.as_chunks().0.iter().map(|hash| u32::from_le_bytes(*hash)).collect())
                }
            };
        }
        Ok(summary)
    }

    /// Bytes of memory this takes.
    fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.keys.iter().chain(&self.columns).flatten().map(|list| list.capacity() * 4).sum::<usize>()
    }

    fn has_key(&self, scope: AttrScope, key: u64) -> bool {
        self.keys[scope as usize].as_ref().is_none_or(|keys| keys.binary_search(&(key as u32)).is_ok())
    }
}

fn bit(number: i64) -> u64 {
    if (0..63).contains(&number) { 1 << number } else { OTHER_BIT }
}

/// Returns the distinct hashes in order; `None` when there are more than `limit`.
fn sorted(hashes: impl Iterator<Item = u32>, limit: usize) -> Option<Vec<u32>> {
    let mut hashes: Vec<u32> = hashes.collect();
    hashes.sort_unstable();
    hashes.dedup();
    (hashes.len() <= limit).then_some(hashes)
}

/// What is known of a block: the summaries, and where the filters lie.
#[derive(Debug)]
pub struct BlockSummary {
    pub groups: Vec<GroupSummary>,
    header: Header,
}

impl BlockSummary {
    /// Reads header and summaries from `bytes`, the beginning of the object. `Ok(None)`: more bytes are needed.
    pub(super) fn parse(bytes: &[u8], data_bytes: u64, is_whole: bool) -> Result<Option<Self>, SideError> {
        let header = Header::parse(Kind::Pruning, data_bytes, bytes)?;
        if !header.sections().is_multiple_of(2) {
            return Err(SideError::Corrupt("a filter is missing"));
        }
        let mut groups = Vec::with_capacity(header.sections() / 2);
        for section in 0..header.sections() / 2 {
            let range = header.range(section)?;
            let found = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok()).and_then(|(from, to)| bytes.get(from..to));
            let Some(found) = found else {
                return if is_whole { Err(SideError::Corrupt("it ends early")) } else { Ok(None) };
            };
            header.check(section, found)?;
            groups.push(GroupSummary::decode(found)?);
        }
        Ok(Some(Self { groups, header }))
    }

    /// Returns the bytes of the object that hold the filter of a row group; empty when it has none.
    pub(super) fn filter_range(&self, group: usize) -> Result<std::ops::Range<u64>, SideError> {
        self.header.range(self.groups.len().saturating_add(group))
    }

    pub(super) fn decode_filter(&self, group: usize, bytes: &Bytes) -> Result<GroupFilter, SideError> {
        self.header.check(self.groups.len().saturating_add(group), bytes)?;
        BinaryFuse::decode(bytes).ok_or(SideError::Corrupt("a filter"))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        // A section's entry in the header takes 24 bytes, and there are two a row group.
        self.groups.iter().map(|group| group.memory_bytes() + 48).sum()
    }
}

/// Something that an item of a row group must pass for any of its traces to match, hashed once for all row groups.
#[derive(Debug, Clone)]
pub enum Probe {
    /// The column holds one of some strings.
    Text(TextColumn, Vec<u64>),
    /// An attribute has one of some values.
    Value {
        scope: AttrScope,
        key: u64,
        values: Vec<u64>,
    },
    /// An attribute is there.
    Key {
        scope: AttrScope,
        key: u64,
    },
    /// A number of the column, taken as signed, lies within.
    Within(IntColumn, RangeInclusive<i64>),
    /// A trace starts at or before `end` and ends at or after `start`.
    TraceTimes {
        start_unix_nanos: u64,
        end_unix_nanos: u64,
    },
    Any(Vec<Self>),
}

impl Probe {
    pub fn text<'a>(column: TextColumn, texts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self::Text(column, texts.into_iter().map(|text| hash::column(column as u8, text)).collect())
    }

    pub fn strings<'a>(scope: AttrScope, key: &[u8], texts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self::Value { scope, key: hash::key(scope as u8, key), values: texts.into_iter().map(hash::string).collect() }
    }

    /// An integer or float that equals `number`.
    pub fn number(scope: AttrScope, key: &[u8], number: i64) -> Self {
        Self::Value { scope, key: hash::key(scope as u8, key), values: vec![hash::number(number as f64)] }
    }

    pub fn key(scope: AttrScope, key: &[u8]) -> Self {
        Self::Key { scope, key: hash::key(scope as u8, key) }
    }

    /// Asks a row group. Without its filter, what only the filter knows may be.
    pub fn may_pass(&self, summary: &GroupSummary, filter: Option<&GroupFilter>) -> bool {
        match self {
            Self::Text(column, hashes) => match &summary.columns[*column as usize] {
                Some(listed) => hashes.iter().any(|hash| listed.binary_search(&(*hash as u32)).is_ok()),
                None => filter.is_none_or(|filter| hashes.iter().any(|hash| filter.contains(*hash))),
            },
            Self::Value { scope, key, values } => {
                summary.has_key(*scope, *key)
                    && filter.is_none_or(|filter| values.iter().any(|value| filter.contains(hash::entry(*key, *value))))
            }
            Self::Key { scope, key } => summary.has_key(*scope, *key),
            Self::Within(column, wanted) => may_touch(summary, column, wanted),
            Self::TraceTimes { start_unix_nanos, end_unix_nanos } => {
                let (start, end) = (summary.trace_start_nanos, summary.trace_end_nanos);
                // Traces without times are in any.
                start.is_empty() || end.is_empty() || (start.min <= *end_unix_nanos && end.max >= *start_unix_nanos)
            }
            Self::Any(probes) => probes.iter().any(|probe| probe.may_pass(summary, filter)),
        }
    }

    /// Whether the filter can turn a "perhaps" of the summary into "no".
    pub fn needs_filter(&self, summary: &GroupSummary) -> bool {
        match self {
            Self::Text(column, _) => summary.columns[*column as usize].is_none(),
            Self::Value { .. } => true,
            Self::Key { .. } | Self::Within(..) | Self::TraceTimes { .. } => false,
            Self::Any(probes) => {
                let may: Vec<_> = probes.iter().filter(|probe| probe.may_pass(summary, None)).collect();
                !may.is_empty() && may.iter().all(|probe| probe.needs_filter(summary))
            }
        }
    }
}

fn may_touch(summary: &GroupSummary, column: &IntColumn, wanted: &RangeInclusive<i64>) -> bool {
    let has_bit = |bits: u64| {
        let wanted = (*wanted.start()).max(0)..=(*wanted.end()).min(62);
        bits & OTHER_BIT != 0 || wanted.into_iter().any(|number| bits & bit(number) != 0)
    };
    match column {
        IntColumn::TraceStart => summary.trace_start_nanos.may_touch(wanted),
        IntColumn::TraceEnd => summary.trace_end_nanos.may_touch(wanted),
        IntColumn::TraceDuration => summary.trace_duration_nanos.may_touch(wanted),
        IntColumn::SpanStart => summary.span_start_nanos.may_touch(wanted),
        IntColumn::SpanDuration => summary.span_duration_nanos.may_touch(wanted),
        IntColumn::EventTimeSinceStart => summary.event_time_nanos.may_touch(wanted),
        IntColumn::SpanKind => has_bit(summary.kinds),
        IntColumn::StatusCode => has_bit(summary.statuses),
        IntColumn::Attr(..) => true,
    }
}
