//! Filters over blocks in memory: what lookups see while the filter is made, merged, damaged and raced for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use jiff::Timestamp;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt as _};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;

use super::maintain::{MaintainOutcome, MaintainSettings, maintain};
use super::manifest::{MANIFEST_NAME, Manifest, PREFIX};
use crate::base::clock::{ManualClock, SharedClock};
use crate::base::cpu_pool::CpuPool;
use crate::model::ids::{TenantId, TraceId};
use crate::model::span_table::SpanTable;
use crate::model::testing::arb_span_table;
use crate::tempodb::backend::Backend;
use crate::tempodb::block::meta::{BlockId, BlockMeta};
use crate::tempodb::block::write::{BlockEncoder, BlockTimes, NewBlock};
use crate::tempodb::blocklist::{BlockList, Listing, TenantBlocks};
use crate::tempodb::db::{ALL_TIMES, DbSettings, TempoDb};
use crate::tempodb::keys;

const NOW: i64 = 1_795_400_000;
const DAY: i64 = 24 * 60 * 60;

/// A bucket with blocks, and the ids in each.
struct Bucket {
    store: Arc<InMemory>,
    clock: Arc<ManualClock>,
    cpu: CpuPool,
    template: SpanTable,
    blocks: BTreeMap<BlockId, (Arc<BlockMeta>, Vec<TraceId>)>,
}

fn tenant() -> TenantId {
    TenantId::parse("t").unwrap()
}

fn trace_id(number: u64) -> TraceId {
    let mut id = [7; 16];
    id[8..].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    TraceId(id)
}

/// Everything is worth a filter.
fn settings() -> MaintainSettings {
    MaintainSettings { min_blocks: 1, min_new_blocks: 1, ..MaintainSettings::default() }
}

impl Bucket {
    fn new() -> Self {
        let mut runner = TestRunner::deterministic();
        let mut tables = std::iter::repeat_with(|| arb_span_table(4).new_tree(&mut runner).unwrap().current());
        let template = tables.find(|table| table.trace_count() == 4).unwrap();
        let clock = Arc::new(ManualClock::at(NOW as u64 * 1_000_000_000));
        Self { store: Arc::default(), clock, cpu: CpuPool::new("test", 2).unwrap(), template, blocks: BTreeMap::new() }
    }

    fn backend(&self) -> Backend {
        Backend::new(Arc::clone(&self.store) as Arc<dyn ObjectStore>, "")
    }

    /// Writes a block of four traces that ended `age` seconds ago; of its other objects only the data is needed.
    async fn write(&mut self, numbers: [u64; 4], age: i64) -> BlockId {
        let mut ids = numbers.map(trace_id).to_vec();
        ids.sort();
        let mut table = self.template.clone();
        table.traces.ids.clone_from(&ids);
        let time = |seconds| Timestamp::from_second(seconds).unwrap();
        let times = BlockTimes::Given { start: time(NOW - age - 60), end: time(NOW - age) };
        let block = NewBlock { times, ..NewBlock::new(tenant(), BlockId::random(), 4) };
        let mut encoder = BlockEncoder::new(block, Vec::new()).unwrap();
        encoder.append(&table).unwrap();
        let (data, finished) = encoder.finish().unwrap();
        let id = finished.meta.block_id;
        self.backend().write(&keys::block_object(&tenant(), id, keys::DATA_NAME), data).await.unwrap();
        self.blocks.insert(id, (Arc::new(finished.meta), ids));
        id
    }

    /// Writes blocks of several days; neighbours share a trace, and some traces are in many blocks.
    async fn write_many(&mut self, count: u64) {
        for number in 0..count {
            let own = number * 10;
            self.write([own, own + 1, own + 10, number % 3 + 1_000_000], (number % 4) as i64 * DAY).await;
        }
    }

    /// A process of its own that has polled just now.
    fn process(&self) -> TempoDb {
        let db =
            TempoDb::new(self.backend(), Arc::new(BlockList::default()), DbSettings::default(), Arc::clone(&self.clock) as SharedClock);
        self.poll(&db, Vec::new());
        db
    }

