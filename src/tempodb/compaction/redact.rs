//! Redaction: rewrites one block without chosen traces.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::CompactionError;
use super::{CompactSettings, Compactor, RedactionMode, RedactionOutcome, RedactionSelector, RedactionWindow, TraceFilter, count_failure};
use crate::model::ids::{TenantId, TraceId};
use crate::model::span_table::SpanTable;
use crate::tempodb::block::meta::BlockId;
use crate::tempodb::block::read::{BlockReader, ReadMeter};
use crate::tempodb::block::scan::{RowScan, ScanLimits};

impl Compactor {
    /// Rewrites a block without the traces of `selector`, whole traces even if only some spans match, and marks it compacted. The settings are
    /// the defaults: what is configured does not concern a block that is only to lose some traces. The level rises by one.
    ///
    /// A block that is gone is fine: whoever replaced it is asked instead. If nothing is found the block stays; if nothing is left it is only
    /// marked. Dropping the future cancels, as in [`Compactor::compact`].
    pub async fn redact(
        &self,
        tenant: &TenantId,
        block: BlockId,
        selector: &RedactionSelector,
        mode: RedactionMode,
    ) -> Result<RedactionOutcome, CompactionError> {
        let outcome = self.redact_block(tenant, block, selector, mode).await;
        count_failure(&outcome);
        outcome
    }

    async fn redact_block(
        &self,
        tenant: &TenantId,
        block: BlockId,
        selector: &RedactionSelector,
        mode: RedactionMode,
    ) -> Result<RedactionOutcome, CompactionError> {
        let meta = match self.read_meta(tenant, block).await {
            Ok(meta) => meta,
            Err(CompactionError::Gone { .. }) => return Ok(RedactionOutcome { is_missing: true, ..RedactionOutcome::default() }),
            Err(error) => return Err(error),
        };
        let meter = ReadMeter::default();
        let reader = self.open_input(tenant, meta, &meter).await?;
        let found = self.resolve(&reader, selector, &meter).await?;
        let mut outcome = RedactionOutcome { traces_found: found.len() as u64, ..RedactionOutcome::default() };
        if found.is_empty() || mode == RedactionMode::DryRun {
            return Ok(outcome);
        }
        let level = reader.meta().compaction_level.saturating_add(1);
        let output = self.output_like(tenant, std::slice::from_ref(&reader), level, &CompactSettings::default());
        let compacted = self.replace(tenant, vec![reader], found, output, &CompactSettings::default()).await?;
        outcome.output = compacted.outputs.first().cloned();
        Ok(outcome)
    }

    /// Returns the traces of the block that the selector names.
    async fn resolve(
        &self,
        reader: &Arc<BlockReader>,
        selector: &RedactionSelector,
        meter: &ReadMeter,
    ) -> Result<Vec<TraceId>, CompactionError> {
        let block = reader.meta().block_id;
        match selector {
            RedactionSelector::Ids(ids) => {
                let mut found = Vec::new();
                for id in ids.iter().collect::<BTreeSet<_>>() {
                    let located = reader.locate_trace(*id, meter).await.map_err(|cause| CompactionError::Read { block, cause })?;
                    found.extend(located.map(|_| *id));
                }
                Ok(found)
            }
            RedactionSelector::Matching { filter, window } => self.find_matching(reader, filter, *window, meter).await,
        }
    }

    async fn find_matching(
        &self,
        reader: &Arc<BlockReader>,
        filter: &Arc<dyn TraceFilter>,
        window: Option<RedactionWindow>,
        meter: &ReadMeter,
    ) -> Result<Vec<TraceId>, CompactionError> {
        let block = reader.meta().block_id;
        let mut projection = filter.projection();
        if window.is_some() {
            (projection.traces.start, projection.traces.end) = (true, true);
        }
        let memory = CompactSettings::default().memory_bytes as u64;
        let limits = ScanLimits { fetch_bytes: memory / 4, slice_bytes: memory / 4 };
        let mut scan = RowScan::new(Arc::clone(reader), projection, limits);
        let read = |cause| CompactionError::Read { block, cause };
        let mut found = Vec::new();
        while let Some(slice) = scan.fetch_next(meter).await.map_err(read)? {
            let decoded = self.cpu.run("decode_slice", move || slice.decode()).await?.map_err(read)?;
            let (table, filter) = (scan.keep(decoded), Arc::clone(filter));
            let matching = self.cpu.run("filter_slice", move || matching_ids(&table, filter.as_ref(), window)).await?;
            found.extend(matching.map_err(|cause| CompactionError::Filter { block, cause })?);
        }
        Ok(found)
    }
}

fn matching_ids(
    table: &SpanTable,
    filter: &dyn TraceFilter,
    window: Option<RedactionWindow>,
) -> Result<Vec<TraceId>, Box<dyn std::error::Error + Send + Sync>> {
    let is_in_window = |row: &usize| {
        window.is_none_or(|window| {
            table.traces.start_unix_nanos[*row] <= window.end_unix_nanos && table.traces.end_unix_nanos[*row] >= window.start_unix_nanos
        })
    };
    Ok(filter.matching_rows(table)?.into_iter().filter(is_in_window).map(|row| table.traces.ids[row]).collect())
}
