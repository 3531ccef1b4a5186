//! A query finds the same wherever the spans are: in memory, in a block of either version, in one job or in many.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use object_store::memory::InMemory;
use proptest::prelude::*;

use super::config::QuerierConfig;
use super::{Parts, Querier};
use crate::base::clock::ManualClock;
use crate::base::cpu_pool::CpuPool;
use crate::model::combine::merge_tables;
use crate::model::ids::TenantId;
use crate::model::span_table::SpanTable;
use crate::services::rpc::metrics_query::{MetricsReply, MetricsRequest};
use crate::services::rpc::querier::{Querier as _, SearchPart};
use crate::services::rpc::status::CallError;
use crate::services::span_metrics::plan_metrics;
use crate::services::span_search::{SearchedTable, engine_error, plan_search, search_tables};
use crate::tempodb::backend::Backend;
use crate::tempodb::block::meta::{BlockId, BlockMeta, BlockVersion};
use crate::tempodb::block::write::{BlockWriter, NewBlock};
use crate::tempodb::blocklist::BlockList;
use crate::tempodb::db::{DbSettings, TempoDb};
use crate::traceql::metrics::{FinalOptions, FinalResult, FinalStage, Window};
use crate::traceql::order::SearchOrder;
use crate::traceql::result::{SearchCollector, SearchRequest, TraceHit};
use crate::traceql::testing::examples::search_examples;
use crate::traceql::testing::generated::{arb_query, arb_tables};
use crate::traceql::testing::metrics_examples::metrics_examples;
use crate::traceql::testing::trace_of;

const VERSIONS: [BlockVersion; 2] = [BlockVersion::VParquet4, BlockVersion::VParquet5];
/// Into how many jobs a block is cut. More than there are row groups leaves some jobs without any.
const SHARDS: [usize; 3] = [1, 3, 17];
/// More traces than any test has.
const LIMIT: usize = 1000;

/// One block of every version with the same row groups, and a querier that serves them.
struct Blocks {
    querier: Querier,
    metas: Vec<Arc<BlockMeta>>,
    row_groups: usize,
}

impl Blocks {
    /// Every table becomes a row group.
    async fn new(tables: &[SpanTable]) -> Self {
        let (tenant, cpu) = (TenantId::single(), CpuPool::new("test", 1).unwrap());
        let backend = Backend::new(Arc::new(InMemory::new()), "");
        let list = BlockList::default();
        let mut metas = Vec::new();
        for version in VERSIONS {
            let block = NewBlock { version, ..NewBlock::new(tenant.clone(), BlockId::random(), 100) };
            let mut writer = BlockWriter::create(backend.clone(), cpu.clone(), block).await.unwrap();
            for table in tables {
                writer.append(Arc::new(table.clone())).await.unwrap();
            }
            let meta = Arc::new(writer.finish().await.unwrap());
            list.add(&tenant, Arc::clone(&meta));
            metas.push(meta);
        }
        let clock = Arc::new(ManualClock::at(1_795_400_000_000_000_000));
        let db = Arc::new(TempoDb::new(backend, Arc::new(list), DbSettings::default(), clock));
        let querier = Querier::new(Parts { config: QuerierConfig::default(), span_readers: Vec::new(), db, cpu });
        Self { querier, metas, row_groups: tables.len() }
    }

    /// Runs one job per range of row groups and merges what they find.
    async fn search(&self, meta: &Arc<BlockMeta>, jobs: usize, request: &SearchRequest) -> Result<Vec<TraceHit>, CallError> {
        let mut collector = SearchCollector::new(request.limit, plan_search(request)?.order());
        for row_groups in shards(self.row_groups, jobs) {
            let part = SearchPart::Block { meta: Arc::clone(meta), row_groups };
            let reply = self.querier.search(&TenantId::single(), request, &part).await?;
            collector.add_all(reply.hits);
            if collector.can_stop(u32::MAX) {
                break;
            }
        }
        Ok(collector.finish())
    }

    /// Returns the answer of live data, and those of every block in any number of jobs.
    async fn answers(&self, tables: &[SpanTable], request: &SearchRequest) -> (Answer, Vec<(String, Answer)>) {
        let searched = tables.iter().map(SearchedTable::from);
        let live = search_tables(searched, request, &AtomicBool::new(false)).map(|reply| reply.hits);
        let mut stored = Vec::new();
        for (meta, version) in self.metas.iter().zip(VERSIONS) {
            for jobs in SHARDS {
                stored.push((format!("{version:?} in {jobs} jobs"), self.search(meta, jobs, request).await));
            }
        }
        (live, stored)
    }