    fn poll(&self, db: &TempoDb, own_objects: Vec<(String, Timestamp)>) {
        let blocks = TenantBlocks::new(self.blocks.values().map(|(meta, _)| Arc::clone(meta)), []);
        let listing = Some(Arc::new(Listing { own_objects, ..Listing::default() }));
        db.block_list().apply_poll(HashMap::from([(tenant(), TenantBlocks { listing, ..blocks })]));
    }

    async fn own_objects(&self) -> Vec<(String, Timestamp)> {
        let listed: Vec<_> = self.store.list(None).try_collect().await.unwrap();
        let names = listed.iter().filter_map(|object| object.location.filename()).filter(|name| name.starts_with(PREFIX));
        names.map(|name| (name.to_owned(), Timestamp::UNIX_EPOCH)).collect()
    }

    async fn maintain(&self, db: &TempoDb) -> MaintainOutcome {
        maintain(db, &self.cpu, &tenant(), &settings()).await.unwrap()
    }

    fn later(&self, seconds: u64) {
        self.clock.advance_nanos(seconds * 1_000_000_000);
    }

    /// Looks every trace up: no block that has it is missed. Returns the numbers of blocks named in vain, and of those to be asked.
    async fn check(&self, db: &TempoDb) -> (usize, usize) {
        let mut holders: BTreeMap<TraceId, BTreeSet<BlockId>> = BTreeMap::new();
        for (block, (_, ids)) in &self.blocks {
            for id in ids {
                holders.entry(*id).or_default().insert(*block);
            }
        }
        let (mut in_vain, mut asked) = (0, 0);
        for (id, expected) in holders {
            let found = db.candidate_blocks(&tenant(), id, ALL_TIMES, first_block()..=last_block()).await;
            let ids: BTreeSet<BlockId> = found.blocks.iter().map(|found| found.meta.block_id).collect();
            assert!(ids.is_superset(&expected), "{id}: {expected:?} in {ids:?}");
            assert_eq!(ids.len(), found.blocks.len(), "no block twice");
            in_vain += found.blocks.iter().filter(|found| found.is_named_by_filter && !expected.contains(&found.meta.block_id)).count();
            asked += found.blocks.iter().filter(|found| !found.is_named_by_filter).count();
        }
        (in_vain, asked)
    }
}

fn first_block() -> BlockId {
    BlockId(uuid::Uuid::nil())
}

fn last_block() -> BlockId {
    BlockId(uuid::Uuid::max())
}

#[tokio::test]
async fn every_trace_is_found_in_all_its_blocks_and_nowhere_else() {
    let mut bucket = Bucket::new();
    bucket.write_many(40).await;
    let db = bucket.process();
    let before = bucket.check(&db).await;
    assert_eq!(before.0, 0);
    assert!(before.1 >= 40 * 40, "without filter all blocks are asked");
    assert_eq!(db.uncovered_blocks(&tenant(), ALL_TIMES).await, None);
    let outcome = bucket.maintain(&db).await;
    assert_eq!((outcome.covered_blocks, outcome.entries, outcome.is_unfinished), (40, 160, false));
    assert_eq!(bucket.check(&db).await, (0, 0));
    assert_eq!(db.uncovered_blocks(&tenant(), ALL_TIMES).await, Some(0));
    // One run per day, and a repetition writes nothing.
    let objects = bucket.own_objects().await;
    assert_eq!(objects.len(), 5);
    assert_eq!(bucket.maintain(&db).await, MaintainOutcome::default());
    assert_eq!(bucket.own_objects().await, objects);
    // Another process sees it too, and blocks that came later are asked.
    bucket.write([1, 2, 3, 4], 0).await;
    let other = bucket.process();
    let (in_vain, asked) = bucket.check(&other).await;
    assert!(in_vain == 0 && asked > 80, "one block is asked for each trace: {asked}");
    assert_eq!(other.uncovered_blocks(&tenant(), ALL_TIMES).await, Some(1));
}

