//! Writes a block: `data.parquet`, bloom shards, index, and last of all `meta.json`.
//!
//! [`BlockEncoder`] is the synchronous core: tables in, file bytes and block facts out. [`BlockWriter`] puts them into an object store.
//!
//! Invariants
//! * Traces come strictly ascending by id, over all tables of a block. Only files of the write-ahead log are written in
//!   [`RowOrder::Arrival`], of which nothing but the file is used.
//! * A block becomes visible with its `meta.json`, which is written after everything else: a writer that fails or is dropped leaves no block.
//! * Memory: the table, one encoded row group, and a few upload parts.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use parquet::errors::ParquetError;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;

use super::bloom::{BloomBuilder, BloomParams};
use super::dedicated::{self, DedicatedColumn};
use super::encode::{EncodeError, EncodeSettings, RowOrder, append_row_group};
use super::index::{INDEX_NAME, RowGroupIndex};
use super::meta::{BlockId, BlockMeta, BlockVersion, META_NAME, NotWritable};
use super::schema::BlockSchema;
use super::side::builder::SideBuilder;
use crate::base::cpu_pool::{CpuPool, CpuPoolError};
use crate::model::ids::TenantId;
use crate::model::span_table::SpanTable;
use crate::tempodb::backend::{Backend, BackendError, Upload};
use crate::tempodb::cache::BlockCaches;
use crate::tempodb::keys::{DATA_NAME, NO_COMPACT_NAME, block_object, bloom_name};

