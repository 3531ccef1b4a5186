//! Whether two rows of two tables are the same trace, value by value: what a crash between output and marks leaves in two blocks.

use super::span_table::{Attrs, SpanTable, Spans, Value};
use super::strings::StrId;

/// Whether two rows hold equal values in all columns from which the others derive.
pub(super) fn same_rows((a, row_a): (&SpanTable, usize), (b, row_b): (&SpanTable, usize)) -> bool {
    let (resources_a, resources_b) = (a.traces.resources.range(row_a), b.traces.resources.range(row_b));
    let (scopes_a, scopes_b) = (a.scopes_of_trace(row_a), b.scopes_of_trace(row_b));
    let (spans_a, spans_b) = (a.spans_of_trace(row_a), b.spans_of_trace(row_b));
    // Ids differ first and are cheap.
    if spans_a.len() != spans_b.len()
        || a.spans.span_id[spans_a.clone()] != b.spans.span_id[spans_b.clone()]
        || resources_a.len() != resources_b.len()
        || scopes_a.len() != scopes_b.len()
    {
        return false;
    }
    let text = |of_a: StrId, of_b: StrId| a.strings.get(of_a) == b.strings.get(of_b);
    let attrs = |of_a: &Attrs, at_a: usize, of_b: &Attrs, at_b: usize| same_attrs((a, of_a, at_a), (b, of_b, at_b));
    let resources = resources_a.zip(resources_b).all(|(x, y)| {
        let (at_a, at_b) = (&a.resources, &b.resources);
        at_a.scopes.range(x).len() == at_b.scopes.range(y).len()
            && at_a.dropped_attributes[x] == at_b.dropped_attributes[y]
            && text(at_a.service_name[x], at_b.service_name[y])
            && attrs(&at_a.attrs, x, &at_b.attrs, y)
    });
    let scopes = || {
        scopes_a.zip(scopes_b).all(|(x, y)| {
            let (at_a, at_b) = (&a.scopes, &b.scopes);
            at_a.spans.range(x).len() == at_b.spans.range(y).len()
                && at_a.dropped_attributes[x] == at_b.dropped_attributes[y]
                && text(at_a.name[x], at_b.name[y])
                && text(at_a.version[x], at_b.version[y])
                && attrs(&at_a.attrs, x, &at_b.attrs, y)
        })
    };
    let spans = || {
        spans_a.zip(spans_b).all(|(x, y)| {
            let (at_a, at_b) = (&a.spans, &b.spans);
            let fixed = |spans: &Spans, at: usize| {
                (
                    (spans.parent_span_id[at], spans.kind[at], spans.start_unix_nanos[at], spans.duration_nanos[at]),
                    (spans.status_code[at], spans.dropped_attributes[at], spans.dropped_events[at], spans.dropped_links[at]),
                )
            };
            fixed(at_a, x) == fixed(at_b, y)
                && text(at_a.name[x], at_b.name[y])
                && text(at_a.trace_state[x], at_b.trace_state[y])
                && text(at_a.status_message[x], at_b.status_message[y])
                && attrs(&at_a.attrs, x, &at_b.attrs, y)
                && same_events((a, x), (b, y))
                && same_links((a, x), (b, y))
        })
    };
    resources && scopes() && spans()
}

fn same_events((a, span_a): (&SpanTable, usize), (b, span_b): (&SpanTable, usize)) -> bool {
    let (range_a, range_b) = (a.spans.events.range(span_a), b.spans.events.range(span_b));
    range_a.len() == range_b.len()
        && range_a.zip(range_b).all(|(x, y)| {
            a.events.time_since_start_nanos[x] == b.events.time_since_start_nanos[y]
                && a.events.dropped_attributes[x] == b.events.dropped_attributes[y]
                && a.strings.get(a.events.name[x]) == b.strings.get(b.events.name[y])
                && same_attrs((a, &a.events.attrs, x), (b, &b.events.attrs, y))
        })
}

fn same_links((a, span_a): (&SpanTable, usize), (b, span_b): (&SpanTable, usize)) -> bool {
    let (range_a, range_b) = (a.spans.links.range(span_a), b.spans.links.range(span_b));
    range_a.len() == range_b.len()
        && range_a.zip(range_b).all(|(x, y)| {
            (a.links.trace_id[x], a.links.span_id[x]) == (b.links.trace_id[y], b.links.span_id[y])
                && a.links.dropped_attributes[x] == b.links.dropped_attributes[y]
                && a.strings.get(a.links.trace_state[x]) == b.strings.get(b.links.trace_state[y])
                && same_attrs((a, &a.links.attrs, x), (b, &b.links.attrs, y))
        })
}

fn same_attrs((a, attrs_a, owner_a): (&SpanTable, &Attrs, usize), (b, attrs_b, owner_b): (&SpanTable, &Attrs, usize)) -> bool {
    let (of_a, of_b) = (attrs_a.of_owner(owner_a), attrs_b.of_owner(owner_b));
    of_a.len() == of_b.len()
        && of_a.zip(of_b).all(|((key_a, value_a), (key_b, value_b))| {
            a.strings.get(key_a) == b.strings.get(key_b) && same_value((a, attrs_a, value_a), (b, attrs_b, value_b))
        })
}

/// Compares doubles by their bits, so that a NaN equals itself.
fn same_value((a, attrs_a, value_a): (&SpanTable, &Attrs, Value), (b, attrs_b, value_b): (&SpanTable, &Attrs, Value)) -> bool {
    match (value_a, value_b) {
        (Value::Str(x), Value::Str(y)) | (Value::Json(x), Value::Json(y)) => a.strings.get(x) == b.strings.get(y),
        (Value::Double(x), Value::Double(y)) => x.to_bits() == y.to_bits(),
        (Value::Array { .. }, Value::Array { .. }) => {
            let (x, y) = (attrs_a.elements_of(&value_a), attrs_b.elements_of(&value_b));
            x.len() == y.len() && x.iter().zip(y).all(|(&x, &y)| same_value((a, attrs_a, x), (b, attrs_b, y)))
        }
        (x, y) => x == y,
    }
}