#[tokio::test]
async fn times_and_ids_of_blocks_choose_among_the_candidates() {
    let mut bucket = Bucket::new();
    bucket.write_many(16).await;
    let db = bucket.process();
    bucket.maintain(&db).await;
    let shared = trace_id(1_000_000);
    let candidates = async |range, blocks| db.candidate_blocks(&tenant(), shared, range, blocks).await.blocks.len();
    let all = candidates(ALL_TIMES, first_block()..=last_block()).await;
    assert_eq!(all, 6);
    let today = candidates(NOW - 3600..=NOW, first_block()..=last_block()).await;
    assert_eq!(today, 2, "blocks 0 and 12");
    let middle = BlockId(uuid::Uuid::from_u128(u128::MAX / 2));
    let after = BlockId(uuid::Uuid::from_u128(u128::MAX / 2 + 1));
    assert_eq!(candidates(ALL_TIMES, first_block()..=middle).await + candidates(ALL_TIMES, after..=last_block()).await, all);
}

#[tokio::test]
async fn small_tenants_and_few_new_blocks_wait() {
    let mut bucket = Bucket::new();
    bucket.write_many(15).await;
    let db = bucket.process();
    assert_eq!(maintain(&db, &bucket.cpu, &tenant(), &MaintainSettings::default()).await.unwrap().covered_blocks, 0);
    bucket.write([1, 2, 3, 4], 0).await;
    bucket.poll(&db, Vec::new());
    assert_eq!(maintain(&db, &bucket.cpu, &tenant(), &MaintainSettings::default()).await.unwrap().covered_blocks, 16);
    for (added, covered) in [(7, 0), (1, 8)] {
        for _ in 0..added {
            bucket.write([5, 6, 7, 8], 0).await;
        }
        bucket.poll(&db, Vec::new());
        assert_eq!(maintain(&db, &bucket.cpu, &tenant(), &MaintainSettings::default()).await.unwrap().covered_blocks, covered);
    }
}

#[tokio::test]
async fn large_filters_are_made_in_bounded_steps_and_merged() {
    let mut bucket = Bucket::new();
    for number in 0..40 {
        bucket.write([number * 4, number * 4 + 1, number * 4 + 2, number * 4 + 3], 0).await;
    }
    let db = bucket.process();
    let bounded = MaintainSettings { run_entries: 8, max_entries: 24, ..settings() };
    let mut calls = 0;
    loop {
        let outcome = maintain(&db, &bucket.cpu, &tenant(), &bounded).await.unwrap();
        bucket.check(&db).await;
        calls += 1;
        if !outcome.is_unfinished {
            break;
        }
        assert!(calls < 100, "{outcome:?}");
    }
    assert!(calls > 5);
    assert_eq!(bucket.check(&db).await, (0, 0));
    let manifest = Manifest::from_json(&bucket.backend().read(&keys::tenant_object(&tenant(), MANIFEST_NAME)).await.unwrap()).unwrap();
    assert!(manifest.runs.len() <= 3, "{manifest:?}");
    assert_eq!(manifest.runs.iter().map(|run| run.entries).sum::<u64>(), 160);
}

#[tokio::test]
async fn two_processes_may_maintain_at_the_same_time() {
    let mut bucket = Bucket::new();
    bucket.write_many(24).await;
    for _round in 0..3 {
        let (a, b) = (bucket.process(), bucket.process());
        tokio::join!(bucket.maintain(&a), bucket.maintain(&b));
        bucket.later(60);
        assert_eq!(bucket.check(&a).await.0, 0);
        assert_eq!(bucket.check(&b).await.0, 0);
        bucket.write_many(6).await;
    }
    let db = bucket.process();
    while bucket.maintain(&db).await.covered_blocks > 0 {}
    assert_eq!(bucket.check(&db).await, (0, 0));
}

