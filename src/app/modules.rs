//! Every module, what it needs, how it is built: all roles and arrows on one screen.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use axum::Router;
use futures::future::BoxFuture;
use jiff::SignedDuration;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use tracing::warn;

use super::config::Loaded;
use super::graph::Node;
use super::lifecycle::{Idle, Service};
use super::limits::{IngestionLimitsOf, query_limits, scheduler_rules, worker_limits};
use super::ops::ReadyCheck;
use crate::base::clock::SharedClock;
use crate::base::cpu_pool::CpuPool;
use crate::base::hostname::hostname;
use crate::model::ids::TenantId;
use crate::modules::backend_scheduler::{self, BackendScheduler};
use crate::modules::backend_worker::storage::{Storage, WriteSettings};
use crate::modules::backend_worker::{self, BackendWorker};
use crate::modules::distributor::options::DistributorOptions;
use crate::modules::distributor::{BoundDistributor, Distributor};
use crate::modules::live_store::config::LiveStoreConfig;
use crate::modules::live_store::{self, LeftBehind, LiveStore, NewBlockSettings};
use crate::modules::querier::{self, Querier};
use crate::modules::query_frontend::tenancy::Tenancy;
use crate::modules::query_frontend::{self, QueryFrontend};
use crate::services::cache::CacheProvider;
use crate::services::cache::config::claims;
use crate::services::ingest_log::embedded::{EmbeddedLog, EmbeddedLogOptions};
use crate::services::ingest_log::{IngestLog, SharedIngestLog};
use crate::services::overrides::Overrides;
use crate::services::rpc::backend_scheduler::BackendSchedulerPort;
use crate::services::rpc::backend_scheduler::grpc::{RemoteScheduler, SchedulerService};
use crate::services::rpc::querier::QuerierPort;
use crate::services::rpc::span_reader::SpanReaderPort;
use crate::tempodb::backend::Backend;
use crate::tempodb::block::bloom::BloomParams;
use crate::tempodb::block::dedicated::{DedicatedColumn, DedicatedKind, DedicatedScope};
use crate::tempodb::block::meta::BlockVersion;
use crate::tempodb::blocklist::BlockList;
use crate::tempodb::cache::{BlockCacheSettings, Caches};
use crate::tempodb::compaction::Compactor;
use crate::tempodb::config::{DedicatedColumnConfig, TraceStorageConfig};
use crate::tempodb::db::{DbSettings, TempoDb};
use crate::tempodb::poller::{OwnsAll, Poller, PollerSettings};
use crate::tempodb::retention::RetentionSettings;
use crate::tempodb::trace_filter::{self, maintain::MaintainSettings};

/// A row of the table: what the graph needs to know, and how the module is built once everything it needs is.
pub(super) struct Module {
    pub(super) node: Node,
    /// Modules whose work this one uses when they run in the same process.
    pub(super) uses: &'static [&'static str],
    pub(super) build: Build,
}

type Build = for<'a> fn(&'a mut Context) -> BoxFuture<'a, anyhow::Result<Box<dyn Service>>>;

