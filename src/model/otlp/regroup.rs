//! Walks an `ExportTraceServiceRequest` and groups its spans by trace, as slices of the request.
//!
//! ```text
//! request ─▶ resource spans (head: resource, schema url) ─▶ scope spans (head: scope, schema url) ─▶ span
//!    trace ─▶ group = one scope of one input resource      ─▶ runs: adjacent spans, one slice each
//! ```
//!
//! Rules (write-path, validation and regrouping; the differences to the compatible system are in its list of weaknesses)
//! * Traces are in first-seen order. Within one input `ResourceSpans` spans are grouped by trace and scope; scopes are the same when all
//!   their bytes and their schema URL are. Each group becomes a `ResourceSpans` with one `ScopeSpans`.
//! * A span with an invalid id is left out and counted; the others are kept.
//! * An id of zero bytes only is as good as none, so it is reported as "0 bits".
//!
//! Invariants of a [`Regrouped`]
//! * Every span of the request is in exactly one run or in `rejected`.
//! * Everything a run or head refers to has passed the structure check, down to attribute values: it decodes.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use bytes::Bytes;
use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashTable};
use std::hash::BuildHasher;

use super::attributes::{AttributeOwner, Cuts, NO_LIMIT, check_attribute, cut_attribute, cut_attributes_of, rewrite};
use crate::model::ids::TraceId;
use crate::model::wire::{Fields, WireError, put_bytes};

/// Why a push request cannot be walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RegroupError {
    #[error("invalid OTLP request")]
    Malformed(#[from] WireError),
    #[error("request of {bytes} bytes is too large to be regrouped")]
    TooLarge { bytes: usize },
}

/// Why a span was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidSpan {
    TraceId { bits: usize },
    SpanId { bits: usize },
}

impl std::fmt::Display for InvalidSpan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TraceId { bits } => write!(f, "trace ids must be 128 bit, received {bits} bits"),
            Self::SpanId { bits } => write!(f, "span ids must be 64 bit and not all zero, received {bits} bits"),
        }
    }
}

/// Spans that were left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rejected {
    pub invalid_trace_id: usize,
    pub invalid_span_id: usize,
    /// The first one's reason.
    pub first: Option<InvalidSpan>,
}

impl Rejected {
    pub fn total(&self) -> usize {
        self.invalid_trace_id.saturating_add(self.invalid_span_id)
    }
}

/// A push request, grouped by trace.
#[derive(Debug, Clone)]
pub struct Regrouped {
    pub(super) request: Bytes,
    /// Pieces whose attributes were cut.
    pub(super) rewritten: Bytes,
    pub(super) heads: Vec<Head>,
    pub(super) traces: Vec<Trace>,
    pub(super) groups: Vec<Group>,
    pub(super) runs: Vec<Run>,
    /// Spans of the request, rejected ones included.
    pub span_count: usize,
    pub rejected: Rejected,
    pub cuts: Cuts,
}

/// One trace of the request.
#[derive(Debug, Clone, Copy)]
pub struct Trace {
    pub id: TraceId,
    pub span_count: u32,
    /// Earliest start and latest end of its spans, as given.
    pub min_start_unix_nanos: u64,
    pub max_end_unix_nanos: u64,
    pub(super) first_group: u32,
    last_group: u32,
}

/// Consecutive bytes of the request or of the rewritten pieces: one or more whole fields with tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) rewritten: bool,
}

impl Piece {
    pub(super) fn len(self) -> u64 {
        u64::from(self.end.saturating_sub(self.start))
    }
}

/// What spans of a resource or scope share: its message and schema URL, one piece each. A repeated field takes further pieces.
#[derive(Debug, Clone, Default)]
pub(super) struct Head {
    pub(super) pieces: Vec<Piece>,
    pub(super) bytes: u64,
}

impl Head {
    fn push(&mut self, piece: Piece) {
        self.bytes = self.bytes.saturating_add(piece.len());
        self.pieces.push(piece);
    }
}

/// The spans of one trace under one scope of one input resource.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    pub(super) resource_head: u32,
    pub(super) scope_head: u32,
    pub(super) span_bytes: u64,
    pub(super) first_run: u32,
    last_run: u32,
    pub(super) next: u32,
}

/// Adjacent spans of a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) piece: Piece,
    pub(super) next: u32,
}

/// The end of a linked list.
pub(super) const NONE: u32 = u32::MAX;