    /// Returns what live data gives, or how a block differs from it.
    async fn search_everywhere(&self, tables: &[SpanTable], request: &SearchRequest) -> Result<Answer, String> {
        let (live, stored) = self.answers(tables, request).await;
        for (source, found) in stored {
            let are_same = match (&live, &found) {
                (Ok(live), Ok(found)) => *live == *found,
                (Err(live), Err(found)) => live.to_string() == found.to_string(),
                (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
            };
            if !are_same {
                return Err(format!("{} from {source}\n found {found:?}\n  live {live:?}", request.query));
            }
        }
        Ok(live)
    }

    /// Runs one metrics job per range of row groups and joins their series.
    async fn count(&self, meta: &Arc<BlockMeta>, jobs: usize, request: &MetricsRequest) -> Result<FinalResult, CallError> {
        let plan = plan_metrics(&request.query)?;
        let options = FinalOptions { max_series: request.max_series, exemplars: request.exemplars };
        let mut stage = FinalStage::new(&plan, request.window, options).map_err(engine_error)?;
        for row_groups in shards(self.row_groups, jobs) {
            stage.add(self.querier.metrics_of_block(&TenantId::single(), request, meta, row_groups).await?.series);
        }
        Ok(stage.finish())
    }

    /// Says how answers of at most `limit` traces differ from the first of all answers to `query`, if they do.
    async fn check_order(&self, tables: &[SpanTable], query: &str, hints: &str, limit: usize) -> Result<(), String> {
        let all = request(&format!("{query} {hints}"), 100);
        let few = SearchRequest { limit, ..all.clone() };
        // Generated queries may be refused before they run.
        let Ok(order) = plan_search(&all).map(|plan| plan.order()) else { return Ok(()) };
        let of_all = self.search_everywhere(tables, &all).await?;
        if order == SearchOrder::FirstFound {
            // A search that takes the first may end before the query refuses anything.
            let Ok(of_all) = of_all else { return Ok(()) };
            let (live, stored) = self.answers(tables, &few).await;
            for (source, found) in stored.into_iter().chain([("memory".to_owned(), live)]) {
                let found = found.map_err(|error| format!("{query}: {error}"))?;
                let expected: Vec<_> = of_all.iter().filter(|hit| found.contains(hit)).cloned().collect();
                if found != expected || found.len() != limit.min(of_all.len()) {
                    return Err(format!("{query} {limit} from {source}: {found:?}"));
                }
            }
            return Ok(());
        }
        match (of_all, self.search_everywhere(tables, &few).await?) {
            (Ok(mut expected), Ok(found)) => {
                expected.sort_by_key(|hit| hit.rank(order));
                expected.truncate(limit);
                let is_first = found == expected;
                is_first.then_some(()).ok_or_else(|| format!("{} {limit}\n   found {found:?}\nexpected {expected:?}", all.query))
            }
            // An ordered search refuses what it refuses without a limit.
            (Err(_), Err(_)) => Ok(()),
            (of_all, found) => Err(format!("{} {limit}\n   found {found:?}\n  of all {of_all:?}", all.query)),
        }
    }
}

type Answer = Result<Vec<TraceHit>, CallError>;

/// Cuts row groups into `jobs` ranges as equal as possible.
fn shards(row_groups: usize, jobs: usize) -> impl Iterator<Item = Range<usize>> {
    (0..jobs).map(move |job| job * row_groups / jobs..(job + 1) * row_groups / jobs)
}

fn request(query: &str, spans_per_span_set: usize) -> SearchRequest {
    SearchRequest { query: query.to_owned(), limit: LIMIT, spans_per_span_set, ..SearchRequest::default() }
}

const ORDERS: [&str; 6] = [
    "",
    "with (most_recent=true)",
    "with (order_by=\"start\")",
    "with (order_by=\"start\", desc=true)",
    "with (order_by=\"duration\")",
    "with (order_by=\"duration\", desc=true)",
];

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
}

#[test]
fn examples_give_their_verdicts_from_every_source() {
    let (fixture, examples) = search_examples();
    let tables = fixture.table_per_trace();
    let failures: Vec<String> = block_on(async {
        let blocks = Blocks::new(&tables).await;
        let mut failures = Vec::new();
        for example in &examples {
            let found = blocks.search_everywhere(&tables, &request(&example.query, example.spans_per_span_set)).await;
            let verdict = found.and_then(|live| example.check(&fixture, &live.map_err(|error| error.to_string())?));
            failures.extend(verdict.err());
        }
        failures
    });
    assert!(failures.is_empty(), "{} of {} failed:\n{}", failures.len(), examples.len(), failures.join("\n"));
}