const fn module(name: &'static str, needs: &'static [&'static str], uses: &'static [&'static str], build: Build) -> Module {
    Module { node: Node { name, needs }, uses, build }
}

pub(super) const MODULES: &[Module] = &[
    module("server", &[], &[], |_| Box::pin(nothing())),
    module("overrides", &["server"], &[], |context| Box::pin(build_overrides(context))),
    module("ingest-log", &["server"], &[], |context| Box::pin(build_ingest_log(context))),
    module("cache-provider", &["server"], &[], |context| Box::pin(build_caches(context))),
    module("store", &["cache-provider"], &[], |context| Box::pin(build_store(context))),
    module("live-store", &["overrides", "ingest-log", "store"], &[], |context| Box::pin(build_live_store(context))),
    module("distributor", &["overrides", "ingest-log"], &[], |context| Box::pin(build_distributor(context))),
    module("querier", &["overrides", "store"], &["live-store"], |context| Box::pin(build_querier(context))),
    module("query-frontend", &["overrides", "store", "querier"], &[], |context| Box::pin(build_query_frontend(context))),
    module("backend-scheduler", &["overrides", "store"], &[], |context| Box::pin(build_backend_scheduler(context))),
    module("backend-worker", &["overrides", "store"], &["backend-scheduler"], |context| Box::pin(build_backend_worker(context))),
    module("all", &["live-store", "distributor", "querier", "query-frontend", "backend-scheduler", "backend-worker"], &[], |_| {
        Box::pin(nothing())
    }),
];

/// Targets that are known but not built, so that they get a better answer than "unrecognised".
pub(super) fn is_built(target: &str) -> bool {
    MODULES.iter().any(|module| module.node.name == target)
}

/// What modules are built from, and what they leave for others.
pub(super) struct Context {
    pub(super) loaded: Loaded,
    pub(super) clock: SharedClock,
    pub(super) cpu: CpuPool,
    /// Routes of the HTTP server, and their paths.
    pub(super) http: Router,
    pub(super) endpoints: Vec<String>,
    /// Services of the gRPC server.
    pub(super) grpc: RoutesBuilder,
    pub(super) ready_checks: Vec<ReadyCheck>,
    pub(super) overrides: Option<Arc<Overrides>>,
    log: Option<SharedIngestLog>,
    caches: Option<Caches>,
    db: Option<Arc<TempoDb>>,
    recent_spans: Vec<SpanReaderPort>,
    querier: Option<QuerierPort>,
    scheduler: Option<BackendSchedulerPort>,
}

impl Context {
    pub(super) fn new(loaded: Loaded, clock: SharedClock, cpu: CpuPool) -> Self {
        Self {
            loaded,
            clock,
            cpu,
            http: Router::new(),
            endpoints: Vec::new(),
            grpc: RoutesBuilder::default(),
            ready_checks: Vec::new(),
            overrides: None,
            log: None,
            caches: None,
            db: None,
            recent_spans: Vec::new(),
            querier: None,
            scheduler: None,
        }
    }

    fn add_routes(&mut self, routes: Router, paths: impl IntoIterator<Item = String>) {
        self.http = std::mem::take(&mut self.http).merge(routes);
        self.endpoints.extend(paths);
    }
}

/// The graph guarantees that what a module needs is built before it.
fn built<T: Clone>(slot: &Option<T>) -> anyhow::Result<T> {
    slot.clone().context("a module is built before one that it needs")
}

async fn nothing() -> anyhow::Result<Box<dyn Service>> {
    Ok(Box::new(Idle))
}

async fn build_overrides(context: &mut Context) -> anyhow::Result<Box<dyn Service>> {
    let overrides =
        Overrides::load(&context.loaded.config.overrides, context.loaded.expand_env).context("failed to load runtime config")?;
    let overrides = Arc::new(overrides);
    context.overrides = Some(Arc::clone(&overrides));
    Ok(Box::new(OverridesService(overrides)))
}

struct OverridesService(Arc<Overrides>);

#[async_trait]
impl Service for OverridesService {
    async fn run(self: Box<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        self.0.run(stop).await;
        Ok(())
    }
}

async fn build_ingest_log(context: &mut Context) -> anyhow::Result<Box<dyn Service>> {
    let ingest = &context.loaded.config.ingest;
    anyhow::ensure!(
        ingest.kafka.topic.is_empty(),
        "ingest.kafka.topic: Kafka is not supported yet; leave the topic empty to use the embedded log"
    );
    let embedded = &ingest.embedded;
    let options = EmbeddedLogOptions {
        path: embedded.path.clone().into(),
        partitions: embedded.partitions,
        segment_bytes: embedded.segment_bytes,
        max_bytes: embedded.max_bytes,
        sync_interval: embedded.sync_interval.to_std(),
        ..EmbeddedLogOptions::default()
    };
    let log = Arc::new(EmbeddedLog::open(options).context("ingest.embedded")?);
    context.log = Some(Arc::clone(&log) as SharedIngestLog);
    Ok(Box::new(IngestLogService(log)))
}

struct IngestLogService(Arc<EmbeddedLog>);

#[async_trait]
impl Service for IngestLogService {
    async fn run(self: Box<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        self.0.run(stop).await; // retention by age and lag metrics
        Ok(self.0.close().await?)
    }
}

async fn build_caches(context: &mut Context) -> anyhow::Result<Box<dyn Service>> {
    let config = &context.loaded.config;
    let claims = claims(&config.cache, &config.storage.trace).map_err(|problems| anyhow::anyhow!(problems.join("; ")))?;
    let provider = CacheProvider::new(&claims, &config.cache.in_process, &context.clock)?;
    context.caches = Some(provider.caches().clone());
    Ok(Box::new(CacheService(provider)))
}

struct CacheService(CacheProvider);

#[async_trait]
impl Service for CacheService {
    async fn run(self: Box<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        self.0.run(stop).await;
        Ok(())
    }
}

/// Returns what of the blocks is cached where.
fn db_settings(context: &Context) -> anyhow::Result<DbSettings> {
    let config = &context.loaded.config.storage.trace;
    let cached = BlockCacheSettings {
        max_page_bytes: config.search.read_buffer_size_bytes,
        bloom_max_level: u32::from(config.cache_min_compaction_level),
        bloom_max_age: config.cache_max_block_age.positive(),
    };
    Ok(DbSettings { caches: built(&context.caches)?, cached, ..DbSettings::default() })
}

async fn build_store(context: &mut Context) -> anyhow::Result<Box<dyn Service>> {
    let config = &context.loaded.config.storage.trace;
    let backend = Backend::from_config(config)?;
    let list = Arc::new(BlockList::default());
    let (settings, clock) = (PollerSettings::from(config), Arc::clone(&context.clock));
    // Only workers build tenant indexes. Without a ring each builds all of them.
    let owns_indexes = context.loaded.targets.has("backend-worker");
    // The list of another process may be one poll old, and lack what was compacted during the poll.
    let compacted_grace = SignedDuration::try_from(settings.interval.saturating_mul(2)).unwrap_or(SignedDuration::MAX);
    let ownership = Arc::new(OwnsAll(owns_indexes));
    let poller = Poller::new(backend.clone(), settings, ownership, Arc::clone(&clock), Arc::clone(&list), context.cpu.clone());
    let db = Arc::new(TempoDb::new(backend, list, DbSettings { compacted_grace, ..db_settings(context)? }, clock));
    context.db = Some(Arc::clone(&db));
    Ok(Box::new(StoreService { poller, db, cpu: context.cpu.clone() }))
}

/// Keeps the block list and what is derived from it.
struct StoreService {
    poller: Poller,
    db: Arc<TempoDb>,
    cpu: CpuPool,
}

#[async_trait]
impl Service for StoreService {
    async fn start(&mut self) -> anyhow::Result<()> {
        self.db.backend().check().await?;
        self.poller.poll().await.context("first poll of the block list")
    }

    async fn run(self: Box<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        // Who builds the index of a tenant also keeps its trace filter.
        let is_ours = |tenant: &TenantId| self.poller.builds_index(tenant);
        let filters = trace_filter::maintain::run(&self.db, &self.cpu, MaintainSettings::default(), is_ours, stop.clone());
        tokio::join!(self.poller.run(stop), filters);
        Ok(())
    }
}

async fn build_live_store(context: &mut Context) -> anyhow::Result<Box<dyn Service>> {
    let dependencies = live_store::Dependencies {
        log: built(&context.log)?,
        db: built(&context.db)?,
        new_blocks: new_block_settings(context)?,
        cpu: context.cpu.clone(),
        clock: Arc::clone(&context.clock),
        left_behind: left_behind(&context.loaded.config.live_store, &context.loaded.config.storage.trace),
    };
    let store = LiveStore::new(context.loaded.config.live_store.clone(), dependencies);
    context.add_routes(live_store::http::router(Arc::clone(&store)), live_store::http::PATHS.map(str::to_owned));
    let checked = Arc::clone(&store);
    context.ready_checks.push(Box::new(move || (!checked.is_ready()).then(|| "LiveStore not ready: live-store is starting".to_owned())));
    context.recent_spans.push(Arc::clone(&store) as SpanReaderPort);
    Ok(Box::new(LiveStoreService { store, running: None }))
}

/// Where the compatible system may have left spans: a 3.x live-store, a 2.x ingester.
fn left_behind(live_store: &LiveStoreConfig, storage: &TraceStorageConfig) -> LeftBehind {
    let mut wal_paths = vec![PathBuf::from(&live_store.wal.path), PathBuf::from(&storage.wal.path)];
    wal_paths.dedup();
    LeftBehind { wal_paths, backend_path: (storage.backend == "local").then(|| PathBuf::from(&storage.local.path)) }
}

fn new_block_settings(context: &Context) -> anyhow::Result<NewBlockSettings> {
    Ok(NewBlockSettings {
        version: BlockVersion::for_writing(&context.loaded.config.storage.trace.block.version)?,
        bloom: bloom_params(context)?,
        dedicated_columns: Box::new(dedicated_columns(context)?),
    })
}

fn bloom_params(context: &Context) -> anyhow::Result<BloomParams> {
    let block = &context.loaded.config.storage.trace.block;
    Ok(BloomParams {
        false_positive_rate: block.bloom_filter_false_positive,
        shard_size_bytes: usize::try_from(block.bloom_filter_shard_size_bytes)?,
    })
}

/// Returns the columns that a tenant's blocks are written with.
fn dedicated_columns(context: &Context) -> anyhow::Result<impl Fn(&TenantId) -> Vec<DedicatedColumn> + Send + Sync + 'static> {
    let overrides = built(&context.overrides)?;
    let default_columns = columns_of(&context.loaded.config.storage.trace.block.parquet_dedicated_columns)?;
    Ok(move |tenant: &TenantId| {
        let own = &overrides.for_tenant(tenant).storage.parquet_dedicated_columns;
        if own.is_empty() {
            return default_columns.clone();
        }
        columns_of(own).unwrap_or_else(|problem| {
            warn!(%tenant, err = %problem, "dedicated columns of the tenant are invalid, taking the defaults");
            default_columns.clone()
        })
    })
}

/// Turns configured columns into those of the block format.
pub(super) fn columns_of(configured: &[DedicatedColumnConfig]) -> anyhow::Result<Vec<DedicatedColumn>> {
    let column = |config: &DedicatedColumnConfig| {
        let scope =
            DedicatedScope::parse(&config.scope).with_context(|| format!("unsupported dedicated column scope '{}'", config.scope))?;
        let kind =
            DedicatedKind::parse(&config.r#type).with_context(|| format!("unsupported dedicated column type '{}'", config.r#type))?;
        let column = DedicatedColumn::new(scope, &config.name, kind);
        Ok(config.options.iter().fold(column, |column, option| column.with_option(option)))
    };
    configured.iter().map(column).collect()
}

struct LiveStoreService {
    store: Arc<LiveStore>,
    running: Option<live_store::Running>,
}

#[async_trait]
impl Service for LiveStoreService {
    async fn start(&mut self) -> anyhow::Result<()> {
        self.running = Some(self.store.start().await?);
        Ok(())
    }

    async fn run(self: Box<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let running = self.running.context("the live-store was not started")?;
        Ok(running.run(stop).await?)
    }
}

async fn build_distributor(context: &mut Context) -> anyhow::Result<Box<dyn Service>> {
    let config = &context.loaded.config;
    let (options, warnings) = DistributorOptions::from_config(&config.distributor, &config.ingest.kafka, config.is_multitenant())
        .map_err(|problems| anyhow::anyhow!(problems.join("; ")))?;
    warnings.into_iter().for_each(|warning| warn!("{warning}"));
    let limits = Arc::new(IngestionLimitsOf(built(&context.overrides)?));
    let distributor = Distributor::new(options, limits, built(&context.log)?, Arc::clone(&context.clock), context.cpu.clone());
    Ok(Box::new(DistributorService(distributor.bind().await?)))
}

struct DistributorService(BoundDistributor);

#[async_trait]
impl Service for DistributorService {
    async fn run(self: Box<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        Ok(self.0.serve(stop).await?)
    }
}

async fn build_querier(context: &mut Context) -> anyhow::Result<Box<dyn Service>> {
    let parts = querier::Parts {
        config: context.loaded.config.querier.clone(),
        span_readers: context.recent_spans.clone(),
        db: built(&context.db)?,
        cpu: context.cpu.clone(),
    };
    context.querier = Some(Arc::new(Querier::new(parts)));
    nothing().await
}

async fn build_query_frontend(context: &mut Context) -> anyhow::Result<Box<dyn Service>> {
    let config = &context.loaded.config;
    let frontend = &config.query_frontend;
    let parts = query_frontend::Parts {
        config: frontend.clone(),
        tenancy: Tenancy {
            multitenancy_enabled: config.is_multitenant(),
            multi_tenant_queries_enabled: frontend.multi_tenant_queries_enabled,
        },
        search_end_cutoff: frontend.is_query_end_cutoff_set.then(|| frontend.query_end_cutoff.to_std()),
        querier: built(&context.querier)?,
        caches: built(&context.caches)?,
        blocks: built(&context.db)?,
        limits: query_limits(built(&context.overrides)?),
        clock: Arc::clone(&context.clock),
        cpu: context.cpu.clone(),
    };
    let prefix = config.http_api_prefix.clone();
    let routes = query_frontend::router(Arc::new(QueryFrontend::new(parts)?), &prefix);
    context.add_routes(routes, query_frontend::PATHS.map(|path| format!("{}{path}", prefix.trim_end_matches('/'))));
    nothing().await
}

async fn build_backend_scheduler(context: &mut Context) -> anyhow::Result<Box<dyn Service>> {
    let parts = backend_scheduler::Parts {
        config: context.loaded.config.backend_scheduler.clone(),
        db: built(&context.db)?,
        rules: scheduler_rules(built(&context.overrides)?, dedicated_columns(context)?),
        block_version: block_version(context)?,
        clock: Arc::clone(&context.clock),
        cpu: context.cpu.clone(),
    };
    let scheduler = BackendScheduler::open(parts)?;
    let port = Arc::clone(&scheduler) as BackendSchedulerPort;
    context.grpc.add_service(SchedulerService::server(Arc::clone(&port), context.loaded.config.is_multitenant()));
    context.scheduler = Some(port);
    context.add_routes(backend_scheduler::status::router(Arc::clone(&scheduler)), backend_scheduler::status::PATHS.map(str::to_owned));
    Ok(Box::new(BackendSchedulerService(scheduler)))
}

fn block_version(context: &Context) -> anyhow::Result<BlockVersion> {
    Ok(context.loaded.config.storage.trace.block.version.parse()?)
}

struct BackendSchedulerService(Arc<BackendScheduler>);

#[async_trait]
impl Service for BackendSchedulerService {
    async fn start(&mut self) -> anyhow::Result<()> {
        self.0.start().await;
        Ok(())
    }

    async fn run(self: Box<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        self.0.run(stop).await;
        Ok(())
    }
}

async fn build_backend_worker(context: &mut Context) -> anyhow::Result<Box<dyn Service>> {
    let config = &context.loaded.config;
    let worker = config.backend_worker.clone();
    let scheduler = match &context.scheduler {
        Some(scheduler) => Arc::clone(scheduler),
        None => {
            let client = &config.backend_scheduler_client.grpc_client_config;
            Arc::new(RemoteScheduler::new(&worker.backend_scheduler_addr, client)?) as BackendSchedulerPort
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // Where queries run, too, they must not starve.
    let default_jobs = if context.loaded.targets.is_all() { 1 } else { cores };
    let (slots, memory_bytes) = backend_worker::slots(&worker, default_jobs, cores);
    let (db, cpu, clock) = (built(&context.db)?, context.cpu.clone(), Arc::clone(&context.clock));
    let write =
        WriteSettings { version: block_version(context)?, bloom: bloom_params(context)?, memory_bytes: usize::try_from(memory_bytes)? };
    let engine = Arc::new(Storage {
        compactor: Compactor::new(Arc::clone(&db), cpu.clone(), Arc::clone(&clock)),
        cpu,
        db,
        limits: worker_limits(built(&context.overrides)?, dedicated_columns(context)?),
        write,
        retention: RetentionSettings::from(&worker.compaction),
        retention_concurrency: worker.compaction.retention_concurrency,
        clock,
    });
    let worker = BackendWorker::new(backend_worker::Parts { config: worker, name: hostname(), scheduler, engine });
    Ok(Box::new(BackendWorkerService { worker: Arc::new(worker), slots }))
}

struct BackendWorkerService {
    worker: Arc<BackendWorker>,
    slots: usize,
}

#[async_trait]
impl Service for BackendWorkerService {
    async fn run(self: Box<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        self.worker.run(self.slots, stop).await;
        Ok(())
    }
}
