//! `compare()`: how often each value of each attribute occurs among selected spans and among the others (metrics, compare).
//!
//! Tables are gone through twice: first every value is counted without intervals, then those that may be among the most frequent are counted
//! per interval. Values are dictionary ids until one of them gets a series.
//!
//! Invariants
//! * Per table: 4 bytes per attribute and about 60 per distinct value. Per job: [`CANDIDATES`] times as many values as are reported, of each
//!   attribute and side, so that merging jobs finds the right ones unless frequencies are close.
//! * An attribute is counted once per span, whatever conditions name it. Events and links are left out, and so are durations and ids.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::accumulate::{Accumulator, Kind};
use super::exemplars::Exemplars;
use super::plan::CompareFunction;
use super::raw::{Chosen, emit, for_one_span_per_trace, trace_id};
use super::series::{Exemplar, Labels, META_LABEL, Series, TRACE_ID_LABEL, label_value};
use super::window::{NANOS_PER_MILLI, Window};
use crate::base::bitset::Bitset;
use crate::model::span_table::{Attrs, Offsets, SpanTable, Value as Stored};
use crate::model::strings::{StrId, StringPool};
use crate::traceql::ast::{Attribute, AttributeScope, Intrinsic};
use crate::traceql::engine::projection::SERVICE_NAME;
use crate::traceql::engine::source::{OwnerCursor, TableSpans};
use crate::traceql::types::{Kind as SpanKind, Static, Status};

/// Values kept per attribute and side before the end, as a multiple of those reported.
const CANDIDATES: usize = 4;
/// At least so many.
const MIN_CANDIDATES: usize = 32;

/// Values of `__meta_type`, by side.
pub(super) const VALUES: [&str; 2] = ["baseline", "selection"];
pub(super) const TOTALS: [&str; 2] = ["baseline_total", "selection_total"];

/// Number of values to keep of each attribute and side until the end.
pub(super) fn candidates(top_n: usize) -> usize {
    (top_n * CANDIDATES).max(MIN_CANDIDATES)
}

/// The counts of one job.
pub(super) struct RawCompare {
    series: Accumulator,
    /// By side; attached to the totals of all attributes they name.
    exemplars: [Exemplars; 2],
}

impl RawCompare {
    pub(super) fn new(window: Window, exemplars: u32) -> Self {
        let sides = [(); 2].map(|()| Exemplars::new(&window, exemplars, false));
        Self { series: Accumulator::new(Kind::Count, window, 1.0, 0), exemplars: sides }
    }

    pub(super) fn is_cut(&self) -> bool {
        self.series.is_cut()
    }

    pub(super) fn add(&mut self, function: &CompareFunction, spans: &mut TableSpans<'_>, chosen: &Chosen) {
        if chosen.spans.is_empty() {
            return;
        }
        let table = spans.table();
        let is_selected = selected(function, spans, chosen);
        let tally = Tally::new(table, chosen, &is_selected);
        let rows = self.rows(&tally, function.top_n);
        tally.count(&rows, |row, interval, count| self.series.add(row, interval, 0.0, count));
        self.add_exemplars(table, chosen, &is_selected);
    }

    /// Gives series to the most frequent values, and to the totals.
    fn rows(&mut self, tally: &Tally<'_>, top_n: usize) -> Rows {
        let mut rows = Rows { of_values: vec![[NO_ROW; 2]; tally.values.len()], of_keys: vec![[NO_ROW; 2]; tally.keys.len()] };
        for (key, values) in tally.values_by_key().iter().enumerate() {
            for side in 0..2 {
                let mut found: Vec<usize> = values.iter().copied().filter(|value| tally.values[*value].counts[side] > 0.0).collect();
                let keep = candidates(top_n);
                if found.len() > keep {
                    found.select_nth_unstable_by(keep, |a, b| tally.by_frequency(*a, *b, side));
                    found.truncate(keep);
                }
                for value in &found {
                    let labels = meta_labels(VALUES[side], &tally.keys[key], tally.label(*value));
                    rows.of_values[*value][side] = self.series.row(&labels).unwrap_or(NO_ROW);
                }
                if !found.is_empty() {
                    let labels = meta_labels(TOTALS[side], &tally.keys[key], Static::Nil);
                    rows.of_keys[key][side] = self.series.row(&labels).unwrap_or(NO_ROW);
                }
            }
        }
        rows
    }