#[test]
fn metrics_examples_give_their_verdicts_from_blocks() {
    let tables = search_examples().0.table_per_trace();
    let failures: Vec<String> = block_on(async {
        let blocks = Blocks::new(&tables).await;
        let mut failures = Vec::new();
        for example in metrics_examples() {
            let request = MetricsRequest { query: example.query.clone(), window: example.window, exemplars: 0, max_series: 0 };
            for (meta, version) in blocks.metas.iter().zip(VERSIONS) {
                for jobs in SHARDS {
                    let found = blocks.count(meta, jobs, &request).await.map_err(|error| error.to_string());
                    let verdict = found.and_then(|found| example.check(&found));
                    failures.extend(verdict.map_err(|failure| format!("from {version:?} in {jobs} jobs: {failure}")).err());
                }
            }
        }
        failures
    });
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn ordered_examples_give_the_first_from_every_source() {
    let (fixture, examples) = search_examples();
    let tables = fixture.table_per_trace();
    let failures: Vec<String> = block_on(async {
        let blocks = Blocks::new(&tables).await;
        let mut failures = Vec::new();
        let without_hints = |query: &str| crate::traceql::compile(query).unwrap().hints.is_empty();
        for (index, example) in examples.iter().filter(|example| without_hints(&example.query)).enumerate() {
            let outcome = blocks.check_order(&tables, &example.query, ORDERS[index % ORDERS.len()], 1 + index % 2).await;
            failures.extend(outcome.err());
        }
        failures
    });
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn row_groups_that_cannot_change_an_ordered_answer_are_not_read() {
    const S: u64 = 1_000_000_000;
    // Start and duration of a trace each, in seconds.
    let times = [(50, 3), (20, 9), (90, 1), (10, 7), (70, 5)];
    let tables: Vec<SpanTable> = (1_u8..).zip(times).map(|(id, (start, duration))| trace_of(id, start * S, duration * S)).collect();
    block_on(async {
        let blocks = Blocks::new(&tables).await;
        for (hints, limit, expected, looked_at) in [
            (ORDERS[1], 1, vec![3], 1),
            (ORDERS[2], 2, vec![4, 2], 2),
            (ORDERS[3], 2, vec![3, 5], 2),
            (ORDERS[4], 3, vec![3, 1, 5], 3),
            (ORDERS[5], 1, vec![2], 1),
            ("", 1, vec![1], 1),
        ] {
            for meta in &blocks.metas {
                let reply_to = async |limit: usize| {
                    let request = SearchRequest { limit, ..request(&format!("{{}} {hints}"), 3) };
                    let part = SearchPart::Block { meta: Arc::clone(meta), row_groups: 0..usize::MAX };
                    blocks.querier.search(&TenantId::single(), &request, &part).await.unwrap()
                };
                let _fills_caches = reply_to(LIMIT).await;
                let (all, few) = (reply_to(LIMIT).await, reply_to(limit).await);
                let ids: Vec<u8> = few.hits.iter().map(|hit| hit.trace_id.0[0]).collect();
                assert_eq!((ids, few.inspection.traces), (expected.clone(), looked_at), "{hints}");
                assert_eq!((all.hits.len(), all.inspection.traces), (5, 5));
                assert!(few.inspection.bytes < all.inspection.bytes, "{hints}: {} {}", few.inspection.bytes, all.inspection.bytes);
            }
        }
    });
}

#[test]
fn spans_are_counted_without_their_traces_as_with_them() {
    const S: u64 = 1_000_000_000;
    let traces: Vec<SpanTable> = (1..=9).map(|id| trace_of(id, 10 * S + u64::from(id) * S, u64::from(id) * S)).collect();
    let tables = [merge_tables(&traces[..5].iter().collect::<Vec<_>>()), merge_tables(&traces[5..].iter().collect::<Vec<_>>())];
    block_on(async {
        let blocks = Blocks::new(&tables).await;
        for query in ["{} | count_over_time()", "{ duration > 3s } | rate() by (name)", "{} | quantile_over_time(duration, .5) by (status)"]
        {
            // With exemplars, traces are told apart until there are enough of them.
            let request =
                |exemplars| MetricsRequest { query: query.to_owned(), window: Window::range(10 * S, 20 * S, S), exemplars, max_series: 0 };
            for meta in &blocks.metas {
                let reply = async |exemplars| {
                    let request = request(exemplars);
                    blocks.querier.metrics_of_block(&TenantId::single(), &request, meta, 0..usize::MAX).await.unwrap()
                };
                let (with, without) = (reply(100).await, reply(0).await);
                let samples = |reply: &MetricsReply| {
                    reply.series.series.iter().map(|series| (series.labels.clone(), series.samples.clone())).collect::<Vec<_>>()
                };
                assert_eq!(samples(&with), samples(&without), "{query}");
                assert!(with.series.series.iter().any(|series| !series.exemplars.is_empty()), "{query}");
                let seen = |reply: &MetricsReply| (reply.inspection.traces, reply.inspection.spans);
                assert_eq!((seen(&without), without.inspection.traces), (seen(&with), 9), "{query}");
                assert!(without.inspection.bytes < with.inspection.bytes, "{query}: structure is not read");
                // Exemplars enough are in the first row group; of the second, traces are not told apart.
                let few = reply(2).await;
                assert_eq!((samples(&few), seen(&few)), (samples(&with), seen(&with)), "{query}");
                let bytes = [&without, &few, &with].map(|reply| reply.inspection.bytes);
                assert!(bytes.is_sorted() && bytes[0] < bytes[1] && bytes[1] < bytes[2], "{query}: {bytes:?}");
            }
        }
    });
}

#[test]
fn small_columns_that_rule_out_many_or_few_traces_do_not_change_an_answer() {
    const S: u64 = 1_000_000_000;
    // Durations of 1 to 100 in the first row group, 101 to 200 in the second.
    let tables = [1..101, 101..201].map(|ids: Range<u8>| {
        let traces: Vec<SpanTable> = ids.map(|id| trace_of(id, 15 * S, u64::from(id))).collect();
        merge_tables(&traces.iter().collect::<Vec<_>>())
    });
    block_on(async {
        let blocks = Blocks::new(&tables).await;
        for (longer_than, expected) in [(0, 200), (20, 180), (80, 120), (150, 50), (199, 1), (200, 0)] {
            let query = format!("{{ duration > {longer_than}ns && nestedSetLeft > 0 }}");
            let found = blocks.search_everywhere(&tables, &request(&query, 3)).await.unwrap().unwrap();
            assert_eq!(found.len(), expected, "{query}");
            let (window, query) = (Window::range(10 * S, 20 * S, 10 * S), format!("{query} | count_over_time()"));
            for meta in &blocks.metas {
                let counted =
                    blocks.count(meta, 2, &MetricsRequest { query: query.clone(), window, exemplars: 0, max_series: 0 }).await.unwrap();
                let total: f64 = counted.series.iter().flat_map(|series| &series.samples).map(|sample| sample.value).sum();
                assert_eq!(total, expected as f64, "{query}");
            }
        }
    });
}

#[test]
fn without_an_order_the_cheapest_are_taken() {
    let tables = [merge_tables(&[&trace_of(1, 10, 1), &trace_of(2, 30, 1), &trace_of(3, 20, 1)]), trace_of(4, 40, 1)];
    block_on(async {
        let blocks = Blocks::new(&tables).await;
        for (limit, newest, neighbours) in [(1, vec![2], vec![1]), (2, vec![2, 3], vec![2, 1]), (4, vec![4, 2, 3, 1], vec![4, 2, 3, 1])] {
            let (live, stored) = blocks.answers(&tables, &SearchRequest { limit, ..request("{}", 3) }).await;
            let ids = |found: Answer| found.unwrap().iter().map(|hit| hit.trace_id.0[0]).collect::<Vec<_>>();
            assert_eq!(ids(live), newest, "{limit}");
            stored.into_iter().for_each(|(source, found)| assert_eq!(ids(found), neighbours, "{limit} from {source}"));
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn generated_queries_find_the_same_in_every_source(tables in arb_tables(), queries in prop::collection::vec(arb_query(), 12)) {
        let outcome: Result<(), String> = block_on(async {
            let blocks = Blocks::new(&tables).await;
            for query in &queries {
                let _ = blocks.search_everywhere(&tables, &request(query, 100)).await?;
            }
            for (index, query) in queries.iter().enumerate() {
                blocks.check_order(&tables, query, ORDERS[index % ORDERS.len()], 1 + index % 3).await?;
            }
            Ok(())
        });
        prop_assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    }
}
