//! Compaction jobs over real blocks and stores: what comes out, what stays, what a crash leaves.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use object_store::local::LocalFileSystem;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::super::*;
use super::support::*;
use crate::model::combine::{Combiner, Piece, merge_tables};
use crate::model::testing::arb_span_table;
use crate::tempodb::block::dedicated::{DedicatedColumn, DedicatedKind, DedicatedScope};
use crate::tempodb::block::write::CompactionFlag;

/// Two tables; some traces of the first are in the second, too: the same, or other spans under the same id.
fn arb_pair() -> impl Strategy<Value = (SpanTable, SpanTable)> {
    let choices = prop::collection::vec(0..4_u8, 12);
    (arb_span_table(12), arb_span_table(12), choices).prop_map(|(a, mut b, choices)| {
        let mut repeated = Combiner::new(&[&a]);
        for (row, choice) in choices.into_iter().enumerate().take(a.trace_count()) {
            if choice == 1 {
                repeated.push_trace(&[(a.traces.ids[row], Piece { source: 0, row })]);
            } else if choice == 2 && row < b.trace_count() {
                b.traces.ids[row] = a.traces.ids[row];
            }
        }
        let repeated = repeated.finish();
        let b = merge_tables(&[&b, &repeated]);
        (a, b)
    })
}

fn pair(seed: usize) -> (SpanTable, SpanTable) {
    let mut runner = TestRunner::deterministic();
    (0..=seed).map(|_| arb_pair().new_tree(&mut runner).unwrap().current()).last().unwrap()
}

fn settings() -> CompactSettings {
    CompactSettings::default()
}

fn ids(metas: &[&Arc<BlockMeta>]) -> Vec<BlockId> {
    metas.iter().map(|meta| meta.block_id).collect()
}

fn span_count(spans: &Spans) -> usize {
    spans.values().map(|spans| spans.len()).sum()
}

/// `PROPTEST_CASES`; few by default, because each writes and reads three blocks.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(32)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn no_span_is_lost_or_invented((a, b) in arb_pair(), row_group_bytes in prop_oneof![Just(1_usize), Just(2000), Just(50_000_000)]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::in_memory();
            let (a, b) = (world.write(&[a]).await, world.write(&[b]).await);
            let (before, repeated) = world.spans(&[Arc::clone(&a), Arc::clone(&b)]).await;
            let settings = CompactSettings { row_group_bytes, ..settings() };
            let outcome = world.compactor.compact(&tenant(), &ids(&[&a, &b]), &settings).await.unwrap();
            let (after, repeated_after) = world.spans(&outcome.outputs).await;
            prop_assert_eq!(&after, &before);
            prop_assert_eq!(repeated_after, 0);
            prop_assert_eq!((outcome.spans as usize, outcome.deduped_spans as usize), (span_count(&before), repeated));
            prop_assert_eq!((outcome.traces as usize, outcome.outputs.len()), (before.len(), 1));
            for id in before.keys() {
                prop_assert!(world.finds(&outcome.outputs[0], *id).await);
            }
            prop_assert_eq!(world.live().await, outcome.outputs);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn the_output_follows_its_inputs() {
    let world = World::in_memory();
    let (table_a, table_b) = pair(0);
    let time = |text: &str| text.parse::<Timestamp>().unwrap();
    let columns = vec![DedicatedColumn::new(DedicatedScope::Span, "a", DedicatedKind::String)];
    let block = |level, start, end, columns: &[DedicatedColumn]| NewBlock {
        compaction_level: level,
        replication_factor: 3,
        dedicated_columns: columns.to_vec(),
        times: BlockTimes::Given { start: time(start), end: time(end) },
        ..NewBlock::new(tenant(), BlockId::random(), 10)
    };
    let a = world.write_as(block(1, "2026-11-27T10:00:05Z", "2026-11-27T10:02:00Z", &columns), &[table_a]).await;
    let b = world.write_as(block(0, "2026-11-27T10:00:01Z", "2026-11-27T10:01:00Z", &[]), &[table_b]).await;
    let progress = Arc::new(CompactionProgress::default());
    let settings = CompactSettings { progress: Some(Arc::clone(&progress)), ..settings() };
    let outcome = world.compactor.compact(&tenant(), &ids(&[&a, &b, &a]), &settings).await.unwrap();
    let output = &outcome.outputs[0];
    assert_eq!((output.compaction_level, output.replication_factor, output.format.as_str()), (2, 3, "vParquet5"));
    assert_eq!(output.dedicated_columns[..], columns[..]);
    assert_eq!((output.start_time, output.end_time), (time("2026-11-27T10:00:01Z"), time("2026-11-27T10:02:00Z")));
    let listed = world.db.block_list().blocks(&tenant());
    assert_eq!(listed.live.iter().cloned().collect::<Vec<_>>(), outcome.outputs);
    assert_eq!(listed.compacted.len(), 2);
    let snapshot = progress.snapshot();
    assert_eq!((snapshot.traces, snapshot.spans, snapshot.memory_bytes), (outcome.traces, outcome.spans, 0));
    assert_eq!(snapshot.bytes_total, a.size_bytes + b.size_bytes);
    assert!(snapshot.peak_memory_bytes > 0 && snapshot.bytes_written > 0);
}

