//! The read side: which blocks may hold a trace.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::FixedState;
use futures::stream::{self, StreamExt as _};
use metrics::{counter, gauge};
use parking_lot::Mutex;
use tracing::{debug, warn};

use super::TraceFilterError;
use super::cache::ShardCache;
use super::manifest::{MANIFEST_NAME, Manifest, RunInfo};
use super::run::RunHeader;
use super::shard::hash_of;
use crate::model::ids::{TenantId, TraceId};
use crate::tempodb::backend::{Backend, ReadCost};
use crate::tempodb::block::meta::{BlockId, BlockMeta, is_preview};
use crate::tempodb::blocklist::TenantBlocks;
use crate::tempodb::{keys, metrics as names};

/// Requests of one lookup that are under way at the same time.
const REQUESTS_AT_ONCE: usize = 32;

/// A manifest is read again after this long. Until then, blocks of newer runs are asked by bloom filter.
const MANIFEST_SECONDS: u64 = 30;

/// Bounds of what is kept in memory.
const SHARD_CACHE_BYTES: usize = 32 << 20;
/// Headers of all tenants' runs. Beyond it tenants are forgotten, those not used for longest first, and read again when they are asked for.
const MAX_HEADER_CACHE_BYTES: usize = 256 << 20;

/// A set of block ids.
pub(super) type BlockSet = HashSet<BlockId, FixedState>;

/// A run whose header was read.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) info: RunInfo,
    name: Arc<str>,
    pub(super) header: Arc<RunHeader>,
}

/// The usable runs of a tenant at one moment.
#[derive(Debug, Default)]
pub(super) struct Filter {
    pub(super) manifest: Manifest,
    pub(super) runs: Vec<Run>,
}

impl Filter {
    /// Returns the blocks that some run covers.
    pub(super) fn covered(&self) -> BlockSet {
        self.runs.iter().flat_map(|run| run.header.blocks.iter().map(|(block, _)| *block)).collect()
    }

    fn memory_bytes(&self) -> usize {
        self.runs.iter().map(|run| run.header.memory_bytes() + size_of::<Run>()).sum()
    }
}

/// A filter beside a block list.
#[derive(Debug)]
struct View {
    blocks: Arc<TenantBlocks>,
    filter: Arc<Filter>,
    covered: BlockSet,
    covered_live: HashMap<BlockId, Arc<BlockMeta>, FixedState>,
    /// In the order of the list.
    uncovered_live: Vec<Arc<BlockMeta>>,
}

impl View {
    /// Linear in the number of blocks: some milliseconds for 100,000, once per change of the list.
    fn new(blocks: Arc<TenantBlocks>, filter: Arc<Filter>) -> Self {
        let covered = filter.covered();
        let (mut covered_live, mut uncovered_live) = (HashMap::default(), Vec::new());
        for meta in blocks.live.iter().filter(|meta| !is_preview(&meta.format)) {
            if covered.contains(&meta.block_id) {
                covered_live.insert(meta.block_id, Arc::clone(meta));
            } else {
                uncovered_live.push(Arc::clone(meta));
            }
        }
        Self { blocks, filter, covered, covered_live, uncovered_live }
    }
}

/// What is known of a tenant's filter.
struct Known {
    filter: Arc<Filter>,
    read_at_seconds: u64,
    view: Option<Arc<View>>,
    used: u64,
}

#[derive(Default)]
struct State {
    tenants: HashMap<TenantId, Known>,
    uses: u64,
    /// When an object that no manifest names was seen first, in seconds.
    unreferenced: HashMap<(TenantId, String), u64>,
}

/// The filters of all tenants, as last read.
pub struct TraceFilters {
    state: Mutex<State>,
    shards: ShardCache,
}

impl Default for TraceFilters {
    fn default() -> Self {
        Self { state: Mutex::default(), shards: ShardCache::new(SHARD_CACHE_BYTES) }
    }
}

/// Where to look for a trace.
#[derive(Debug, Clone)]
pub struct TraceQuery {
    pub id: TraceId,
    /// Seconds.
    pub range: RangeInclusive<i64>,
    pub blocks: RangeInclusive<BlockId>,
    /// Compacted blocks are asked too when they were compacted at or after this, in seconds.
    pub compacted_since: i64,
}

/// A block that may hold the trace.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub meta: Arc<BlockMeta>,
    /// The filter named the block: its bloom filter need not be asked.
    pub is_named_by_filter: bool,
}

