//! What storage delivers for a projection, done on tables in memory.

use crate::model::span_table::{Attrs, Offsets, Value};
use crate::traceql::engine::projection::{
    AttributeLevel, FetchColumn, FetchCondition, FetchKeys, FetchKinds, FetchSpec, FetchTarget, FetchTest,
};

use super::*;
use crate::traceql::regex::Pattern;

/// Returns `table` without what `fetch` does not name.
pub(super) fn project(table: &SpanTable, fetch: &FetchSpec) -> SpanTable {
    let mut out = table.clone();
    let without = |column: FetchColumn| !fetch.columns.contains(&column);
    macro_rules! clear {
        ($column:ident: $($field:expr),+) => {
            if without(FetchColumn::$column) {
                $($field = Default::default();)+
            }
        };
    }
    clear!(TraceTimes: out.traces.start_unix_nanos, out.traces.end_unix_nanos, out.traces.duration_nanos);
    clear!(RootServiceName: out.traces.root_service_name);
    clear!(RootSpanName: out.traces.root_span_name);
    clear!(ServiceStats: out.traces.service_stats, out.traces.service_stats_of);
    clear!(ServiceName: out.resources.service_name);
    clear!(ScopeName: out.scopes.name);
    clear!(ScopeVersion: out.scopes.version);
    clear!(SpanId: out.spans.span_id);
    clear!(ParentSpanId: out.spans.parent_span_id);
    clear!(NestedLeft: out.spans.nested_left);
    clear!(NestedRight: out.spans.nested_right);
    clear!(NestedParent: out.spans.nested_parent);
    clear!(ChildCount: out.spans.child_count);
    clear!(SpanName: out.spans.name);
    clear!(Kind: out.spans.kind);
    clear!(SpanStart: out.spans.start_unix_nanos);
    clear!(SpanDuration: out.spans.duration_nanos);
    clear!(StatusCode: out.spans.status_code);
    clear!(StatusMessage: out.spans.status_message);
    clear!(TraceState: out.spans.trace_state);
    clear!(EventName: out.events.name);
    clear!(EventTime: out.events.time_since_start_nanos);
    clear!(LinkTraceId: out.links.trace_id);
    clear!(LinkSpanId: out.links.span_id);
    if without(FetchColumn::EventOffsets) && without(FetchColumn::EventName) && without(FetchColumn::EventTime) {
        out.spans.events = Offsets::default();
    }
    if without(FetchColumn::LinkOffsets) && without(FetchColumn::LinkTraceId) && without(FetchColumn::LinkSpanId) {
        out.spans.links = Offsets::default();
    }
    for (attrs, keys) in [
        (&mut out.resources.attrs, &fetch.resource_attributes),
        (&mut out.scopes.attrs, &fetch.scope_attributes),
        (&mut out.spans.attrs, &fetch.span_attributes),
        (&mut out.events.attrs, &fetch.event_attributes),
        (&mut out.links.attrs, &fetch.link_attributes),
    ] {
        *attrs = project_attributes(&table.strings, attrs, keys);
    }
    out
}

fn project_attributes(strings: &crate::model::strings::StringPool, attrs: &Attrs, keys: &FetchKeys) -> Attrs {
    let mut out = Attrs::default();
    if keys.is_empty() {
        return out;
    }
    for owner in 0..attrs.of.len() {
        for (key, value) in attrs.of_owner(owner) {
            let kinds = match keys {
                FetchKeys::All => Some(&FetchKinds::ALL),
                FetchKeys::Only(keys) => keys.get(&*strings.text(key)),
            };
            let elements = attrs.elements_of(&value);
            if kinds.is_some_and(|kinds| elements.first().map_or(*kinds == FetchKinds::ALL, |element| is_of(kinds, element))) {
                let value = if let Value::Array { .. } = value { out.array(elements.iter().copied()) } else { value };
                out.push(key, value);
            }
        }
        out.close_owner();
    }
    out
}

fn is_of(kinds: &FetchKinds, value: &Value) -> bool {
    match value {
        Value::Str(_) => kinds.strings,
        Value::Int(_) => kinds.ints,
        Value::Double(_) => kinds.floats,
        Value::Bool(_) => kinds.bools,
        Value::Array { .. } | Value::Json(_) => false,
    }
}

