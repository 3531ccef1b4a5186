//! The object store that commands work on, and what they all ask of it.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use futures::stream::{self, StreamExt as _};
use jiff::{SignedDuration, Timestamp};

use super::progress::Progress;
use crate::app::config;
use crate::base::clock::{Clock as _, SharedClock, SystemClock};
use crate::base::cpu_pool::CpuPool;
use crate::base::secret::Secret;
use crate::model::ids::{TenantId, TraceId};
use crate::tempodb::backend::Backend;
use crate::tempodb::block::meta::{BlockId, BlockMeta, COMPACTED_META_NAME, META_NAME};
use crate::tempodb::block::read::{BlockReader, ReadMeter, ReadOptions};
use crate::tempodb::blocklist::BlockList;
use crate::tempodb::config::TraceStorageConfig;
use crate::tempodb::db::{DbSettings, TempoDb};
use crate::tempodb::keys;

/// Objects read at once.
pub(super) const CONCURRENCY: usize = 32;

/// Where the blocks are.
#[derive(Debug, Args)]
pub(super) struct BackendOptions {
    /// Configuration file of the running system; its `storage.trace` is used.
    #[arg(long, short = 'c', global = true)]
    config_file: Option<PathBuf>,
    /// Kind of store, if not that of the file: local, s3, gcs, azure.
    #[arg(long, global = true)]
    backend: Option<String>,
    /// Bucket, container, or path of a local store.
    #[arg(long, global = true)]
    bucket: Option<String>,
    /// Prefix of all keys.
    #[arg(long, global = true)]
    prefix: Option<String>,
    /// `host:port` of the S3 service.
    #[arg(long, global = true)]
    s3_endpoint: Option<String>,
    /// Access key.
    #[arg(long, global = true)]
    s3_user: Option<String>,
    /// Secret key. Shown in the list of processes: better set AWS_SECRET_ACCESS_KEY.
    #[arg(long, global = true)]
    s3_pass: Option<String>,
    /// Plain HTTP instead of HTTPS.
    #[arg(long, global = true)]
    insecure: bool,
    /// Accept any certificate of the store.
    #[arg(long, global = true)]
    insecure_skip_verify: bool,
}

impl BackendOptions {
    /// The configuration of the file, or the default one, with the options on top.
    fn config(&self) -> anyhow::Result<TraceStorageConfig> {
        let mut storage = match &self.config_file {
            Some(path) => load_config(path)?,
            None => TraceStorageConfig::default(),
        };
        let set = |value: &Option<String>, target: &mut String| value.iter().for_each(|value| target.clone_from(value));
        set(&self.backend, &mut storage.backend);
        anyhow::ensure!(!storage.backend.is_empty(), "no store is named: use --config-file, or --backend with --bucket");
        match storage.backend.as_str() {
            "local" => set(&self.bucket, &mut storage.local.path),
            "gcs" => {
                set(&self.bucket, &mut storage.gcs.bucket_name);
                set(&self.prefix, &mut storage.gcs.prefix);
                storage.gcs.insecure |= self.insecure;
            }
            "azure" => {
                set(&self.bucket, &mut storage.azure.container_name);
                set(&self.prefix, &mut storage.azure.prefix);
            }
            _ => {
                set(&self.bucket, &mut storage.s3.bucket);
                set(&self.prefix, &mut storage.s3.prefix);
                set(&self.s3_endpoint, &mut storage.s3.endpoint);
                set(&self.s3_user, &mut storage.s3.access_key);
                if let Some(secret) = &self.s3_pass {
                    storage.s3.secret_key = Secret::new(secret.clone());
                }
                storage.s3.insecure |= self.insecure;
                storage.s3.tls_insecure_skip_verify |= self.insecure_skip_verify;
            }
        }
        Ok(storage)
    }
}

fn load_config(path: &std::path::Path) -> anyhow::Result<TraceStorageConfig> {
    let loaded = config::load(&[format!("-config.file={}", path.display())]);
    let loaded = loaded.map_err(|problems| {
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!(texts.join("\n"))
    })?;
    Ok(loaded.config.storage.trace)
}

/// An open store.
pub(super) struct Storage {
    pub(super) config: TraceStorageConfig,
    pub(super) backend: Backend,
    pub(super) cpu: CpuPool,
    pub(super) clock: SharedClock,
}

/// A block, live or compacted.
#[derive(Debug, Clone)]
pub(super) struct ListedBlock {
    pub(super) meta: Arc<BlockMeta>,
    /// Since when it is compacted.
    pub(super) compacted_at: Option<Timestamp>,
}

impl Storage {
    pub(super) fn open(options: &BackendOptions) -> anyhow::Result<Self> {
        Self::of_config(options.config()?)
    }

    /// Opens the store of another configuration file.
    pub(super) fn of_file(path: &std::path::Path) -> anyhow::Result<Self> {
        Self::of_config(load_config(path)?)
    }

