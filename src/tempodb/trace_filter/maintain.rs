//! Brings the filter of a tenant up to date: covers new blocks, merges runs, lets go of what is not needed.
//!
//! Invariants
//! * What has been done is published after every run, so that an interrupted call has lost little, and a repeated one changes nothing.
//! * Memory: the hashes of one run of [`MaintainSettings::run_entries`] and of the blocks that are read at the same time.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use metrics::{counter, gauge, histogram};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::lookup::Filter;
use super::manifest::{MANIFEST_NAME, Manifest, PREFIX, RunInfo};
use super::merge::{self, Kept, kept_entries};
use super::shard::{Entry, MAX_BLOCK_BITS, hash_of};
use super::write::write_run;
use super::{TraceFilterError, WINDOW_SECONDS};
use crate::base::cpu_pool::CpuPool;
use crate::model::ids::TenantId;
use crate::tempodb::block::error::BlockReadError;
use crate::tempodb::block::meta::{BlockMeta, is_preview};
use crate::tempodb::block::read::ReadMeter;
use crate::tempodb::blocklist::TenantBlocks;
use crate::tempodb::db::{DbError, TempoDb};
use crate::tempodb::{keys, metrics as names};

/// How far one call goes.
#[derive(Debug, Clone)]
pub struct MaintainSettings {
    /// A tenant with fewer blocks needs no filter.
    pub min_blocks: usize,
    /// New blocks wait until they are this many: their bloom filters are asked meanwhile.
    pub min_new_blocks: usize,
    /// Entries of a fresh run at most, but for the last block's.
    pub run_entries: usize,
    /// Entries that one call reads from blocks or merges, about; the rest is left for the next call.
    pub max_entries: u64,
    /// Blocks read at the same time.
    pub concurrency: usize,
    /// Objects that no manifest names are deleted after this long: a reader may still have the manifest that did, and a writer is about to.
    pub unreferenced_grace: Duration,
}

impl Default for MaintainSettings {
    fn default() -> Self {
        Self {
            min_blocks: 16,
            min_new_blocks: 8,
            run_entries: 2_000_000,
            max_entries: 16_000_000,
            concurrency: 2,
            unreferenced_grace: Duration::from_secs(15 * 60),
        }
    }
}

/// What a call did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MaintainOutcome {
    pub covered_blocks: usize,
    /// Blocks that could not be read; they stay uncovered.
    pub unreadable_blocks: usize,
    pub merged_runs: usize,
    pub dropped_runs: usize,
    pub deleted_objects: usize,
    pub written_bytes: u64,
    /// Entries read from blocks, and entries of merged runs.
    pub entries: u64,
    /// There is more to do.
    pub is_unfinished: bool,
}

/// Brings the filter of `tenant` up to date with the block list. Dropping the future loses the run that is being written.
pub async fn maintain(
    db: &TempoDb,
    cpu: &CpuPool,
    tenant: &TenantId,
    settings: &MaintainSettings,
) -> Result<MaintainOutcome, TraceFilterError> {
    let started = tokio::time::Instant::now();
    let blocks = db.block_list().blocks(tenant);
    let mut call = Call { db, cpu, tenant, settings, outcome: MaintainOutcome::default() };
    let filter = call.read().await?;
    if blocks.live.len() < settings.min_blocks && filter.manifest.runs.is_empty() {
        return Ok(call.outcome);
    }
    let filter = if call.cover(&blocks, &filter).await? { call.read().await? } else { filter };
    let filter = if call.merge_runs(&blocks, &filter).await? { call.read().await? } else { filter };
    call.delete_unreferenced(&blocks, &filter).await?;
    call.report(&blocks, &filter);
    histogram!(names::FILTER_MAINTENANCE).record(started.elapsed().as_secs_f64());
    Ok(call.outcome)
}

/// One call of [`maintain`].
struct Call<'a> {
    db: &'a TempoDb,
    cpu: &'a CpuPool,
    tenant: &'a TenantId,
    settings: &'a MaintainSettings,
    outcome: MaintainOutcome,
}