/// Walks and groups `request`. Attribute keys and strings longer than `max_attribute_bytes` are cut; 0 cuts nothing.
pub fn regroup(request: Bytes, max_attribute_bytes: usize) -> Result<Regrouped, RegroupError> {
    // Offsets are 32 bits wide, and rewritten pieces are never longer than what they replace.
    if u32::try_from(request.len()).is_err() {
        return Err(RegroupError::TooLarge { bytes: request.len() });
    }
    let mut walk = Walk {
        request: &request,
        limit: if max_attribute_bytes == 0 { NO_LIMIT } else { max_attribute_bytes },
        rewritten: Vec::new(),
        heads: Vec::new(),
        traces: Vec::new(),
        groups: Vec::new(),
        runs: Vec::new(),
        span_count: 0,
        rejected: Rejected::default(),
        cuts: Cuts::default(),
        hasher: RandomState::default(),
        index: HashTable::new(),
        last_trace: NONE,
    };
    walk.request()?;
    let Walk { rewritten, heads, traces, groups, runs, span_count, rejected, cuts, .. } = walk;
    Ok(Regrouped { rewritten: rewritten.into(), heads, traces, groups, runs, span_count, rejected, cuts, request })
}

impl Regrouped {
    /// Traces in first-seen order.
    pub fn traces(&self) -> &[Trace] {
        &self.traces
    }
}

/// The ids and times of a span and whether its attributes must be cut.
#[derive(Default)]
struct SpanFacts<'a> {
    trace_id: &'a [u8],
    span_id: &'a [u8],
    start_unix_nanos: u64,
    end_unix_nanos: u64,
    too_long: bool,
}

struct Walk<'a> {
    request: &'a [u8],
    limit: usize,
    rewritten: Vec<u8>,
    heads: Vec<Head>,
    traces: Vec<Trace>,
    groups: Vec<Group>,
    runs: Vec<Run>,
    span_count: usize,
    rejected: Rejected,
    cuts: Cuts,
    hasher: RandomState,
    /// Trace id → index into `traces`.
    index: HashTable<u32>,
    last_trace: u32,
}

/// A message within the request and where it ends there.
#[derive(Clone, Copy)]
struct Part<'a> {
    bytes: &'a [u8],
    end: usize,
}

impl<'a> Part<'a> {
    /// The position in the request of what `rest`, the tail of this message, begins with.
    fn position(&self, rest: &[u8]) -> usize {
        self.end.saturating_sub(rest.len())
    }
}

fn piece(start: usize, end: usize) -> Piece {
    Piece { start: start as u32, end: end as u32, rewritten: false }
}

impl<'a> Walk<'a> {
    fn request(&mut self) -> Result<(), WireError> {
        let request = Part { bytes: self.request, end: self.request.len() };
        let mut fields = Fields::new(request.bytes);
        while let Some(field) = fields.next_field()? {
            if field.number == 1 {
                self.resource_spans(Part { bytes: field.bytes()?, end: request.position(fields.rest()) })?;
            }
        }
        Ok(())
    }

