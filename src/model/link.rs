//! Links of a span: from OTLP messages into their columns.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use super::any_value::push_attr;
use super::ids::{SpanId, TraceId};
use super::span_table::Links;
use super::strings::{AddString, StrId};
use super::wire::{Fields, WireError};

/// Appends a `Span.Link`. After an error the attributes of `links` may hold more than its other columns.
pub(super) fn push_link(message: &[u8], strings: &mut impl AddString, links: &mut Links) -> Result<(), WireError> {
    let (mut trace_id, mut span_id, mut state, mut dropped) = (TraceId::default(), SpanId::NONE, StrId::EMPTY, 0);
    let mut fields = Fields::new(message);
    while let Some(field) = fields.next_field()? {
        match field.number {
            1 => trace_id = TraceId::from_bytes(field.bytes()?),
            2 => span_id = SpanId::from_bytes(field.bytes()?),
            3 => state = strings.add(field.bytes()?),
            4 => push_attr(field.bytes()?, strings, &mut links.attrs)?,
            5 => dropped = field.varint()? as u32,
            _ => {}
        }
    }
    links.attrs.close_owner();
    links.trace_id.push(trace_id);
    links.span_id.push(span_id);
    links.trace_state.push(state);
    links.dropped_attributes.push(dropped);
    Ok(())
}

/// Appends the links of one span as vParquet3 stores them: a message whose repeated field 1 are the links (block-format §3.6). They take at most
/// [`MAX_GROWTH`](super::any_value::MAX_GROWTH) times its length of `strings`.
pub fn push_stored_links(message: &[u8], strings: &mut impl AddString, links: &mut Links) -> Result<(), WireError> {
    let mut fields = Fields::new(message);
    while let Some(field) = fields.next_field()? {
        if field.number == 1 {
            push_link(field.bytes()?, strings, links)?;
        }
    }
    Ok(())
}