/// The blocks to look into.
#[derive(Debug, Clone, Default)]
pub struct Candidates {
    pub blocks: Vec<Candidate>,
    /// What reading the filter cost.
    pub cost: ReadCost,
}

impl TraceFilters {
    /// Returns the blocks of a list that may hold a trace.
    pub async fn candidates(
        &self,
        backend: &Backend,
        tenant: &TenantId,
        blocks: Arc<TenantBlocks>,
        now_seconds: u64,
        query: &TraceQuery,
    ) -> Candidates {
        let (filter, mut cost) = self.filter(backend, tenant, now_seconds).await;
        let view = self.view(tenant, blocks, filter);
        let hits = self.hits(backend, tenant, &view.filter, query).await;
        cost += hits.cost;
        let (from, to) = (*query.range.start(), *query.range.end());
        let is_wanted = |meta: &BlockMeta| {
            let (start, end) = (meta.start_time.as_second(), meta.end_time.as_second());
            query.blocks.contains(&meta.block_id) && end >= from && (start > end || start <= to)
        };
        let mut found = Vec::new();
        let mut add = |meta: &Arc<BlockMeta>, is_named_by_filter: bool| {
            if is_wanted(meta) {
                found.push(Candidate { meta: Arc::clone(meta), is_named_by_filter });
            }
        };
        hits.named.iter().filter_map(|id| view.covered_live.get(id)).for_each(|meta| add(meta, true));
        hits.unknown.iter().filter_map(|id| view.covered_live.get(id)).for_each(|meta| add(meta, false));
        view.uncovered_live.iter().for_each(|meta| add(meta, false));
        for compacted in view.blocks.compacted.compacted_since(query.compacted_since) {
            let id = compacted.meta.block_id;
            let is_named = hits.named.contains(&id);
            if !is_preview(&compacted.meta.format) && (is_named || hits.unknown.contains(&id) || !view.covered.contains(&id)) {
                add(&Arc::new(compacted.meta.clone()), is_named);
            }
        }
        if !view.filter.runs.is_empty() {
            counter!(names::FILTER_LOOKUPS).increment(1);
            counter!(names::FILTER_CANDIDATES).increment(found.iter().filter(|found| found.is_named_by_filter).count() as u64);
            counter!(names::FILTER_READ_BYTES).increment(cost.bytes);
        }
        Candidates { blocks: found, cost }
    }

    /// Returns how many live blocks of a range the filter does not cover; `None` when the tenant has no filter.
    pub async fn uncovered(
        &self,
        backend: &Backend,
        tenant: &TenantId,
        blocks: Arc<TenantBlocks>,
        now_seconds: u64,
        range: &RangeInclusive<i64>,
    ) -> Option<usize> {
        let (filter, _) = self.filter(backend, tenant, now_seconds).await;
        if filter.runs.is_empty() {
            return None;
        }
        let view = self.view(tenant, blocks, filter);
        Some(view.uncovered_live.iter().filter(|meta| meta.end_time.as_second() >= *range.start()).count())
    }

    /// Returns the filter, read at most [`MANIFEST_SECONDS`] ago.
    async fn filter(&self, backend: &Backend, tenant: &TenantId, now_seconds: u64) -> (Arc<Filter>, ReadCost) {
        let known = {
            let mut state = self.state.lock();
            state.uses += 1;
            let uses = state.uses;
            state.tenants.get_mut(tenant).map(|known| {
                known.used = uses;
                (Arc::clone(&known.filter), known.read_at_seconds)
            })
        };
        match known {
            Some((filter, read_at)) if now_seconds.saturating_sub(read_at) < MANIFEST_SECONDS => (filter, ReadCost::default()),
            known => match self.read(backend, tenant, now_seconds).await {
                Ok(read) => read,
                Err(error) => {
                    counter!(names::FILTER_ERRORS, "reason" => "manifest").increment(1);
                    warn!(%tenant, error = &error as &dyn std::error::Error, "trace filter cannot be read, blocks are asked one by one");
                    (known.map(|(filter, _)| filter).unwrap_or_default(), ReadCost::default())
                }
            },
        }
    }

