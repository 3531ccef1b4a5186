//! `gen …`: builds an object of a block anew from the traces in `data.parquet`, in place.

use std::sync::Arc;

use clap::Subcommand;

use super::output::{Cell, Output, Table};
use super::progress::Progress;
use super::storage::{BlockArguments, Storage};
use crate::model::ids::TraceId;
use crate::tempodb::block::bloom::{BloomBuilder, BloomParams};
use crate::tempodb::block::index::{INDEX_NAME, RowGroupIndex};
use crate::tempodb::block::meta::{BlockMeta, META_NAME};
use crate::tempodb::block::projection::Projection;
use crate::tempodb::block::read::ReadMeter;
use crate::tempodb::keys;

#[derive(Debug, Subcommand)]
pub(super) enum GenCommand {
    /// Bloom filter shards. Their number goes to meta.json.
    Bloom {
        #[command(flatten)]
        block: BlockArguments,
        /// Share of false positives.
        #[arg(default_value_t = 0.01)]
        false_positive_rate: f64,
        /// Bytes of a shard.
        #[arg(default_value_t = 102_400)]
        shard_size_bytes: usize,
    },
    /// The index object: the last trace id of each row group.
    Index {
        #[command(flatten)]
        block: BlockArguments,
    },
}

impl GenCommand {
    pub(super) async fn run(self, storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
        match self {
            Self::Bloom { block, false_positive_rate, shard_size_bytes } => {
                anyhow::ensure!(false_positive_rate > 0.0 && false_positive_rate < 1.0, "the rate must lie between 0 and 1");
                anyhow::ensure!(shard_size_bytes > 0, "a shard needs a size");
                bloom(&block, BloomParams { false_positive_rate, shard_size_bytes }, storage, out).await
            }
            Self::Index { block } => index(&block, storage, out).await,
        }
    }
}

/// Trace ids by row group.
async fn trace_ids(block: &BlockArguments, meta: &Arc<BlockMeta>, storage: &Storage) -> anyhow::Result<Vec<Vec<TraceId>>> {
    let reader = storage.reader(&block.tenant_id, meta).await?;
    let progress = Progress::new("row groups", reader.row_groups());
    let mut ids = Vec::new();
    for group in 0..reader.row_groups() {
        ids.push(reader.read_row_group(group, &Projection::default(), None, &ReadMeter::default()).await?.traces.ids);
        progress.step();
    }
    Ok(ids)
}

async fn live_meta(block: &BlockArguments, storage: &Storage) -> anyhow::Result<Arc<BlockMeta>> {
    let listed = storage.block(&block.tenant_id, block.block_id).await?;
    anyhow::ensure!(listed.compacted_at.is_none(), "block {} is compacted", block.block_id);
    Ok(listed.meta)
}

async fn bloom(block: &BlockArguments, params: BloomParams, storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
    let meta = live_meta(block, storage).await?;
    let ids = trace_ids(block, &meta, storage).await?;
    let mut builder = BloomBuilder::new(params, ids.iter().map(Vec::len).sum());
    ids.iter().flatten().for_each(|id| builder.insert(*id));
    // Readers choose the shard by the number in the meta, so it is replaced last; in between they may miss traces.
    for (shard, content) in (0..).zip(builder.shards()) {
        let key = keys::block_object(&block.tenant_id, block.block_id, &keys::bloom_name(shard));
        storage.backend.write(&key, content.encode()).await?;
    }
    let shards = builder.shard_count();
    if meta.bloom_shards != shards {
        let changed = BlockMeta { bloom_shards: shards, ..(*meta).clone() };
        storage.backend.write(&keys::block_object(&block.tenant_id, block.block_id, META_NAME), changed.to_json()).await?;
        for surplus in shards..meta.bloom_shards {
            storage.backend.delete(&keys::block_object(&block.tenant_id, block.block_id, &keys::bloom_name(surplus))).await?;
        }
    }
    let mut table = Table::new(&["Traces", "Bloom shards", "Bytes"]);
    let bytes = builder.shards().iter().map(|shard| shard.encode().len() as u64).sum();
    table.push([ids.iter().map(Vec::len).sum::<usize>().into(), shards.into(), Cell::Bytes(bytes)]);
    out.record(&table)
}

async fn index(block: &BlockArguments, storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
    let meta = live_meta(block, storage).await?;
    let ids = trace_ids(block, &meta, storage).await?;
    let index = RowGroupIndex { last_ids: ids.iter().filter_map(|group| group.last().copied()).collect() };
    let key = keys::block_object(&block.tenant_id, block.block_id, INDEX_NAME);
    storage.backend.write(&key, index.to_json()).await?;
    let mut table = Table::new(&["Row groups"]);
    table.push([index.last_ids.len().into()]);
    out.record(&table)
}
