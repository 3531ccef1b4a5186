//! Splits span ids that a client and a server span share, as Zipkin clients send them (http-api §6.1).

use std::collections::{HashMap, HashSet};

use crate::model::ids::SpanId;
use crate::model::span_table::SpanTable;

const KIND_SERVER: i32 = 2;
const KIND_CLIENT: i32 = 3;

/// Gives every server span of trace `row` whose id a client span also has an id of its own: the smallest number not used in the trace. Its parent becomes
/// the old id, and the children of the old id become its children.
pub(super) fn split_shared_span_ids(table: &mut SpanTable, row: usize) {
    let range = table.spans_of_trace(row);
    let spans = &mut table.spans;
    let client_ids: HashSet<SpanId> =
        range.clone().filter(|span| spans.kind[*span] == KIND_CLIENT).map(|span| spans.span_id[span]).collect();
    let is_shared =
        |span: usize| spans.kind[span] == KIND_SERVER && !spans.span_id[span].is_none() && client_ids.contains(&spans.span_id[span]);
    let shared: Vec<usize> = range.clone().filter(|span| is_shared(*span)).collect();
    if shared.is_empty() {
        return;
    }
    let used: HashSet<SpanId> = range.clone().map(|span| spans.span_id[span]).collect();
    let mut unused = (1u64..).map(|number| SpanId(number.to_be_bytes())).filter(|id| !used.contains(id));
    let mut new_ids: HashMap<SpanId, SpanId> = HashMap::new();
    for &span in &shared {
        let old = spans.span_id[span];
        let Some(new) = unused.next() else { return };
        spans.span_id[span] = new;
        spans.parent_span_id[span] = old;
        new_ids.insert(old, new);
    }
    let shared: HashSet<usize> = shared.into_iter().collect();
    for span in range {
        let parent = &mut spans.parent_span_id[span];
        if let Some(new) = new_ids.get(parent)
            && !shared.contains(&span)
        {
            *parent = *new;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_side_gets_an_own_id_and_the_children() {
        let id = |number: u64| SpanId(number.to_be_bytes());
        // root 1 (server) > client 2 = server 2 > 3
        let rows = [(1, 0, KIND_SERVER), (2, 1, KIND_CLIENT), (2, 1, KIND_SERVER), (3, 2, 1)];
        let mut table = SpanTable::default();
        for (span, parent, kind) in rows {
            table.spans.span_id.push(id(span));
            table.spans.parent_span_id.push(id(parent));
            table.spans.kind.push(kind);
        }
        table.scopes.spans.push_end(rows.len());
        table.resources.scopes.push_end(1);
        table.traces.resources.push_end(1);
        split_shared_span_ids(&mut table, 0);
        assert_eq!(table.spans.span_id, [1, 2, 4, 3].map(id));
        assert_eq!(table.spans.parent_span_id, [0, 1, 2, 4].map(id));
    }
}
