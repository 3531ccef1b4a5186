//! `list …`: blocks of a tenant, one block, and summaries over them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};

use super::output::{Cell, Output, Table};
use super::progress::Progress;
use super::storage::{BlockArguments, ListedBlock, Storage, parse_tenant};
use super::view;
use crate::model::ids::{TenantId, TraceId};
use crate::tempodb::block::bloom::effective_shards;
use crate::tempodb::block::meta::BlockMeta;
use crate::tempodb::block::projection::{Projection, SpanColumns};
use crate::tempodb::block::read::ReadMeter;
use crate::tempodb::keys;

#[derive(Debug, Subcommand)]
pub(super) enum ListCommand {
    /// Tenants that have anything stored.
    Tenants,
    /// Blocks of a tenant.
    Blocks(ListBlocks),
    /// One block; with --scan its traces are read and counted.
    Block(ListBlock),
    /// Bloom filter shards by age and compaction level: what a cache has to hold.
    CacheSummary(TenantArguments),
    /// Blocks by compaction level.
    CompactionSummary(TenantArguments),
    /// Columns of a block with their sizes, or the values of one column.
    Column(view::ColumnArguments),
    /// The last trace id of each row group.
    Index(BlockArguments),
}

#[derive(Debug, Args)]
pub(super) struct TenantArguments {
    #[arg(value_parser = parse_tenant)]
    tenant_id: TenantId,
}

#[derive(Debug, Args)]
pub(super) struct ListBlocks {
    #[arg(value_parser = parse_tenant)]
    tenant_id: TenantId,
    /// Also blocks that were replaced or are past retention.
    #[arg(long)]
    include_compacted: bool,
}

#[derive(Debug, Args)]
pub(super) struct ListBlock {
    #[command(flatten)]
    block: BlockArguments,
    /// Read the whole block: spans, duplicates, largest trace.
    #[arg(long)]
    scan: bool,
}

impl ListCommand {
    pub(super) async fn run(self, storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
        match self {
            Self::Tenants => tenants(storage, out).await,
            Self::Blocks(arguments) => arguments.run(storage, out).await,
            Self::Block(arguments) => arguments.run(storage, out).await,
            Self::CacheSummary(tenant) => cache_summary(&tenant.tenant_id, storage, out).await,
            Self::CompactionSummary(tenant) => compaction_summary(&tenant.tenant_id, storage, out).await,
            Self::Column(arguments) => arguments.run(storage, out).await,
            Self::Index(block) => view::index(&block, storage, out).await,
        }
    }
}

async fn tenants(storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
    let mut tenants = storage.backend.tenants().await?;
    tenants.sort();
    let mut table = Table::new(&["Tenant", "Live blocks", "Compacted blocks", "Foreign objects"]);
    for tenant in tenants {
        let ids = storage.backend.block_ids(&tenant).await?;
        table.push([tenant.as_str().into(), ids.live.len().into(), ids.compacted.len().into(), ids.foreign_objects.into()]);
    }
    out.table(&table)
}

fn duration(meta: &BlockMeta) -> SignedDuration {
    meta.end_time.duration_since(meta.start_time)
}

impl ListBlocks {
    async fn run(self, storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
        let blocks = storage.blocks(&self.tenant_id, self.include_compacted).await?;
        let now = storage.now();
        let mut table =
            Table::new(&["ID", "Lvl", "Objects", "Size", "Row groups", "Vers", "RF", "Start", "End", "Duration", "Age", "Compacted"]);
        for ListedBlock { meta, compacted_at } in &blocks {
            table.push([
                meta.block_id.to_string().into(),
                meta.compaction_level.into(),
                objects(meta).into(),
                Cell::Bytes(meta.size_bytes),
                meta.total_records.into(),
                meta.format.as_str().into(),
                meta.replication_factor.into(),
                meta.start_time.into(),
                meta.end_time.into(),
                Cell::Duration(duration(meta)),
                Cell::Duration(now.duration_since(meta.end_time)),
                (*compacted_at).into(),
            ]);
        }
        out.table(&table)?;
        let total: u64 = blocks.iter().map(|block| block.meta.size_bytes).sum();
        out.line(&format!("{} blocks, {}", blocks.len(), super::output::people_bytes(total)))
    }
}

/// Traces; a negative count of a broken meta reads as none.
fn objects(meta: &BlockMeta) -> u64 {
    u64::try_from(meta.total_objects).unwrap_or(0)
}

/// What reading a whole block tells.
#[derive(Default)]
struct Scan {
    traces: u64,
    spans: u64,
    duplicate_traces: u64,
    duplicate_spans: u64,
    largest: Option<(usize, TraceId)>,
}

