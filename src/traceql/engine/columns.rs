//! Values of one attribute on many spans at once, for what counts spans: as small codes that stand for distinct values, as numbers, or as
//! histogram buckets.
//!
//! Invariant: spans are asked for in ascending order, and every result has one entry per span.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::expr::Level;
use super::levels::OwnerCursor;
use super::projection::SERVICE_NAME;
use super::source::TableSpans;
use crate::model::span_table::{Attrs, Value as Stored};
use crate::model::strings::StrId;
use crate::traceql::ast::{Attribute, AttributeScope, Intrinsic};
use crate::traceql::types::{Kind, Static, Status};

const NANOS_PER_SECOND: f64 = 1e9;

/// The values of one attribute.
pub(in crate::traceql) struct Codes {
    /// Per span: index into the distinct values. 0 is nil.
    pub(in crate::traceql) of_spans: Vec<u32>,
    values: Vec<Coded>,
}

enum Coded {
    Text(StrId),
    Value(Static),
}

impl Codes {
    /// Number of codes, nil included.
    pub(in crate::traceql) fn len(&self) -> usize {
        self.values.len()
    }

    pub(in crate::traceql) fn value(&self, code: u32, spans: &mut TableSpans<'_>) -> Static {
        match &self.values[code as usize] {
            Coded::Text(id) => spans.evaluator.text(*id),
            Coded::Value(value) => value.clone(),
        }
    }
}

/// Gives codes to the values of one attribute.
struct CodeBook {
    /// By dictionary id; 0: none yet.
    of_text: Vec<u32>,
    of_value: HashMap<Static, u32, FixedState>,
    values: Vec<Coded>,
}

impl CodeBook {
    fn new() -> Self {
        Self { of_text: Vec::new(), of_value: HashMap::default(), values: vec![Coded::Value(Static::Nil)] }
    }

    fn text(&mut self, id: StrId) -> u32 {
        if self.of_text.len() <= id.index() {
            // in steps, so that a few small ids need no table as large as the dictionary
            self.of_text.resize((id.index() + 1).next_power_of_two(), 0);
        }
        let code = &mut self.of_text[id.index()];
        if *code == 0 {
            *code = self.values.len() as u32;
            self.values.push(Coded::Text(id));
        }
        *code
    }

    fn value(&mut self, value: Static) -> u32 {
        if value.is_nil() {
            return 0;
        }
        *self.of_value.entry(value).or_insert_with_key(|value| {
            self.values.push(Coded::Value(value.clone()));
            self.values.len() as u32 - 1
        })
    }
}

/// A histogram bucket: the smallest power of two that is not below the value; of durations in nanoseconds, reported in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::traceql) struct Bucket(u8);

impl Bucket {
    /// Number of codes, "none" included.
    pub(in crate::traceql) const CODES: usize = 128;
    const DURATION: u8 = 64;

    fn new(value: i64, is_duration: bool) -> Option<Self> {
        if value < 2 {
            return None;
        }
        let exponent = (64 - (value - 1).leading_zeros()) as u8;
        Some(Self(if is_duration { exponent + Self::DURATION } else { exponent }))
    }

    fn of(value: &Static) -> Option<Self> {
        match value {
            Static::Int(value) => Self::new(*value, false),
            Static::Duration(nanos) => Self::new(*nanos, true),
            _ => None,
        }
    }

    /// Returns the bucket's upper bound.
    pub(in crate::traceql) fn bound(code: u32) -> f64 {
        let duration = u32::from(Self::DURATION);
        if code >= duration { 2_f64.powi((code - duration) as i32) / NANOS_PER_SECOND } else { 2_f64.powi(code as i32) }
    }
}

/// Returns what a metrics function measures: durations of spans in seconds, other durations in nanoseconds.
pub(in crate::traceql) fn measured(attribute: &Attribute, value: &Static) -> Option<f64> {
    let number = value.as_f64()?;
    Some(if *attribute == Attribute::Intrinsic(Intrinsic::Duration) { number / NANOS_PER_SECOND } else { number })
}