    fn add_exemplars(&mut self, table: &SpanTable, chosen: &Chosen, is_selected: &[bool]) {
        let [baseline, selection] = &mut self.exemplars;
        for (side, exemplars) in [(false, baseline), (true, selection)] {
            let positions: Vec<usize> = (0..chosen.spans.len()).filter(|at| is_selected[*at] == side).collect();
            let of_side = Chosen {
                spans: positions.iter().map(|at| chosen.spans[*at]).collect(),
                intervals: Vec::new(),
                weights: Vec::new(),
                factor: 1.0,
            };
            for_one_span_per_trace(table, &of_side, exemplars, |at, exemplars| {
                let span = of_side.spans[at];
                let timestamp_ms = (table.spans.start_unix_nanos[span as usize] / NANOS_PER_MILLI) as i64;
                if exemplars.has_room(0, timestamp_ms) {
                    exemplars.add(0, Exemplar { labels: attributes_of(table, span), timestamp_ms, value: f64::NAN });
                }
            });
        }
    }

    pub(super) fn emit(&self, out: &mut Vec<Series>) {
        let first = out.len();
        emit(Kind::Count, &self.series, &Exemplars::new(self.series.window(), 0, false), out);
        for series in &mut out[first..] {
            let Some(side) = side_of_total(&series.labels) else { continue };
            let Some(attribute) = series.labels.iter().nth(1) else { continue };
            let about = self.exemplars[side].iter().map(|(_, exemplar)| exemplar);
            series.exemplars.extend(about.filter(|exemplar| exemplar.labels.get(&attribute.name).is_some()).cloned());
            series.exemplars.sort_by_key(|exemplar| exemplar.timestamp_ms);
        }
    }
}

/// Which of the two totals these labels name.
fn side_of_total(labels: &Labels) -> Option<usize> {
    let Some(Static::String(meta)) = labels.get(META_LABEL) else { return None };
    TOTALS.iter().position(|total| *total == &**meta)
}

fn meta_labels(meta: &str, name: &Arc<str>, value: Static) -> Labels {
    let mut labels = Labels::single(META_LABEL, Static::string(meta));
    labels.push(name.clone(), value);
    labels
}

fn selected(function: &CompareFunction, spans: &mut TableSpans<'_>, chosen: &Chosen) -> Vec<bool> {
    let mut all = Bitset::new(spans.table().span_count());
    chosen.spans.iter().for_each(|span| all.insert(*span as usize));
    let passed = spans.filter(&function.selection, &all);
    let starts = &spans.table().spans.start_unix_nanos;
    let is_in_time = |span: usize| function.start < starts[span] && starts[span] <= function.end;
    chosen.spans.iter().map(|span| passed.contains(*span as usize) && is_in_time(*span as usize)).collect()
}

const NO_ROW: u32 = u32::MAX;

/// Series by value or key, and side.
struct Rows {
    of_values: Vec<[u32; 2]>,
    of_keys: Vec<[u32; 2]>,
}

/// One value of one attribute.
struct Counted {
    key: u32,
    value: Counter,
    counts: [f64; 2],
}

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

    /// Type and content of what is no text.
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

/// Owners on one level with the positions of their chosen spans.
type Owners = Vec<(u32, Range<u32>)>;

/// All values of a table's chosen spans.
struct Tally<'t> {
    pool: &'t StringPool,
    chosen: &'t Chosen,
    is_selected: &'t [bool],
    levels: Vec<(Owners, Vec<Column<'t>>)>,
    /// Names of attributes.
    keys: Vec<Arc<str>>,
    values: Vec<Counted>,
    /// The value of each occurrence, in the order of a walk.
    occurrences: Vec<u32>,
}

