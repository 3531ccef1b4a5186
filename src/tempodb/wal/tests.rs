//! The log as a whole: real and generated WAL blocks through flush, crash, replay and completion.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use pretty_assertions::assert_eq;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::complete::{Completion, complete, new_block};
use super::disk::{Disk, RealDisk};
use super::head::{NewWalBlock, TimeRange, WalBlock};
use super::slices::DEFAULT_SLICE_BYTES;
use super::view::WalView;
use super::*;
use crate::model::combine::merge_tables;
use crate::model::ids::{TenantId, TraceId};
use crate::model::span_table::SpanTable;
use crate::model::testing::arb_span_table;
use crate::tempodb::block::bloom::BloomParams;
use crate::tempodb::block::dedicated;
use crate::tempodb::block::meta::{BlockId, BlockMeta};
use crate::tempodb::block::projection::Projection;
use crate::tempodb::block::read::{BlockReader, ReadMeter, ReadOptions};
use crate::tempodb::block::validate::{BlockObjects, check_block};
use crate::tempodb::block::write::NewBlock;
use crate::tempodb::keys::{self, DATA_NAME};

const FIXTURE: &str = "testdata/blocks/wal/vParquet5";
const FIXTURE_FOLDER: &str = "daee1b73-8553-4698-888c-3e28752dc459+beta+vParquet5";

fn cpu() -> CpuPool {
    CpuPool::new("test", 1).unwrap()
}

fn open(path: &Path) -> Wal {
    Wal::open(path, BlocksFolder::Own, cpu()).unwrap()
}

fn tenant() -> TenantId {
    TenantId::parse("t").unwrap()
}

fn times() -> TimeRange {
    TimeRange { start: Timestamp::constant(1_790_000_000, 0), end: Timestamp::constant(1_790_000_100, 0) }
}

/// A log directory with the WAL block that the compatible system wrote.
fn fixture() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join(FIXTURE_FOLDER);
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(Path::new(FIXTURE).join(FIXTURE_FOLDER)).unwrap() {
        let entry = entry.unwrap();
        std::fs::write(copy.join(entry.file_name()), std::fs::read(entry.path()).unwrap()).unwrap();
    }
    (folder, copy)
}

async fn replay_only(wal: &Wal) -> Option<WalView> {
    let folders = wal.folders().unwrap();
    assert_eq!(folders.len(), 1);
    wal.replay(&folders[0]).await.unwrap()
}

async fn new_wal_block(wal: &Wal) -> WalBlock {
    let new =
        NewWalBlock { tenant: tenant(), id: BlockId::random(), dedicated_columns: dedicated::default_columns(), replication_factor: 1 };
    wal.create_block(new).await.unwrap()
}

/// Span ids and kinds, names and start times of each trace.
type Content = BTreeMap<TraceId, Vec<(String, i32, String, u64)>>;

fn content(table: &SpanTable) -> Content {
    let spans = |row| {
        let s = &table.spans;
        let span = |at: usize| (s.span_id[at].to_string(), s.kind[at], table.strings.text(s.name[at]).into_owned(), s.start_unix_nanos[at]);
        let mut spans: Vec<_> = table.spans_of_trace(row).map(span).collect();
        spans.sort();
        spans
    };
    let rows = table.traces.ids.iter().enumerate();
    let content: Content = rows.map(|(row, id)| (*id, spans(row))).collect();
    assert_eq!(content.len(), table.trace_count(), "a trace is one row");
    content
}

async fn completed(view: WalView, slice_bytes: usize) -> (Completion, BlockObjects, Content) {
    let backend = Backend::new(Arc::new(InMemory::new()), "");
    let tenant = TenantId::parse(&view.meta().tenant_id).unwrap();
    let block = NewBlock { bloom: BloomParams { shard_size_bytes: 64, ..BloomParams::default() }, ..new_block(&tenant, &view) };
    let completion = complete(view, &backend, block, slice_bytes).await.unwrap().unwrap();
    let read = async |name: &str| backend.read(&keys::block_object(&tenant, completion.meta.block_id, name)).await.unwrap();
    let mut blooms = Vec::new();
    for shard in 0..completion.meta.bloom_shards {
        blooms.push(read(&keys::bloom_name(shard)).await);
    }
    let meta = BlockMeta::from_json(&read("meta.json").await).unwrap();
    let objects = BlockObjects { meta, data: read(DATA_NAME).await, blooms, index: Some(read("index").await) };
    assert_eq!(check_block(&objects), Vec::<String>::new());
    let content = block_content(&backend, &tenant, Arc::new(completion.meta.clone())).await;
    (completion, objects, content)
}

