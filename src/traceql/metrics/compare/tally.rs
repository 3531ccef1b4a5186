//! Counts the values of all attributes of one table in two walks over the same occurrences.
//!
//! The first walk numbers the values and counts each, and the totals of each attribute per interval; the second counts those values per interval
//! that were given a series in between.
//!
//! Memory: 4 bytes per attribute, about 40 per distinct value, 30 per span.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::model::span_table::{Attrs, Offsets, SpanTable, Value as Stored};
use crate::model::strings::{StrId, StringPool};
use crate::traceql::ast::{Attribute, AttributeScope, Intrinsic};
use crate::traceql::engine::projection::SERVICE_NAME;
use crate::traceql::engine::source::OwnerCursor;
use crate::traceql::metrics::raw::Chosen;
use crate::traceql::metrics::series::label_value;
use crate::traceql::types::{Kind as SpanKind, Static, Status};

/// No series, or no value.
pub(super) const NO_ROW: u32 = u32::MAX;

/// A value as it is stored.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Counter {
    Text(StrId),
    Int(i64),
    Float(f64),
    Bool(bool),
    Status(i32),
    Kind(i32),
    /// Arrays have no value of their own (metrics, compare).
    Nil,
}

impl Counter {
    fn of(attrs: &Attrs, value: Stored) -> Option<Self> {
        Some(match value {
            Stored::Str(id) => Self::Text(id),
            Stored::Int(value) => Self::Int(value),
            Stored::Double(value) => Self::Float(value),
            Stored::Bool(value) => Self::Bool(value),
            Stored::Json(_) => return None,
            Stored::Array { .. } => match attrs.elements_of(&value) {
                [single @ (Stored::Str(_) | Stored::Int(_) | Stored::Double(_) | Stored::Bool(_))] => return Self::of(attrs, *single),
                _ => Self::Nil,
            },
        })
    }

    /// Type and content.
    fn bits(self) -> (u8, u64) {
        match self {
            Self::Text(id) => (0, u64::from(id.0)),
            Self::Int(value) => (1, value as u64),
            Self::Float(value) if value.is_nan() => (2, f64::NAN.to_bits()),
            Self::Float(value) => (2, value.to_bits()),
            Self::Bool(value) => (3, u64::from(value)),
            Self::Status(code) => (4, code as u64),
            Self::Kind(code) => (5, code as u64),
            Self::Nil => (6, 0),
        }
    }

    fn label(self, pool: &StringPool) -> Static {
        label_value(match self {
            Self::Text(id) => Static::string(pool.text(id).into_owned()),
            Self::Int(value) => Static::Int(value),
            Self::Float(value) => Static::Float(value),
            Self::Bool(value) => Static::Bool(value),
            Self::Status(code) => Static::Status(Status::from_otlp(code)),
            Self::Kind(code) => Static::Kind(SpanKind::from_otlp(code)),
            Self::Nil => Static::Nil,
        })
    }
}

