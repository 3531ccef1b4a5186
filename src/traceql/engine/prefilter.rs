//! A weaker question that a few small columns answer: which traces can match at all.
//!
//! Storage that decodes these columns first reads the large ones, attributes above all, for the traces that are left.

use super::expr::{Level, Node};
use super::filter::Evaluator;
use super::plan::PlanStage;
use super::projection::{FetchColumn, FetchKinds, FetchSpec, SERVICE_NAME};
use super::pruning::required_filters;
use crate::base::bitset::Bitset;
use crate::model::span_table::SpanTable;
use crate::traceql::ast::{Attribute, AttributeScope, Intrinsic, Owner};

/// What is left of a query when only the tests of small columns count.
#[derive(Debug, Clone)]
pub struct Prefilter {
    /// Each keeps some span of every matching trace.
    filters: Vec<Node>,
    fetch: FetchSpec,
}

impl Prefilter {
    /// `None` when the columns that `fetch` names are all small, or when the small ones say nothing.
    pub(super) fn new(stages: &[PlanStage], fetch: &FetchSpec) -> Option<Self> {
        if !reads_large_columns(fetch) {
            return None;
        }
        let mut fetch = FetchSpec::default();
        let mut filters: Vec<Node> = required_filters(stages).into_iter().filter_map(weakened).collect();
        filters.sort_by_key(Node::cost);
        for filter in &filters {
            filter
                .visit(&mut |attribute, condition| fetch.add(attribute, condition.map_or(FetchKinds::ALL, |condition| condition.kinds())));
        }
        (!filters.is_empty()).then_some(Self { filters, fetch })
    }

    /// What [`Prefilter::rows`] reads.
    pub fn fetch(&self) -> &FetchSpec {
        &self.fetch
    }

    /// Returns the rows of `table` that may match, at least.
    pub fn rows(&self, table: &SpanTable) -> Bitset {
        let mut evaluator = Evaluator::new(table);
        let mut rows = Bitset::full(table.trace_count());
        for filter in &self.filters {
            let spans = evaluator.levels.convert(rows, Level::Trace, Level::Span);
            let kept = evaluator.select(filter, Level::Span, &spans);
            rows = evaluator.levels.convert(kept, Level::Span, Level::Trace);
        }
        rows
    }
}

/// Returns what `node` says of small columns, which holds wherever `node` does; `None` if nothing.
fn weakened(node: &Node) -> Option<Node> {
    match node {
        Node::All(nodes) => {
            let mut small: Vec<Node> = nodes.iter().filter_map(weakened).collect();
            if small.len() > 1 { Some(Node::All(small)) } else { small.pop() }
        }
        Node::Const(_) => None,
        Node::Any(_) | Node::Not(_) | Node::Test(_) | Node::Compare { .. } | Node::Present { .. } | Node::On(..) => {
            let mut is_small = true;
            node.visit(&mut |attribute, _| is_small &= is_in_small_column(attribute));
            is_small.then(|| node.clone())
        }
    }
}

/// Whether the values are in a column of their own with few different ones, or with one a trace.
fn is_in_small_column(attribute: &Attribute) -> bool {
    match attribute {
        Attribute::Named(named) => named.owner == Owner::Itself && named.scope == AttributeScope::Resource && &*named.name == SERVICE_NAME,
        Attribute::Intrinsic(intrinsic) => matches!(
            intrinsic,
            Intrinsic::Duration
                | Intrinsic::Name
                | Intrinsic::Status
                | Intrinsic::Kind
                | Intrinsic::RootName
                | Intrinsic::RootServiceName
                | Intrinsic::TraceDuration
                | Intrinsic::InstrumentationName
                | Intrinsic::InstrumentationVersion
        ),
    }
}

fn reads_large_columns(fetch: &FetchSpec) -> bool {
    let FetchSpec { columns, resource_attributes, scope_attributes, span_attributes, event_attributes, link_attributes, conditions: _ } =
        fetch;
    [resource_attributes, scope_attributes, span_attributes, event_attributes, link_attributes].iter().any(|keys| !keys.is_empty())
        || columns.iter().any(|column| {
            matches!(
                column,
                FetchColumn::SpanId
                    | FetchColumn::ParentSpanId
                    | FetchColumn::NestedLeft
                    | FetchColumn::NestedRight
                    | FetchColumn::NestedParent
                    | FetchColumn::StatusMessage
                    | FetchColumn::TraceState
                    | FetchColumn::EventName
                    | FetchColumn::EventTime
                    | FetchColumn::LinkTraceId
                    | FetchColumn::LinkSpanId
            )
        })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::traceql::compile;
    use crate::traceql::engine::Plan;

    fn prefilter_of(query: &str) -> Option<Vec<String>> {
        let plan = Plan::new(&compile(query).unwrap()).unwrap();
        let columns = |prefilter: &Arc<Prefilter>| prefilter.fetch().columns.iter().map(|column| format!("{column:?}")).collect();
        plan.prefilter().map(columns)
    }

    #[test]
    fn small_columns_of_required_filters_count() {
        let some = |columns: &[&str]| Some(columns.iter().map(|column| (*column).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            prefilter_of("{status=error && span.a=1} >> {resource.service.name=\"x\" && (span.b=2 || kind=server)}"),
            some(&["ServiceName", "StatusCode"])
        );
        assert_eq!(prefilter_of("{span.a=1 && !(name=\"x\" && duration>1s)}"), some(&["SpanName", "SpanDuration"]));
        assert_eq!(prefilter_of("{span.a=1} !>> {kind=server}"), some(&["Kind"]));
        assert_eq!(prefilter_of("{status=error} !>> {span.a=1}"), None, "the left side need not be there");
        assert_eq!(prefilter_of("{status=error} || {span.a=1}"), None);
        assert_eq!(prefilter_of("{span.a=1 || status=error}"), None);
        assert_eq!(prefilter_of("{.service.name=\"x\"}"), None, "an attribute of the span goes first");
        assert_eq!(prefilter_of("{status=error && kind=server}"), None, "nothing large is read");
    }
}