    /// Reads the manifest and the headers of runs that are not known yet.
    pub(super) async fn read(
        &self,
        backend: &Backend,
        tenant: &TenantId,
        now_seconds: u64,
    ) -> Result<(Arc<Filter>, ReadCost), TraceFilterError> {
        let mut cost = ReadCost { requests: 1, bytes: 0 };
        let manifest = match backend.read(&keys::tenant_object(tenant, MANIFEST_NAME)).await {
            Ok(bytes) => {
                cost.bytes += bytes.len() as u64;
                Manifest::from_json(&bytes).unwrap_or_else(|error| {
                    counter!(names::FILTER_ERRORS, "reason" => "manifest").increment(1);
                    warn!(%tenant, error = &error as &dyn std::error::Error, "manifest of a trace filter is corrupt");
                    Manifest::default()
                })
            }
            Err(error) if error.is_not_found() => Manifest::default(),
            Err(error) => return Err(error.into()),
        };
        let previous = self.state.lock().tenants.get(tenant).map(|known| Arc::clone(&known.filter)).unwrap_or_default();
        let known: HashMap<&str, &Run> = previous.runs.iter().map(|run| (&*run.name, run)).collect();
        let mut runs = Vec::with_capacity(manifest.runs.len());
        let mut new = Vec::new();
        for info in &manifest.runs {
            match known.get(info.name.as_str()) {
                Some(run) => runs.push((*run).clone()),
                None => new.push(info.clone()),
            }
        }
        drop(known);
        let mut headers = stream::iter(new)
            .map(|info| async move {
                let header = read_header(backend, tenant, &info).await;
                (info, header)
            })
            .buffer_unordered(REQUESTS_AT_ONCE);
        while let Some((info, header)) = headers.next().await {
            cost += ReadCost { requests: 1, bytes: info.header_bytes };
            match header {
                Ok(header) => runs.push(Run { name: info.name.as_str().into(), info, header: Arc::new(header) }),
                Err(problem) => {
                    counter!(names::FILTER_ERRORS, "reason" => "header").increment(1);
                    warn!(%tenant, run = info.name, problem, "run of a trace filter left out");
                }
            }
        }
        drop(headers);
        Ok((self.keep(tenant, Filter { runs, manifest }, now_seconds), cost))
    }

    fn keep(&self, tenant: &TenantId, filter: Filter, now_seconds: u64) -> Arc<Filter> {
        let mut state = self.state.lock();
        state.uses += 1;
        let used = state.uses;
        let known = match state.tenants.remove(tenant) {
            // The same runs: what was made of them stays good.
            Some(old) if old.filter.manifest == filter.manifest && old.filter.runs.len() == filter.runs.len() => {
                Known { read_at_seconds: now_seconds, used, ..old }
            }
            _ => Known { filter: Arc::new(filter), read_at_seconds: now_seconds, view: None, used },
        };
        let filter = Arc::clone(&known.filter);
        state.tenants.insert(tenant.clone(), known);
        let mut bytes: usize = state.tenants.values().map(|known| known.filter.memory_bytes()).sum();
        while bytes > MAX_HEADER_CACHE_BYTES && state.tenants.len() > 1 {
            let Some(oldest) = state.tenants.iter().min_by_key(|(_, known)| known.used).map(|(tenant, _)| tenant.clone()) else { break };
            bytes -= state.tenants.remove(&oldest).map_or(0, |known| known.filter.memory_bytes());
        }
        gauge!(names::FILTER_HEADER_BYTES).set(bytes as f64);
        filter
    }

    fn forget(&self, tenant: &TenantId) {
        if let Some(known) = self.state.lock().tenants.get_mut(tenant) {
            known.read_at_seconds = 0;
        }
    }

    fn view(&self, tenant: &TenantId, blocks: Arc<TenantBlocks>, filter: Arc<Filter>) -> Arc<View> {
        let is_of = |view: &View| Arc::ptr_eq(&view.blocks, &blocks) && Arc::ptr_eq(&view.filter, &filter);
        let known = self.state.lock().tenants.get(tenant).and_then(|known| known.view.clone());
        if let Some(view) = known.filter(|view| is_of(view)) {
            return view;
        }
        let view = Arc::new(View::new(blocks, filter));
        if let Some(known) = self.state.lock().tenants.get_mut(tenant).filter(|known| Arc::ptr_eq(&known.filter, &view.filter)) {
            known.view = Some(Arc::clone(&view));
        }
        view
    }

