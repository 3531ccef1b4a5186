//! Writes a grouped push request as records of the ingest log.
//!
//! A record value is a `PushBytesRequest`: `traces` (field 2), then `ids` (field 3), then the flag `skipMetricsGeneration` (field 5). Spans,
//! resources and scopes are not encoded again: only the lengths around them are new. The value comes out as slices; what is short is copied
//! next to the new lengths, what is long stays a slice of the request.
//!
//! Invariant: [`RecordPlan::value_bytes`] is exactly the length of the record that [`Regrouped::record`] returns for it.

use bytes::Bytes;

use super::regroup::{Group, NONE, Piece, Regrouped};
use crate::model::ids::TraceId;
use crate::model::wire::{put_bytes, put_tag, put_varint, varint_len};

/// Pieces shorter than this are copied: a slice of its own costs a reference count and an entry in every later list.
const SLICE_BYTES: usize = 2048;

/// Bytes of one element of `ids`: tag, length, id.
const ID_BYTES: u64 = 18;

/// Bytes of the flag `skipMetricsGeneration`.
const FLAG_BYTES: u64 = 2;

/// A trace that fits no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("single entry size ({bytes}) exceeds maximum allowed size ({limit})")]
pub struct EntryTooLarge {
    pub bytes: u64,
    pub limit: u64,
}

/// Which traces make up one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordPlan {
    /// Index of a trace and its length as a message.
    traces: Vec<(usize, u64)>,
    skip_metrics_generation: bool,
    /// Exact length of the record's value.
    pub value_bytes: u64,
}

impl Regrouped {
    /// Packs `traces`, indices into [`Regrouped::traces`], in order into as few records of at most `max_bytes` as greed allows.
    ///
    /// # Errors
    /// A single trace that does not fit.
    pub fn plan(
        &self,
        traces: impl IntoIterator<Item = usize>,
        skip_metrics_generation: bool,
        max_bytes: u64,
    ) -> Result<Vec<RecordPlan>, EntryTooLarge> {
        let fixed = if skip_metrics_generation { FLAG_BYTES } else { 0 };
        let new = || RecordPlan { traces: Vec::new(), skip_metrics_generation, value_bytes: fixed };
        let mut done = Vec::new();
        let mut record = new();
        for index in traces {
            let trace_bytes = self.trace_bytes(index);
            let entry = field_bytes(trace_bytes) + ID_BYTES;
            if entry + fixed > max_bytes {
                return Err(EntryTooLarge { bytes: entry + fixed, limit: max_bytes });
            }
            if record.value_bytes + entry > max_bytes {
                done.push(std::mem::replace(&mut record, new()));
            }
            record.value_bytes += entry;
            record.traces.push((index, trace_bytes));
        }
        if !record.traces.is_empty() {
            done.push(record);
        }
        Ok(done)
    }

    /// Writes a planned record; the slices in order are its value.
    pub fn record(&self, plan: &RecordPlan) -> Vec<Bytes> {
        let mut out = Gather::new(self, plan.value_bytes);
        for &(index, trace_bytes) in &plan.traces {
            put_tag(&mut out.frame, 2, 2);
            put_varint(&mut out.frame, trace_bytes);
            self.put_trace(index, &mut out);
        }
        for &(index, _) in &plan.traces {
            put_bytes(&mut out.frame, 3, &self.traces[index].id.0);
        }
        if plan.skip_metrics_generation {
            put_tag(&mut out.frame, 5, 0);
            put_varint(&mut out.frame, 1);
        }
        let parts = out.finish();
        debug_assert_eq!(parts.iter().map(Bytes::len).sum::<usize>() as u64, plan.value_bytes);
        parts
    }

    /// Returns one trace as a `tempopb.Trace` message, which is an OTLP `TracesData`.
    pub fn trace_message(&self, index: usize) -> (TraceId, Vec<u8>) {
        let bytes = self.trace_bytes(index);
        let mut out = Gather::new(self, bytes);
        self.put_trace(index, &mut out);
        (self.traces[index].id, out.finish().concat())
    }

    /// Length of a trace's message.
    fn trace_bytes(&self, index: usize) -> u64 {
        self.groups_of(index).map(|group| field_bytes(self.resource_spans_bytes(group))).sum()
    }

    fn resource_spans_bytes(&self, group: &Group) -> u64 {
        self.heads[group.resource_head as usize].bytes + field_bytes(self.scope_spans_bytes(group))
    }

    fn scope_spans_bytes(&self, group: &Group) -> u64 {
        self.heads[group.scope_head as usize].bytes + group.span_bytes
    }

