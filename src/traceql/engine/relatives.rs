//! The parent and the root of each span of a table, for attributes that are read from them.

use std::sync::Arc;

use crate::model::span_table::SpanTable;
use crate::traceql::ast::Owner;

use super::structure::{Numbers, ROOT};

/// Found when first asked for.
#[derive(Default)]
pub(super) struct Relatives {
    parents: Option<Arc<Related>>,
    roots: Option<Arc<Related>>,
}

/// One related span per span, or none.
pub(super) struct Related(Vec<u32>);

const NONE: u32 = u32::MAX;

impl Related {
    pub(super) fn of(&self, span: usize) -> Option<usize> {
        self.0.get(span).filter(|relative| **relative != NONE).map(|relative| *relative as usize)
    }
}

impl Relatives {
    pub(super) fn of_spans(&mut self, table: &SpanTable, owner: Owner) -> Arc<Related> {
        let slot = match owner {
            Owner::Parent => &mut self.parents,
            Owner::Root | Owner::Itself => &mut self.roots,
        };
        slot.get_or_insert_with(|| Arc::new(related(table, owner))).clone()
    }
}

fn related(table: &SpanTable, owner: Owner) -> Related {
    let numbers = Numbers::new(table);
    let mut related = vec![NONE; table.span_count()];
    let mut by_left: Vec<(i32, u32)> = Vec::new();
    for row in 0..table.trace_count() {
        let spans = table.spans_of_trace(row);
        let wanted = |span: &u32| owner == Owner::Parent || numbers.parent(*span) == ROOT;
        by_left.clear();
        by_left.extend((spans.start as u32..spans.end as u32).filter(wanted).map(|span| (numbers.left(span), span)));
        by_left.retain(|(left, _)| *left > 0);
        by_left.sort_unstable();
        for span in spans {
            let found = if owner == Owner::Parent {
                by_left.binary_search_by_key(&numbers.parent(span as u32), |(left, _)| *left).ok()
            } else {
                let left = numbers.left(span as u32);
                by_left.partition_point(|(root, _)| *root <= left).checked_sub(1)
            };
            related[span] = found.map_or(NONE, |at| by_left[at].1);
        }
    }
    Related(related)
}