async fn block_content(backend: &Backend, tenant: &TenantId, meta: Arc<BlockMeta>) -> Content {
    let meter = ReadMeter::default();
    let reader = BlockReader::open(backend, tenant, meta, ReadOptions::default(), &meter).await.unwrap();
    let mut all = Content::new();
    for group in 0..reader.row_groups() {
        all.append(&mut content(&reader.read_row_group(group, &Projection::all(), None, &meter).await.unwrap()));
    }
    all
}

#[tokio::test]
async fn a_folder_of_the_compatible_system_becomes_the_block_it_would_have_become() {
    let (log, _) = fixture();
    let wal = open(log.path());
    let view = replay_only(&wal).await.unwrap();
    assert_eq!(view.row_count(), 13);
    let beta = TenantId::parse("beta").unwrap();
    let theirs = Backend::local("testdata/blocks/vParquet5").unwrap();
    let meta = theirs.read(&keys::block_object(&beta, view.meta().block_id, META_NAME)).await.unwrap();
    let meta = Arc::new(BlockMeta::from_json(&meta).unwrap());
    let expected = block_content(&theirs, &beta, Arc::clone(&meta)).await;
    for (id, spans) in &expected {
        let found = view.find_trace(*id).await.unwrap().unwrap();
        assert_eq!(content(&found)[id], *spans);
    }
    assert!(view.find_trace(TraceId([7; 16])).await.unwrap().is_none());
    for slice_bytes in [1, 20_000, DEFAULT_SLICE_BYTES] {
        let (completion, _, content) = completed(view.clone(), slice_bytes).await;
        assert_eq!(content, expected);
        let ours = &completion.meta;
        assert_eq!((ours.start_time, ours.end_time, ours.total_objects), (meta.start_time, meta.end_time, meta.total_objects));
        assert_eq!((&ours.dedicated_columns, ours.replication_factor), (&meta.dedicated_columns, meta.replication_factor));
        assert_eq!(completion.slices > 1, slice_bytes < DEFAULT_SLICE_BYTES);
    }
}

#[tokio::test]
async fn our_files_have_the_columns_of_the_compatible_system() {
    let folder = tempfile::tempdir().unwrap();
    let wal = open(folder.path());
    let (log, _) = fixture();
    let columns = replay_only(&open(log.path())).await.unwrap().meta().dedicated_columns.clone();
    let new = NewWalBlock { tenant: tenant(), id: BlockId::random(), dedicated_columns: columns.to_vec(), replication_factor: 1 };
    let mut block = wal.create_block(new).await.unwrap();
    block.append(tables(1)[0].clone(), times());
    block.flush().await.unwrap();
    let leaves = |path: PathBuf| {
        let file = SerializedFileReader::new(Bytes::from(std::fs::read(path).unwrap())).unwrap();
        let schema = file.metadata().file_metadata().schema_descr_ptr();
        let leaf = |c: &parquet::schema::types::ColumnDescPtr| (c.path().string(), c.physical_type(), c.max_def_level(), c.max_rep_level());
        (file.num_row_groups(), schema.columns().iter().map(leaf).collect::<Vec<_>>())
    };
    let theirs = leaves(Path::new(FIXTURE).join(FIXTURE_FOLDER).join("0000000001"));
    assert_eq!(leaves(block.folder().join("0000000001")), theirs);
    let meta: serde_json::Value = serde_json::from_slice(&std::fs::read(block.folder().join("meta.json")).unwrap()).unwrap();
    let fixture_meta = std::fs::read(Path::new(FIXTURE).join(FIXTURE_FOLDER).join("meta.json")).unwrap();
    let fixture_meta: serde_json::Value = serde_json::from_slice(&fixture_meta).unwrap();
    let keys = |meta: &serde_json::Value| meta.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(keys(&meta), keys(&fixture_meta));
}