impl Call<'_> {
    async fn read(&self) -> Result<Arc<Filter>, TraceFilterError> {
        Ok(self.db.trace_filters().read(self.db.backend(), self.tenant, self.db.now_seconds()).await?.0)
    }

    fn is_over_budget(&mut self) -> bool {
        let is_over = self.outcome.entries >= self.settings.max_entries;
        self.outcome.is_unfinished |= is_over;
        is_over
    }

    /// Covers the blocks that no run covers. Returns whether it wrote any.
    async fn cover(&mut self, blocks: &TenantBlocks, filter: &Filter) -> Result<bool, TraceFilterError> {
        let covered = filter.covered();
        let needs_cover = |meta: &&Arc<BlockMeta>| {
            let is_readable = !is_preview(&meta.format) && meta.version().is_ok() && !self.db.is_quarantined(meta.block_id);
            is_readable && !covered.contains(&meta.block_id)
        };
        let uncovered: Vec<Arc<BlockMeta>> = blocks.live.iter().filter(needs_cover).cloned().collect();
        if uncovered.len() < self.settings.min_new_blocks.max(1) {
            return Ok(false);
        }
        // The list is sorted by the end of blocks, so blocks of a day are neighbours.
        for of_day in uncovered.chunk_by(|a, b| day_of(a) == day_of(b)) {
            if self.is_over_budget() {
                break;
            }
            self.cover_day(of_day).await?;
        }
        Ok(self.outcome.covered_blocks > 0)
    }

    async fn cover_day(&mut self, blocks: &[Arc<BlockMeta>]) -> Result<(), TraceFilterError> {
        let (db, cpu, tenant) = (self.db, self.cpu, self.tenant);
        let mut read = stream::iter(blocks.to_vec())
            .map(|meta| async move {
                let hashes = hashes_of(db, cpu, tenant, &meta).await;
                (meta, hashes)
            })
            .buffered(self.settings.concurrency.max(1));
        let (mut covered, mut entries) = (Vec::new(), Vec::new());
        while let Some((meta, hashes)) = read.next().await {
            match hashes {
                Ok(hashes) => {
                    let number = covered.len() as u32;
                    covered.push(meta);
                    self.outcome.entries += hashes.len() as u64;
                    entries.extend(hashes.into_iter().map(|hash| Entry::new(hash, number)));
                }
                Err(ReadHashesError::Cpu(error)) => return Err(error.into()),
                Err(ReadHashesError::Block(error)) => {
                    self.outcome.unreadable_blocks += 1;
                    debug!(%tenant, block = %meta.block_id, error = &error as &dyn std::error::Error, "block left out of the trace filter");
                }
            }
            if entries.len() >= self.settings.run_entries || covered.len() >= 1 << MAX_BLOCK_BITS {
                self.publish_run(std::mem::take(&mut covered), std::mem::take(&mut entries)).await?;
                if self.is_over_budget() {
                    return Ok(());
                }
            }
        }
        self.publish_run(covered, entries).await
    }

    async fn publish_run(&mut self, covered: Vec<Arc<BlockMeta>>, entries: Vec<Entry>) -> Result<(), TraceFilterError> {
        let Some(first) = covered.first() else { return Ok(()) };
        let run = write_run(self.db.backend(), self.cpu, self.tenant, day_of(first), &covered, entries).await?;
        self.outcome.covered_blocks += covered.len();
        self.outcome.written_bytes += run.size_bytes;
        self.replace(&[], Some(run)).await?;
        Ok(())
    }

    /// Merges runs of a day until each is several times as large as the next. Returns whether anything changed.
    async fn merge_runs(&mut self, blocks: &TenantBlocks, filter: &Arc<Filter>) -> Result<bool, TraceFilterError> {
        let mut days: Vec<i64> = filter.manifest.runs.iter().map(|run| run.day).collect();
        days.sort_unstable();
        days.dedup();
        let compacted = blocks.compacted.iter().map(|compacted| &compacted.meta);
        let kept: Kept<'_> = blocks.live.iter().map(Arc::as_ref).chain(compacted).map(|meta| (meta.block_id, meta)).collect();
        let (mut filter, mut has_changed) = (Arc::clone(filter), self.drop_useless(filter, &kept).await?);
        if has_changed {
            filter = self.read().await?;
        }
        for day in days.into_iter().rev() {
            while !self.is_over_budget() && self.merge_in_day(day, &filter, &kept).await? {
                has_changed = true;
                filter = self.read().await?;
            }
        }
        Ok(has_changed)
    }

    /// Lets go of runs that cannot be read or hold no block that there is.
    async fn drop_useless(&mut self, filter: &Filter, kept: &Kept<'_>) -> Result<bool, TraceFilterError> {
        let is_useful = |info: &&RunInfo| {
            let mut runs = filter.runs.iter();
            runs.any(|run| run.info.name == info.name && run.header.blocks.iter().any(|(block, _)| kept.contains_key(block)))
        };
        let useless: Vec<String> = filter.manifest.runs.iter().filter(|info| !is_useful(info)).map(|info| info.name.clone()).collect();
        if useless.is_empty() {
            return Ok(false);
        }
        let useless: Vec<&str> = useless.iter().map(String::as_str).collect();
        self.outcome.dropped_runs += useless.len();
        self.replace(&useless, None).await
    }

    async fn merge_in_day(&mut self, day: i64, filter: &Filter, kept: &Kept<'_>) -> Result<bool, TraceFilterError> {
        let runs: Vec<_> = filter.runs.iter().filter(|run| run.info.day == day).collect();
        let sizes: Vec<_> = runs.iter().map(|run| (kept_entries(&run.header, kept), run.header.entries)).collect();
        let chosen: Vec<_> = merge::choose(&sizes).into_iter().filter_map(|run| runs.get(run).copied()).collect();
        if chosen.is_empty() {
            return Ok(false);
        }
        let names: Vec<&str> = chosen.iter().map(|run| run.info.name.as_str()).collect();
        let merged = match merge::merge(self.db.backend(), self.cpu, self.tenant, &chosen, kept).await {
            Ok(merged) => Some(merged),
            // What is broken goes, and its blocks are read again.
            Err(TraceFilterError::Run(name)) => {
                warn!(tenant = %self.tenant, run = name, "corrupt run of the trace filter is dropped");
                return self.replace(&[name.as_str()], None).await;
            }
            Err(error) => return Err(error),
        };
        self.outcome.merged_runs += chosen.len();
        self.outcome.entries += chosen.iter().map(|run| run.header.entries).sum::<u64>();
        self.outcome.written_bytes += merged.as_ref().map_or(0, |run| run.size_bytes);
        self.replace(&names, merged).await
    }

    /// Publishes a manifest with `new` instead of `old` runs. Returns whether it did: somebody else may have replaced the old ones.
    async fn replace(&self, old: &[&str], new: Option<RunInfo>) -> Result<bool, TraceFilterError> {
        let backend = self.db.backend();
        let key = keys::tenant_object(self.tenant, MANIFEST_NAME);
        let mut manifest = match backend.read(&key).await {
            // One that cannot be read is replaced.
            Ok(bytes) => Manifest::from_json(&bytes).unwrap_or_default(),
            Err(error) if error.is_not_found() => Manifest::default(),
            Err(error) => return Err(error.into()),
        };
        let before = manifest.runs.len();
        manifest.runs.retain(|run| !old.contains(&run.name.as_str()));
        if before - manifest.runs.len() < old.len() {
            if let Some(new) = new {
                backend.delete(&keys::tenant_object(self.tenant, &new.name)).await?;
            }
            return Ok(false);
        }
        manifest.runs.extend(new);
        if manifest.runs.is_empty() {
            backend.delete(&key).await?;
        } else {
            backend.write(&key, manifest.to_json()).await?;
        }
        Ok(true)
    }

    async fn delete_unreferenced(&mut self, blocks: &TenantBlocks, filter: &Filter) -> Result<(), TraceFilterError> {
        let listed = blocks.listing.iter().flat_map(|listing| &listing.own_objects).map(|(name, _)| name);
        let listed = listed.filter(|name| name.starts_with(PREFIX)).cloned();
        let (now, grace) = (self.db.now_seconds(), self.settings.unreferenced_grace.as_secs());
        for name in self.db.trace_filters().unreferenced(self.tenant, listed, &filter.manifest, now, grace) {
            self.db.backend().delete(&keys::tenant_object(self.tenant, &name)).await?;
            self.outcome.deleted_objects += 1;
        }
        Ok(())
    }

    fn report(&self, blocks: &TenantBlocks, filter: &Filter) {
        let covered = filter.covered();
        let uncovered = blocks.live.ids().filter(|id| !covered.contains(id)).count();
        let bytes: u64 = filter.manifest.runs.iter().map(|run| run.size_bytes).sum();
        let tenant = self.tenant.to_string();
        gauge!(names::FILTER_UNCOVERED, "tenant" => tenant.clone()).set(uncovered as f64);
        gauge!(names::FILTER_RUNS, "tenant" => tenant.clone()).set(filter.manifest.runs.len() as f64);
        gauge!(names::FILTER_BYTES, "tenant" => tenant).set(bytes as f64);
        counter!(names::FILTER_WRITTEN_BYTES).increment(self.outcome.written_bytes);
    }
}

