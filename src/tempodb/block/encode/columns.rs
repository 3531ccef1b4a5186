//! From a [`SpanTable`] to the values and levels of each column (block-format §4).

use parquet::schema::types::ColumnDescPtr;

use super::super::dedicated::DedicatedScope;
use super::super::schema::{AttrPart, BlockSchema, Column, Leaf, LeafEncoding, LeafRepetition, Level, ValueType};
use super::attributes::{SplitAttrs, ValueKind};
use super::chunk::{EncodedChunk, encode_chunk};
use super::levels::{Repetition, Structure};
use super::page::PageWriter;
use super::strings::Strings;
use super::values::{Bools, ByteArrays, CodedStrings, ColumnValues, Doubles, IntValue, Ints, SpanIds};
use super::{EncodeError, EncodeSettings};
use crate::model::ids::TraceId;
use crate::model::span_table::{SpanTable, Value};
use crate::model::strings::StrId;

/// Distinct values a column of strings must have before it may do without a dictionary, and the values per distinct one below which it does.
const UNIQUE_MIN_STRINGS: usize = 4096;
const UNIQUE_MAX_REPEATS: f64 = 1.25;

/// A table with what all of its columns share.
pub(super) struct Columns<'a> {
    table: &'a SpanTable,
    strings: Strings<'a>,
    settings: EncodeSettings,
    traces: Structure,
    stats: Structure,
    resources: Structure,
    scopes: Structure,
    spans: Structure,
    events: Structure,
    links: Structure,
    resource_attrs: SplitAttrs<'a>,
    scope_attrs: SplitAttrs<'a>,
    span_attrs: SplitAttrs<'a>,
    event_attrs: SplitAttrs<'a>,
    link_attrs: SplitAttrs<'a>,
}

impl<'a> Columns<'a> {
    pub(super) fn new(table: &'a SpanTable, schema: &BlockSchema, settings: EncodeSettings) -> Self {
        let strings = Strings::new(&table.strings);
        let traces = Structure::rows(table.trace_count());
        let stats = traces.repeated(|trace| table.traces.service_stats_of.range(trace).len());
        let resources = traces.repeated(|trace| table.traces.resources.range(trace).len());
        let scopes = resources.repeated(|resource| table.resources.scopes.range(resource).len());
        let spans = scopes.repeated(|scope| table.scopes.spans.range(scope).len());
        let events = spans.repeated(|span| table.spans.events.range(span).len());
        let links = spans.repeated(|span| table.spans.links.range(span).len());
        let split = |attrs, owners, scope| SplitAttrs::new(attrs, owners, scope, schema, &strings);
        Self {
            resource_attrs: split(&table.resources.attrs, &resources, Some(DedicatedScope::Resource)),
            scope_attrs: split(&table.scopes.attrs, &scopes, None),
            span_attrs: split(&table.spans.attrs, &spans, Some(DedicatedScope::Span)),
            event_attrs: split(&table.events.attrs, &events, Some(DedicatedScope::Event)),
            link_attrs: split(&table.links.attrs, &links, None),
            table,
            strings,
            settings,
            traces,
            stats,
            resources,
            scopes,
            spans,
            events,
            links,
        }
    }