/// Where values of one level are.
enum Column<'t> {
    List { attrs: &'t Attrs, scope: AttributeScope },
    Text { name: Arc<str>, ids: &'t [StrId] },
    Number { name: Arc<str>, numbers: &'t [i32], value: fn(i32) -> Counter },
}

/// The items of one level that own chosen spans, in order, each with what its spans add to which cells.
#[derive(Default)]
struct Owners {
    items: Vec<u32>,
    /// By owner: the end of its entries.
    ends: Vec<u32>,
    entries: Vec<Entry>,
}

/// Spans of one owner in one interval on one side.
#[derive(Clone, Copy)]
struct Entry {
    interval: u32,
    side: u32,
    weight: f64,
}

impl Owners {
    fn of_spans(chosen: &Chosen, is_selected: &[bool]) -> Self {
        let entry = |at: usize| Entry { interval: chosen.intervals[at], side: u32::from(is_selected[at]), weight: chosen.weight(at) };
        let entries: Vec<Entry> = (0..chosen.spans.len()).map(entry).collect();
        Self { items: chosen.spans.clone(), ends: (1..=chosen.spans.len() as u32).collect(), entries }
    }

    /// Returns what all entries add to each cell.
    fn sums(&self) -> Vec<Entry> {
        let intervals = self.entries.iter().map(|entry| entry.interval as usize + 1).max().unwrap_or(0);
        let mut weights = vec![[0.0; 2]; intervals];
        self.entries.iter().for_each(|entry| weights[entry.interval as usize][entry.side as usize] += entry.weight);
        let sums =
            (0..).zip(weights).flat_map(|(interval, sides)| (0..).zip(sides).map(move |(side, weight)| Entry { interval, side, weight }));
        sums.filter(|sum| sum.weight > 0.0).collect()
    }

    /// Joins owners that have the same owner one level up.
    fn above(&self, offsets: &Offsets) -> Self {
        let mut cursor = OwnerCursor::new(offsets);
        let mut above = Self::default();
        let mut first = 0;
        for (item, entries) in self.iter() {
            let owner = cursor.owner_of(item) as u32;
            if above.items.last() != Some(&owner) {
                first = above.entries.len();
                above.items.push(owner);
                above.ends.push(0);
            }
            for entry in entries {
                above.join(first, *entry);
            }
            if let Some(end) = above.ends.last_mut() {
                *end = above.entries.len() as u32;
            }
        }
        above
    }

    /// Adds to one of the last few entries from `first` if it is about the same cell: spans of an owner are mostly in one interval.
    fn join(&mut self, first: usize, entry: Entry) {
        const LOOKED_AT: usize = 4;
        let recent = self.entries.len().saturating_sub(LOOKED_AT).max(first);
        match self.entries[recent..].iter_mut().find(|known| (known.interval, known.side) == (entry.interval, entry.side)) {
            Some(known) => known.weight += entry.weight,
            None => self.entries.push(entry),
        }
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[Entry])> {
        let mut start = 0;
        self.items.iter().zip(&self.ends).map(move |(item, end)| {
            let entries = &self.entries[start..*end as usize];
            start = *end as usize;
            (*item as usize, entries)
        })
    }
}

struct Level<'t> {
    owners: Owners,
    columns: Vec<Column<'t>>,
}

impl Level<'_> {
    fn occurrences(&self) -> usize {
        let of_column = |column: &Column<'_>| match column {
            Column::List { attrs, .. } => attrs.keys.len(),
            Column::Text { .. } | Column::Number { .. } => self.owners.items.len(),
        };
        self.columns.iter().map(of_column).sum()
    }
}

/// All values of a table's chosen spans.
pub(super) struct Tally<'t> {
    pool: &'t StringPool,
    levels: Vec<Level<'t>>,
    keys: Vec<Arc<str>>,
    /// By value: its key, itself, and how often it occurs on each side.
    key_of: Vec<u32>,
    values: Vec<Counter>,
    counts: Vec<[f64; 2]>,
    /// The value of each occurrence, in the order of a walk.
    occurrences: Vec<u32>,
}

/// Finds keys and values by what they are.
struct Lookup {
    /// By dictionary id, of the list that is looked at; [`NO_ROW`]: not known.
    keys_by_id: Vec<u32>,
    keys_by_name: HashMap<Arc<str>, u32, FixedState>,
    /// By dictionary id: the key and value met last; [`NO_ROW`]: none yet.
    last_by_text: Vec<(u32, u32)>,
    /// The first id that was met of each text: equal texts may have several.
    texts: HashTable<(u64, StrId)>,
    others: HashMap<(u32, u8, u64), u32, FixedState>,
    hasher: FixedState,
}

impl Lookup {
    fn new(pool: &StringPool) -> Self {
        Self {
            keys_by_id: vec![NO_ROW; pool.len()],
            keys_by_name: HashMap::default(),
            last_by_text: vec![(NO_ROW, NO_ROW); pool.len()],
            texts: HashTable::new(),
            others: HashMap::default(),
            hasher: FixedState::default(),
        }
    }

    fn first_id(&mut self, pool: &StringPool, id: StrId) -> StrId {
        let text = pool.get(id);
        let hash = self.hasher.hash_one(text);
        let is_same = |(known, other): &(u64, StrId)| *known == hash && pool.get(*other) == text;
        self.texts.entry(hash, is_same, |(hash, _)| *hash).or_insert((hash, id)).get().1
    }
}