/// Some tables of arbitrary traces, the same in every run.
fn tables(count: usize) -> Vec<Arc<SpanTable>> {
    let mut runner = TestRunner::deterministic();
    (0..count).map(|_| Arc::new(arb_span_table(12).new_tree(&mut runner).unwrap().current())).collect()
}

/// A step of a writer.
#[derive(Debug, Clone)]
enum Step {
    Append(Arc<SpanTable>),
    Flush,
}

/// Rows in any order, traces that come again, flushes anywhere.
fn arb_steps() -> impl Strategy<Value = Vec<Step>> {
    let table = (arb_span_table(6), any::<u64>()).prop_map(|(mut table, seed)| {
        // Few ids, so that traces come in several pieces; and not ascending.
        let ids = table.traces.ids.iter_mut().enumerate();
        ids.for_each(|(row, id)| id.0 = [((seed.wrapping_mul(row as u64 * 2 + 1) % 5) as u8) << 4 | row as u8; 16]);
        Step::Append(Arc::new(table))
    });
    prop::collection::vec(prop_oneof![2 => table, 1 => Just(Step::Flush)], 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_is_appended_is_found_flushed_or_not_and_completed_once(steps in arb_steps(), slice_bytes in 1_usize..60_000) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let wal = open(folder.path());
            let mut block = new_wal_block(&wal).await;
            let mut appended = Vec::new();
            for step in steps {
                match step {
                    Step::Append(table) => {
                        block.append(Arc::clone(&table), times());
                        appended.push(table);
                    }
                    Step::Flush => block.flush().await.unwrap(),
                }
                let merged = content(&merge_tables(&appended.iter().map(AsRef::as_ref).collect::<Vec<_>>()));
                let view = block.view();
                for (id, spans) in &merged {
                    let found = view.find_trace(*id).await.unwrap().unwrap();
                    assert_eq!(content(&found)[id], *spans);
                }
            }
            block.flush().await.unwrap();
            if appended.is_empty() {
                return;
            }
            let expected = content(&merge_tables(&appended.iter().map(AsRef::as_ref).collect::<Vec<_>>()));
            let meta = block.view().meta().clone();
            drop((block, wal));
            let view = replay_only(&open(folder.path())).await.unwrap();
            assert_eq!(view.meta(), &meta);
            let (completion, _, found) = completed(view, slice_bytes).await;
            assert_eq!(found, expected);
            assert_eq!((completion.meta.start_time, completion.meta.end_time), (times().start, times().end));
        });
    }
}

/// A disk that dies at its n-th operation, in the middle of it when that can be.
struct MortalDisk {
    left: Mutex<usize>,
}

impl MortalDisk {
    fn step(&self) -> std::io::Result<bool> {
        let mut left = self.left.lock();
        match *left {
            0 => Err(std::io::Error::other("dead")),
            // Half of the operation is done, then nothing more.
            1 => {
                *left = 0;
                Ok(false)
            }
            _ => {
                *left -= 1;
                Ok(true)
            }
        }
    }

    fn dies() -> std::io::Error {
        std::io::Error::other("dies here")
    }
}

impl Disk for MortalDisk {
    fn create_folder(&self, path: &Path) -> std::io::Result<()> {
        let lives = self.step()?;
        RealDisk.create_folder(path)?;
        if lives { Ok(()) } else { Err(Self::dies()) }
    }

    fn write(&self, path: &Path, content: &[u8]) -> std::io::Result<()> {
        if self.step()? {
            return RealDisk.write(path, content);
        }
        RealDisk.write(path, &content[..content.len() / 2])?;
        Err(Self::dies())
    }

    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        let lives = self.step()?;
        RealDisk.rename(from, to)?;
        if lives { Ok(()) } else { Err(Self::dies()) }
    }

    fn sync_folder(&self, folder: &Path) -> std::io::Result<()> {
        if self.step()? { RealDisk.sync_folder(folder) } else { Err(Self::dies()) }
    }

    fn remove_folder(&self, path: &Path) -> std::io::Result<()> {
        if self.step()? {
            return RealDisk.remove_folder(path);
        }
        for name in entries(path).unwrap().iter().rev().step_by(2) {
            std::fs::remove_file(path.join(name)).unwrap();
        }
        Err(Self::dies())
    }
}