/// A trace of `spans` spans with ids from `first` on.
fn large_trace(id: TraceId, first: u64, spans: u64) -> SpanTable {
    let mut table = SpanTable::default();
    let mut strings = crate::model::strings::Interner::default();
    let (key, name) = (strings.intern(b"number"), strings.intern(b"work"));
    for number in first..first + spans {
        let value = strings.intern(format!("value {number}").as_bytes());
        let columns = &mut table.spans;
        columns.span_id.push(crate::model::ids::SpanId((number + 1).to_be_bytes()));
        columns.parent_span_id.push(crate::model::ids::SpanId::NONE);
        columns.name.push(name);
        columns.kind.push(1);
        columns.start_unix_nanos.push(NOW_UNIX_NANOS + number);
        columns.duration_nanos.push(5);
        columns.status_code.push(0);
        for texts in [&mut columns.trace_state, &mut columns.status_message] {
            texts.push(crate::model::strings::StrId::EMPTY);
        }
        for counts in [&mut columns.dropped_attributes, &mut columns.dropped_events, &mut columns.dropped_links] {
            counts.push(0);
        }
        for numbers in [&mut columns.nested_left, &mut columns.nested_right, &mut columns.nested_parent, &mut columns.child_count] {
            numbers.push(0);
        }
        columns.events.push_end(0);
        columns.links.push_end(0);
        columns.attrs.push(key, crate::model::span_table::Value::Str(value));
        columns.attrs.close_owner();
    }
    table.scopes.spans.push_end(spans as usize);
    table.scopes.name.push(name);
    table.scopes.version.push(name);
    table.scopes.dropped_attributes.push(0);
    table.scopes.attrs.close_owner();
    table.resources.scopes.push_end(1);
    table.resources.service_name.push(name);
    table.resources.dropped_attributes.push(0);
    table.resources.attrs.close_owner();
    table.traces.ids.push(id);
    table.traces.resources.push_end(1);
    table.traces.service_stats_of.push_end(0);
    for times in [&mut table.traces.start_unix_nanos, &mut table.traces.end_unix_nanos, &mut table.traces.duration_nanos] {
        times.push(NOW_UNIX_NANOS);
    }
    table.traces.root_service_name.push(name);
    table.traces.root_span_name.push(name);
    table.strings = strings.into_pool();
    table
}

/// Spans of a piece of a large trace.
const SPANS: u64 = 20_000;