    fn put_trace(&self, index: usize, out: &mut Gather<'_>) {
        for group in self.groups_of(index) {
            put_tag(&mut out.frame, 1, 2);
            put_varint(&mut out.frame, self.resource_spans_bytes(group));
            self.heads[group.resource_head as usize].pieces.iter().for_each(|piece| out.put(*piece));
            put_tag(&mut out.frame, 2, 2);
            put_varint(&mut out.frame, self.scope_spans_bytes(group));
            self.heads[group.scope_head as usize].pieces.iter().for_each(|piece| out.put(*piece));
            let mut next = group.first_run;
            while next != NONE {
                let run = &self.runs[next as usize];
                out.put(run.piece);
                next = run.next;
            }
        }
    }

    fn groups_of(&self, index: usize) -> impl Iterator<Item = &Group> {
        let group = |index: u32| if index == NONE { None } else { Some(&self.groups[index as usize]) };
        std::iter::successors(group(self.traces[index].first_group), move |previous| group(previous.next))
    }
}

/// Bytes of a length-delimited field with a one-byte tag.
fn field_bytes(content: u64) -> u64 {
    1 + varint_len(content) as u64 + content
}

/// Collects slices. `frame` holds what is new or copied.
struct Gather<'a> {
    source: &'a Regrouped,
    frame: Vec<u8>,
    /// Finished parts: a range of `frame`, or a long piece.
    parts: Vec<Part>,
    /// Where the open range of `frame` starts.
    open: usize,
}

enum Part {
    Frame { start: usize, end: usize },
    Piece(Piece),
}

impl<'a> Gather<'a> {
    fn new(source: &'a Regrouped, bytes: u64) -> Self {
        // Pieces that stay slices need no room, so this is what is needed for small traces and an upper bound for large ones.
        Self { source, frame: Vec::with_capacity(bytes.min(1 << 20) as usize), parts: Vec::new(), open: 0 }
    }

    fn put(&mut self, piece: Piece) {
        if piece.len() < SLICE_BYTES as u64 {
            let source = if piece.rewritten { &self.source.rewritten } else { &self.source.request };
            self.frame.extend_from_slice(&source[piece.start as usize..piece.end as usize]);
        } else {
            self.close_range();
            self.parts.push(Part::Piece(piece));
        }
    }