#[tokio::test]
async fn damage_costs_requests_but_hides_no_trace() {
    for at in [0.02, 0.5, 0.97, 1.1] {
        let mut bucket = Bucket::new();
        bucket.write_many(12).await;
        let db = bucket.process();
        bucket.maintain(&db).await;
        for (name, _) in bucket.own_objects().await {
            let key = keys::tenant_object(&tenant(), &name);
            let mut bytes = bucket.backend().read(&key).await.unwrap().to_vec();
            let position = (bytes.len() as f64 * at) as usize;
            match bytes.get_mut(position) {
                Some(byte) => *byte ^= 0x55,
                None => bytes.truncate(bytes.len() / 2),
            }
            bucket.store.put(&key, Bytes::from(bytes).into()).await.unwrap();
        }
        // A process that knew the filter, and one that sees only what is broken.
        bucket.check(&db).await;
        let other = bucket.process();
        bucket.check(&other).await;
        for _ in 0..3 {
            bucket.maintain(&other).await;
        }
        bucket.check(&other).await;
        // Runs of which only the shards are broken are found when they are merged; all others are made again.
        bucket.write_many(12).await;
        let last = bucket.process();
        for _ in 0..6 {
            bucket.maintain(&last).await;
        }
        assert_eq!(bucket.check(&last).await, (0, 0), "{at}");
    }
}

#[tokio::test]
async fn blocks_that_are_gone_leave_the_filter_and_objects_go_later() {
    let mut bucket = Bucket::new();
    bucket.write_many(24).await;
    let db = bucket.process();
    bucket.maintain(&db).await;
    let first = bucket.own_objects().await;
    // All blocks of one day and most of another are compacted away.
    let ids: Vec<BlockId> = bucket.blocks.keys().copied().collect();
    let mut left_of_day = 0;
    for id in ids {
        let age = NOW - bucket.blocks[&id].0.end_time.as_second();
        left_of_day += usize::from(age == DAY);
        if age == 0 || (age == DAY && left_of_day > 2) {
            bucket.blocks.remove(&id);
        }
    }
    bucket.poll(&db, first.clone());
    let outcome = bucket.maintain(&db).await;
    assert_eq!((outcome.dropped_runs, outcome.merged_runs), (1, 1));
    assert_eq!(bucket.check(&db).await, (0, 0));
    let named = async |bucket: &Bucket| {
        let bytes = bucket.backend().read(&keys::tenant_object(&tenant(), MANIFEST_NAME)).await.unwrap();
        Manifest::from_json(&bytes).unwrap().runs
    };
    let runs = named(&bucket).await;
    assert_eq!(runs.len(), 3);
    assert_eq!(runs.iter().map(|run| run.entries).min(), Some(8));
    // The replaced runs stay for readers of the old manifest, then they go.
    for (wait, deleted) in [(0, 0), (899, 0), (1, 2)] {
        bucket.later(wait);
        bucket.poll(&db, bucket.own_objects().await);
        assert_eq!(bucket.maintain(&db).await.deleted_objects, deleted);
    }
    assert_eq!(bucket.own_objects().await.len(), 4);
    // With the last block of a filter the manifest goes.
    bucket.blocks.clear();
    bucket.write([1, 2, 3, 4], 0).await;
    bucket.poll(&db, Vec::new());
    let few = MaintainSettings { min_new_blocks: 2, unreferenced_grace: Duration::ZERO, ..settings() };
    maintain(&db, &bucket.cpu, &tenant(), &few).await.unwrap();
    assert!(bucket.backend().read(&keys::tenant_object(&tenant(), MANIFEST_NAME)).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn recently_compacted_blocks_are_still_candidates() {
    let mut bucket = Bucket::new();
    bucket.write_many(12).await;
    let db = bucket.process();
    bucket.maintain(&db).await;
    let (block, ids) = bucket.blocks.iter().map(|(block, (_, ids))| (*block, ids.clone())).next().unwrap();
    let now = Timestamp::from_second(NOW).unwrap();
    db.block_list().mark_compacted(&tenant(), &[block], now);
    assert_eq!(bucket.check(&db).await, (0, 0));
    bucket.later(11 * 60);
    let found = db.candidate_blocks(&tenant(), ids[0], ALL_TIMES, first_block()..=last_block()).await;
    assert!(found.blocks.iter().all(|found| found.meta.block_id != block));
}
