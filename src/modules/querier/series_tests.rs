//! Metrics count the same however spans are spread over blocks and row groups.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::side_tests::{Place, block_on};
use crate::model::combine::merge_tables;
use crate::model::span_table::SpanTable;
use crate::model::testing::arb_span_table;
use crate::services::rpc::metrics_query::{MetricsReply, MetricsRequest};
use crate::services::rpc::querier::Querier as _;
use crate::services::span_metrics::{metrics_of_tables, plan_metrics};
use crate::traceql::metrics::{FinalOptions, FinalStage, Window};

/// Queries whose answers do not depend on whether a trace is whole, with whole numbers as values.
const QUERIES: [&str; 4] = [
    "{} | count_over_time()",
    "{} | count_over_time() by (name, kind)",
    "{ status != error } | max_over_time(duration) by (resource.service.name)",
    "{} | histogram_over_time(duration) by (kind)",
];

fn request(query: &str, window: Window) -> MetricsRequest {
    MetricsRequest { query: query.to_owned(), window, exemplars: 0, max_series: 0 }
}

/// Values by labels and time.
fn answer(request: &MetricsRequest, replies: Vec<MetricsReply>) -> BTreeMap<(String, i64), f64> {
    let plan = plan_metrics(&request.query).unwrap();
    let mut stage = FinalStage::new(&plan, request.window, FinalOptions { max_series: 0, exemplars: 0 }).unwrap();
    replies.into_iter().for_each(|reply| stage.add(reply.series));
    let series = stage.finish().series.into_iter();
    series
        .flat_map(|series| series.samples.into_iter().map(move |sample| ((series.labels.to_string(), sample.timestamp_ms), sample.value)))
        .collect()
}

fn in_memory(request: &MetricsRequest, table: &SpanTable) -> BTreeMap<(String, i64), f64> {
    answer(request, vec![metrics_of_tables([table.into()], request, &Default::default()).unwrap()])
}

/// A window around all spans, and one that leaves out about half of them.
fn windows(table: &SpanTable) -> Vec<Window> {
    let mut starts: Vec<u64> = table.spans.start_unix_nanos.iter().copied().filter(|start| *start < 1 << 62).collect();
    starts.sort_unstable();
    let Some(middle) = starts.get(starts.len() / 2).copied() else { return Vec::new() };
    let (first, last) = (starts[0], starts[starts.len() - 1]);
    let step = ((last - first) / 7).max(1_000_000);
    let half = Window::range(first.saturating_sub(1), middle.max(first), step);
    vec![Window::instant(0, 1 << 62), half]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn row_groups_and_blocks_add_up(a in arb_span_table(4), b in arb_span_table(4)) {
        block_on(async {
            let whole = merge_tables(&[&a, &b]);
            let halves: Vec<SpanTable> = [&a, &b].map(|table| merge_tables(&[table])).into();
            let place = Place::new(&[std::slice::from_ref(&whole), &halves[..1], &halves[1..]]).await;
            let querier = place.querier();
            for (window, query) in windows(&whole).into_iter().flat_map(|window| QUERIES.map(|query| (window, query))) {
                let request = request(query, window);
                let mut replies = Vec::new();
                for meta in &place.metas {
                    replies.push(querier.metrics_of_block(&place.tenant, &request, meta, 0..usize::MAX).await.unwrap());
                }
                let of_halves = answer(&request, replies.split_off(1));
                let of_whole = answer(&request, replies);
                assert_eq!(of_whole, in_memory(&request, &whole), "{query} {window:?}");
                let apart = metrics_of_tables(halves.iter().map(Into::into), &request, &Default::default()).unwrap();
                assert_eq!(of_halves, answer(&request, vec![apart]), "{query} {window:?}");
            }
        });
    }

    #[test]
    fn replicas_count_once(a in arb_span_table(4), b in arb_span_table(4)) {
        block_on(async {
            let (left, right) = (merge_tables(&[&a]), merge_tables(&[&b]));
            let both = merge_tables(&[&left, &right]);
            let place = Place::new(&[std::slice::from_ref(&left), std::slice::from_ref(&both), std::slice::from_ref(&right)]).await;
            let joined = merge_tables(&[&left, &both, &right]);
            for (window, query) in windows(&joined).into_iter().flat_map(|window| QUERIES.map(|query| (window, query))) {
                let request = request(query, window);
                let reply = place.querier().metrics_of_replicas(&place.tenant, &request, &place.metas).await.unwrap();
                assert_eq!(answer(&request, vec![reply]), in_memory(&request, &joined), "{query} {window:?}");
            }
        });
    }
}