/// Finds keys and values by what they are.
struct Lookup {
    /// By dictionary id, of the list that is looked at; [`NO_ROW`]: not known.
    keys_by_id: Vec<u32>,
    keys_by_name: HashMap<Arc<str>, u32, FixedState>,
    /// By dictionary id: the key and value met last.
    last_by_text: Vec<(u32, u32)>,
    texts: HashTable<u32>,
    others: HashMap<(u32, u8, u64), u32, FixedState>,
    hasher: FixedState,
}

impl<'t> Tally<'t> {
    fn new(table: &'t SpanTable, chosen: &'t Chosen, is_selected: &'t [bool]) -> Self {
        let levels = levels(table, chosen);
        let mut this =
            Self { pool: &table.strings, chosen, is_selected, levels, keys: Vec::new(), values: Vec::new(), occurrences: Vec::new() };
        this.find_values();
        this
    }

    /// The first walk: numbers values and counts them per side.
    fn find_values(&mut self) {
        let mut lookup = Lookup {
            keys_by_id: Vec::new(),
            keys_by_name: HashMap::default(),
            last_by_text: vec![(u32::MAX, 0); self.pool.len()],
            texts: HashTable::new(),
            others: HashMap::default(),
            hasher: FixedState::default(),
        };
        let levels = std::mem::take(&mut self.levels);
        for (owners, columns) in &levels {
            let counts: Vec<[f64; 2]> = owners.iter().map(|(_, positions)| self.counts_of(positions)).collect();
            for column in columns {
                lookup.keys_by_id.fill(NO_ROW);
                let fixed_key = match column {
                    Column::List { .. } => NO_ROW,
                    Column::Text { name, .. } | Column::Number { name, .. } => self.key(&mut lookup, name),
                };
                for ((owner, _), counts) in owners.iter().zip(&counts) {
                    self.visit(&mut lookup, column, fixed_key, *owner as usize, *counts);
                }
            }
        }
        self.levels = levels;
    }

    fn counts_of(&self, positions: &Range<u32>) -> [f64; 2] {
        let mut counts = [0.0; 2];
        for at in positions.clone() {
            counts[usize::from(self.is_selected[at as usize])] += self.chosen.weight(at as usize);
        }
        counts
    }

    fn visit(&mut self, lookup: &mut Lookup, column: &Column<'_>, fixed_key: u32, owner: usize, counts: [f64; 2]) {
        match column {
            Column::List { attrs, scope } => {
                for (key, value) in attrs.of_owner(owner) {
                    let occurrence = match Counter::of(attrs, value) {
                        None => NO_ROW,
                        Some(value) => {
                            let key = self.key_of_id(lookup, key, *scope);
                            self.count_value(lookup, key, value, counts)
                        }
                    };
                    self.occurrences.push(occurrence);
                }
            }
            Column::Text { name: _, ids } => {
                let occurrence = self.count_value(lookup, fixed_key, Counter::Text(ids[owner]), counts);
                self.occurrences.push(occurrence);
            }
            Column::Number { name: _, numbers, value } => {
                let occurrence = self.count_value(lookup, fixed_key, value(numbers[owner]), counts);
                self.occurrences.push(occurrence);
            }
        }
    }