/// Whether storage could tell from `table` alone that nothing in it matches.
pub(super) fn may_be_skipped(table: &SpanTable, condition: &FetchCondition) -> bool {
    let attrs_of = |level: AttributeLevel| match level {
        AttributeLevel::Resource => &table.resources.attrs,
        AttributeLevel::Scope => &table.scopes.attrs,
        AttributeLevel::Span => &table.spans.attrs,
        AttributeLevel::Event => &table.events.attrs,
        AttributeLevel::Link => &table.links.attrs,
    };
    let has_match = |patterns: &[Pattern], id| patterns.iter().any(|pattern| pattern.is_match(&table.strings.text(id)));
    let in_attributes = |level: AttributeLevel, key: &str| {
        let attrs = attrs_of(level);
        let pairs = attrs.keys.iter().zip(&attrs.values).filter(|(id, _)| table.strings.text(**id) == key);
        pairs.flat_map(|(_, value)| if attrs.elements_of(value).is_empty() { vec![*value] } else { attrs.elements_of(value).to_vec() }).any(
            |value| match (&condition.test, value) {
                (FetchTest::Present, _) => true,
                (FetchTest::Strings(texts), Value::Str(id)) => texts.iter().any(|text| **text == table.strings.text(id)),
                (FetchTest::Patterns(patterns), Value::Str(id)) => has_match(patterns, id),
                (FetchTest::Numbers(range), Value::Int(number)) => range.contains(&number),
                (FetchTest::Numbers(range), Value::Double(number)) => {
                    let above = *range.start() == i64::MIN || *range.start() as f64 <= number;
                    above && (*range.end() == i64::MAX || number <= *range.end() as f64)
                }
                _ => false,
            },
        )
    };
    let has_text = |column: &[crate::model::strings::StrId]| match &condition.test {
        FetchTest::Patterns(patterns) => column.iter().any(|id| has_match(patterns, *id)),
        FetchTest::Strings(texts) => column.iter().any(|id| texts.iter().any(|text| **text == table.strings.text(*id))),
        _ => true,
    };
    let has_number = |numbers: Vec<i64>| match &condition.test {
        FetchTest::Numbers(range) => numbers.iter().any(|number| range.contains(number)),
        _ => true,
    };
    let nanos = |column: &[u64]| column.iter().map(|nanos| *nanos as i64).collect::<Vec<_>>();
    let ints = |column: &[i32]| column.iter().map(|number| i64::from(*number)).collect::<Vec<_>>();
    let passes = match &condition.target {
        FetchTarget::TraceId => match &condition.test {
            FetchTest::TraceIds(ids) => table.traces.ids.iter().any(|id| ids.contains(id)),
            _ => true,
        },
        FetchTarget::Attribute(level, key) => in_attributes(*level, key),
        FetchTarget::SpanOrResource(key) => {
            let in_column = &**key == "service.name" && has_text(&table.resources.service_name);
            in_column || in_attributes(AttributeLevel::Span, key) || in_attributes(AttributeLevel::Resource, key)
        }
        FetchTarget::Column(column) => match column {
            FetchColumn::TraceTimes => has_number(nanos(&table.traces.duration_nanos)),
            FetchColumn::RootServiceName => has_text(&table.traces.root_service_name),
            FetchColumn::RootSpanName => has_text(&table.traces.root_span_name),
            FetchColumn::ServiceName => has_text(&table.resources.service_name),
            FetchColumn::ScopeName => has_text(&table.scopes.name),
            FetchColumn::ScopeVersion => has_text(&table.scopes.version),
            FetchColumn::ChildCount => has_number(ints(&table.spans.child_count)),
            FetchColumn::SpanName => has_text(&table.spans.name),
            FetchColumn::Kind => has_number(ints(&table.spans.kind)),
            FetchColumn::SpanDuration => has_number(nanos(&table.spans.duration_nanos)),
            FetchColumn::StatusCode => has_number(ints(&table.spans.status_code)),
            FetchColumn::StatusMessage => has_text(&table.spans.status_message),
            FetchColumn::EventName => has_text(&table.events.name),
            FetchColumn::EventTime => has_number(nanos(&table.events.time_since_start_nanos)),
            other => panic!("no condition is made for {other:?}"),
        },
    };
    !passes
}