    /// Encodes one column. One `match` for all columns, so that the table of block-format §3.4 can be read along it.
    pub(super) fn encode(&mut self, leaf: &Leaf, descriptor: ColumnDescPtr, pages: &mut PageWriter) -> Result<EncodedChunk, EncodeError> {
        let table = self.table;
        let (traces, spans, events, links) = (&table.traces, &table.spans, &table.events, &table.links);
        let mut out = Output { leaf, descriptor, pages, settings: self.settings };
        match leaf.column {
            Column::TraceId => out.put(&self.traces, ByteArrays(traces.ids.iter().map(|id| id.0.as_slice()).collect())),
            Column::TraceIdText => {
                let texts: Vec<_> = traces.ids.iter().map(TraceId::to_short_hex).collect();
                out.put(&self.traces, ByteArrays(texts.iter().map(String::as_bytes).collect()))
            }
            Column::TraceStart => out.ints(&self.traces, &traces.start_unix_nanos),
            Column::TraceEnd => out.ints(&self.traces, &traces.end_unix_nanos),
            Column::TraceDuration => out.ints(&self.traces, &traces.duration_nanos),
            Column::RootServiceName => out.strings(&self.traces, &mut self.strings, &traces.root_service_name),
            Column::RootSpanName => out.strings(&self.traces, &mut self.strings, &traces.root_span_name),
            Column::StatsServiceName => out.strings(&self.stats, &mut self.strings, &traces.service_stats.service_name),
            Column::StatsSpanCount => out.ints(&self.stats, &traces.service_stats.span_count),
            Column::StatsErrorCount => out.ints(&self.stats, &traces.service_stats.error_count),
            Column::ResourceServiceName => out.strings(&self.resources, &mut self.strings, &table.resources.service_name),
            Column::ScopeName => out.strings(&self.scopes, &mut self.strings, &table.scopes.name),
            Column::ScopeVersion => out.strings(&self.scopes, &mut self.strings, &table.scopes.version),
            Column::ScopeSpanCount => {
                let bounds = table.scopes.spans.bounds();
                out.ints(&self.scopes, &collect(bounds.windows(2), |scope| (scope[1] - scope[0]) as i32))
            }
            Column::SpanId => out.put(&self.spans, SpanIds(&spans.span_id)),
            Column::ParentSpanId => out.put(&self.spans, SpanIds(&spans.parent_span_id)),
            Column::NestedParent => out.ints(&self.spans, &spans.nested_parent),
            Column::NestedLeft => out.ints(&self.spans, &spans.nested_left),
            Column::NestedRight => out.ints(&self.spans, &spans.nested_right),
            Column::ChildCount => out.ints(&self.spans, &spans.child_count),
            Column::SpanName => out.strings(&self.spans, &mut self.strings, &spans.name),
            Column::SpanKind => out.ints(&self.spans, &collect(&spans.kind, |kind| i64::from(*kind))),
            Column::SpanTraceState => out.strings(&self.spans, &mut self.strings, &spans.trace_state),
            Column::SpanStart => out.ints(&self.spans, &spans.start_unix_nanos),
            Column::SpanDuration => out.ints(&self.spans, &spans.duration_nanos),
            Column::StatusCode => out.ints(&self.spans, &collect(&spans.status_code, |code| i64::from(*code))),
            Column::StatusMessage => out.strings(&self.spans, &mut self.strings, &spans.status_message),
            Column::DroppedEvents => out.counts(&self.spans, &spans.dropped_events),
            Column::DroppedLinks => out.counts(&self.spans, &spans.dropped_links),
            Column::StartRounded15 => out.ints(&self.spans, &rounded(&spans.start_unix_nanos, 15)),
            Column::StartRounded60 => out.ints(&self.spans, &rounded(&spans.start_unix_nanos, 60)),
            Column::StartRounded300 => out.ints(&self.spans, &rounded(&spans.start_unix_nanos, 300)),
            Column::StartRounded3600 => out.ints(&self.spans, &rounded(&spans.start_unix_nanos, 3600)),
            Column::EventTime => out.ints(&self.events, &events.time_since_start_nanos),
            Column::EventName => out.strings(&self.events, &mut self.strings, &events.name),
            Column::LinkTraceId => {
                let bytes = |id: &'a TraceId| if id.is_zero() { &[][..] } else { &id.0 };
                out.put(&self.links, ByteArrays(links.trace_id.iter().map(bytes).collect()))
            }
            Column::LinkSpanId => out.put(&self.links, SpanIds(&links.span_id)),
            Column::LinkTraceState => out.strings(&self.links, &mut self.strings, &links.trace_state),
            Column::DroppedAttributes(level) => match level {
                Level::Trace | Level::ServiceStats => unreachable!("the schema gives these no attributes"),
                Level::Resource => out.counts(&self.resources, &table.resources.dropped_attributes),
                Level::Scope => out.counts(&self.scopes, &table.scopes.dropped_attributes),
                Level::Span => out.counts(&self.spans, &spans.dropped_attributes),
                Level::Event => out.counts(&self.events, &events.dropped_attributes),
                Level::Link => out.counts(&self.links, &links.dropped_attributes),
            },
            Column::Attr(level, part) => {
                let attrs = match level {
                    Level::Trace | Level::ServiceStats => unreachable!("the schema gives these no attributes"),
                    Level::Resource => &self.resource_attrs,
                    Level::Scope => &self.scope_attrs,
                    Level::Span => &self.span_attrs,
                    Level::Event => &self.event_attrs,
                    Level::Link => &self.link_attrs,
                };
                out.attribute_part(attrs, part, &mut self.strings)
            }
            Column::Dedicated(..) | Column::Fixed(_) => {
                let (owners, attrs) = match leaf.level {
                    Level::Resource => (&self.resources, &self.resource_attrs),
                    Level::Span => (&self.spans, &self.span_attrs),
                    Level::Event => (&self.events, &self.event_attrs),
                    Level::Trace | Level::ServiceStats | Level::Scope | Level::Link => unreachable!("the schema gives these no slots"),
                };
                out.slot(owners, attrs, &mut self.strings)
            }
            Column::EventUnixTime | Column::SpanLinks => Err(EncodeError::ReadOnlyColumn(leaf.path.clone())),
        }
    }
}

