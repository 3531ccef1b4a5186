//! Counts the values of all attributes of one table in two walks over the same occurrences.
//!
//! The first walk numbers the values and counts each, and the totals of each attribute per interval. Of the values that it meets first, which
//! most of the frequent ones are among, it counts each per interval; the second walk does so for others that were given a series in between.
//!
//! Memory: 4 bytes per attribute, about 40 per distinct value, 30 per span, 4 MiB.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::base::bitset::Bitset;
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

/// Spans of one owner in one cell.
#[derive(Clone, Copy)]
struct Entry {
    cell: Cell,
    weight: f64,
}

/// An interval and a side of it, counted through: few of them in a table, as its spans are close in time.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Cell(u32);

impl Cell {
    fn new(interval: u32, is_selected: bool) -> Self {
        Self(interval << 1 | u32::from(is_selected))
    }

    fn side(self) -> usize {
        (self.0 & 1) as usize
    }

    fn interval(self) -> usize {
        (self.0 >> 1) as usize
    }
}

impl Owners {
    fn of_spans(chosen: &Chosen, is_selected: &[bool]) -> Self {
        let entry = |at: usize| Entry { cell: Cell::new(chosen.intervals[at], is_selected[at]), weight: chosen.weight(at) };
        let entries: Vec<Entry> = (0..chosen.spans.len()).map(entry).collect();
        Self { items: chosen.spans.clone(), ends: (1..=chosen.spans.len() as u32).collect(), entries }
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
        match self.entries[recent..].iter_mut().find(|known| known.cell == entry.cell) {
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
    /// Without what is in `cells` until the first walk ends.
    totals: Totals,
    /// By key: the value found last; [`NO_ROW`]: none.
    last_of: Vec<u32>,
    /// By value: the one of the same key that was found before, itself, and how often it occurs on each side.
    previous: Vec<u32>,
    values: Vec<Counter>,
    counts: Vec<[f64; 2]>,
    /// Of the first values: what each counts in each cell of `totals`.
    cells: Vec<f64>,
    /// The value of each occurrence, in the order of a walk.
    occurrences: Vec<u32>,
    /// What the first walk has used.
    used: Buffers,
}

/// Memory that the tables of a job use one after the other.
#[derive(Default)]
pub(super) struct Buffers {
    previous: Vec<u32>,
    values: Vec<Counter>,
    counts: Vec<[f64; 2]>,
    cells: Vec<f64>,
    occurrences: Vec<u32>,
    keys_by_id: Vec<u32>,
    last_by_text: Vec<(u32, u32)>,
}

/// Returns `vec` without its content, with room for `len` items.
fn emptied<T>(mut vec: Vec<T>, len: usize) -> Vec<T> {
    vec.clear();
    vec.reserve(len);
    vec
}

/// Returns `vec` with nothing but `len` times `item`.
fn filled<T: Copy>(vec: Vec<T>, len: usize, item: T) -> Vec<T> {
    let mut vec = emptied(vec, len);
    vec.resize(len, item);
    vec
}

/// Returns values of one key from `last` on.
fn linked(last: u32, previous: &[u32]) -> impl Iterator<Item = u32> {
    let known = |value: u32| (value != NO_ROW).then_some(value);
    std::iter::successors(known(last), move |value| known(previous[*value as usize]))
}

/// Cells of the values that are counted per interval at once: 4 MiB.
const MAX_CELLS: usize = 1 << 19;

/// Finds keys and values by what they are.
struct Lookup {
    /// By dictionary id, of the list that is looked at; [`NO_ROW`]: not known.
    keys_by_id: Vec<u32>,
    keys_by_name: HashMap<Arc<str>, u32, FixedState>,
    /// By dictionary id: the key and value met last; [`NO_ROW`]: none yet.
    last_by_text: Vec<(u32, u32)>,
    /// By key: where the ids of its texts are.
    texts_of: Vec<TextIds>,
    /// The first id that was met of each text of a key with [`TextIds::Anywhere`].
    texts: HashTable<(u64, StrId)>,
    /// Of the first keys, by small whole number: the value; [`NO_ROW`]: none yet.
    small: Vec<[u32; SMALL]>,
    others: HashMap<(u32, u8, u64), u32, FixedState>,
    hasher: FixedState,
}

/// Where the ids of a key's texts are.
#[derive(Clone, PartialEq)]
enum TextIds {
    None,
    /// Where no two mean the same text.
    Within(Range<u32>),
    /// Equal texts may have several ids.
    Anywhere,
}

/// Whole numbers below this are found without a search: codes, ports, sizes.
const SMALL: usize = 1024;
const SMALL_END: i64 = SMALL as i64;
/// Keys that have such a table: 1 MiB.
const MAX_SMALL: usize = 256;

impl Lookup {
    fn new(pool: &StringPool, buffers: &mut Buffers) -> Self {
        Self {
            keys_by_id: filled(std::mem::take(&mut buffers.keys_by_id), pool.len(), NO_ROW),
            keys_by_name: HashMap::default(),
            last_by_text: filled(std::mem::take(&mut buffers.last_by_text), pool.len(), (NO_ROW, NO_ROW)),
            texts_of: Vec::new(),
            texts: HashTable::new(),
            small: Vec::new(),
            others: HashMap::default(),
            hasher: FixedState::default(),
        }
    }

    /// Notes the value met last of a text; the one before is found by search from now on.
    fn set_last(&mut self, id: StrId, key: u32, value: u32) {
        let (last_key, last) = std::mem::replace(&mut self.last_by_text[id.index()], (key, value));
        if last_key != NO_ROW && last_key != key {
            let (kind, bits) = Counter::Text(id).bits();
            self.others.entry((last_key, kind, bits)).or_insert(last);
        }
    }

    /// Returns the first id of a text.
    fn first_id(&mut self, pool: &StringPool, id: StrId) -> StrId {
        let text = pool.get(id);
        let hash = self.hasher.hash_one(text);
        let is_same = |(known, other): &(u64, StrId)| *known == hash && pool.get(*other) == text;
        self.texts.entry(hash, is_same, |(hash, _)| *hash).or_insert((hash, id)).get().1
    }

    /// Whether `id` can be another id of a text that the key has already. Returns that, and whether it could not before.
    fn may_have_equals(&mut self, pool: &StringPool, key: u32, id: StrId) -> (bool, bool) {
        let known = &mut self.texts_of[key as usize];
        match known {
            TextIds::Anywhere => return (true, false),
            TextIds::Within(ids) if ids.contains(&id.0) => return (false, false),
            TextIds::Within(_) => {}
            TextIds::None => {
                if let Some(ids) = pool.distinct_around(id) {
                    *known = TextIds::Within(ids);
                    return (false, false);
                }
            }
        }
        *known = TextIds::Anywhere;
        (true, true)
    }
}

/// What the values of each attribute add up to, by key and cell.
struct Totals {
    /// Lowest interval times two, and the number of cells from there.
    first_cell: usize,
    cell_count: usize,
    /// Of the first keys, as many as fit.
    dense: Vec<f64>,
    /// Of all others.
    sparse: HashMap<(u32, u32), f64, FixedState>,
}

/// What all occurrences of an attribute on one side in one interval count.
pub(super) struct Total {
    pub(super) key: usize,
    pub(super) side: usize,
    pub(super) interval: usize,
    pub(super) weight: f64,
}

impl Totals {
    /// Sums of all keys that are in an array: 16 MiB.
    const MAX_DENSE: usize = 1 << 21;

    fn of_spans(spans: &Owners) -> Self {
        let intervals = || spans.entries.iter().map(|entry| entry.cell.interval());
        let (first, last) = (intervals().min().unwrap_or(0), intervals().max().unwrap_or(0));
        Self { first_cell: first * 2, cell_count: (last - first + 1) * 2, dense: Vec::new(), sparse: HashMap::default() }
    }

    fn add_key(&mut self) {
        if self.dense.len() + self.cell_count <= Self::MAX_DENSE {
            self.dense.resize(self.dense.len() + self.cell_count, 0.0);
        }
    }

    #[inline]
    fn add(&mut self, key: u32, entries: &[Entry]) {
        for entry in entries {
            match self.dense.get_mut(key as usize * self.cell_count + entry.cell.0 as usize - self.first_cell) {
                Some(sum) => *sum += entry.weight,
                None => *self.sparse.entry((key, entry.cell.0)).or_default() += entry.weight,
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = Total> {
        let dense =
            self.dense.iter().enumerate().map(|(at, weight)| (at / self.cell_count, self.first_cell + at % self.cell_count, *weight));
        let sparse = self.sparse.iter().map(|((key, cell), weight)| (*key as usize, *cell as usize, *weight));
        dense.chain(sparse).filter(|(_, _, weight)| *weight > 0.0).map(|(key, cell, weight)| {
            let cell = Cell(cell as u32);
            Total { key, side: cell.side(), interval: cell.interval(), weight }
        })
    }
}

impl<'t> Tally<'t> {
    /// Makes the first walk.
    pub(super) fn new(table: &'t SpanTable, chosen: &Chosen, is_selected: &[bool], mut buffers: Buffers) -> Self {
        let of_spans = Owners::of_spans(chosen, is_selected);
        let totals = Totals::of_spans(&of_spans);
        let levels = levels(table, of_spans);
        let mut lookup = Lookup::new(&table.strings, &mut buffers);
        let mut this = Self {
            pool: &table.strings,
            levels: Vec::new(),
            keys: Vec::new(),
            totals,
            last_of: Vec::new(),
            previous: emptied(buffers.previous, 0),
            values: emptied(buffers.values, 0),
            counts: emptied(buffers.counts, 0),
            cells: emptied(buffers.cells, 0),
            occurrences: emptied(buffers.occurrences, levels.iter().map(Level::occurrences).sum()),
            used: Buffers::default(),
        };
        for level in &levels {
            level.columns.iter().for_each(|column| this.find_values(&mut lookup, level, column));
        }
        this.levels = levels;
        this.add_cells();
        this.used = Buffers { keys_by_id: lookup.keys_by_id, last_by_text: lookup.last_by_text, ..Buffers::default() };
        this
    }

    /// Returns the memory for the next table.
    pub(super) fn into_buffers(self) -> Buffers {
        Buffers {
            previous: self.previous,
            values: self.values,
            counts: self.counts,
            cells: self.cells,
            occurrences: self.occurrences,
            ..self.used
        }
    }

    fn find_values(&mut self, lookup: &mut Lookup, level: &Level<'_>, column: &Column<'_>) {
        match column {
            Column::List { attrs, scope } => {
                lookup.keys_by_id.fill(NO_ROW);
                for (owner, entries) in level.owners.iter() {
                    for (id, stored) in attrs.of_owner(owner) {
                        let key = self.key_of_id(lookup, id, *scope);
                        let value = match stored {
                            Stored::Str(id) => self.text(lookup, key, id),
                            other => match Counter::of(attrs, other) {
                                Some(value) => self.value(lookup, key, value),
                                None => {
                                    self.occurrences.push(NO_ROW);
                                    continue;
                                }
                            },
                        };
                        self.count_value(key, value, entries);
                    }
                }
            }
            Column::Text { name, ids } => {
                let key = self.key(lookup, name);
                for (owner, entries) in level.owners.iter() {
                    let value = self.text(lookup, key, ids[owner]);
                    self.count_value(key, value, entries);
                }
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
                    self.count_value(key, found, entries);
                }
            }
        }
    }

    #[inline]
    fn count_value(&mut self, key: u32, value: u32, entries: &[Entry]) {
        self.occurrences.push(value);
        let start = value as usize * self.totals.cell_count;
        if let Some(cells) = self.cells.get_mut(start..start + self.totals.cell_count) {
            entries.iter().for_each(|entry| cells[entry.cell.0 as usize - self.totals.first_cell] += entry.weight);
        } else {
            let counts = &mut self.counts[value as usize];
            entries.iter().for_each(|entry| counts[entry.cell.side()] += entry.weight);
            self.totals.add(key, entries);
        }
    }

    /// Adds what was counted per cell to the counts of the values and to the totals.
    fn add_cells(&mut self) {
        let Self { totals, last_of, previous, counts, cells, .. } = self;
        for key in 0..last_of.len() as u32 {
            for value in linked(last_of[key as usize], previous) {
                let start = value as usize * totals.cell_count;
                let Some(cells) = cells.get(start..start + totals.cell_count) else { continue };
                for (cell, weight) in (totals.first_cell as u32..).map(Cell).zip(cells).filter(|(_, weight)| **weight > 0.0) {
                    counts[value as usize][cell.side()] += weight;
                    totals.add(key, &[Entry { cell, weight: *weight }]);
                }
            }
        }
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
        self.last_of.push(NO_ROW);
        self.totals.add_key();
        lookup.texts_of.push(TextIds::None);
        if lookup.small.len() < MAX_SMALL {
            lookup.small.push([NO_ROW; SMALL]);
        }
        lookup.keys_by_name.insert(name.clone(), key);
        key
    }

    /// Returns the number of a value of a key.
    fn value(&mut self, lookup: &mut Lookup, key: u32, value: Counter) -> u32 {
        match value {
            Counter::Text(id) => self.text(lookup, key, id),
            Counter::Int(number @ 0..SMALL_END) if (key as usize) < MAX_SMALL => {
                let known = lookup.small[key as usize][number as usize];
                if known != NO_ROW {
                    return known;
                }
                let found = self.add(key, value);
                lookup.small[key as usize][number as usize] = found;
                found
            }
            other => self.other(lookup, key, other),
        }
    }

    /// Returns the number of a text. Most are values of one key only, so that it needs no search.
    #[inline]
    fn text(&mut self, lookup: &mut Lookup, key: u32, id: StrId) -> u32 {
        let (last_key, last) = lookup.last_by_text[id.index()];
        if last_key == key { last } else { self.other_text(lookup, key, id) }
    }

    /// Returns the number of a text that was not met before as a value of the key, or as one of another key in between.
    #[inline(never)]
    fn other_text(&mut self, lookup: &mut Lookup, key: u32, id: StrId) -> u32 {
        let (may_have_equals, is_new) = lookup.may_have_equals(self.pool, key, id);
        if is_new {
            self.index_texts(lookup, key);
        }
        let first = if may_have_equals { lookup.first_id(self.pool, id) } else { id };
        let (last_key, last) = lookup.last_by_text[first.index()];
        let found = match last_key {
            _ if last_key == key => last,
            NO_ROW => self.add(key, Counter::Text(first)),
            _ => self.other(lookup, key, Counter::Text(first)),
        };
        lookup.set_last(first, key, found);
        lookup.set_last(id, key, found);
        found
    }

    /// Prepares to find the texts of a key by what they are, as further ids may mean the same.
    fn index_texts(&self, lookup: &mut Lookup, key: u32) {
        for value in self.of_key(key) {
            if let Counter::Text(id) = self.values[value as usize] {
                let (kind, bits) = Counter::Text(lookup.first_id(self.pool, id)).bits();
                lookup.others.insert((key, kind, bits), value);
            }
        }
    }

    fn other(&mut self, lookup: &mut Lookup, key: u32, value: Counter) -> u32 {
        let (kind, bits) = value.bits();
        *lookup.others.entry((key, kind, bits)).or_insert_with(|| self.add(key, value))
    }

    fn add(&mut self, key: u32, value: Counter) -> u32 {
        let number = self.values.len() as u32;
        self.previous.push(std::mem::replace(&mut self.last_of[key as usize], number));
        self.values.push(value);
        self.counts.push([0.0; 2]);
        if self.cells.len() + self.totals.cell_count <= MAX_CELLS {
            self.cells.resize(self.cells.len() + self.totals.cell_count, 0.0);
        }
        number
    }

    /// Returns the values of a key, the one found last first.
    fn of_key(&self, key: u32) -> impl Iterator<Item = u32> {
        linked(self.last_of[key as usize], &self.previous)
    }

    /// Returns what the values of each attribute add up to.
    pub(super) fn totals(&self) -> impl Iterator<Item = Total> {
        self.totals.iter()
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
        let of_key = |key: u32| {
            let mut found: Vec<u32> = self.of_key(key).filter(|value| self.counts[*value as usize][side] > 0.0).collect();
            if found.len() > keep {
                self.keep_frequent(&mut found, side, keep);
            }
            found
        };
        (0..self.keys.len() as u32).map(of_key).collect()
    }

    /// Keeps the more frequent values; of equal ones those whose hashes come first, so that all jobs choose the same.
    fn keep_frequent(&self, values: &mut Vec<u32>, side: usize, keep: usize) {
        let count = |value: &u32| self.counts[*value as usize][side];
        let mut counts: Vec<f64> = values.iter().map(count).collect();
        let (_, least, _) = counts.select_nth_unstable_by(keep - 1, |a, b| b.total_cmp(a));
        let least = *least;
        let hasher = FixedState::default();
        let hash = |value: u32| match self.values[value as usize] {
            Counter::Text(id) => hasher.hash_one(self.pool.get(id)),
            other => hasher.hash_one(other.bits()),
        };
        let mut ties: Vec<(u64, u32)> = values.iter().filter(|value| count(value) == least).map(|value| (hash(*value), *value)).collect();
        values.retain(|value| count(value) > least);
        let wanted = keep - values.len();
        if wanted < ties.len() {
            ties.select_nth_unstable(wanted);
            ties.truncate(wanted);
        }
        values.extend(ties.into_iter().map(|(_, value)| value));
    }

    pub(super) fn label(&self, value: u32) -> Static {
        self.values[value as usize].label(self.pool)
    }

    /// Counts the values that have a series, by value and side in `rows`, per interval.
    pub(super) fn count(&self, rows: &[[u32; 2]], mut add: impl FnMut(u32, usize, f64)) {
        let (known, others) = rows.split_at(self.cells.len() / self.totals.cell_count);
        for (cells, rows) in self.cells.chunks_exact(self.totals.cell_count).zip(known).filter(|(_, rows)| **rows != [NO_ROW; 2]) {
            for (cell, weight) in (self.totals.first_cell as u32..).map(Cell).zip(cells).filter(|(_, weight)| **weight > 0.0) {
                let row = rows[cell.side()];
                if row != NO_ROW {
                    add(row, cell.interval(), *weight);
                }
            }
        }
        let mut is_wanted = Bitset::new(rows.len());
        for (value, _) in (known.len()..).zip(others).filter(|(_, rows)| **rows != [NO_ROW; 2]) {
            is_wanted.insert(value);
        }
        if !is_wanted.is_empty() {
            self.walk_again(&is_wanted, rows, add);
        }
    }

    fn walk_again(&self, is_wanted: &Bitset, rows: &[[u32; 2]], mut add: impl FnMut(u32, usize, f64)) {
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
                    for value in of_owner.iter().filter(|value| **value != NO_ROW && is_wanted.contains(**value as usize)) {
                        let rows = rows[*value as usize];
                        for entry in entries {
                            let row = rows[entry.cell.side()];
                            if row != NO_ROW {
                                add(row, entry.cell.interval(), entry.weight);
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
    // Columns with few values come first.
    let span_columns = vec![
        text(Intrinsic::Name, &spans.name),
        text(Intrinsic::StatusMessage, &spans.status_message),
        number(Intrinsic::Kind, &spans.kind, Counter::Kind),
        number(Intrinsic::Status, &spans.status_code, Counter::Status),
        number(Intrinsic::SpanChildCount, &spans.child_count, |count| Counter::Int(i64::from(count))),
        Column::List { attrs: &spans.attrs, scope: AttributeScope::Span },
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
    let all = [(of_traces, trace_columns), (of_resources, resource_columns), (of_scopes, scope_columns), (of_spans, span_columns)];
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
