//! `convert …`: blocks in another version of the format, or with other dedicated columns.

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::output::{Cell, Output, Table};
use super::progress::Progress;
use super::storage::{BlockArguments, ListedBlock, Storage, parse_tenant};
use crate::app::modules::columns_of;
use crate::model::ids::TenantId;
use crate::tempodb::block::meta::BlockVersion;
use crate::tempodb::compaction::{CompactSettings, Compactor, RewriteTarget};

#[derive(Debug, Subcommand)]
pub(super) enum ConvertCommand {
    /// Writes a block anew and marks the old one compacted.
    Block {
        #[command(flatten)]
        block: BlockArguments,
        #[command(flatten)]
        target: Target,
    },
    /// Does so with all blocks of a tenant that differ from the target.
    Blocks {
        #[arg(value_parser = parse_tenant)]
        tenant_id: TenantId,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Debug, Args)]
pub(super) struct Target {
    /// Version to write: vParquet4 or vParquet5. Default: `storage.trace.block.version`.
    #[arg(long)]
    to: Option<BlockVersion>,
    /// Keep each block's own list of dedicated columns instead of taking the configured one.
    #[arg(long)]
    keep_columns: bool,
}

impl ConvertCommand {
    pub(super) async fn run(self, storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
        let (tenant, blocks, target) = match self {
            Self::Block { block, target } => {
                let listed = storage.block(&block.tenant_id, block.block_id).await?;
                anyhow::ensure!(listed.compacted_at.is_none(), "block {} is compacted", block.block_id);
                (block.tenant_id, vec![listed], target)
            }
            Self::Blocks { tenant_id, target } => {
                let version = target.version(storage)?;
                let mut blocks = storage.blocks(&tenant_id, false).await?;
                blocks.retain(|block| block.meta.version().is_ok_and(|found| found != version));
                (tenant_id, blocks, target)
            }
        };
        target.convert(&tenant, &blocks, storage, out).await
    }
}

impl Target {
    fn version(&self, storage: &Storage) -> anyhow::Result<BlockVersion> {
        match self.to {
            Some(version) => Ok(version),
            None => Ok(storage.config.block.version.parse::<BlockVersion>()?),
        }
    }

    async fn convert(&self, tenant: &TenantId, blocks: &[ListedBlock], storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
        let version = self.version(storage)?;
        let configured = columns_of(&storage.config.block.parquet_dedicated_columns)?;
        let compactor = Compactor::new(storage.db(tenant, blocks), storage.cpu.clone(), storage.clock.clone());
        let progress = Progress::new("blocks", blocks.len());
        let mut table = Table::new(&["Block", "From", "Becomes", "To", "Traces", "Spans", "Bytes before", "Bytes after"]);
        for ListedBlock { meta, .. } in blocks {
            let dedicated_columns = if self.keep_columns { meta.dedicated_columns.to_vec() } else { configured.clone() };
            let target = RewriteTarget { version, dedicated_columns, settings: CompactSettings::default() };
            let outcome = compactor.rewrite(tenant, meta.block_id, &target).await.with_context(|| format!("block {}", meta.block_id))?;
            let ids: Vec<String> = outcome.output_ids().iter().map(ToString::to_string).collect();
            table.push([
                meta.block_id.to_string().into(),
                meta.format.as_str().into(),
                ids.join(", ").into(),
                version.as_str().into(),
                outcome.traces.into(),
                outcome.spans.into(),
                Cell::Bytes(meta.size_bytes),
                Cell::Bytes(outcome.outputs.iter().map(|meta| meta.size_bytes).sum()),
            ]);
            progress.step();
        }
        drop(progress);
        out.table(&table)
    }
}