impl ListBlock {
    async fn run(self, storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
        let block = storage.block(&self.block.tenant_id, self.block.block_id).await?;
        let meta = &block.meta;
        let dedicated: Vec<String> = meta.dedicated_columns.iter().map(|column| format!("{}.{}", column.scope, column.name)).collect();
        let no_compact = keys::block_object(&self.block.tenant_id, meta.block_id, keys::NO_COMPACT_NAME);
        let is_held = storage.backend.head(&no_compact).await.is_ok();
        let mut table = Table::new(&[
            "ID",
            "Version",
            "Level",
            "Total objects",
            "Size",
            "Row groups",
            "Bloom shards",
            "Footer size",
            "RF",
            "Start",
            "End",
            "Duration",
            "Age",
            "Dedicated columns",
            "Compacted",
            "No compact flag",
        ]);
        table.push([
            meta.block_id.to_string().into(),
            meta.format.as_str().into(),
            meta.compaction_level.into(),
            objects(meta).into(),
            Cell::Bytes(meta.size_bytes),
            meta.total_records.into(),
            effective_shards(meta.bloom_shards).into(),
            Cell::Bytes(u64::from(meta.footer_size_bytes)),
            meta.replication_factor.into(),
            meta.start_time.into(),
            meta.end_time.into(),
            Cell::Duration(duration(meta)),
            Cell::Duration(storage.now().duration_since(meta.end_time)),
            dedicated.join(", ").into(),
            block.compacted_at.into(),
            is_held.into(),
        ]);
        out.record(&table)?;
        if self.scan { self.scan(storage, &block, out).await } else { Ok(()) }
    }

    async fn scan(&self, storage: &Storage, block: &ListedBlock, out: &mut Output) -> anyhow::Result<()> {
        let reader = storage.reader(&self.block.tenant_id, &block.meta).await?;
        let wanted = Projection { spans: SpanColumns { span_id: true, kind: true, ..SpanColumns::default() }, ..Projection::default() };
        let progress = Progress::new("row groups", reader.row_groups());
        let mut scan = Scan::default();
        let mut last = None;
        for group in 0..reader.row_groups() {
            let table = reader.read_row_group(group, &wanted, None, &ReadMeter::default()).await?;
            for (row, id) in table.traces.ids.iter().enumerate() {
                let spans = table.spans_of_trace(row);
                let distinct: HashSet<_> = spans.clone().map(|span| (table.spans.span_id[span], table.spans.kind[span])).collect();
                scan.duplicate_spans += (spans.len() - distinct.len()) as u64;
                scan.duplicate_traces += u64::from(last == Some(*id));
                scan.largest = scan.largest.max(Some((spans.len(), *id)));
                last = Some(*id);
            }
            scan.traces += table.trace_count() as u64;
            scan.spans += table.span_count() as u64;
            progress.step();
        }
        drop(progress);
        let (largest, id) = scan.largest.unzip();
        let mut table = Table::new(&[
            "Traces",
            "Spans",
            "Traces stored twice",
            "Spans stored twice",
            "Largest trace",
            "Spans of largest trace",
            "Bytes per span",
        ]);
        table.push([
            scan.traces.into(),
            scan.spans.into(),
            scan.duplicate_traces.into(),
            scan.duplicate_spans.into(),
            id.map(|id| id.to_string()).into(),
            largest.into(),
            Cell::Float(block.meta.size_bytes as f64 / scan.spans.max(1) as f64),
        ]);
        out.record(&table)
    }
}

async fn cache_summary(tenant: &TenantId, storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
    let now = storage.now();
    // Days of age, then compaction level: shards and blocks.
    let mut shards: BTreeMap<(u64, u32), (u64, u64)> = BTreeMap::new();
    for block in storage.blocks(tenant, false).await? {
        let age = u64::try_from(now.duration_since(block.meta.end_time).as_secs() / 86_400).unwrap_or(0);
        let (blocks, count) = shards.entry((age, block.meta.compaction_level)).or_default();
        *blocks += 1;
        *count += u64::from(effective_shards(block.meta.bloom_shards));
    }
    let mut table = Table::new(&["Age in days", "Lvl", "Blocks", "Bloom shards", "Bytes at default shard size"]);
    for ((age, level), (blocks, count)) in shards {
        let bytes = count * storage.config.block.bloom_filter_shard_size_bytes;
        table.push([age.into(), level.into(), blocks.into(), count.into(), Cell::Bytes(bytes)]);
    }
    out.table(&table)
}

async fn compaction_summary(tenant: &TenantId, storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
    let blocks = storage.blocks(tenant, false).await?;
    let levels: BTreeSet<u32> = blocks.iter().map(|block| block.meta.compaction_level).collect();
    let mut table = Table::new(&["Lvl", "Blocks", "Objects", "Total", "Smallest", "Average", "Largest", "Earliest", "Latest", "Versions"]);
    for level in levels {
        let of_level: Vec<_> = blocks.iter().map(|block| &block.meta).filter(|meta| meta.compaction_level == level).collect();
        let sizes = || of_level.iter().map(|meta| meta.size_bytes);
        let versions: BTreeSet<&str> = of_level.iter().map(|meta| meta.format.as_str()).collect();
        let earliest: Option<Timestamp> = of_level.iter().map(|meta| meta.start_time).min();
        table.push([
            level.into(),
            of_level.len().into(),
            of_level.iter().map(|meta| objects(meta)).sum::<u64>().into(),
            Cell::Bytes(sizes().sum()),
            Cell::Bytes(sizes().min().unwrap_or(0)),
            Cell::Bytes(sizes().sum::<u64>() / of_level.len().max(1) as u64),
            Cell::Bytes(sizes().max().unwrap_or(0)),
            earliest.into(),
            of_level.iter().map(|meta| meta.end_time).max().into(),
            versions.into_iter().collect::<Vec<_>>().join(", ").into(),
        ]);
    }
    out.table(&table)
}