    async fn hits(&self, backend: &Backend, tenant: &TenantId, filter: &Filter, query: &TraceQuery) -> Hits {
        let hash = hash_of(query.id);
        let overlaps = |run: &&Run| run.info.overlaps(*query.range.start(), *query.range.end());
        let runs: Vec<Run> = filter.runs.iter().filter(overlaps).cloned().collect();
        let mut asked = stream::iter(runs)
            .map(|run| async move {
                let asked = self.ask(backend, tenant, &run, hash).await;
                (run, asked)
            })
            .buffer_unordered(REQUESTS_AT_ONCE);
        let mut hits = Hits::default();
        while let Some((run, asked)) = asked.next().await {
            match asked {
                Ok((named, cost)) => {
                    hits.named.extend(named);
                    hits.cost += cost;
                }
                Err(problem) => {
                    counter!(names::FILTER_ERRORS, "reason" => "shard").increment(1);
                    warn!(%tenant, run = &*run.name, problem, "shard of a trace filter cannot be read, its blocks are asked one by one");
                    hits.unknown.extend(run.header.blocks.iter().map(|(block, _)| *block));
                    // Perhaps it was merged away and a newer manifest tells by what.
                    self.forget(tenant);
                }
            }
        }
        // Another run may have named a block that the broken one holds too.
        hits.unknown.retain(|block| !hits.named.contains(block));
        debug!(%tenant, trace = %query.id, named = hits.named.len(), unknown = hits.unknown.len(), "trace filter asked");
        hits
    }

    /// Returns the blocks of a run that have the hash.
    async fn ask(&self, backend: &Backend, tenant: &TenantId, run: &Run, hash: u64) -> Result<(Vec<BlockId>, ReadCost), String> {
        let shard = run.header.widths.shard_of(hash);
        let place = run.header.shards.get(shard).ok_or("no such shard")?;
        if place.entries == 0 {
            return Ok((Vec::new(), ReadCost::default()));
        }
        let key = (Arc::clone(&run.name), shard);
        if let Some(bytes) = self.shards.get(&key) {
            return Ok((run.header.find(hash, &bytes).map_err(|error| error.to_string())?, ReadCost::default()));
        }
        let object = keys::tenant_object(tenant, &run.name);
        let (buffers, cost) = backend.read_ranges(&object, &[place.range()]).await.map_err(|error| error.to_string())?;
        let bytes: Bytes = buffers.into_iter().next().unwrap_or_default();
        let found = run.header.find(hash, &bytes).map_err(|error| error.to_string())?;
        self.shards.put(key, bytes);
        Ok((found, cost))
    }

    /// Returns those of `listed` objects that no manifest has named for `grace_seconds`, as far as this process saw.
    pub(super) fn unreferenced(
        &self,
        tenant: &TenantId,
        listed: impl Iterator<Item = String>,
        manifest: &Manifest,
        now_seconds: u64,
        grace_seconds: u64,
    ) -> Vec<String> {
        let named: HashSet<&str> = manifest.runs.iter().map(|run| run.name.as_str()).collect();
        let unnamed: HashSet<String> = listed.filter(|name| name != MANIFEST_NAME && !named.contains(name.as_str())).collect();
        let mut state = self.state.lock();
        state.unreferenced.retain(|(of, name), _| of != tenant || unnamed.contains(name));
        let is_old = |name: &String| {
            let since = state.unreferenced.entry((tenant.clone(), name.clone())).or_insert(now_seconds);
            now_seconds.saturating_sub(*since) >= grace_seconds
        };
        unnamed.into_iter().filter(is_old).collect()
    }
}

#[derive(Default)]
struct Hits {
    named: BlockSet,
    /// Blocks of runs that could not be asked.
    unknown: BlockSet,
    cost: ReadCost,
}

async fn read_header(backend: &Backend, tenant: &TenantId, info: &RunInfo) -> Result<RunHeader, String> {
    let range = info.size_bytes.saturating_sub(info.header_bytes)..info.size_bytes;
    let start = range.start;
    let object = keys::tenant_object(tenant, &info.name);
    let (buffers, _) = backend.read_ranges(&object, &[range]).await.map_err(|error| error.to_string())?;
    let header = RunHeader::decode(&buffers.into_iter().next().unwrap_or_default()).map_err(|error| error.to_string())?;
    match header.shards.last() {
        Some(last) if last.range().end == start => Ok(header),
        _ => Err("its shards do not end at the header".to_owned()),
    }
}
