//! Caches: in this process, memcached, Redis. Which roles each has is configuration; what the roles are is `tempodb::cache`'s matter.
//!
//! Invariants
//! * A cache never fails a request: a server that is dead or slow is a miss, within its time limit, and is left alone after repeated failures.
//! * Writes happen in the background, from bounded queues; what does not fit is dropped and counted.
//! * Memory: the in-process cache within its bytes, and each queue within its own.

pub mod config;
mod circuit;
mod in_process;
mod memcached;
pub mod metrics;
mod redis;
mod remote;

use std::collections::HashMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use self::config::{CacheClaims, CacheClient, InProcessCacheConfig};
use self::in_process::InProcessCache;
use self::memcached::{Memcached, MemcachedError};
use self::redis::{Redis, RedisBuildError};
use self::remote::{Remote, RemoteCache, Writers};
use crate::base::clock::SharedClock;
use crate::tempodb::cache::{CacheRole, Caches, SharedCache};

/// Why caches cannot be built.
#[derive(Debug, thiserror::Error)]
#[error("cache {name}")]
pub struct BuildError {
    name: String,
    #[source]
    cause: ClientError,
}

#[derive(Debug, thiserror::Error)]
enum ClientError {
    #[error(transparent)]
    Memcached(#[from] MemcachedError),
    #[error(transparent)]
    Redis(#[from] RedisBuildError),
}

/// The caches of this process, and what works for them in the background.
pub struct CacheProvider {
    caches: Caches,
    writers: Vec<Writers>,
}

impl CacheProvider {
    /// Builds clients; connecting happens later, and not at all when nothing is asked.
    pub fn new(claims: &[CacheClaims], in_process: &InProcessCacheConfig, clock: &SharedClock) -> Result<Self, BuildError> {
        metrics::describe();
        let mut remotes: HashMap<CacheRole, SharedCache> = HashMap::new();
        let mut writers = Vec::new();
        for claim in claims {
            let name = claim.name();
            let remote = client(&name, &claim.client, clock).map_err(|cause| BuildError { name: name.clone(), cause })?;
            let background = &claim.background;
            let (cache, tasks) = RemoteCache::new(name, remote, background.writeback_goroutines, background.writeback_buffer);
            writers.push(tasks);
            let cache: SharedCache = Arc::new(cache);
            remotes.extend(claim.roles.iter().map(|role| (*role, Arc::clone(&cache))));
        }
        Ok(Self { caches: assign(&remotes, in_process), writers })
    }

    pub fn caches(&self) -> &Caches {
        &self.caches
    }

    /// Writes in the background and follows the servers until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        futures::future::join_all(self.writers.into_iter().map(|writers| writers.run(stop.clone()))).await;
        stop.cancelled().await;
    }
}

fn client(name: &str, client: &CacheClient, clock: &SharedClock) -> Result<Arc<dyn Remote>, ClientError> {
    Ok(match client {
        CacheClient::Memcached(config) => Arc::new(Memcached::new(name.to_owned(), config, Arc::clone(clock))?),
        CacheClient::Redis(config) => Arc::new(Redis::new(name.to_owned(), config)?),
    })
}

/// Gives each role its cache: the one that claims it, this process in front of it or in its place.
fn assign(remotes: &HashMap<CacheRole, SharedCache>, in_process: &InProcessCacheConfig) -> Caches {
    let local = (in_process.max_bytes > 0).then(|| InProcessCache::new(in_process.max_bytes));
    let mut caches = Caches::default();
    for role in CacheRole::ALL {
        let remote = remotes.get(&role).cloned();
        let is_local = in_process.roles.iter().any(|name| name == role.as_str()) && (remote.is_none() || in_process.before_remote);
        let cache = match (&local, is_local) {
            (Some(local), true) => Some(local.for_role(role, remote)),
            _ => remote,
        };
        if let Some(cache) = cache {
            caches = caches.with(role, cache);
        }
    }
    caches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tempodb::cache::testing::MapCache;

    #[tokio::test]
    async fn this_process_takes_what_nobody_claims() {
        let remote = Arc::new(MapCache::default());
        let remotes: HashMap<CacheRole, SharedCache> =
            [(CacheRole::Bloom, remote.clone() as SharedCache), (CacheRole::ParquetPage, remote.clone())].into();
        let has = |caches: &Caches| CacheRole::ALL.map(|role| caches.has(role));
        let caches = assign(&remotes, &InProcessCacheConfig::default());
        assert_eq!(has(&caches), [true, true, true, true, true, true, false]);
        caches.put(CacheRole::Bloom, "b".to_owned(), b"v");
        caches.put(CacheRole::TraceIdIndex, "i".to_owned(), b"v");
        assert_eq!(remote.keys(), ["b"]);
        assert!(caches.get(CacheRole::TraceIdIndex, "i".to_owned()).await.is_some());
        remote.0.lock().clear();
        assert!(caches.get(CacheRole::Bloom, "b".to_owned()).await.is_none());

        let caches = assign(&remotes, &InProcessCacheConfig { before_remote: true, ..InProcessCacheConfig::default() });
        caches.put(CacheRole::Bloom, "b".to_owned(), b"v");
        remote.0.lock().clear();
        assert!(caches.get(CacheRole::Bloom, "b".to_owned()).await.is_some(), "kept here, too");

        let off = InProcessCacheConfig { max_bytes: 0, ..InProcessCacheConfig::default() };
        assert_eq!(has(&assign(&remotes, &off)), [true, false, false, false, false, true, false]);
    }
}
