//! From what a query needs to what a block decodes.

use crate::tempodb::block::projection::{AttrKey, AttrSelection, Projection, ValueKinds};
use crate::traceql::engine::projection::{FetchColumn, FetchKeys, FetchKinds, FetchSpec};

/// Returns the columns to decode for `spec`.
pub fn projection_of(spec: &FetchSpec) -> Projection {
    let mut projection = Projection::default();
    for column in &spec.columns {
        add_column(&mut projection, *column);
    }
    projection.resources.attrs = selection_of(&spec.resource_attributes);
    projection.scopes.attrs = selection_of(&spec.scope_attributes);
    projection.spans.attrs = selection_of(&spec.span_attributes);
    projection.events.attrs = selection_of(&spec.event_attributes);
    projection.links.attrs = selection_of(&spec.link_attributes);
    projection
}

fn selection_of(keys: &FetchKeys) -> AttrSelection {
    match keys {
        FetchKeys::All => AttrSelection::All,
        FetchKeys::Only(keys) if keys.is_empty() => AttrSelection::None,
        FetchKeys::Only(keys) => {
            AttrSelection::Keys(keys.iter().map(|(key, kinds)| AttrKey { key: key.as_bytes().to_vec(), kinds: kinds_of(*kinds) }).collect())
        }
    }
}

fn kinds_of(kinds: FetchKinds) -> ValueKinds {
    if kinds == FetchKinds::ALL {
        return ValueKinds::ALL;
    }
    let wanted = [
        (kinds.strings, ValueKinds::STR),
        (kinds.ints, ValueKinds::INT),
        (kinds.floats, ValueKinds::DOUBLE),
        (kinds.bools, ValueKinds::BOOL),
    ];
    wanted.into_iter().filter(|(wanted, _)| *wanted).fold(ValueKinds::NONE, |all, (_, kind)| all.union(kind))
}

fn add_column(projection: &mut Projection, column: FetchColumn) {
    let Projection { traces, resources, scopes, spans, events, links } = projection;
    match column {
        FetchColumn::TraceTimes => (traces.start, traces.end, traces.duration) = (true, true, true),
        FetchColumn::RootServiceName => traces.root_service_name = true,
        FetchColumn::RootSpanName => traces.root_span_name = true,
        FetchColumn::ServiceStats => traces.service_stats = true,
        FetchColumn::ServiceName => resources.service_name = true,
        FetchColumn::ScopeName => scopes.name = true,
        FetchColumn::ScopeVersion => scopes.version = true,
        FetchColumn::SpanId => spans.span_id = true,
        FetchColumn::ParentSpanId => spans.parent_span_id = true,
        FetchColumn::NestedLeft => spans.nested_left = true,
        FetchColumn::NestedRight => spans.nested_right = true,
        FetchColumn::NestedParent => spans.nested_parent = true,
        FetchColumn::ChildCount => spans.child_count = true,
        FetchColumn::SpanName => spans.name = true,
        FetchColumn::Kind => spans.kind = true,
        FetchColumn::SpanStart => spans.start = true,
        FetchColumn::SpanDuration => spans.duration = true,
        FetchColumn::StatusCode => spans.status_code = true,
        FetchColumn::StatusMessage => spans.status_message = true,
        FetchColumn::TraceState => spans.trace_state = true,
        FetchColumn::EventOffsets => events.offsets = true,
        FetchColumn::LinkOffsets => links.offsets = true,
        FetchColumn::EventName => events.name = true,
        FetchColumn::EventTime => events.time_since_start = true,
        FetchColumn::LinkTraceId => links.trace_id = true,
        FetchColumn::LinkSpanId => links.span_id = true,
    }
}