/// A column on its way to its chunk.
struct Output<'p> {
    leaf: &'p Leaf,
    descriptor: ColumnDescPtr,
    pages: &'p mut PageWriter,
    settings: EncodeSettings,
}

impl Output<'_> {
    fn put<V: ColumnValues>(&mut self, structure: &Structure, values: V) -> Result<EncodedChunk, EncodeError> {
        encode_chunk(self.leaf, self.descriptor.clone(), structure, values, self.pages, self.settings)
    }

    fn ints<T: IntValue>(&mut self, structure: &Structure, values: &[T]) -> Result<EncodedChunk, EncodeError> {
        self.put(structure, Ints::new(values))
    }

    /// Counts are stored as the bit pattern of a signed number.
    fn counts(&mut self, structure: &Structure, values: &[u32]) -> Result<EncodedChunk, EncodeError> {
        self.ints(structure, &collect(values, |count| *count as i32))
    }

    fn strings(&mut self, structure: &Structure, strings: &mut Strings<'_>, ids: &[StrId]) -> Result<EncodedChunk, EncodeError> {
        if self.leaf.encoding == LeafEncoding::Dictionary {
            let coded = strings.encode(ids);
            let is_unique =
                coded.dictionary.len() >= UNIQUE_MIN_STRINGS && (ids.len() as f64) < coded.dictionary.len() as f64 * UNIQUE_MAX_REPEATS;
            if !is_unique {
                let texts = collect(&coded.dictionary, |id| strings.get(*id));
                return self.put(structure, CodedStrings::new(coded.codes, texts, self.settings.dictionary_limit_bytes));
            }
        }
        self.put(structure, ByteArrays(collect(ids, |id| strings.get(*id))))
    }

    fn attribute_part(&mut self, split: &SplitAttrs<'_>, part: AttrPart, strings: &mut Strings<'_>) -> Result<EncodedChunk, EncodeError> {
        let attrs = split.attrs;
        match part {
            AttrPart::Key => self.strings(&split.keys, strings, &collect(&split.general, |attr| attrs.keys[*attr as usize])),
            AttrPart::IsArray => self.put(&split.keys, Bools(collect(&split.kinds, |kind| *kind == ValueKind::Array))),
            AttrPart::Value => {
                let (structure, ids) = elements(split, ValueKind::Str, as_string);
                self.strings(&structure, strings, &ids)
            }
            AttrPart::ValueInt => {
                let (structure, numbers) = elements(split, ValueKind::Int, as_int);
                self.ints(&structure, &numbers)
            }
            AttrPart::ValueDouble => {
                let as_double = |value: &Value| if let Value::Double(number) = value { Some(*number) } else { None };
                let (structure, numbers) = elements(split, ValueKind::Double, as_double);
                self.put(&structure, Doubles(numbers))
            }
            AttrPart::ValueBool => {
                let as_bool = |value: &Value| if let Value::Bool(truth) = value { Some(*truth) } else { None };
                let (structure, truths) = elements(split, ValueKind::Bool, as_bool);
                self.put(&structure, Bools(truths))
            }
            AttrPart::ValueUnsupported => {
                let json = |value: &Value| if let Value::Json(id) = value { Some(*id) } else { None };
                let (structure, ids) = split.of_kind(ValueKind::Json, Repetition::Optional, json);
                self.strings(&structure, strings, &ids)
            }
            AttrPart::ValueKvList | AttrPart::ValueArray | AttrPart::ValueMessage => {
                Err(EncodeError::ReadOnlyColumn(self.leaf.path.clone()))
            }
        }
    }

    fn slot(&mut self, owners: &Structure, split: &SplitAttrs<'_>, strings: &mut Strings<'_>) -> Result<EncodedChunk, EncodeError> {
        let attrs = split.attrs;
        let slot = split.slot(self.leaf.column);
        let elements_of = |attr: u32| attrs.elements_of(&attrs.values[attr as usize]);
        let is_array = |(_, attr): &(u32, u32)| matches!(attrs.values[*attr as usize], Value::Array { .. });
        let repetition = match self.leaf.repetition {
            LeafRepetition::Repeated => Repetition::Repeated,
            LeafRepetition::Optional | LeafRepetition::Required => Repetition::Optional,
        };
        let structure = if slot.is_empty() {
            owners.nowhere(repetition)
        } else if repetition == Repetition::Repeated && slot.iter().any(is_array) {
            let mut next = slot.iter().peekable();
            let mut taken_by = |owner: usize| next.next_if(|(of, _)| *of == owner as u32);
            owners.repeated(|owner| taken_by(owner).map_or(0, |(_, attr)| elements_of(*attr).len()))
        } else {
            owners.at_items(slot.iter().map(|(owner, _)| split.entry_of(*owner)), repetition)
        };
        let values = slot.iter().flat_map(|(_, attr)| elements_of(*attr));
        match self.leaf.value {
            ValueType::String => self.strings(&structure, strings, &values.filter_map(as_string).collect::<Vec<_>>()),
            _ => self.ints(&structure, &values.filter_map(as_int).collect::<Vec<_>>()),
        }
    }
}