#[tokio::test]
async fn a_trace_that_takes_too_much_memory_stays_in_several_blocks() {
    let world = World::in_memory();
    let (small, other) = pair(1);
    let large = TraceId([0x77; 16]);
    // Two pieces that overlap, among other traces.
    let tables = [merge_tables(&[&small, &large_trace(large, 0, SPANS)]), merge_tables(&[&other, &large_trace(large, SPANS / 2, SPANS)])];
    let mut metas = Vec::new();
    for table in tables {
        metas.push(world.write(&[table]).await);
    }
    let (before, _) = world.spans(&metas).await;
    // A piece fits, two do not.
    let settings = CompactSettings { memory_bytes: large_trace(large, 0, SPANS).memory_bytes() * 9, ..settings() };
    let inputs: Vec<_> = metas.iter().map(|meta| meta.block_id).collect();
    let outcome = world.compactor.compact(&tenant(), &inputs, &settings).await.unwrap();
    let (after, repeated) = world.spans(&outcome.outputs).await;
    assert_eq!((after == before, repeated), (true, 0));
    assert_eq!((outcome.outputs.len(), outcome.split_traces, outcome.deduped_spans), (2, 1, SPANS / 2));
    assert_eq!((outcome.outputs[1].total_objects, outcome.spans as usize), (1, span_count(&before)));
    assert!(outcome.peak_memory_bytes <= settings.memory_bytes as u64, "{}", outcome.peak_memory_bytes);
    for (output, is_held_back) in outcome.outputs.iter().zip([false, true]) {
        assert!(world.finds(output, large).await);
        assert_eq!(is_held(world.db.backend(), &tenant(), output.block_id).await.unwrap(), is_held_back);
    }
    let alone = CompactSettings { memory_bytes: settings.memory_bytes / 9, ..settings };
    let refused = world.compactor.compact(&tenant(), &[outcome.outputs[0].block_id], &alone).await.unwrap_err();
    assert!(matches!(refused, CompactionError::TraceTooLarge { .. }), "{refused}");
    assert_eq!(refused.corrupt_block(), Some(outcome.outputs[0].block_id));
}

#[tokio::test]
async fn blocks_larger_than_the_memory_are_streamed() {
    let world = World::in_memory();
    let spans = |offset: u8| -> Vec<SpanTable> {
        let table = |number: u64| {
            let traces: Vec<_> = (0..40).map(|trace| large_trace(id(number * 40 + trace, offset), trace * 100, 100)).collect();
            merge_tables(&traces.iter().collect::<Vec<_>>())
        };
        (0..12).map(table).collect()
    };
    let (a, b) = (world.write(&spans(0)).await, world.write(&spans(1)).await);
    let settings = CompactSettings { memory_bytes: 8 << 20, ..settings() };
    let outcome = world.compactor.compact(&tenant(), &ids(&[&a, &b]), &settings).await.unwrap();
    assert_eq!((outcome.traces, outcome.spans, outcome.outputs.len()), (960, 96_000, 1));
    assert!(outcome.peak_memory_bytes <= settings.memory_bytes as u64, "{}", outcome.peak_memory_bytes);
    assert!(outcome.outputs[0].total_records > 3, "several row groups");
}

fn id(number: u64, low: u8) -> TraceId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    id[15] = low;
    TraceId(id)
}

#[tokio::test]
async fn limits_of_the_tenant_are_reported_and_cost_no_span() {
    let world = World::in_memory();
    let large = TraceId([1; 16]);
    let (a, b) = (world.write(&[large_trace(large, 0, 500)]).await, world.write(&[large_trace(large, 500, 500)]).await);
    let settings = CompactSettings { max_trace_bytes: 1000, ..settings() };
    let outcome = world.compactor.compact(&tenant(), &ids(&[&a, &b]), &settings).await.unwrap();
    assert_eq!((outcome.oversized_traces, outcome.spans, outcome.combined_traces), (1, 1000, 1));
}

#[tokio::test]
async fn blocks_that_are_gone_or_held_back_fail_the_job() {
    let world = World::in_memory();
    let (table_a, table_b) = pair(0);
    let held = NewBlock { compaction: CompactionFlag::Held, ..NewBlock::new(tenant(), BlockId::random(), 10) };
    let (a, held) = (world.write(&[table_a]).await, world.write_as(held, &[table_b]).await);
    let refused = world.compactor.compact(&tenant(), &ids(&[&a, &held]), &settings()).await.unwrap_err();
    assert!(matches!(refused, CompactionError::Held { block } if block == held.block_id), "{refused}");
    world.db.backend().delete(&keys::block_object(&tenant(), held.block_id, keys::NO_COMPACT_NAME)).await.unwrap();
    world.compactor.compact(&tenant(), &ids(&[&a, &held]), &settings()).await.unwrap();
    let refused = world.compactor.compact(&tenant(), &ids(&[&a, &held]), &settings()).await.unwrap_err();
    assert_eq!(refused.to_string(), "does not exist");
    assert!(matches!(world.compactor.compact(&tenant(), &[], &settings()).await, Err(CompactionError::NoInputs)));
}