/// What the first walk says of occurrences: their attribute by number and name, side and interval, and how much they count.
pub(super) struct Total<'n> {
    pub(super) key: usize,
    pub(super) name: &'n Arc<str>,
    pub(super) side: usize,
    pub(super) interval: usize,
    pub(super) weight: f64,
}

impl<'n> Total<'n> {
    fn new(key: u32, name: &'n Arc<str>, entry: &Entry) -> Self {
        Self { key: key as usize, name, side: entry.side as usize, interval: entry.interval as usize, weight: entry.weight }
    }
}

impl<'t> Tally<'t> {
    /// Makes the first walk and calls `total` for what the values of each attribute add up to, in parts.
    pub(super) fn new(table: &'t SpanTable, chosen: &Chosen, is_selected: &[bool], mut total: impl FnMut(Total<'_>)) -> Self {
        let of_spans = Owners::of_spans(chosen, is_selected);
        let all = of_spans.sums();
        let levels = levels(table, of_spans);
        let mut this = Self {
            pool: &table.strings,
            levels: Vec::new(),
            keys: Vec::new(),
            key_of: Vec::new(),
            values: Vec::new(),
            counts: Vec::new(),
            occurrences: Vec::with_capacity(levels.iter().map(Level::occurrences).sum()),
        };
        let mut lookup = Lookup::new(this.pool);
        for level in &levels {
            for column in &level.columns {
                if let Some(key) = this.find_values(&mut lookup, level, column, &mut total) {
                    // every span has a value of this attribute
                    all.iter().for_each(|sum| total(Total::new(key, &this.keys[key as usize], sum)));
                }
            }
        }
        this.levels = levels;
        this
    }

    /// Returns the key of a column that has one, whose totals are left to the caller.
    fn find_values(
        &mut self,
        lookup: &mut Lookup,
        level: &Level<'_>,
        column: &Column<'_>,
        total: &mut impl FnMut(Total<'_>),
    ) -> Option<u32> {
        match column {
            Column::List { attrs, scope } => {
                lookup.keys_by_id.fill(NO_ROW);
                for (owner, entries) in level.owners.iter() {
                    for (id, stored) in attrs.of_owner(owner) {
                        let Some(value) = Counter::of(attrs, stored) else {
                            self.occurrences.push(NO_ROW);
                            continue;
                        };
                        let key = self.key_of_id(lookup, id, *scope);
                        let value = self.value(lookup, key, value);
                        self.count_value(value, entries);
                        let name = &self.keys[key as usize];
                        entries.iter().for_each(|entry| total(Total::new(key, name, entry)));
                    }
                }
                None
            }
            Column::Text { name, ids } => {
                let key = self.key(lookup, name);
                for (owner, entries) in level.owners.iter() {
                    let value = self.value(lookup, key, Counter::Text(ids[owner]));
                    self.count_value(value, entries);
                }
                Some(key)
            }
            Column::Number { name, numbers, value } => {
                let key = self.key(lookup, name);
                let mut last = None;
                for (owner, entries) in level.owners.iter() {
                    let number = numbers[owner];
                    let found = match last {
                        Some((known, found)) if known == number => found,
                        _ => self.value(lookup, key, value(number)),
                    };
                    last = Some((number, found));
                    self.count_value(found, entries);
                }
                Some(key)
            }
        }
    }

    #[inline]
    fn count_value(&mut self, value: u32, entries: &[Entry]) {
        self.occurrences.push(value);
        let counts = &mut self.counts[value as usize];
        entries.iter().for_each(|entry| counts[entry.side as usize] += entry.weight);
    }

    fn key_of_id(&mut self, lookup: &mut Lookup, id: StrId, scope: AttributeScope) -> u32 {
        let known = lookup.keys_by_id[id.index()];
        if known != NO_ROW {
            return known;
        }
        let name = attribute_name(self.pool, id, scope);
        let key = self.key(lookup, &name);
        lookup.keys_by_id[id.index()] = key;
        key
    }

    fn key(&mut self, lookup: &mut Lookup, name: &Arc<str>) -> u32 {
        if let Some(key) = lookup.keys_by_name.get(name) {
            return *key;
        }
        let key = self.keys.len() as u32;
        self.keys.push(name.clone());
        lookup.keys_by_name.insert(name.clone(), key);
        key
    }

    /// Returns the number of a value of a key. Most texts are values of one key only, so that it needs no search.
    #[inline]
    fn value(&mut self, lookup: &mut Lookup, key: u32, value: Counter) -> u32 {
        let Counter::Text(id) = value else { return self.number(lookup, key, value) };
        let (last_key, last) = lookup.last_by_text[id.index()];
        if last_key == key { last } else { self.other_text(lookup, key, id) }
    }

    /// Returns the number of a text that was not met before as a value of the key, or as one of another key in between.
    fn other_text(&mut self, lookup: &mut Lookup, key: u32, id: StrId) -> u32 {
        let first = lookup.first_id(self.pool, id);
        let (last_key, last) = lookup.last_by_text[first.index()];
        let found = if last_key == key {
            last
        } else if last_key == NO_ROW {
            self.add(key, Counter::Text(first))
        } else {
            let (kind, bits) = Counter::Text(first).bits();
            lookup.others.entry((last_key, kind, bits)).or_insert(last);
            self.number(lookup, key, Counter::Text(first))
        };
        lookup.last_by_text[first.index()] = (key, found);
        lookup.last_by_text[id.index()] = (key, found);
        found
    }

    fn number(&mut self, lookup: &mut Lookup, key: u32, value: Counter) -> u32 {
        let (kind, bits) = value.bits();
        *lookup.others.entry((key, kind, bits)).or_insert_with(|| self.add(key, value))
    }

    fn add(&mut self, key: u32, value: Counter) -> u32 {
        self.key_of.push(key);
        self.values.push(value);
        self.counts.push([0.0; 2]);
        self.values.len() as u32 - 1
    }

    pub(super) fn keys(&self) -> &[Arc<str>] {
        &self.keys
    }

    /// Number of different values.
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    /// Returns the values of each key that occur on a side, if there are more than `keep` only the most frequent.
    pub(super) fn frequent(&self, side: usize, keep: usize) -> Vec<Vec<u32>> {
        let mut by_key = vec![Vec::new(); self.keys.len()];
        for (value, (key, counts)) in self.key_of.iter().zip(&self.counts).enumerate() {
            if counts[side] > 0.0 {
                by_key[*key as usize].push(value as u32);
            }
        }
        for found in by_key.iter_mut().filter(|found| found.len() > keep) {
            found.select_nth_unstable_by(keep, |a, b| self.by_frequency(*a as usize, *b as usize, side));
            found.truncate(keep);
        }
        by_key
    }

    /// The more frequent value first; of equal ones the first text or the smallest number, so that all jobs choose the same.
    fn by_frequency(&self, a: usize, b: usize, side: usize) -> std::cmp::Ordering {
        let by_value = || match (self.values[a], self.values[b]) {
            (Counter::Text(a), Counter::Text(b)) => self.pool.get(a).cmp(self.pool.get(b)),
            (Counter::Int(a), Counter::Int(b)) => a.cmp(&b),
            (Counter::Float(a), Counter::Float(b)) => a.total_cmp(&b),
            (a, b) => a.bits().cmp(&b.bits()),
        };
        self.counts[b][side].total_cmp(&self.counts[a][side]).then_with(by_value)
    }

    pub(super) fn label(&self, value: u32) -> Static {
        self.values[value as usize].label(self.pool)
    }

    /// The second walk: counts the values that have a series, by value and side in `rows`, per interval.
    pub(super) fn count(&self, rows: &[[u32; 2]], mut add: impl FnMut(u32, usize, f64)) {
        let mut occurrences = self.occurrences.as_slice();
        for level in &self.levels {
            for column in &level.columns {
                for (owner, entries) in level.owners.iter() {
                    let count = match column {
                        Column::List { attrs, .. } => attrs.of.range(owner).len(),
                        Column::Text { .. } | Column::Number { .. } => 1,
                    };
                    let (of_owner, rest) = occurrences.split_at(count);
                    occurrences = rest;
                    for value in of_owner.iter().filter(|value| **value != NO_ROW) {
                        let rows = rows[*value as usize];
                        if rows == [NO_ROW; 2] {
                            continue;
                        }
                        for entry in entries {
                            let row = rows[entry.side as usize];
                            if row != NO_ROW {
                                add(row, entry.interval as usize, entry.weight);
                            }
                        }
                    }
                }
            }
        }
        debug_assert!(occurrences.is_empty(), "both walks meet the same occurrences");
    }
}