    fn resource_spans(&mut self, message: Part<'a>) -> Result<(), WireError> {
        let mut head = Head::default();
        let mut scopes: Vec<(Head, Vec<Part<'a>>)> = Vec::new();
        let mut known: HashMap<Vec<u8>, usize, RandomState> = HashMap::default();
        let mut fields = Fields::new(message.bytes);
        loop {
            let start = message.position(fields.rest());
            let Some(field) = fields.next_field()? else { break };
            let end = message.position(fields.rest());
            match field.number {
                1 => head.push(self.attributes_of(piece(start, end), 1, field.bytes()?, 1, AttributeOwner::Resource)?),
                2 => {
                    let part = Part { bytes: field.bytes()?, end };
                    let scope = self.scope_head(part)?;
                    // One scope a resource is the rule, so the table is filled from the second on.
                    if scopes.is_empty() {
                        scopes.push((scope, vec![part]));
                        continue;
                    }
                    if known.is_empty()
                        && let Some((first, _)) = scopes.first()
                    {
                        known.insert(self.content(first), 0);
                    }
                    let next = scopes.len();
                    let at = *known.entry(self.content(&scope)).or_insert(next);
                    match scopes.get_mut(at) {
                        Some((_, parts)) => parts.push(part),
                        None => scopes.push((scope, vec![part])),
                    }
                }
                3 => {
                    field.bytes()?;
                    head.push(piece(start, end));
                }
                _ => {}
            }
        }
        let resource_head = self.push_head(head);
        for (scope, parts) in scopes {
            let scope_head = self.push_head(scope);
            for part in parts {
                self.spans(part, resource_head, scope_head)?;
            }
        }
        Ok(())
    }

    fn push_head(&mut self, head: Head) -> u32 {
        self.heads.push(head);
        self.heads.len().saturating_sub(1) as u32
    }

    /// The bytes of a head, to tell equal ones.
    fn content(&self, head: &Head) -> Vec<u8> {
        let mut content = Vec::with_capacity(head.bytes as usize);
        for piece in &head.pieces {
            let source = if piece.rewritten { &self.rewritten } else { self.request };
            content.extend_from_slice(source.get(piece.start as usize..piece.end as usize).unwrap_or_default());
        }
        content
    }

    fn scope_head(&mut self, message: Part<'a>) -> Result<Head, WireError> {
        let mut head = Head::default();
        let mut fields = Fields::new(message.bytes);
        loop {
            let start = message.position(fields.rest());
            let Some(field) = fields.next_field()? else { return Ok(head) };
            let end = message.position(fields.rest());
            match field.number {
                1 => head.push(self.attributes_of(piece(start, end), 1, field.bytes()?, 3, AttributeOwner::Scope)?),
                2 | 3 => {
                    let bytes = field.bytes()?;
                    if field.number == 3 && !bytes.is_empty() {
                        head.push(piece(start, end));
                    }
                }
                _ => {}
            }
        }
    }

    /// Checks a resource or scope whose attributes are in field `attributes`, and returns its piece: rewritten if something is too long.
    fn attributes_of(
        &mut self,
        whole: Piece,
        number: u32,
        message: &[u8],
        attributes: u32,
        owner: AttributeOwner,
    ) -> Result<Piece, WireError> {
        let mut too_long = false;
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next_field()? {
            if field.number == attributes {
                too_long |= check_attribute(field.bytes()?, self.limit)?;
            }
        }
        if !too_long {
            return Ok(whole);
        }
        let cut = cut_attributes_of(message, attributes, self.limit, owner, &mut self.cuts)?;
        Ok(self.push_rewritten(number, &cut))
    }

    fn push_rewritten(&mut self, number: u32, message: &[u8]) -> Piece {
        let start = self.rewritten.len() as u32;
        put_bytes(&mut self.rewritten, number, message);
        Piece { start, end: self.rewritten.len() as u32, rewritten: true }
    }

    fn spans(&mut self, message: Part<'a>, resource_head: u32, scope_head: u32) -> Result<(), WireError> {
        let mut fields = Fields::new(message.bytes);
        loop {
            let start = message.position(fields.rest());
            let Some(field) = fields.next_field()? else { return Ok(()) };
            if field.number != 2 {
                continue;
            }
            let span = field.bytes()?;
            let facts = span_facts(span, self.limit)?;
            self.span_count = self.span_count.saturating_add(1);
            if let Some(reason) = invalid(&facts) {
                match reason {
                    InvalidSpan::TraceId { .. } => self.rejected.invalid_trace_id = self.rejected.invalid_trace_id.saturating_add(1),
                    InvalidSpan::SpanId { .. } => self.rejected.invalid_span_id = self.rejected.invalid_span_id.saturating_add(1),
                }
                self.rejected.first.get_or_insert(reason);
                continue;
            }
            let piece = if facts.too_long {
                let cut = cut_span(span, self.limit, &mut self.cuts)?;
                self.push_rewritten(2, &cut)
            } else {
                piece(start, message.position(fields.rest()))
            };
            self.add(&facts, piece, resource_head, scope_head);
        }
    }

    fn add(&mut self, facts: &SpanFacts<'_>, piece: Piece, resource_head: u32, scope_head: u32) {
        let at = self.trace_index(TraceId::from_bytes(facts.trace_id));
        let Some(trace) = self.traces.get_mut(at as usize) else { return };
        trace.span_count = trace.span_count.saturating_add(1);
        trace.min_start_unix_nanos = trace.min_start_unix_nanos.min(facts.start_unix_nanos);
        trace.max_end_unix_nanos = trace.max_end_unix_nanos.max(facts.end_unix_nanos);
        let new_run = self.runs.len() as u32;
        // All spans of a scope are walked in one go, so its group of this trace is the one that was used last, or does not exist yet.
        let previous = self.groups.get_mut(trace.last_group as usize);
        if let Some(group) = previous
            && group.scope_head == scope_head
        {
            group.span_bytes = group.span_bytes.saturating_add(piece.len());
            if let Some(last) = self.runs.get_mut(group.last_run as usize) {
                if last.piece.end == piece.start && last.piece.rewritten == piece.rewritten {
                    last.piece.end = piece.end;
                    return;
                }
                last.next = new_run;
            }
            group.last_run = new_run;
        } else {
            let new_group = self.groups.len() as u32;
            match self.groups.get_mut(trace.last_group as usize) {
                Some(previous) => previous.next = new_group,
                None => trace.first_group = new_group,
            }
            trace.last_group = new_group;
            self.groups.push(Group {
                resource_head,
                scope_head,
                span_bytes: piece.len(),
                first_run: new_run,
                last_run: new_run,
                next: NONE,
            });
        }
        self.runs.push(Run { piece, next: NONE });
    }

    /// Returns the index of the trace `id`, a new one if it was not seen yet.
    fn trace_index(&mut self, id: TraceId) -> u32 {
        if self.traces.get(self.last_trace as usize).is_some_and(|last| last.id == id) {
            return self.last_trace;
        }
        let hasher = &self.hasher;
        let hash = |id: TraceId| hasher.hash_one(u128::from_ne_bytes(id.0));
        let traces = &mut self.traces;
        let id_at = |index: u32, traces: &[Trace]| traces.get(index as usize).map(|trace| trace.id);
        let found = self.index.find(hash(id), |&index| id_at(index, traces) == Some(id)).copied();
        self.last_trace = found.unwrap_or_else(|| {
            let index = traces.len() as u32;
            traces.push(Trace {
                id,
                span_count: 0,
                min_start_unix_nanos: u64::MAX,
                max_end_unix_nanos: 0,
                first_group: NONE,
                last_group: NONE,
            });
            self.index.insert_unique(hash(id), index, |&index| hash(id_at(index, traces).unwrap_or_default()));
            index
        });
        self.last_trace
    }
}

fn invalid(facts: &SpanFacts<'_>) -> Option<InvalidSpan> {
    let received = |id: &[u8]| if id.iter().all(|byte| *byte == 0) { 0 } else { id.len().saturating_mul(8) };
    match (received(facts.trace_id), received(facts.span_id)) {
        (128, 64) => None,
        (128, bits) => Some(InvalidSpan::SpanId { bits }),
        (bits, _) => Some(InvalidSpan::TraceId { bits }),
    }
}

/// Checks a whole span and picks out what grouping needs.
fn span_facts(span: &[u8], limit: usize) -> Result<SpanFacts<'_>, WireError> {
    let mut facts = SpanFacts::default();
    let mut fields = Fields::new(span);
    while let Some(field) = fields.next_field()? {
        match field.number {
            1 => facts.trace_id = field.bytes()?,
            2 => facts.span_id = field.bytes()?,
            3..=5 => drop(field.bytes()?),
            6 | 10 | 12 | 14 => drop(field.varint()?),
            7 => facts.start_unix_nanos = field.fixed64()?,
            8 => facts.end_unix_nanos = field.fixed64()?,
            9 => facts.too_long |= check_attribute(field.bytes()?, limit)?,
            11 => facts.too_long |= check_part(field.bytes()?, &EVENT, limit)?,
            13 => facts.too_long |= check_part(field.bytes()?, &LINK, limit)?,
            15 => {
                check_part(field.bytes()?, &STATUS, limit)?;
            }
            _ => {}
        }
    }
    Ok(facts)
}