#[tokio::test]
async fn a_corrupt_input_is_named_and_the_others_stay() {
    let world = World::in_memory();
    let (table_a, table_b) = pair(2);
    let (a, b) = (world.write(&[table_a]).await, world.write(&[table_b]).await);
    let key = keys::block_object(&tenant(), b.block_id, keys::DATA_NAME);
    let mut data = world.db.backend().read(&key).await.unwrap().to_vec();
    data[8..200].fill(0xa5);
    world.db.backend().write(&key, data).await.unwrap();
    let error = world.compactor.compact(&tenant(), &ids(&[&a, &b]), &settings()).await.unwrap_err();
    assert_eq!(error.corrupt_block(), Some(b.block_id), "{error:?}");
    assert_eq!(world.live().await.len(), 2);
    assert!(world.db.backend().orphans(&tenant(), Timestamp::MAX, SignedDuration::ZERO).await.unwrap().is_empty());
}

#[tokio::test]
async fn redaction_removes_whole_traces() {
    let world = World::in_memory();
    let (table, _) = pair(3);
    let all = table.traces.ids.clone();
    let block = world.write(&[table]).await;
    let (before, _) = world.spans(std::slice::from_ref(&block)).await;
    let selector = RedactionSelector::Ids(vec![all[0], TraceId([9; 16]), all[0]]);
    let run = async |block: BlockId, selector: &RedactionSelector, mode| world.compactor.redact(&tenant(), block, selector, mode).await;
    let counted = run(block.block_id, &selector, RedactionMode::DryRun).await.unwrap();
    assert_eq!((counted.traces_found, counted.output.is_none(), world.live().await.len()), (1, true, 1));
    let nothing = run(block.block_id, &RedactionSelector::Ids(vec![TraceId([9; 16])]), RedactionMode::Apply).await.unwrap();
    assert_eq!((nothing.traces_found, world.live().await), (0, vec![Arc::clone(&block)]));
    let redacted = run(block.block_id, &selector, RedactionMode::Apply).await.unwrap();
    let output = redacted.output.unwrap();
    assert_eq!((output.compaction_level, output.start_time, output.end_time), (1, block.start_time, block.end_time));
    let (after, _) = world.spans(std::slice::from_ref(&output)).await;
    let mut expected = before;
    expected.remove(&all[0]);
    assert_eq!(after, expected);
    let missing = run(block.block_id, &selector, RedactionMode::Apply).await.unwrap();
    assert!(missing.is_missing);
    let rest = run(output.block_id, &RedactionSelector::Ids(all.clone()), RedactionMode::Apply).await.unwrap();
    assert_eq!((rest.traces_found, rest.output.is_none(), world.live().await.len()), (all.len() as u64 - 1, true, 0));
}

/// Matches traces by the first byte of their id.
struct FirstByte(u8);

impl TraceFilter for FirstByte {
    fn projection(&self) -> Projection {
        Projection::default()
    }

    fn matching_rows(&self, table: &SpanTable) -> Result<Vec<usize>, Box<dyn std::error::Error + Send + Sync>> {
        if self.0 == 0 {
            return Err("as wanted".into());
        }
        Ok((0..table.trace_count()).filter(|&row| table.traces.ids[row].0[0] == self.0).collect())
    }
}