/// Returns the owners of the chosen spans on each level, and the columns there that were read.
fn levels<'t>(table: &'t SpanTable, of_spans: Owners) -> Vec<Level<'t>> {
    let (traces, resources, scopes, spans) = (&table.traces, &table.resources, &table.scopes, &table.spans);
    let text = |intrinsic: Intrinsic, ids| Column::Text { name: intrinsic.as_str().into(), ids };
    let number = |intrinsic: Intrinsic, numbers, value| Column::Number { name: intrinsic.as_str().into(), numbers, value };
    let service_name: Arc<str> = Attribute::named(AttributeScope::Resource, SERVICE_NAME).to_string().into();
    let of_scopes = of_spans.above(&scopes.spans);
    let of_resources = of_scopes.above(&resources.scopes);
    let of_traces = of_resources.above(&traces.resources);
    let span_columns = vec![
        Column::List { attrs: &spans.attrs, scope: AttributeScope::Span },
        text(Intrinsic::Name, &spans.name),
        text(Intrinsic::StatusMessage, &spans.status_message),
        number(Intrinsic::Kind, &spans.kind, Counter::Kind),
        number(Intrinsic::Status, &spans.status_code, Counter::Status),
        number(Intrinsic::SpanChildCount, &spans.child_count, |count| Counter::Int(i64::from(count))),
    ];
    let scope_columns = vec![
        Column::List { attrs: &scopes.attrs, scope: AttributeScope::Instrumentation },
        text(Intrinsic::InstrumentationName, &scopes.name),
        text(Intrinsic::InstrumentationVersion, &scopes.version),
    ];
    let resource_columns = vec![
        Column::List { attrs: &resources.attrs, scope: AttributeScope::Resource },
        Column::Text { name: service_name, ids: &resources.service_name },
    ];
    let trace_columns =
        vec![text(Intrinsic::RootName, &traces.root_span_name), text(Intrinsic::RootServiceName, &traces.root_service_name)];
    let all = [(of_spans, span_columns), (of_scopes, scope_columns), (of_resources, resource_columns), (of_traces, trace_columns)];
    let level = |(owners, mut columns): (Owners, Vec<Column<'t>>)| {
        let needed = owners.items.last().map_or(0, |owner| *owner as usize + 1);
        columns.retain(|column| match column {
            Column::List { attrs, .. } => attrs.of.len() >= needed,
            Column::Text { ids, .. } => ids.len() >= needed,
            Column::Number { numbers, .. } => numbers.len() >= needed,
        });
        Level { owners, columns }
    };
    all.into_iter().map(level).collect()
}

/// Returns all that is counted of one span, by name.
pub(super) fn values_of(table: &SpanTable, span: u32) -> Vec<(Arc<str>, Static)> {
    let only = Chosen { spans: vec![span], intervals: vec![0], weights: Vec::new(), factor: 1.0 };
    let pool = &table.strings;
    let mut values = Vec::new();
    for level in levels(table, Owners::of_spans(&only, &[false])) {
        for (owner, column) in level.owners.iter().flat_map(|(owner, _)| level.columns.iter().map(move |column| (owner, column))) {
            match column {
                Column::List { attrs, scope } => {
                    let found = attrs.of_owner(owner).filter_map(|(key, value)| Some((key, Counter::of(attrs, value)?)));
                    values.extend(found.map(|(key, value)| (attribute_name(pool, key, *scope), value.label(pool))));
                }
                Column::Text { name, ids } => values.push((name.clone(), Counter::Text(ids[owner]).label(pool))),
                Column::Number { name, numbers, value } => values.push((name.clone(), value(numbers[owner]).label(pool))),
            }
        }
    }
    values
}

fn attribute_name(pool: &StringPool, key: StrId, scope: AttributeScope) -> Arc<str> {
    Attribute::named(scope, &*pool.text(key)).to_string().into()
}