/// Field numbers of a message within a span, by type.
struct PartFields {
    attributes: u32,
    bytes: &'static [u32],
    varints: &'static [u32],
    fixed64s: &'static [u32],
}

const EVENT: PartFields = PartFields { attributes: 3, bytes: &[2], varints: &[4], fixed64s: &[1] };
const LINK: PartFields = PartFields { attributes: 4, bytes: &[1, 2, 3], varints: &[5], fixed64s: &[] };
const STATUS: PartFields = PartFields { attributes: 0, bytes: &[2], varints: &[3], fixed64s: &[] };

fn check_part(message: &[u8], known: &PartFields, limit: usize) -> Result<bool, WireError> {
    let mut too_long = false;
    let mut fields = Fields::new(message);
    while let Some(field) = fields.next_field()? {
        if field.number == known.attributes {
            too_long |= check_attribute(field.bytes()?, limit)?;
        } else if known.bytes.contains(&field.number) {
            field.bytes()?;
        } else if known.varints.contains(&field.number) {
            field.varint()?;
        } else if known.fixed64s.contains(&field.number) {
            field.fixed64()?;
        }
    }
    Ok(too_long)
}

/// Returns the span with the attributes of itself, its events and links cut.
fn cut_span(span: &[u8], limit: usize, cuts: &mut Cuts) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::with_capacity(span.len());
    rewrite(span, &mut out, |number, bytes| match number {
        9 => cut_attribute(bytes, limit, AttributeOwner::Span, cuts).map(Some),
        11 => cut_attributes_of(bytes, EVENT.attributes, limit, AttributeOwner::Event, cuts).map(Some),
        13 => cut_attributes_of(bytes, LINK.attributes, limit, AttributeOwner::Link, cuts).map(Some),
        _ => Ok(None),
    })?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::model::otlp::testing::{request, scope_spans, span, text};

    fn walk(request: &impl Message, limit: usize) -> Regrouped {
        regroup(request.encode_to_vec().into(), limit).unwrap()
    }

    #[test]
    fn invalid_spans_are_left_out_one_by_one() {
        let cases: &[(&[u8], &[u8], Option<&str>)] = &[
            (&[1; 16], &[2; 8], None),
            (&[1; 16], &[0; 8], Some("span ids must be 64 bit and not all zero, received 0 bits")),
            (&[1; 16], &[2; 7], Some("span ids must be 64 bit and not all zero, received 56 bits")),
            (&[1; 16], &[], Some("span ids must be 64 bit and not all zero, received 0 bits")),
            (&[1; 8], &[2; 8], Some("trace ids must be 128 bit, received 64 bits")),
            (&[0; 16], &[2; 8], Some("trace ids must be 128 bit, received 0 bits")),
            (&[], &[], Some("trace ids must be 128 bit, received 0 bits")),
        ];
        for (trace_id, span_id, expected) in cases {
            let walked = walk(&request(vec![scope_spans(None, vec![span(trace_id, span_id), span(&[9; 16], &[9; 8])])]), 0);
            assert_eq!(walked.rejected.first.map(|first| first.to_string()).as_deref(), *expected);
            assert_eq!(walked.span_count, 2);
            assert_eq!(walked.rejected.total(), usize::from(expected.is_some()));
        }
    }

    #[test]
    fn traces_keep_first_seen_order_counts_and_times() {
        let mut late = span(&[2; 16], &[3; 8]);
        late.start_time_unix_nano = 50;
        late.end_time_unix_nano = 90;
        let mut early = span(&[2; 16], &[4; 8]);
        early.start_time_unix_nano = 10;
        early.end_time_unix_nano = 20;
        let walked = walk(&request(vec![scope_spans(None, vec![late, span(&[1; 16], &[1; 8]), early])]), 0);
        let seen: Vec<_> = walked.traces().iter().map(|trace| (trace.id.0[0], trace.span_count)).collect();
        assert_eq!(seen, [(2, 2), (1, 1)]);
        let first = &walked.traces()[0];
        assert_eq!((first.min_start_unix_nanos, first.max_end_unix_nanos), (10, 90));
    }

    #[test]
    fn adjacent_spans_are_one_slice() {
        let walked = walk(&request(vec![scope_spans(None, vec![span(&[1; 16], &[1; 8]), span(&[1; 16], &[2; 8])])]), 0);
        assert_eq!(walked.runs.len(), 1);
    }

    #[test]
    fn only_what_is_too_long_is_rewritten() {
        let mut long = span(&[1; 16], &[1; 8]);
        long.attributes.push(text("key", "value"));
        let walked = walk(&request(vec![scope_spans(None, vec![long, span(&[1; 16], &[2; 8])])]), 4);
        assert_eq!((walked.cuts.span, walked.cuts.resource, walked.cuts.total()), (1, 1, 2)); // the resource's is the key `service.name`
        assert_eq!(walked.runs.iter().map(|run| run.piece.rewritten).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn broken_requests_are_refused() {
        for broken in [&[0x0a, 5][..], &[0x0a, 2, 0x12, 9], &[0x0a, 4, 0x12, 2, 0x12, 1], &[0x08, 1], &[0x0a, 6, 0x12, 4, 0x12, 2, 0x0a, 9]]
        {
            assert!(matches!(regroup(Bytes::copy_from_slice(broken), 0), Err(RegroupError::Malformed(_))), "{broken:?}");
        }
        assert_eq!(regroup(Bytes::new(), 0).unwrap().span_count, 0);
    }
}