fn as_string(value: &Value) -> Option<StrId> {
    if let Value::Str(id) = value { Some(*id) } else { None }
}

fn as_int(value: &Value) -> Option<i64> {
    if let Value::Int(number) = value { Some(*number) } else { None }
}

/// Returns levels and values of one of the four value lists: the scalars of a kind and array elements that `pick` takes.
fn elements<T>(split: &SplitAttrs<'_>, kind: ValueKind, pick: impl Fn(&Value) -> Option<T>) -> (Structure, Vec<T>) {
    if !split.has_arrays() {
        return split.of_kind(kind, Repetition::Repeated, pick);
    }
    let attrs = split.attrs;
    let mut values = Vec::new();
    let structure = split.keys.repeated(|at| {
        let before = values.len();
        values.extend(attrs.elements_of(&attrs.values[split.general[at] as usize]).iter().filter_map(&pick));
        values.len() - before
    });
    (structure, values)
}

/// Returns the number of the interval of `seconds` that ends at or after each time; 0 for an absent time (block-format §4.5).
fn rounded(unix_nanos: &[u64], seconds: u64) -> Vec<u32> {
    let interval_nanos = seconds * 1_000_000_000;
    collect(unix_nanos, |start| start.div_ceil(interval_nanos).saturating_sub(1) as u32)
}

fn collect<I: IntoIterator, T>(items: I, map: impl FnMut(I::Item) -> T) -> Vec<T> {
    items.into_iter().map(map).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_closed_on_the_right() {
        let second = 1_000_000_000;
        assert_eq!(rounded(&[0, 1, 15 * second, 15 * second + 1, 30 * second], 15), [0, 0, 0, 1, 1]);
    }
}
