//! Estimated sizes of traces, by which row groups are cut (block-format §3.1). They steer sizes only; a similar rule would do.

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
    let resource_bytes: usize = resources.map(|resource| 31 + attrs_bytes(&table.resources.attrs, resource)).sum();
    let scope_bytes: usize = scopes.map(|scope| 6 + attrs_bytes(&table.scopes.attrs, scope)).sum();
    let bytes_of_spans: usize = spans.map(|span| span_bytes(table, span)).sum();
    23 + resource_bytes + scope_bytes + bytes_of_spans
}

fn span_bytes(table: &SpanTable, span: usize) -> usize {
    let ids = 8 + table.spans.parent_span_id[span].as_bytes().len();
    let events: usize = table.spans.events.range(span).map(|event| 14 + attrs_bytes(&table.events.attrs, event)).sum();
    let links: usize = table.spans.links.range(span).map(|link| 29 + attrs_bytes(&table.links.attrs, link)).sum();
    45 + ids + attrs_bytes(&table.spans.attrs, span) + events + links
}

fn attrs_bytes(attrs: &Attrs, owner: usize) -> usize {
    let more_elements = |value: &Value| match value {
        Value::Array { len, .. } => (*len as usize).saturating_sub(1),
        Value::Str(_) | Value::Int(_) | Value::Double(_) | Value::Bool(_) | Value::Json(_) => 0,
    };
    attrs.values[attrs.of.range(owner)].iter().map(|value| 7 + more_elements(value)).sum()
}