/// Bytes of the Parquet tail after the footer: its length, and the magic.
const TAIL_BYTES: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("cannot encode a row group")]
    Encode(#[from] EncodeError),
    #[error("cannot finish the parquet file")]
    Parquet(#[from] ParquetError),
    #[error("cannot write {object} of block {block}")]
    Store {
        object: String,
        block: BlockId,
        #[source]
        cause: Box<BackendError>,
    },
    #[error("block {0} holds no trace")]
    EmptyBlock(BlockId),
    #[error("block {0} is broken by an earlier failure")]
    Broken(BlockId),
    #[error(transparent)]
    Version(#[from] NotWritable),
    #[error("cannot encode on the CPU pool")]
    Cpu(#[from] CpuPoolError),
}

/// What is known of a block before its first trace.
#[derive(Debug, Clone)]
pub struct NewBlock {
    pub tenant: TenantId,
    pub id: BlockId,
    pub version: BlockVersion,
    /// As configured; what the version cannot hold is left out.
    pub dedicated_columns: Vec<DedicatedColumn>,
    /// Sizes the bloom filter; too low a number raises its false-positive rate.
    pub estimated_traces: usize,
    pub bloom: BloomParams,
    pub compaction_level: u32,
    pub replication_factor: u32,
    pub times: BlockTimes,
    /// Whether to place the flag that keeps the block from compaction.
    pub compaction: CompactionFlag,
    pub encode: EncodeSettings,
}

impl NewBlock {
    /// A fresh block with default settings.
    pub fn new(tenant: TenantId, id: BlockId, estimated_traces: usize) -> Self {
        Self {
            tenant,
            id,
            version: BlockVersion::VParquet5,
            dedicated_columns: dedicated::default_columns(),
            estimated_traces,
            bloom: BloomParams::default(),
            compaction_level: 0,
            replication_factor: 1,
            times: BlockTimes::default(),
            compaction: CompactionFlag::Allowed,
            encode: EncodeSettings::default(),
        }
    }
}

/// Whether a new block may be compacted at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompactionFlag {
    Allowed,
    /// `nocompact.flg` is written before the meta; who wrote the block removes it.
    Held,
}

/// Where start and end time of the meta come from. They are cut to whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockTimes {
    /// Earliest start and latest end of the traces, moved into the given bounds.
    FromTraces { start_at_least: Option<Timestamp>, end_at_most: Option<Timestamp> },
    /// As given: those of the blocks this one replaces.
    Given { start: Timestamp, end: Timestamp },
}

impl Default for BlockTimes {
    fn default() -> Self {
        Self::FromTraces { start_at_least: None, end_at_most: None }
    }
}

/// Everything of a block beside `data.parquet`.
#[derive(Debug, Clone)]
pub struct FinishedBlock {
    pub meta: BlockMeta,
    /// The objects `bloom-0`, `bloom-1`, …
    pub blooms: Vec<Vec<u8>>,
    pub index: Vec<u8>,
    /// Names and contents of our own objects ([`side`](super::side)).
    pub side: Vec<(&'static str, Vec<u8>)>,
}

/// Encodes the traces of a block into `W`.
pub struct BlockEncoder<W: Write + Send> {
    block: NewBlock,
    schema: BlockSchema,
    file: SerializedFileWriter<TailWriter<W>>,
    bloom: BloomBuilder,
    index: RowGroupIndex,
    side: SideBuilder,
    traces: u64,
    start_unix_nanos: u64,
    end_unix_nanos: u64,
}

impl<W: Write + Send> BlockEncoder<W> {
    pub fn new(mut block: NewBlock, sink: W) -> Result<Self, WriteError> {
        if !block.version.is_writable() {
            return Err(NotWritable::ReadOnly(block.version).into());
        }
        block.dedicated_columns = dedicated::filter_for_version(&block.dedicated_columns, block.version);
        let schema = BlockSchema::new(block.version, &block.dedicated_columns);
        let by_trace_id = SortingColumn { column_idx: 0, descending: false, nulls_first: false };
        let properties = WriterProperties::builder()
            .set_created_by(concat!("tempo-rs version ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_writer_version(WriterVersion::PARQUET_2_0)
            .set_sorting_columns((block.encode.row_order == RowOrder::Ascending).then(|| vec![by_trace_id]))
            .build();
        let file = SerializedFileWriter::new(TailWriter::new(sink), schema.root(), Arc::new(properties))?;
        let bloom = BloomBuilder::new(block.bloom, block.estimated_traces);
        let index = RowGroupIndex::default();
        let side = SideBuilder::default();
        Ok(Self { block, schema, file, bloom, index, side, traces: 0, start_unix_nanos: u64::MAX, end_unix_nanos: 0 })
    }

    /// Writes `table` as one row group. Its traces follow those of the tables before.
    pub fn append(&mut self, table: &SpanTable) -> Result<(), WriteError> {
        if self.block.encode.row_order == RowOrder::Ascending
            && let (Some(&last), Some(&next)) = (self.index.last_ids.last(), table.traces.ids.first())
            && last >= next
        {
            return Err(EncodeError::NotAscending { last, next }.into());
        }
        append_row_group(table, &self.schema, self.block.encode, &mut self.file)?;
        self.side.add(table);
        let ids = &table.traces.ids;
        ids.iter().for_each(|id| self.bloom.insert(*id));
        self.index.last_ids.extend(ids.last());
        self.traces += ids.len() as u64;
        self.start_unix_nanos = table.traces.start_unix_nanos.iter().copied().fold(self.start_unix_nanos, u64::min);
        self.end_unix_nanos = table.traces.end_unix_nanos.iter().copied().fold(self.end_unix_nanos, u64::max);
        Ok(())
    }

    /// Bytes written so far.
    pub fn size_bytes(&self) -> u64 {
        self.file.bytes_written() as u64
    }

    /// Hands everything written so far to the sink and returns it.
    pub fn sink_mut(&mut self) -> Result<&mut W, WriteError> {
        self.file.flush().map_err(ParquetError::from)?;
        Ok(&mut self.file.inner_mut().inner)
    }

    /// Writes the footer.
    pub fn finish(self) -> Result<(W, FinishedBlock), WriteError> {
        if self.traces == 0 {
            return Err(WriteError::EmptyBlock(self.block.id));
        }
        let (start_time, end_time) = self.times();
        let sink = self.file.into_inner()?;
        let meta = BlockMeta {
            format: self.block.version.as_str().to_owned(),
            block_id: self.block.id,
            tenant_id: self.block.tenant.as_str().to_owned(),
            start_time,
            end_time,
            total_objects: self.traces as i64,
            size_bytes: sink.size_bytes,
            compaction_level: self.block.compaction_level,
            index_page_size: 0,
            total_records: self.index.last_ids.len() as u32,
            bloom_shards: self.bloom.shard_count(),
            footer_size_bytes: sink.footer_size_bytes(),
            dedicated_columns: self.block.dedicated_columns.into(),
            replication_factor: self.block.replication_factor,
        };
        let blooms = self.bloom.shards().iter().map(|shard| shard.encode()).collect();
        let side = self.side.finish(meta.size_bytes);
        Ok((sink.inner, FinishedBlock { meta, blooms, index: self.index.to_json(), side }))
    }

    fn times(&self) -> (Timestamp, Timestamp) {
        let (start, end) = match self.block.times {
            BlockTimes::Given { start, end } => (start, end),
            BlockTimes::FromTraces { start_at_least, end_at_most } => {
                let (start, end) = (timestamp(self.start_unix_nanos), timestamp(self.end_unix_nanos));
                (start_at_least.map_or(start, |bound| start.max(bound)), end_at_most.map_or(end, |bound| end.min(bound)))
            }
        };
        (whole_seconds(start), whole_seconds(end))
    }
}

fn timestamp(unix_nanos: u64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(unix_nanos)).expect("2^64 nanoseconds end in the year 2554")
}

fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_nanosecond().div_euclid(1_000_000_000) as i64).unwrap_or(time)
}

/// Counts bytes and remembers the last ones, which hold the length of the footer.
struct TailWriter<W> {
    inner: W,
    size_bytes: u64,
    tail: [u8; TAIL_BYTES],
}

impl<W> TailWriter<W> {
    fn new(inner: W) -> Self {
        Self { inner, size_bytes: 0, tail: [0; TAIL_BYTES] }
    }

    fn footer_size_bytes(&self) -> u32 {
        let [a, b, c, d, ..] = self.tail;
        u32::from_le_bytes([a, b, c, d])
    }
}

impl<W: Write> Write for TailWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        let last = &bytes[written.saturating_sub(TAIL_BYTES)..written];
        self.tail.rotate_left(last.len());
        self.tail[TAIL_BYTES - last.len()..].copy_from_slice(last);
        self.size_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Writes a block into an object store, encoding on the CPU pool.
///
/// Not cancel-safe: a dropped `append` or `finish` leaves the writer broken, and no block.
pub struct BlockWriter {
    backend: Backend,
    cpu: CpuPool,
    tenant: TenantId,
    id: BlockId,
    compaction: CompactionFlag,
    /// Gone while a job has it, and after a failure.
    encoder: Option<BlockEncoder<Vec<u8>>>,
    upload: Upload,
    caches: Arc<BlockCaches>,
}

impl BlockWriter {
    /// Begins the upload of `data.parquet`.
    pub async fn create(backend: Backend, cpu: CpuPool, block: NewBlock) -> Result<Self, WriteError> {
        let (tenant, id, compaction) = (block.tenant.clone(), block.id, block.compaction);
        let encoder = Some(BlockEncoder::new(block, Vec::new())?);
        let upload = backend.upload(block_object(&tenant, id, DATA_NAME));
        Ok(Self { backend, cpu, tenant, id, compaction, encoder, upload, caches: Arc::default() })
    }

    /// Keeps bloom filter and index in `caches` once they are written.
    pub fn cached_in(self, caches: Arc<BlockCaches>) -> Self {
        Self { caches, ..self }
    }

    /// Appends `table` as one row group; waits while the store is slower than the encoder.
    pub async fn append(&mut self, table: Arc<SpanTable>) -> Result<(), WriteError> {
        let mut encoder = self.encoder.take().ok_or(WriteError::Broken(self.id))?;
        let job = move || {
            encoder.append(&table)?;
            let sink = encoder.sink_mut()?;
            // The next row group is about as large.
            let next = Vec::with_capacity(sink.len());
            let encoded = std::mem::replace(sink, next);
            Ok::<_, WriteError>((encoder, encoded))
        };
        let (encoder, encoded) = self.cpu.run("encode_row_group", job).await??;
        self.put(encoded).await?;
        self.encoder = Some(encoder);
        Ok(())
    }

    /// Bytes of `data.parquet` so far.
    pub fn size_bytes(&self) -> u64 {
        self.encoder.as_ref().map_or(0, BlockEncoder::size_bytes)
    }

    /// Completes all objects, the meta last.
    pub async fn finish(self) -> Result<BlockMeta, WriteError> {
        self.seal().await?.publish().await
    }

    /// Completes all objects but the meta.
    pub async fn seal(mut self) -> Result<SealedBlock, WriteError> {
        let encoder = self.encoder.take().ok_or(WriteError::Broken(self.id))?;
        let (rest, mut finished) = match self.cpu.run("encode_footer", move || encoder.finish()).await? {
            Ok(done) => done,
            Err(failure) => {
                self.abort().await?;
                return Err(failure);
            }
        };
        self.put(rest).await?;
        let Self { backend, tenant, id, upload, compaction, caches, .. } = self;
        upload.finish().await.map_err(|cause| store_error(DATA_NAME, id, cause))?;
        let mut objects = Vec::new();
        if compaction == CompactionFlag::Held {
            objects.push((NO_COMPACT_NAME.to_owned(), Vec::new()));
        }
        objects.extend((0..).zip(finished.blooms.clone()).map(|(shard, bytes)| (bloom_name(shard), bytes)));
        objects.push((INDEX_NAME.to_owned(), finished.index.clone()));
        objects.extend(std::mem::take(&mut finished.side).into_iter().map(|(name, bytes)| (name.to_owned(), bytes)));
        for (name, bytes) in objects {
            let bytes = Bytes::from(bytes);
            let put = backend.write(&block_object(&tenant, id, &name), bytes.clone()).await;
            put.map_err(|cause| store_error(&name, id, cause))?;
            caches.put_written(&tenant, &finished.meta, &name, &bytes);
        }
        Ok(SealedBlock { backend, tenant, finished })
    }

    /// Gives the block up and removes what was uploaded.
    pub async fn abort(self) -> Result<(), WriteError> {
        self.upload.abort().await.map_err(|cause| store_error(DATA_NAME, self.id, cause))
    }

    async fn put(&mut self, encoded: Vec<u8>) -> Result<(), WriteError> {
        self.upload.write(encoded).await.map_err(|cause| store_error(DATA_NAME, self.id, cause))
    }
}

/// A block all of whose objects but the meta are written: nobody sees it yet.
pub struct SealedBlock {
    backend: Backend,
    tenant: TenantId,
    finished: FinishedBlock,
}

impl SealedBlock {
    pub fn meta(&self) -> &BlockMeta {
        &self.finished.meta
    }

    /// The objects `bloom-0`, `bloom-1`, …
    pub fn blooms(&self) -> &[Vec<u8>] {
        &self.finished.blooms
    }

    /// The object `index`.
    pub fn index(&self) -> &[u8] {
        &self.finished.index
    }

    /// Writes the meta: from now on the block exists.
    pub async fn publish(self) -> Result<BlockMeta, WriteError> {
        let meta = self.finished.meta;
        // Ids are random or derived from what is in the block: another content under the same id is another writer's.
        let created = self.backend.create(&block_object(&self.tenant, meta.block_id, META_NAME), meta.to_json()).await;
        created.map_err(|cause| store_error(META_NAME, meta.block_id, cause))?;
        Ok(meta)
    }
}

fn store_error(object: &str, block: BlockId, cause: BackendError) -> WriteError {
    WriteError::Store { object: object.to_owned(), block, cause: Box::new(cause) }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use object_store::memory::InMemory;
    use object_store::{ObjectStore, ObjectStoreExt};
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    use super::super::side::{PRUNING_NAME, TAGS_NAME};
    use super::super::validate::{BlockObjects, check_block};
    use super::*;
    use crate::base::clock::SystemClock;
    use crate::model::testing::arb_span_table;
    use crate::tempodb::cache::testing::caches_of;
    use crate::tempodb::cache::{BlockCacheSettings, CacheRole, object_key};

    fn new_block() -> NewBlock {
        let mut block = NewBlock::new(TenantId::parse("t").unwrap(), BlockId::random(), 30);
        block.bloom.shard_size_bytes = 16;
        block
    }

    /// Tables whose traces ascend over all of them.
    fn arb_tables() -> impl Strategy<Value = Vec<SpanTable>> {
        prop::collection::vec(arb_span_table(10), 1..4).prop_map(|mut tables| {
            for (number, table) in tables.iter_mut().enumerate() {
                table.traces.ids.iter_mut().for_each(|id| id.0[0] = number as u8);
                table.traces.ids.sort();
            }
            tables
        })
    }

    /// Two tables, the same in every run.
    fn tables() -> Vec<Arc<SpanTable>> {
        let mut runner = TestRunner::deterministic();
        let tables = arb_tables().new_tree(&mut runner).unwrap().current();
        tables.into_iter().map(Arc::new).collect()
    }

    async fn names(store: &dyn ObjectStore) -> Vec<String> {
        let mut names: Vec<String> =
            store.list(None).map_ok(|object| object.location.filename().unwrap().to_owned()).try_collect().await.unwrap();
        names.sort();
        names
    }

    async fn read(store: &dyn ObjectStore, block: &NewBlock, name: &str) -> Bytes {
        store.get(&block_object(&block.tenant, block.id, name)).await.unwrap().bytes().await.unwrap()
    }

    async fn write(backend: &Backend, block: &NewBlock, tables: &[Arc<SpanTable>]) -> Result<BlockMeta, WriteError> {
        let cpu = CpuPool::new("test", 1).unwrap();
        let mut writer = BlockWriter::create(backend.clone(), cpu, block.clone()).await?;
        for table in tables {
            writer.append(Arc::clone(table)).await?;
        }
        writer.finish().await
    }

    proptest! {
        #[test]
        fn blocks_pass_their_checks(tables in arb_tables()) {
            prop_assume!(tables.iter().all(|table| table.traces.ids.windows(2).all(|pair| pair[0] < pair[1])));
            let mut encoder = BlockEncoder::new(new_block(), Vec::new()).unwrap();
            tables.iter().for_each(|table| encoder.append(table).unwrap());
            let (data, finished) = encoder.finish().unwrap();
            prop_assert_eq!(finished.meta.total_records as usize, tables.len());
            let blooms = finished.blooms.into_iter().map(Bytes::from).collect();
            let block = BlockObjects { meta: finished.meta, data: data.into(), blooms, index: Some(finished.index.into()) };
            prop_assert_eq!(check_block(&block), Vec::<String>::new());
        }
    }

    #[tokio::test]
    async fn a_written_block_has_all_objects() {
        let folder = tempfile::tempdir().unwrap();
        let backend = Backend::local(folder.path()).unwrap();
        let store = backend.store();
        let block = NewBlock { compaction: CompactionFlag::Held, ..new_block() };
        let meta = write(&backend, &block, &tables()).await.unwrap();
        assert_eq!(BlockMeta::from_json(&read(store.as_ref(), &block, META_NAME).await).unwrap(), meta);
        assert_eq!((meta.replication_factor, meta.compaction_level, meta.tenant_id.as_str()), (1, 0, "t"));
        let mut blooms = Vec::new();
        for shard in 0..meta.bloom_shards {
            blooms.push(read(store.as_ref(), &block, &bloom_name(shard)).await);
        }
        let data = read(store.as_ref(), &block, DATA_NAME).await;
        let index = Some(read(store.as_ref(), &block, INDEX_NAME).await);
        let objects = BlockObjects { meta, data, blooms, index };
        assert_eq!(check_block(&objects), Vec::<String>::new());
        let names = names(store.as_ref()).await;
        assert_eq!(
            names.iter().filter(|name| !name.starts_with("bloom-")).collect::<Vec<_>>(),
            [DATA_NAME, INDEX_NAME, META_NAME, NO_COMPACT_NAME, PRUNING_NAME, TAGS_NAME]
        );
    }

    #[tokio::test]
    async fn bloom_filter_and_index_are_cached_as_written() {
        let (caches, maps) = caches_of(&CacheRole::ALL);
        let caches = Arc::new(BlockCaches::new(caches, BlockCacheSettings::default(), Arc::new(SystemClock)));
        let (backend, block) = (Backend::new(Arc::new(InMemory::new()), ""), new_block());
        let writer = BlockWriter::create(backend.clone(), CpuPool::new("test", 1).unwrap(), block.clone()).await.unwrap();
        let mut writer = writer.cached_in(caches);
        for table in tables() {
            writer.append(table).await.unwrap();
        }
        let meta = writer.finish().await.unwrap();
        assert_eq!(maps[&CacheRole::Bloom].keys().len(), meta.bloom_shards as usize);
        for (role, name) in [(CacheRole::Bloom, bloom_name(0)), (CacheRole::TraceIdIndex, INDEX_NAME.to_owned())] {
            let kept = maps[&role].0.lock()[&object_key(&block.tenant, block.id, &name)].clone();
            assert_eq!(kept, read(backend.store().as_ref(), &block, &name).await);
        }
    }

    #[tokio::test]
    async fn failed_and_empty_writes_leave_no_meta() {
        let backend = Backend::new(Arc::new(InMemory::new()), "");
        let store = backend.store();
        let tables = tables();
        let repeated = [Arc::clone(&tables[0]), Arc::clone(&tables[0])];
        let refused = write(&backend, &new_block(), &repeated).await.unwrap_err();
        assert!(matches!(refused, WriteError::Encode(EncodeError::NotAscending { .. })), "{refused}");
        assert!(matches!(write(&backend, &new_block(), &[]).await, Err(WriteError::EmptyBlock(_))));
        assert_eq!(names(store.as_ref()).await, Vec::<String>::new());
    }

    #[test]
    fn times_are_cut_to_seconds_after_clamping() {
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let mut table = SpanTable::clone(&tables()[0]);
        let nanos = |text: &str| u64::try_from(time(text).as_nanosecond()).unwrap();
        table.traces.start_unix_nanos.fill(nanos("2026-11-22T01:02:03.9Z"));
        table.traces.end_unix_nanos.fill(nanos("2026-11-22T01:02:09.9Z"));
        let times = |times: BlockTimes| {
            let mut encoder = BlockEncoder::new(NewBlock { times, ..new_block() }, Vec::new()).unwrap();
            encoder.append(&table).unwrap();
            let meta = encoder.finish().unwrap().1.meta;
            (meta.start_time.to_string(), meta.end_time.to_string())
        };
        let expected = |start: &str, end: &str| (start.to_owned(), end.to_owned());
        assert_eq!(times(BlockTimes::default()), expected("2026-11-22T01:02:03Z", "2026-11-22T01:02:09Z"));
        let clamped = BlockTimes::FromTraces {
            start_at_least: Some(time("2026-11-22T01:02:30.5Z")),
            end_at_most: Some(time("2026-11-22T01:02:04Z")),
        };
        assert_eq!(times(clamped), expected("2026-11-22T01:02:30Z", "2026-11-22T01:02:04Z"));
        let given = BlockTimes::Given { start: time("2026-11-22T00:00:00Z"), end: time("2026-11-22T00:00:01Z") };
        assert_eq!(times(given), expected("2026-11-22T00:00:00Z", "2026-11-22T00:00:01Z"));
    }
}