    fn close_range(&mut self) {
        if self.frame.len() > self.open {
            self.parts.push(Part::Frame { start: self.open, end: self.frame.len() });
            self.open = self.frame.len();
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.close_range();
        let frame = Bytes::from(self.frame);
        let slice = |part| match part {
            Part::Frame { start, end } => frame.slice(start..end),
            Part::Piece(piece) => {
                let source = if piece.rewritten { &self.source.rewritten } else { &self.source.request };
                source.slice(piece.start as usize..piece.end as usize)
            }
        };
        self.parts.into_iter().map(slice).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::super::regroup::regroup;
    use super::*;
    use crate::model::otlp::testing::{arb_request, is_valid, request, scope_spans, span, tempopb};

    fn decode(parts: &[Bytes]) -> tempopb::PushBytesRequest {
        tempopb::PushBytesRequest::decode(parts.concat().as_slice()).unwrap()
    }

    /// What regrouping means, written over decoded messages.
    fn naive_regroup(request: &tempopb::ExportTraceServiceRequest) -> Vec<(Vec<u8>, tempopb::Trace)> {
        let mut traces: Vec<(Vec<u8>, tempopb::Trace)> = Vec::new();
        for resource_spans in &request.resource_spans {
            let mut scopes: Vec<tempopb::ScopeSpans> = Vec::new();
            for scope in &resource_spans.scope_spans {
                match scopes.iter_mut().find(|known| (&known.scope, &known.schema_url) == (&scope.scope, &scope.schema_url)) {
                    Some(known) => known.spans.extend(scope.spans.clone()),
                    None => scopes.push(scope.clone()),
                }
            }
            for scope in scopes {
                let mut groups: Vec<(Vec<u8>, tempopb::ScopeSpans)> = Vec::new();
                for span in scope.spans.iter().filter(|span| is_valid(span)) {
                    match groups.iter_mut().find(|(id, _)| *id == span.trace_id) {
                        Some((_, group)) => group.spans.push(span.clone()),
                        None => groups.push((span.trace_id.clone(), tempopb::ScopeSpans { spans: vec![span.clone()], ..scope.clone() })),
                    }
                }
                for (id, group) in groups {
                    let part = tempopb::ResourceSpans { scope_spans: vec![group], ..resource_spans.clone() };
                    match traces.iter_mut().find(|(known, _)| *known == id) {
                        Some((_, trace)) => trace.resource_spans.push(part),
                        None => traces.push((id, tempopb::Trace { resource_spans: vec![part] })),
                    }
                }
            }
        }
        traces
    }

    proptest! {
        #[test]
        fn splicing_equals_regrouping_decoded_messages(given in arb_request()) {
            let walked = regroup(given.encode_to_vec().into(), 0).unwrap();
            let plans = walked.plan(0..walked.traces().len(), false, u64::MAX).unwrap();
            let record = plans.first().map(|plan| decode(&walked.record(plan))).unwrap_or_default();
            let got: Vec<_> = record.ids.iter().zip(&record.traces)
                .map(|(id, trace)| (id.to_vec(), tempopb::Trace::decode(trace.clone()).unwrap()))
                .collect();
            prop_assert_eq!(got, naive_regroup(&given));
            let spans: usize = given.resource_spans.iter().flat_map(|rs| &rs.scope_spans).map(|ss| ss.spans.len()).sum();
            let kept: usize = walked.traces().iter().map(|trace| trace.span_count as usize).sum();
            prop_assert_eq!(spans, kept + walked.rejected.total());
        }

        #[test]
        fn records_are_exact_and_within_the_limit(given in arb_request(), skip: bool, max in 300u64..3000) {
            let walked = regroup(given.encode_to_vec().into(), 0).unwrap();
            let all = 0..walked.traces().len();
            let Ok(plans) = walked.plan(all.clone(), skip, max) else {
                let largest = all.map(|index| walked.trace_message(index).1.len() as u64).max().unwrap_or(0);
                prop_assert!(largest + 30 > max);
                return Ok(());
            };
            let mut ids = Vec::new();
            for plan in &plans {
                let value = walked.record(plan);
                let record = decode(&value);
                prop_assert_eq!(value.iter().map(Bytes::len).sum::<usize>() as u64, plan.value_bytes);
                prop_assert!(plan.value_bytes <= max);
                prop_assert_eq!(record.skip_metrics_generation, skip);
                prop_assert_eq!(record.ids.len(), record.traces.len());
                prop_assert_eq!(record.encoded_len() as u64, plan.value_bytes);
                ids.extend(record.ids.iter().map(|id| id.to_vec()));
            }
            prop_assert_eq!(ids, walked.traces().iter().map(|trace| trace.id.0.to_vec()).collect::<Vec<_>>());
        }

        #[test]
        fn cut_attributes_are_within_the_limit_and_nothing_else_changes(given in arb_request(), limit in 1usize..40) {
            let walked = regroup(given.encode_to_vec().into(), limit).unwrap();
            let mut expected = given.clone();
            let cuts = crate::model::otlp::testing::cut(&mut expected, limit);
            prop_assert_eq!((walked.cuts.resource, walked.cuts.scope, walked.cuts.span, walked.cuts.event, walked.cuts.link), cuts);
            let got: Vec<_> = (0..walked.traces().len())
                .map(|index| walked.trace_message(index))
                .map(|(id, message)| (id.0.to_vec(), tempopb::Trace::decode(message.as_slice()).unwrap()))
                .collect();
            prop_assert_eq!(got, naive_regroup(&expected));
        }

        #[test]
        fn any_bytes_are_walked_or_refused(bytes: Vec<u8>, limit in 0usize..10) {
            if let Ok(walked) = regroup(bytes.into(), limit) {
                for index in 0..walked.traces().len() {
                    walked.trace_message(index);
                }
            }
        }

        #[test]
        fn damaged_requests_are_walked_or_refused(given in arb_request(), at: prop::sample::Index, byte: u8) {
            let mut bytes = given.encode_to_vec();
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(walked) = regroup(bytes.into(), 3) {
                for index in 0..walked.traces().len() {
                    let (_, message) = walked.trace_message(index);
                    // Only invalid UTF-8 may be left, which our own consumers accept, and fields that they do not read.
                    if let Err(error) = tempopb::Trace::decode(message.as_slice()) {
                        let text = error.to_string();
                        prop_assert!(["UTF-8", "strindex:", "flags:"].iter().any(|part| text.contains(part)), "{}", text);
                    }
                }
            }
        }
    }

    #[test]
    fn long_pieces_stay_slices_of_the_request() {
        let mut long = span(&[1; 16], &[1; 8]);
        long.name = "x".repeat(SLICE_BYTES);
        let bytes = Bytes::from(request(vec![scope_spans(None, vec![long])]).encode_to_vec());
        let walked = regroup(bytes.clone(), 0).unwrap();
        let parts = walked.record(&walked.plan([0], true, u64::MAX).unwrap()[0]);
        assert_eq!(parts.len(), 3);
        assert!(bytes.as_ptr_range().contains(&parts[1].as_ptr()));
        assert!(decode(&parts).skip_metrics_generation);
    }

    #[test]
    fn a_trace_that_fits_no_record_is_named_with_its_size() {
        let walked = regroup(request(vec![scope_spans(None, vec![span(&[1; 16], &[1; 8])])]).encode_to_vec().into(), 0).unwrap();
        let error = walked.plan([0], false, 20).unwrap_err();
        assert_eq!(error.to_string(), format!("single entry size ({}) exceeds maximum allowed size (20)", error.bytes));
    }
}