#[tokio::test]
async fn redaction_by_a_filter_keeps_to_its_window() {
    let world = World::in_memory();
    let tables = [1, 2, 3].map(|number| large_trace(TraceId([number; 16]), u64::from(number) * 1000, 10));
    let block = world.write(&[merge_tables(&tables.each_ref())]).await;
    let run = async |byte, window, mode| {
        let selector = RedactionSelector::Matching { filter: Arc::new(FirstByte(byte)), window };
        world.compactor.redact(&tenant(), block.block_id, &selector, mode).await
    };
    let at = NOW_UNIX_NANOS as i64;
    let elsewhere = RedactionWindow::new(at + 1, at + 50).unwrap();
    let here = RedactionWindow::new(at - 5, at).unwrap();
    assert_eq!(run(2, Some(elsewhere), RedactionMode::DryRun).await.unwrap().traces_found, 0);
    assert_eq!(run(2, None, RedactionMode::DryRun).await.unwrap().traces_found, 1);
    assert!(matches!(run(0, None, RedactionMode::DryRun).await, Err(CompactionError::Filter { .. })));
    let output = run(2, Some(here), RedactionMode::Apply).await.unwrap().output.unwrap();
    assert_eq!(world.spans(&[output]).await.0.into_keys().collect::<Vec<_>>(), [TraceId([1; 16]), TraceId([3; 16])]);
}

#[test]
fn windows_are_checked() {
    let text = |start, end| RedactionWindow::new(start, end).unwrap_err().to_string();
    assert_eq!(text(-1, 5), "window bounds must be non-negative unix nanoseconds, got start=-1 end=5");
    assert_eq!(text(5, 5), "window start must be before end: start=5 end=5");
}

#[tokio::test]
async fn a_rewrite_brings_other_columns_and_keeps_the_level() {
    let world = World::in_memory();
    let (table, _) = pair(4);
    let block = NewBlock { compaction_level: 3, ..NewBlock::new(tenant(), BlockId::random(), 10) };
    let block = world.write_as(block, &[table]).await;
    let (before, _) = world.spans(std::slice::from_ref(&block)).await;
    let columns = vec![DedicatedColumn::new(DedicatedScope::Span, "b", DedicatedKind::String)];
    let target = RewriteTarget { version: BlockVersion::VParquet5, dedicated_columns: columns.clone(), settings: settings() };
    assert!(target.differs_from(&block));
    let outcome = world.compactor.rewrite(&tenant(), block.block_id, &target).await.unwrap();
    let output = &outcome.outputs[0];
    assert_eq!((output.compaction_level, &output.dedicated_columns[..]), (3, &columns[..]));
    let (after, _) = world.spans(&outcome.outputs).await;
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    assert_eq!(span_count(&after), span_count(&before));
    assert!(!target.differs_from(output));
    let again = world.compactor.rewrite(&tenant(), output.block_id, &target).await.unwrap();
    assert!(again.outputs.is_empty());
    assert_eq!(world.live().await, outcome.outputs);
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::write(target, std::fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

/// What the compatible system made of the same two blocks.
#[tokio::test]
async fn real_blocks_become_what_the_compatible_system_makes_of_them() {
    for (version, name) in FIXTURES.iter().flat_map(|version| ["alpha", "beta"].map(|name| (*version, name))) {
        let folder = tempfile::tempdir().unwrap();
        let testdata = Path::new("testdata/blocks");
        copy_folder(&testdata.join(version).join(name), &folder.path().join("t"));
        copy_folder(&testdata.join(format!("{version}-compacted")).join(name), &folder.path().join("expected/t"));
        let world = |path: &Path| World::over(Arc::new(LocalFileSystem::new_with_prefix(path).unwrap()));
        let (ours, theirs) = (world(folder.path()), world(&folder.path().join("expected")));
        let inputs: Vec<_> = ours.live().await.iter().map(|meta| meta.block_id).collect();
        assert_eq!(inputs.len(), 2);
        let outcome = ours.compactor.compact(&tenant(), &inputs, &settings()).await.unwrap();
        let (output, expected) = (&outcome.outputs[0], &theirs.live().await[0]);
        let facts = |meta: &BlockMeta| {
            (meta.format.clone(), meta.compaction_level, meta.start_time, meta.end_time, meta.total_objects, meta.replication_factor)
        };
        assert_eq!(facts(output), facts(expected), "{version} {name}");
        assert_eq!(output.dedicated_columns, expected.dedicated_columns);
        let (spans, _) = ours.spans(&outcome.outputs).await;
        assert_eq!(spans, theirs.spans(std::slice::from_ref(expected)).await.0, "{version} {name}");
    }
}

const FIXTURES: &[&str] = &["vParquet4", "vParquet5"];