/// How far a life came before the disk died.
#[derive(Default)]
struct Life {
    flushed: Vec<Arc<SpanTable>>,
    appended: Vec<Arc<SpanTable>>,
    /// The block was dropped, or was about to be.
    is_dropping: bool,
    is_complete: bool,
}

async fn live(path: &Path, tables: &[Arc<SpanTable>], operations: usize) -> Life {
    let mut life = Life::default();
    let disk = Arc::new(MortalDisk { left: Mutex::new(operations) });
    let wal = Wal::open_with(path, BlocksFolder::Own, cpu(), disk).unwrap();
    let new = NewWalBlock { tenant: tenant(), id: BlockId::random(), dedicated_columns: Vec::new(), replication_factor: 1 };
    let Ok(mut block) = wal.create_block(new).await else { return life };
    for table in tables {
        block.append(Arc::clone(table), times());
        life.appended.push(Arc::clone(table));
        if block.flush().await.is_err() {
            return life;
        }
        life.flushed.push(Arc::clone(table));
    }
    life.is_dropping = true;
    if wal.drop_folder(block.folder(), 0, Duration::ZERO).is_err() {
        return life;
    }
    wal.reclaim(0);
    life.is_complete = wal.tombstones.lock().is_empty();
    life
}

#[tokio::test]
async fn a_crash_at_any_operation_loses_no_flushed_row_and_doubles_none() {
    let tables = tables(3);
    for operations in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let life = live(folder.path(), &tables, operations).await;
        let wal = open(folder.path());
        wal.clear_tombstones().unwrap();
        let folders = wal.folders().unwrap();
        let view = match folders.first() {
            Some(first) => wal.replay(first).await.unwrap(),
            None => None,
        };
        let merged = |tables: &[Arc<SpanTable>]| content(&merge_tables(&tables.iter().map(AsRef::as_ref).collect::<Vec<_>>()));
        let found = match view {
            Some(view) => completed(view, DEFAULT_SLICE_BYTES).await.2,
            None => Content::new(),
        };
        let is_gone = life.is_dropping && found.is_empty();
        // What was not acknowledged may be there, but only as a whole.
        assert!(is_gone || found == merged(&life.flushed) || found == merged(&life.appended), "dead after {operations}");
        if life.is_complete {
            assert!(folders.is_empty());
            assert!(operations > 20, "the life has many operations");
            return;
        }
    }
}

/// Writes rows and says so, until it is killed; started by the test below.
#[tokio::test]
async fn child_writes_until_killed() {
    let Ok(path) = std::env::var("TEMPO_RS_WAL_TEST_PATH") else { return };
    let wal = open(Path::new(&path));
    let mut block = new_wal_block(&wal).await;
    for number in 1_u64..10_000 {
        block.append(Arc::new(numbered(number)), times());
        block.flush().await.unwrap();
        println!("flushed {number}");
    }
}

/// A table of one trace whose id is the number.
fn numbered(number: u64) -> SpanTable {
    let mut table = tables(1)[0].as_ref().clone();
    for (row, id) in table.traces.ids.iter_mut().enumerate() {
        id.0 = [0; 16];
        id.0[..8].copy_from_slice(&number.to_be_bytes());
        id.0[15] = row as u8;
    }
    table
}

