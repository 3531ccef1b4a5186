//! Estimated sizes of traces, by which row groups are cut (block-format §3.1). They steer sizes only; a similar rule would do.

use std::ops::Range;

use crate::model::span_table::{Attrs, SpanTable, Value};

/// Estimate at which a row group should end: small enough to be decoded within a query's memory, large enough to compress well.
pub const DEFAULT_ROW_GROUP_BYTES: usize = 50_000_000;

/// Returns the estimated bytes of all traces of `table`.
pub fn table_bytes(table: &SpanTable) -> usize {
    (0..table.trace_count()).map(|row| trace_bytes(table, row)).sum()
}

/// Returns the estimated bytes of one trace.
pub fn trace_bytes(table: &SpanTable, row: usize) -> usize {
    let resources = table.traces.resources.range(row);
    let scopes = table.scopes_of_trace(row);
    let spans = table.spans_of_trace(row);
    let events = table.spans.events.range_of_all(spans.clone());
    let links = table.spans.links.range_of_all(spans.clone());
    let parent_ids: usize = table.spans.parent_span_id[spans.clone()].iter().map(|id| id.as_bytes().len()).sum();
    let items = 23 + 31 * resources.len() + 6 * scopes.len() + (45 + 8) * spans.len() + 14 * events.len() + 29 * links.len();
    let attributes = [
        (&table.resources.attrs, resources),
        (&table.scopes.attrs, scopes),
        (&table.spans.attrs, spans),
        (&table.events.attrs, events),
        (&table.links.attrs, links),
    ];
    items + parent_ids + attributes.into_iter().map(|(attrs, owners)| attrs_bytes(attrs, owners)).sum::<usize>()
}

/// Elements of arrays count one byte each, but for the first.
fn attrs_bytes(attrs: &Attrs, owners: Range<usize>) -> usize {
    let attributes = attrs.of.range_of_all(owners);
    let more_elements = |value: &Value| match value {
        Value::Array { len, .. } => (*len as usize).saturating_sub(1),
        Value::Str(_) | Value::Int(_) | Value::Double(_) | Value::Bool(_) | Value::Json(_) => 0,
    };
    let elements = if attrs.elements.is_empty() { 0 } else { attrs.values[attributes.clone()].iter().map(more_elements).sum() };
    7 * attributes.len() + elements
}
