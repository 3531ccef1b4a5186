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
use crate::model::ids::TenantId;
use crate::model::span_table::SpanTable;
use crate::services::rpc::querier::{Querier as _, SearchPart};
use crate::services::rpc::status::CallError;
use crate::services::span_search::{SearchedTable, search_tables};
use crate::tempodb::backend::Backend;
use crate::tempodb::block::meta::{BlockId, BlockMeta, BlockVersion};
use crate::tempodb::block::write::{BlockWriter, NewBlock};
use crate::tempodb::blocklist::BlockList;
use crate::tempodb::db::{DbSettings, TempoDb};
use crate::traceql::result::{SearchCollector, SearchOrder, SearchRequest, TraceHit};
use crate::traceql::testing::examples::search_examples;
use crate::traceql::testing::generated::{arb_query, arb_tables};

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
        let mut collector = SearchCollector::new(request.limit, SearchOrder::FirstFound);
        for row_groups in shards(self.row_groups, jobs) {
            let part = SearchPart::Block { meta: Arc::clone(meta), row_groups };
            let reply = self.querier.search(&TenantId::single(), request, &part).await?;
            reply.hits.into_iter().for_each(|hit| collector.add(hit));
        }
        Ok(collector.finish())
    }

    /// Returns what live data gives, or how a block differs from it.
    async fn search_everywhere(&self, tables: &[SpanTable], request: &SearchRequest) -> Result<Result<Vec<TraceHit>, CallError>, String> {
        let searched = tables.iter().map(SearchedTable::from);
        let live = search_tables(searched, request, &AtomicBool::new(false)).map(|reply| reply.hits);
        for (meta, version) in self.metas.iter().zip(VERSIONS) {
            for jobs in SHARDS {
                let found = self.search(meta, jobs, request).await;
                let are_same = match (&live, &found) {
                    (Ok(live), Ok(found)) => live == found,
                    (Err(live), Err(found)) => live.to_string() == found.to_string(),
                    (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
                };
                if !are_same {
                    return Err(format!("{} from {version:?} in {jobs} jobs\n found {found:?}\n  live {live:?}", request.query));
                }
            }
        }
        Ok(live)
    }
}

/// Cuts row groups into `jobs` ranges as equal as possible.
fn shards(row_groups: usize, jobs: usize) -> impl Iterator<Item = Range<usize>> {
    (0..jobs).map(move |job| job * row_groups / jobs..(job + 1) * row_groups / jobs)
}

fn request(query: &str, spans_per_span_set: usize) -> SearchRequest {
    SearchRequest { query: query.to_owned(), limit: LIMIT, spans_per_span_set, ..SearchRequest::default() }
}

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

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn generated_queries_find_the_same_in_every_source(tables in arb_tables(), queries in prop::collection::vec(arb_query(), 12)) {
        let outcome: Result<(), String> = block_on(async {
            let blocks = Blocks::new(&tables).await;
            for query in &queries {
                let _ = blocks.search_everywhere(&tables, &request(query, 100)).await?;
            }
            Ok(())
        });
        prop_assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    }
}