#[tokio::test]
async fn a_killed_writer_loses_no_flushed_row() {
    for lines in [1, 4, 9] {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tempodb::wal::tests::child_writes_until_killed", "--nocapture"])
            .env("TEMPO_RS_WAL_TEST_PATH", folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut next = || said.find_map(|line| line.unwrap().strip_prefix("flushed ").map(|number| number.parse::<u64>().unwrap()));
        let mut last = 0;
        while last < lines {
            last = next().expect("the child writes on");
        }
        // Killed somewhere in the middle of what follows.
        child.kill().unwrap();
        child.wait().unwrap();
        last = std::iter::from_fn(next).last().unwrap_or(last);
        let view = replay_only(&open(folder.path())).await.unwrap();
        let (_, _, found) = completed(view, DEFAULT_SLICE_BYTES).await;
        let numbers: BTreeSet<u64> = found.keys().map(|id| u64::from_be_bytes(id.0[..8].try_into().unwrap())).collect();
        // One more may have become durable without having been told.
        assert!(numbers == (1..=last).collect() || numbers == (1..=last + 1).collect(), "told {last}, found {numbers:?}");
    }
}

#[tokio::test]
async fn replay_follows_the_rules() {
    let (log, block) = fixture();
    // Foreign folders stay; previews and folders without a meta go.
    for foreign in ["blocks", "something", "daee1b73-8553-4698-888c-3e28752dc459+beta+v9"] {
        std::fs::create_dir(log.path().join(foreign)).unwrap();
    }
    let own = |name: &str| {
        let path = log.path().join(format!("{}+beta+{name}", BlockId::random()));
        std::fs::create_dir(&path).unwrap();
        path
    };
    let (preview, without_meta, broken_meta, empty) = (own("vParquet5-preview2"), own("vParquet5"), own("vParquet5"), own("vParquet5"));
    std::fs::write(without_meta.join("0000000001"), "x").unwrap();
    std::fs::write(broken_meta.join(META_NAME), "{").unwrap();
    std::fs::copy(block.join(META_NAME), empty.join(META_NAME)).unwrap();
    std::fs::write(empty.join("0000000001"), "").unwrap();
    let dropped = own("vParquet5");
    std::fs::write(dropped.join(TOMBSTONE_NAME), "{}").unwrap();
    // A further file that is cut off, and one of an interrupted flush.
    let whole = std::fs::read(block.join("0000000001")).unwrap();
    std::fs::write(block.join("0000000003"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(block.join("0000000004.tmp"), &whole).unwrap();

    let wal = open(log.path());
    assert_eq!(wal.clear_tombstones().unwrap(), 1);
    let mut replayed = Vec::new();
    for folder in wal.folders().unwrap() {
        replayed.extend(wal.replay(&folder).await.unwrap());
    }
    assert_eq!(replayed.len(), 1);
    assert_eq!((replayed[0].row_count(), replayed[0].meta().total_objects), (13, 13));
    let gone = [preview, without_meta, broken_meta, empty, dropped];
    assert!(gone.iter().all(|path| !path.exists()));
    assert_eq!(entries(log.path()).unwrap().len(), 5, "lock, the block and three foreign folders");
}

#[tokio::test]
async fn a_file_with_a_broken_page_is_left_out_and_the_rest_completed() {
    let folder = tempfile::tempdir().unwrap();
    let wal = open(folder.path());
    let mut block = new_wal_block(&wal).await;
    for table in tables(2) {
        block.append(table, times());
        block.flush().await.unwrap();
    }
    let broken = block.folder().join("0000000001");
    let mut bytes = std::fs::read(&broken).unwrap();
    let expected = {
        let mut view = block.view();
        view.files.remove(0);
        completed(view, DEFAULT_SLICE_BYTES).await.2
    };
    drop((block, wal));
    // The columns behind the ids: the rows are still listed.
    let middle = bytes.len() / 2;
    bytes[middle / 2..middle].fill(0xff);
    std::fs::write(&broken, bytes).unwrap();
    let view = replay_only(&open(folder.path())).await.unwrap();
    let files = view.files.len();
    let (completion, _, content) = completed(view, DEFAULT_SLICE_BYTES).await;
    assert_eq!(content, expected);
    assert!(files == 1 || completion.lost_files.len() == 1, "{completion:?}");
}

#[tokio::test]
async fn a_directory_has_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let _held = open(folder.path());
    let refused = Wal::open(folder.path(), BlocksFolder::Own, cpu()).err().unwrap().to_string();
    assert!(refused.starts_with("WAL directory ") && refused.contains("is in use by another process (pid "), "{refused}");
}

#[tokio::test]
async fn dropped_folders_stay_for_their_grace() {
    let (log, block) = fixture();
    let wal = open(log.path());
    wal.drop_folder(&block, 1_000, Duration::from_nanos(500)).unwrap();
    wal.reclaim(1_499);
    assert!(block.join(TOMBSTONE_NAME).exists() && !block.join(META_NAME).exists());
    wal.reclaim(1_500);
    assert!(!block.exists());
}

#[tokio::test]
async fn complete_blocks_are_checked_copied_and_marked() {
    let folder = tempfile::tempdir().unwrap();
    let wal = open(folder.path());
    let (local, alpha) = (wal.local_backend().unwrap(), TenantId::parse("alpha").unwrap());
    let from = Backend::local("testdata/blocks/vParquet5").unwrap();
    let id = from.block_ids(&alpha).await.unwrap().live[0];
    local_blocks::copy(&from, &local, &alpha, id).await.unwrap();
    let listed = wal.local_blocks().unwrap();
    assert_eq!((listed.len(), listed[0].id, listed[0].is_flushed(), listed[0].is_unfinished()), (1, id, false, false));
    let meta = local_blocks::check(&local, &alpha, id).await.unwrap();
    assert_eq!(block_content(&local, &alpha, Arc::new(meta.clone())).await, block_content(&from, &alpha, Arc::new(meta)).await);
    wal.mark_flushed(&listed[0], Timestamp::constant(1_790_000_000, 0)).unwrap();
    assert!(listed[0].is_flushed());
    // `flushed` stays behind.
    let other = Backend::new(Arc::new(InMemory::new()), "");
    local_blocks::copy(&local, &other, &alpha, id).await.unwrap();
    assert!(local_blocks::exists(&other, &alpha, id).await.unwrap());
    assert!(other.store().head(&keys::block_object(&alpha, id, "flushed")).await.is_err());
    let data = listed[0].path.join(DATA_NAME);
    let bytes = std::fs::read(&data).unwrap();
    std::fs::write(&data, &bytes[..bytes.len() - 1]).unwrap();
    assert!(local_blocks::check(&local, &alpha, id).await.unwrap_err().to_string().contains("is not a valid block"));
    std::fs::remove_file(listed[0].path.join(META_NAME)).unwrap();
    assert!(listed[0].is_unfinished());
}

/// Memory stays within its bound however large the log. `TEMPO_RS_WAL_TEST_MB` makes it large.
#[tokio::test]
async fn completing_takes_many_passes_rather_than_much_memory() {
    let megabytes: u64 = std::env::var("TEMPO_RS_WAL_TEST_MB").map_or(1, |text| text.parse().unwrap());
    let slice_bytes = if megabytes > 10 { 16 << 20 } else { 200_000 };
    let folder = tempfile::tempdir().unwrap();
    let wal = open(folder.path());
    let mut block = new_wal_block(&wal).await;
    let base = tables(8);
    let mut traces = 0_u64;
    while block.view().file_bytes() < megabytes << 20 {
        for _copy in 0..if megabytes > 10 { 200 } else { 4 } {
            for table in &base {
                let mut table = table.as_ref().clone();
                for id in &mut table.traces.ids {
                    // Scattered over the id space.
                    id.0[..8].copy_from_slice(&traces.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
                    traces += 1;
                }
                block.append(Arc::new(table), times());
            }
        }
        block.flush().await.unwrap();
    }
    drop((block, wal));
    let view = replay_only(&open(folder.path())).await.unwrap();
    assert_eq!(view.row_count() as u64, traces);
    let (bytes, rows) = (view.file_bytes(), view.row_count());
    let backend = Backend::local(folder.path().join("backend")).unwrap();
    let block = new_block(&tenant(), &view);
    let completion = complete(view, &backend, block, slice_bytes).await.unwrap().unwrap();
    println!("{bytes} bytes, {rows} rows, {} passes, peak {} bytes of tables", completion.slices, completion.peak_table_bytes);
    assert_eq!(completion.meta.total_objects as u64, traces);
    assert!(completion.slices > 3, "{completion:?}");
    assert!(completion.peak_table_bytes <= slice_bytes * 4, "{completion:?}");
}
