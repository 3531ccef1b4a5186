//! `rewrite-blocks …`: removes traces from all blocks that hold them.

use anyhow::Context as _;
use clap::Subcommand;

use super::output::{Output, Table};
use super::progress::Progress;
use super::storage::{Storage, parse_tenant, parse_trace_id};
use crate::model::ids::{TenantId, TraceId};
use crate::tempodb::compaction::{Compactor, RedactionMode, RedactionSelector};

#[derive(Debug, Subcommand)]
pub(super) enum RewriteCommand {
    /// Removes traces by id. Without --drop-trace nothing changes: the blocks concerned are listed.
    #[command(alias = "drop-trace")]
    DropTraces {
        #[arg(value_parser = parse_tenant)]
        tenant_id: TenantId,
        /// Separated by commas.
        #[arg(value_parser = parse_trace_id, value_delimiter = ',', required = true)]
        trace_ids: Vec<TraceId>,
        /// Rewrite the blocks.
        #[arg(long)]
        drop_trace: bool,
    },
}

impl RewriteCommand {
    pub(super) async fn run(self, storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
        let Self::DropTraces { tenant_id, trace_ids, drop_trace } = self;
        let blocks = storage.blocks(&tenant_id, false).await?;
        let compactor = Compactor::new(storage.db(&tenant_id, &blocks), storage.cpu.clone(), storage.clock.clone());
        let selector = RedactionSelector::Ids(trace_ids);
        let mode = if drop_trace { RedactionMode::Apply } else { RedactionMode::DryRun };
        let progress = Progress::new("blocks", blocks.len());
        let mut table = Table::new(&["Block", "Traces found", "Rewritten as"]);
        for block in &blocks {
            let id = block.meta.block_id;
            let outcome = compactor.redact(&tenant_id, id, &selector, mode).await.with_context(|| format!("block {id}"))?;
            if outcome.traces_found > 0 {
                let output = outcome.output.map(|meta| meta.block_id.to_string());
                table.push([id.to_string().into(), outcome.traces_found.into(), output.into()]);
            }
            progress.step();
        }
        drop(progress);
        out.table(&table)?;
        out.line(if drop_trace {
            "Recent data that is not in blocks yet is not touched."
        } else {
            "Nothing was changed; use --drop-trace."
        })
    }
}