fn day_of(meta: &BlockMeta) -> i64 {
    meta.end_time.as_second().div_euclid(WINDOW_SECONDS)
}

enum ReadHashesError {
    Block(DbError),
    Cpu(crate::base::cpu_pool::CpuPoolError),
}

/// Returns the hashes of all traces of a block, reading the column of trace ids only.
async fn hashes_of(db: &TempoDb, cpu: &CpuPool, tenant: &TenantId, meta: &Arc<BlockMeta>) -> Result<Vec<u64>, ReadHashesError> {
    let meter = ReadMeter::default();
    let failed = |error: BlockReadError| ReadHashesError::Block(db.failure(tenant, meta.block_id, error));
    let reader = db.open_apart(tenant, meta, &meter).await.map_err(ReadHashesError::Block)?;
    let mut hashes = Vec::new();
    for group in 0..reader.row_groups() {
        let fetched = reader.fetch_trace_ids(group, &meter).await.map_err(failed)?;
        let hash = move || Ok::<_, BlockReadError>(fetched.decode()?.into_iter().map(hash_of).collect::<Vec<u64>>());
        let of_group = cpu.run("hash_trace_ids", hash).await.map_err(ReadHashesError::Cpu)?;
        hashes.append(&mut of_group.map_err(failed)?);
    }
    Ok(hashes)
}

/// Time between two looks at all tenants.
const INTERVAL: Duration = Duration::from_secs(60);

/// Maintains the filters of the tenants for which `is_ours` until `stop` fires; one tenant at a time, with the bounds of `settings`.
pub async fn run(db: &TempoDb, cpu: &CpuPool, settings: MaintainSettings, is_ours: impl Fn(&TenantId) -> bool, stop: CancellationToken) {
    loop {
        let mut tenants = db.block_list().tenants();
        tenants.retain(|tenant| is_ours(tenant));
        for tenant in tenants {
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = maintain(db, cpu, &tenant, &settings) => outcome,
            };
            match outcome {
                Ok(outcome) if outcome.covered_blocks + outcome.merged_runs > 0 => info!(%tenant, ?outcome, "trace filter maintained"),
                Ok(_) => {}
                Err(error) => {
                    counter!(names::FILTER_ERRORS, "reason" => "maintain").increment(1);
                    warn!(%tenant, error = &error as &dyn std::error::Error, "trace filter could not be maintained");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}