    fn of_config(config: TraceStorageConfig) -> anyhow::Result<Self> {
        let backend = Backend::from_config(&config).context("cannot open the store")?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self { config, backend, cpu: CpuPool::new("cli", threads)?, clock: Arc::new(SystemClock) })
    }

    pub(super) fn now(&self) -> Timestamp {
        Timestamp::from_nanosecond(i128::from(self.clock.now_unix_nanos())).unwrap_or(Timestamp::MAX)
    }

    /// Lists the blocks of a tenant, latest end first. Metas that cannot be read are told on standard error and left out.
    pub(super) async fn blocks(&self, tenant: &TenantId, include_compacted: bool) -> anyhow::Result<Vec<ListedBlock>> {
        let ids = self.backend.block_ids(tenant).await?;
        let compacted = ids.compacted.into_iter().filter(|_| include_compacted).map(|(id, at)| (id, Some(at)));
        let wanted: Vec<_> = ids.live.into_iter().map(|id| (id, None)).chain(compacted).collect();
        let progress = Progress::new("block metas", wanted.len());
        let read = stream::iter(wanted).map(|(id, compacted_at)| {
            let progress = &progress;
            async move {
                let meta = self.read_meta(tenant, id, compacted_at.is_some()).await;
                progress.step();
                (id, meta.map(|meta| ListedBlock { meta: Arc::new(meta), compacted_at }))
            }
        });
        let mut read = read.buffer_unordered(CONCURRENCY);
        let mut blocks = Vec::new();
        while let Some((id, block)) = read.next().await {
            match block {
                Ok(block) => blocks.push(block),
                Err(problem) => crate::app::complain(&format!("block {id} is left out: {problem:#}")),
            }
        }
        drop(read);
        blocks.sort_by(|a, b| b.meta.end_time.cmp(&a.meta.end_time).then(a.meta.block_id.cmp(&b.meta.block_id)));
        Ok(blocks)
    }

    async fn read_meta(&self, tenant: &TenantId, id: BlockId, is_compacted: bool) -> anyhow::Result<BlockMeta> {
        let name = if is_compacted { COMPACTED_META_NAME } else { META_NAME };
        Ok(BlockMeta::from_json(&self.backend.read(&keys::block_object(tenant, id, name)).await?)?)
    }

    /// Finds a block, live or compacted.
    pub(super) async fn block(&self, tenant: &TenantId, id: BlockId) -> anyhow::Result<ListedBlock> {
        match self.read_meta(tenant, id, false).await {
            Ok(meta) => Ok(ListedBlock { meta: Arc::new(meta), compacted_at: None }),
            Err(live) => {
                let Ok(info) = self.backend.head(&keys::block_object(tenant, id, COMPACTED_META_NAME)).await else {
                    return Err(live.context(format!("tenant {tenant} has no block {id}")));
                };
                let meta = self.read_meta(tenant, id, true).await?;
                Ok(ListedBlock { meta: Arc::new(meta), compacted_at: Some(info.last_modified) })
            }
        }
    }

    pub(super) async fn reader(&self, tenant: &TenantId, meta: &Arc<BlockMeta>) -> anyhow::Result<BlockReader> {
        let opened = BlockReader::open(&self.backend, tenant, Arc::clone(meta), ReadOptions::default(), &ReadMeter::default()).await;
        opened.with_context(|| format!("cannot open block {}", meta.block_id))
    }

    /// The engine over the given blocks.
    pub(super) fn db(&self, tenant: &TenantId, blocks: &[ListedBlock]) -> Arc<TempoDb> {
        let list = BlockList::default();
        for block in blocks.iter().filter(|block| block.compacted_at.is_none()) {
            list.add(tenant, Arc::clone(&block.meta));
        }
        Arc::new(TempoDb::new(self.backend.clone(), Arc::new(list), DbSettings::default(), Arc::clone(&self.clock)))
    }
}

/// A block named on the command line.
#[derive(Debug, Args)]
pub(super) struct BlockArguments {
    #[arg(value_parser = parse_tenant)]
    pub(super) tenant_id: TenantId,
    #[arg(value_parser = parse_block)]
    pub(super) block_id: BlockId,
}

pub(super) fn parse_tenant(text: &str) -> Result<TenantId, String> {
    TenantId::parse(text).map_err(|error| error.to_string())
}

pub(super) fn parse_block(text: &str) -> Result<BlockId, String> {
    BlockId::parse(text).ok_or_else(|| format!("{text} is not a block id"))
}

pub(super) fn parse_trace_id(text: &str) -> Result<TraceId, String> {
    TraceId::from_hex(text).ok_or_else(|| format!("{text} is not a trace id: up to 32 hexadecimal digits"))
}

/// Reads a time: RFC 3339, seconds since the epoch, `now`, or `now-1h`.
pub(super) fn parse_time(text: &str) -> Result<Timestamp, String> {
    let unknown = || format!("{text} is not a time: use RFC 3339, seconds since 1970, now, or now-1h");
    if let Some(ago) = text.strip_prefix("now") {
        let ago = match ago.strip_prefix('-') {
            Some(ago) => crate::base::duration::GoDuration::parse(ago).map_err(|error| error.to_string())?.to_std(),
            None if ago.is_empty() => std::time::Duration::ZERO,
            None => return Err(unknown()),
        };
        let ago = SignedDuration::try_from(ago).map_err(|_| unknown())?;
        let now = i128::from(SystemClock.now_unix_nanos());
        return Timestamp::from_nanosecond(now - ago.as_nanos()).map_err(|_| unknown());
    }
    match text.parse::<i64>() {
        Ok(seconds) => Timestamp::from_second(seconds).map_err(|_| unknown()),
        Err(_) => text.parse().map_err(|_| unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_three_forms() {
        let second = |text: &str| parse_time(text).unwrap().as_second();
        assert_eq!((second("1795308858"), second("2026-11-22T01:34:18Z")), (1_795_308_858, 1_795_311_258));
        assert_eq!(second("now") - second("now-1h"), 3600);
        assert!(["", "nowish", "now-1x", "yesterday"].into_iter().all(|text| parse_time(text).is_err()));
    }
}