    fn key_of_id(&mut self, lookup: &mut Lookup, id: StrId, scope: AttributeScope) -> u32 {
        if lookup.keys_by_id.len() <= id.index() {
            lookup.keys_by_id.resize((id.index() + 1).next_power_of_two(), NO_ROW);
        }
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

    fn count_value(&mut self, lookup: &mut Lookup, key: u32, value: Counter, counts: [f64; 2]) -> u32 {
        let index = match value {
            Counter::Text(id) => self.text_value(lookup, key, id),
            other => {
                let (kind, bits) = other.bits();
                let values = &mut self.values;
                *lookup.others.entry((key, kind, bits)).or_insert_with(|| {
                    values.push(Counted { key, value: other, counts: [0.0; 2] });
                    values.len() as u32 - 1
                })
            }
        };
        let known = &mut self.values[index as usize].counts;
        known[0] += counts[0];
        known[1] += counts[1];
        index
    }

    /// Equal texts may have several ids, and one id may be a value of several keys.
    fn text_value(&mut self, lookup: &mut Lookup, key: u32, id: StrId) -> u32 {
        let (last_key, last) = lookup.last_by_text[id.index()];
        if last_key == key {
            return last;
        }
        let (pool, values) = (self.pool, &mut self.values);
        let text = pool.get(id);
        let of = |value: &Counted| match value.value {
            Counter::Text(id) => (value.key, pool.get(id)),
            _ => (value.key, &b""[..]),
        };
        let hash = lookup.hasher.hash_one((key, text));
        let found = lookup.texts.find(hash, |index| of(&values[*index as usize]) == (key, text)).copied();
        let index = found.unwrap_or_else(|| {
            let index = values.len() as u32;
            values.push(Counted { key, value: Counter::Text(id), counts: [0.0; 2] });
            let hasher = &lookup.hasher;
            lookup.texts.insert_unique(hash, index, |index| hasher.hash_one(of(&values[*index as usize])));
            index
        });
        lookup.last_by_text[id.index()] = (key, index);
        index
    }

    fn values_by_key(&self) -> Vec<Vec<usize>> {
        let mut by_key = vec![Vec::new(); self.keys.len()];
        self.values.iter().enumerate().for_each(|(index, value)| by_key[value.key as usize].push(index));
        by_key
    }

    fn label(&self, value: usize) -> Static {
        self.values[value].value.label(self.pool)
    }

    /// The more frequent value first; of equal ones the first in the order of responses.
    fn by_frequency(&self, a: usize, b: usize, side: usize) -> std::cmp::Ordering {
        let count = |value: usize| self.values[value].counts[side];
        let by_value = || match (self.values[a].value, self.values[b].value) {
            (Counter::Text(a), Counter::Text(b)) => self.pool.get(a).cmp(self.pool.get(b)),
            _ => Labels::single("", self.label(a)).response_order(&Labels::single("", self.label(b))),
        };
        count(b).total_cmp(&count(a)).then_with(by_value)
    }

    /// The second walk: counts the values that have a series, and totals, per interval.
    fn count(&self, rows: &Rows, mut add: impl FnMut(u32, usize, f64)) {
        let mut occurrences = self.occurrences.iter();
        for (owners, columns) in &self.levels {
            for column in columns {
                for (owner, positions) in owners {
                    let count = match column {
                        Column::List { attrs, .. } => attrs.of.range(*owner as usize).len(),
                        Column::Text { .. } | Column::Number { .. } => 1,
                    };
                    for value in occurrences.by_ref().take(count).filter(|value| **value != NO_ROW) {
                        let key = self.values[*value as usize].key as usize;
                        self.count_spans(positions, rows.of_values[*value as usize], rows.of_keys[key], &mut add);
                    }
                }
            }
        }
        debug_assert!(occurrences.next().is_none(), "both walks meet the same occurrences");
    }

    fn count_spans(&self, positions: &Range<u32>, value: [u32; 2], total: [u32; 2], add: &mut impl FnMut(u32, usize, f64)) {
        for at in positions.start as usize..positions.end as usize {
            let (side, interval, weight) = (usize::from(self.is_selected[at]), self.chosen.intervals[at] as usize, self.chosen.weight(at));
            for row in [value[side], total[side]] {
                if row != NO_ROW {
                    add(row, interval, weight);
                }
            }
        }
    }
}

/// Returns the owners of the chosen spans on each level, and the columns there that were read.
fn levels<'t>(table: &'t SpanTable, chosen: &Chosen) -> Vec<(Owners, Vec<Column<'t>>)> {
    let text = |intrinsic: Intrinsic, ids: &'t [StrId]| Column::Text { name: intrinsic.as_str().into(), ids };
    let (traces, resources, scopes, spans) = (&table.traces, &table.resources, &table.scopes, &table.spans);
    let service_name: Arc<str> = Attribute::named(AttributeScope::Resource, SERVICE_NAME).to_string().into();
    let of_span: Owners = chosen.spans.iter().enumerate().map(|(at, span)| (*span, at as u32..at as u32 + 1)).collect();
    let of_scope = owners_above(&of_span, &scopes.spans);
    let of_resource = owners_above(&of_scope, &resources.scopes);
    let of_trace = owners_above(&of_resource, &traces.resources);
    let span_columns = vec![
        Column::List { attrs: &spans.attrs, scope: AttributeScope::Span },
        text(Intrinsic::Name, &spans.name),
        text(Intrinsic::StatusMessage, &spans.status_message),
        Column::Number { name: Intrinsic::Kind.as_str().into(), numbers: &spans.kind, value: Counter::Kind },
        Column::Number { name: Intrinsic::Status.as_str().into(), numbers: &spans.status_code, value: Counter::Status },
        Column::Number {
            name: Intrinsic::SpanChildCount.as_str().into(),
            numbers: &spans.child_count,
            value: |count| Counter::Int(i64::from(count)),
        },
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
    let mut levels = vec![(of_span, span_columns), (of_scope, scope_columns), (of_resource, resource_columns), (of_trace, trace_columns)];
    for (owners, columns) in &mut levels {
        let needed = owners.last().map_or(0, |(owner, _)| *owner as usize + 1);
        columns.retain(|column| match column {
            Column::List { attrs, .. } => attrs.of.len() >= needed,
            Column::Text { ids, .. } => ids.len() >= needed,
            Column::Number { numbers, .. } => numbers.len() >= needed,
        });
    }
    levels
}

/// Joins owners that have the same owner one level up.
fn owners_above(owners: &Owners, offsets: &Offsets) -> Owners {
    let mut cursor = OwnerCursor::new(offsets);
    let mut above: Owners = Vec::new();
    for (owner, positions) in owners {
        let owner = cursor.owner_of(*owner as usize) as u32;
        match above.last_mut() {
            Some((last, known)) if *last == owner => known.end = positions.end,
            _ => above.push((owner, positions.clone())),
        }
    }
    above
}

/// Returns all that is counted of one span, as labels of an exemplar.
fn attributes_of(table: &SpanTable, span: u32) -> Labels {
    let only = Chosen { spans: vec![span], intervals: vec![0], weights: Vec::new(), factor: 1.0 };
    let pool = &table.strings;
    let mut labels = BTreeMap::new();
    for (owners, columns) in levels(table, &only) {
        for (owner, column) in owners.iter().flat_map(|(owner, _)| columns.iter().map(|column| (*owner as usize, column))) {
            match column {
                Column::List { attrs, scope } => {
                    let found = attrs.of_owner(owner).filter_map(|(key, value)| Some((key, Counter::of(attrs, value)?)));
                    labels.extend(found.map(|(key, value)| (attribute_name(pool, key, *scope), value.label(pool))));
                }
                Column::Text { name, ids } => {
                    labels.insert(name.clone(), Counter::Text(ids[owner]).label(pool));
                }
                Column::Number { name, numbers, value } => {
                    labels.insert(name.clone(), value(numbers[owner]).label(pool));
                }
            }
        }
    }
    let mut all = Labels::new();
    labels.into_iter().for_each(|(name, value)| all.push(name, value));
    all.push(TRACE_ID_LABEL, trace_id(table, span));
    all
}

fn attribute_name(pool: &StringPool, key: StrId, scope: AttributeScope) -> Arc<str> {
    Attribute::named(scope, &*pool.text(key)).to_string().into()
}