impl TableSpans<'_> {
    pub(in crate::traceql) fn codes(&mut self, attribute: &Attribute, spans: &[u32]) -> Codes {
        let mut book = CodeBook::new();
        let of_spans = self.codes_in(&mut book, attribute, spans);
        debug_assert_eq!(of_spans.len(), spans.len());
        Codes { of_spans, values: book.values }
    }

    fn codes_in(&mut self, book: &mut CodeBook, attribute: &Attribute, spans: &[u32]) -> Vec<u32> {
        let table = self.evaluator.table;
        match attribute {
            Attribute::Named(named) => match named.scope {
                AttributeScope::Span => {
                    let found = self.positions(&table.spans.attrs, named.name.as_bytes(), spans);
                    found.iter().map(|at| self.code_at(book, &table.spans.attrs, *at)).collect()
                }
                AttributeScope::Unscoped => {
                    let found = self.positions(&table.spans.attrs, named.name.as_bytes(), spans);
                    let inherited = self.resource_codes(book, &named.name, spans);
                    let own_or = |(at, inherited): (&u32, u32)| match *at {
                        NONE => inherited,
                        at => self.code_at(book, &table.spans.attrs, at),
                    };
                    found.iter().zip(inherited).map(own_or).collect()
                }
                AttributeScope::Resource => self.resource_codes(book, &named.name, spans),
                AttributeScope::Instrumentation => {
                    let owners: Vec<u32> = (0..table.scopes.spans.len() as u32).collect();
                    let found = self.positions(&table.scopes.attrs, named.name.as_bytes(), &owners);
                    let codes: Vec<u32> = found.iter().map(|at| self.code_at(book, &table.scopes.attrs, *at)).collect();
                    self.inherit(Level::Scope, &codes, spans)
                }
                AttributeScope::Event | AttributeScope::Link => self.codes_one_by_one(book, attribute, spans),
            },
            Attribute::Intrinsic(intrinsic) => match intrinsic {
                Intrinsic::Name => own_text(book, &table.spans.name, spans),
                Intrinsic::StatusMessage => own_text(book, &table.spans.status_message, spans),
                Intrinsic::RootName => self.inherited_text(book, Level::Trace, &table.traces.root_span_name, spans),
                Intrinsic::RootServiceName => self.inherited_text(book, Level::Trace, &table.traces.root_service_name, spans),
                Intrinsic::InstrumentationName => self.inherited_text(book, Level::Scope, &table.scopes.name, spans),
                Intrinsic::InstrumentationVersion => self.inherited_text(book, Level::Scope, &table.scopes.version, spans),
                Intrinsic::Status => enum_codes(book, &table.spans.status_code, spans, |code| Static::Status(Status::from_otlp(code))),
                Intrinsic::Kind => enum_codes(book, &table.spans.kind, spans, |code| Static::Kind(Kind::from_otlp(code))),
                Intrinsic::Duration
                | Intrinsic::SpanId
                | Intrinsic::SpanParentId
                | Intrinsic::SpanChildCount
                | Intrinsic::NestedSetLeft
                | Intrinsic::NestedSetRight
                | Intrinsic::NestedSetParent
                | Intrinsic::TraceDuration
                | Intrinsic::TraceId
                | Intrinsic::EventName
                | Intrinsic::EventTimeSinceStart
                | Intrinsic::LinkTraceId
                | Intrinsic::LinkSpanId
                | Intrinsic::Parent => self.codes_one_by_one(book, attribute, spans),
            },
        }
    }

    fn codes_one_by_one(&mut self, book: &mut CodeBook, attribute: &Attribute, spans: &[u32]) -> Vec<u32> {
        spans.iter().map(|span| book.value(self.value_of(attribute, *span))).collect()
    }

    fn resource_codes(&mut self, book: &mut CodeBook, key: &str, spans: &[u32]) -> Vec<u32> {
        let table = self.evaluator.table;
        if key == SERVICE_NAME {
            return self.inherited_text(book, Level::Resource, &table.resources.service_name, spans);
        }
        let owners: Vec<u32> = (0..table.resources.scopes.len() as u32).collect();
        let found = self.positions(&table.resources.attrs, key.as_bytes(), &owners);
        let codes: Vec<u32> = found.iter().map(|at| self.code_at(book, &table.resources.attrs, *at)).collect();
        self.inherit(Level::Resource, &codes, spans)
    }

    fn inherited_text(&mut self, book: &mut CodeBook, level: Level, column: &[StrId], spans: &[u32]) -> Vec<u32> {
        let codes: Vec<u32> = column.iter().map(|id| book.text(*id)).collect();
        self.inherit(level, &codes, spans)
    }

    /// Returns for each span the code of its owner on `level`, nil when the column was not read.
    fn inherit(&self, level: Level, codes: &[u32], spans: &[u32]) -> Vec<u32> {
        let table = self.evaluator.table;
        let (traces, resources, scopes) = (table.traces.resources.bounds(), table.resources.scopes.bounds(), table.scopes.spans.bounds());
        let (owners, end_of): (usize, &dyn Fn(usize) -> u32) = match level {
            Level::Trace => (traces.len() - 1, &|owner| scopes[resources[traces[owner + 1] as usize] as usize]),
            Level::Resource => (resources.len() - 1, &|owner| scopes[resources[owner + 1] as usize]),
            Level::Scope | Level::Span | Level::Event | Level::Link => (scopes.len() - 1, &|owner| scopes[owner + 1]),
        };
        let mut of_spans = Vec::with_capacity(spans.len());
        for owner in 0..owners {
            let (from, end) = (of_spans.len(), end_of(owner));
            let Some(rest) = spans.get(from..).filter(|rest| !rest.is_empty()) else { break };
            let count = rest.iter().take_while(|span| **span < end).count();
            of_spans.resize(from + count, codes.get(owner).copied().unwrap_or(0));
        }
        debug_assert_eq!(of_spans.len(), spans.len(), "every span has an owner");
        of_spans
    }

    fn code_at(&mut self, book: &mut CodeBook, attrs: &Attrs, at: u32) -> u32 {
        match at {
            NONE => 0,
            at => match attrs.values[at as usize] {
                Stored::Str(id) => book.text(id),
                value => book.value(self.evaluator.stored(attrs, value)),
            },
        }
    }

    /// Returns for each of `owners`, ascending, where its first comparable value of `key` is, else [`NONE`].
    fn positions(&mut self, attrs: &Attrs, key: &[u8], owners: &[u32]) -> Vec<u32> {
        /// Keys compared at a time; a multiple of every vector width.
        const KEYS_AT_ONCE: usize = 32;
        /// So much smaller than their universe, owners are looked at one by one.
        const SPARSE: usize = 8;
        let keys = self.evaluator.ids.ids_of(&self.evaluator.table.strings, key);
        let universe = attrs.of.len();
        if keys.is_empty() || attrs.keys.is_empty() || owners.last().is_none_or(|last| *last as usize >= universe) {
            return vec![NONE; owners.len()];
        }
        let is_it = |at: usize| keys.contains(&attrs.keys[at]) && !matches!(attrs.values[at], Stored::Json(_));
        if owners.len() * SPARSE < universe {
            let first = |owner: &u32| attrs.of.range(*owner as usize).find(|at| is_it(*at)).map_or(NONE, |at| at as u32);
            return owners.iter().map(first).collect();
        }
        let mut of_all = vec![NONE; universe];
        let mut cursor = OwnerCursor::new(&attrs.of);
        for (chunk, candidates) in attrs.keys.chunks(KEYS_AT_ONCE).enumerate() {
            // no early exit, so that the comparisons become vector instructions
            if keys.iter().any(|key| candidates.iter().fold(false, |any, candidate| any | (candidate == key))) {
                let first = chunk * KEYS_AT_ONCE;
                for at in (first..first + candidates.len()).filter(|at| is_it(*at)) {
                    let found = &mut of_all[cursor.owner_of(at)];
                    *found = (*found).min(at as u32);
                }
            }
        }
        if owners.len() == universe { of_all } else { owners.iter().map(|owner| of_all[*owner as usize]).collect() }
    }

    /// Returns the value of `attribute` on one span.
    pub(in crate::traceql) fn value_of(&mut self, attribute: &Attribute, span: u32) -> Static {
        self.evaluator.attribute(attribute, Level::Span, span as usize)
    }

    /// Returns what a function measures on each span; NaN for nothing.
    pub(in crate::traceql) fn numbers(&mut self, attribute: &Attribute, spans: &[u32]) -> Vec<f64> {
        let table = self.evaluator.table;
        if *attribute == Attribute::Intrinsic(Intrinsic::Duration) {
            let seconds =
                |span: &u32| table.spans.duration_nanos.get(*span as usize).map_or(f64::NAN, |n| *n as i64 as f64 / NANOS_PER_SECOND);
            return spans.iter().map(seconds).collect();
        }
        let number = |value: Static| measured(attribute, &value).unwrap_or(f64::NAN);
        let found = match attribute {
            Attribute::Named(named) if matches!(named.scope, AttributeScope::Span | AttributeScope::Unscoped) => {
                self.positions(&table.spans.attrs, named.name.as_bytes(), spans)
            }
            _ => vec![NONE; spans.len()],
        };
        let is_elsewhere = !matches!(attribute, Attribute::Named(named) if named.scope == AttributeScope::Span);
        let mut numbers = Vec::with_capacity(spans.len());
        for (span, at) in spans.iter().zip(found) {
            numbers.push(match at {
                NONE if is_elsewhere => number(self.value_of(attribute, *span)),
                NONE => f64::NAN,
                at => match table.spans.attrs.values[at as usize] {
                    Stored::Int(value) => value as f64,
                    Stored::Double(value) => value,
                    value => number(self.evaluator.stored(&table.spans.attrs, value)),
                },
            });
        }
        numbers
    }

    /// Returns the code of each span's histogram bucket ([`Bucket::bound`]); 0 for none.
    pub(in crate::traceql) fn buckets(&mut self, attribute: &Attribute, spans: &[u32]) -> Vec<u32> {
        let table = self.evaluator.table;
        let code = |bucket: Option<Bucket>| bucket.map_or(0, |bucket| u32::from(bucket.0));
        if *attribute == Attribute::Intrinsic(Intrinsic::Duration) {
            let nanos = |span: &u32| table.spans.duration_nanos.get(*span as usize).copied().unwrap_or(0) as i64;
            return spans.iter().map(|span| code(Bucket::new(nanos(span), true))).collect();
        }
        let codes = self.codes(attribute, spans);
        let of_code = |value: &Coded| match value {
            Coded::Text(_) => 0,
            Coded::Value(value) => code(Bucket::of(value)),
        };
        let of_codes: Vec<u32> = codes.values.iter().map(of_code).collect();
        codes.of_spans.iter().map(|code| of_codes[*code as usize]).collect()
    }
}

/// No position.
const NONE: u32 = u32::MAX;

fn own_text(book: &mut CodeBook, column: &[StrId], spans: &[u32]) -> Vec<u32> {
    spans.iter().map(|span| column.get(*span as usize).map_or(0, |id| book.text(*id))).collect()
}

/// Enums have few values: each is made once.
fn enum_codes(book: &mut CodeBook, column: &[i32], spans: &[u32], value: impl Fn(i32) -> Static) -> Vec<u32> {
    let (mut last, mut last_code) = (0, book.value(value(0)));
    let code = |span: &u32| {
        let Some(number) = column.get(*span as usize).copied() else { return 0 };
        if number != last {
            (last, last_code) = (number, book.value(value(number)));
        }
        last_code
    };
    spans.iter().map(code).collect()
}
