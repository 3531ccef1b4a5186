//! `cache:`, and the cache that `storage.trace` of 2.x names.

use std::collections::BTreeSet;

use crate::base::config_block::{config_block, texts};
use crate::tempodb::cache::CacheRole;
use crate::tempodb::config::{BackgroundCacheConfig, MemcachedConfig, RedisConfig, TraceStorageConfig};

config_block! {
    /// `cache:`.
    pub struct CacheConfig {
        /// Writing behind.
        background: BackgroundCacheConfig = BackgroundCacheConfig::default(),
        /// The caches; each role may be claimed once.
        caches: Vec<CacheEntryConfig> = Vec::new(),
        /// What is kept in this process.
        in_process: InProcessCacheConfig = InProcessCacheConfig::default(),
    }

    /// One entry of `cache.caches`: roles, and either `memcached` or `redis`.
    pub struct CacheEntryConfig {
        /// `bloom`, `trace-id-index`, `parquet-footer`, `parquet-column-idx`, `parquet-offset-idx`, `parquet-page`, `frontend-search`.
        roles: Vec<String> = Vec::new(),
        /// A memcached cluster.
        #[serde(skip_serializing_if = "Option::is_none")]
        memcached: Option<MemcachedConfig> = None,
        /// A redis server or cluster.
        #[serde(skip_serializing_if = "Option::is_none")]
        redis: Option<RedisConfig> = None,
    }

    /// `cache.in_process`: a bounded cache in this process, for roles that no other cache claims.
    pub struct InProcessCacheConfig {
        /// Bytes of all roles together; 0: nothing is kept.
        max_bytes: u64 = 67_108_864,
        /// What is kept when no other cache claims the role.
        roles: Vec<String> = texts(&["bloom", "trace-id-index", "parquet-footer", "parquet-column-idx", "parquet-offset-idx"]),
        /// Also keep what other caches of these roles hold, and ask here first.
        before_remote: bool = false,
    }
}

/// The servers of a cache.
#[derive(Debug, Clone, PartialEq)]
pub enum CacheClient {
    Memcached(Box<MemcachedConfig>),
    Redis(Box<RedisConfig>),
}

/// A cache on other machines, and what it is used for.
#[derive(Debug, Clone, PartialEq)]
pub struct CacheClaims {
    /// Never empty.
    pub roles: Vec<CacheRole>,
    pub client: CacheClient,
    pub background: BackgroundCacheConfig,
}

impl CacheClaims {
    /// Returns the name in metrics: the roles.
    pub fn name(&self) -> String {
        self.roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join("|")
    }
}

/// Returns the caches of `cache:` and the one of 2.x, or every start error, in the texts of the compatible system where it has one.
pub fn claims(cache: &CacheConfig, trace: &TraceStorageConfig) -> Result<Vec<CacheClaims>, Vec<String>> {
    let mut problems = Vec::new();
    let mut claims = Vec::new();
    let mut claimed = BTreeSet::new();
    match legacy_claims(trace) {
        Ok(legacy) => {
            claimed.extend(legacy.iter().flat_map(|claims| claims.roles.iter().copied()));
            claims.extend(legacy);
        }
        Err(problem) => problems.push(problem),
    }
    for entry in &cache.caches {
        let names = entry.roles.join(" ");
        let client = match (&entry.memcached, &entry.redis) {
            (Some(config), None) => Some(CacheClient::Memcached(Box::new(config.clone()))),
            (None, Some(config)) => Some(CacheClient::Redis(Box::new(config.clone()))),
            (Some(_), Some(_)) => {
                problems.push(format!("cache config for role [{names}] has both memcached and redis configs"));
                None
            }
            (None, None) => {
                problems.push(format!("cache config for role [{names}] has neither memcached nor redis configs"));
                None
            }
        };
        if entry.roles.is_empty() {
            problems.push("configured caches require a valid role".to_owned());
        }
        let mut roles = Vec::new();
        for name in &entry.roles {
            match CacheRole::parse(name) {
                None => problems.push(invalid_role(name)),
                Some(role) if !claimed.insert(role) => problems.push(format!("role {name} is claimed by more than one cache")),
                Some(role) => roles.push(role),
            }
        }
        claims.extend(client.map(|client| CacheClaims { roles, client, background: cache.background.clone() }));
    }
    problems.extend(cache.in_process.roles.iter().filter(|name| CacheRole::parse(name).is_none()).map(|name| invalid_role(name)));
    if problems.is_empty() { Ok(claims) } else { Err(problems) }
}

fn invalid_role(name: &str) -> String {
    format!("role {name} is not a valid role")
}

/// `storage.trace.cache` and what belongs to it.
fn legacy_claims(trace: &TraceStorageConfig) -> Result<Option<CacheClaims>, String> {
    let control = &trace.search.cache_control;
    let not_set = |key: &str| format!("storage.trace.cache is {key}, but storage.trace.{key} is not set");
    let client = match trace.cache.as_str() {
        "" if control.footer || control.column_index || control.offset_index => {
            return Err("storage.trace.search.cache_control needs storage.trace.cache; give the roles to a cache of cache.caches instead"
                .to_owned());
        }
        "" => return Ok(None),
        "memcached" => CacheClient::Memcached(Box::new(trace.memcached.clone().ok_or_else(|| not_set("memcached"))?)),
        "redis" => CacheClient::Redis(Box::new(trace.redis.clone().ok_or_else(|| not_set("redis"))?)),
        other => return Err(format!("unknown cache {other} (storage.trace.cache must be memcached or redis)")),
    };
    let roles = [
        (true, CacheRole::Bloom),
        (true, CacheRole::TraceIdIndex),
        (control.footer, CacheRole::ParquetFooter),
        (control.column_index, CacheRole::ParquetColumnIndex),
        (control.offset_index, CacheRole::ParquetOffsetIndex),
    ];
    let roles = roles.into_iter().filter(|(is_claimed, _)| *is_claimed).map(|(_, role)| role).collect();
    Ok(Some(CacheClaims { roles, client, background: trace.background_cache.clone() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(roles: &[&str]) -> CacheEntryConfig {
        CacheEntryConfig { roles: texts(roles), memcached: Some(MemcachedConfig::default()), redis: None }
    }

    fn of(caches: Vec<CacheEntryConfig>, trace: &TraceStorageConfig) -> Result<Vec<String>, Vec<String>> {
        let claims = claims(&CacheConfig { caches, ..CacheConfig::default() }, trace)?;
        Ok(claims.iter().map(CacheClaims::name).collect())
    }

    #[test]
    fn roles_are_claimed_once() {
        let none = TraceStorageConfig::default();
        assert_eq!(
            of(vec![entry(&["bloom", "parquet-page"]), entry(&["frontend-search"])], &none).unwrap(),
            ["bloom|parquet-page", "frontend-search"]
        );
        let both = CacheEntryConfig { redis: Some(RedisConfig::default()), ..entry(&["bloom", "parquet-page"]) };
        let neither = CacheEntryConfig { memcached: None, ..entry(&["bloom"]) };
        assert_eq!(
            of(vec![both, neither, entry(&[]), entry(&["none", "pages"])], &none).unwrap_err(),
            [
                "cache config for role [bloom parquet-page] has both memcached and redis configs",
                "cache config for role [bloom] has neither memcached nor redis configs",
                "role bloom is claimed by more than one cache",
                "configured caches require a valid role",
                "role none is not a valid role",
                "role pages is not a valid role",
            ]
        );
    }

    #[test]
    fn the_cache_of_2x_claims_its_roles() {
        let mut trace = TraceStorageConfig { cache: "redis".to_owned(), redis: Some(RedisConfig::default()), ..Default::default() };
        assert_eq!(of(vec![entry(&["parquet-page"])], &trace).unwrap(), ["bloom|trace-id-index", "parquet-page"]);
        trace.search.cache_control.footer = true;
        trace.search.cache_control.offset_index = true;
        assert_eq!(of(Vec::new(), &trace).unwrap(), ["bloom|trace-id-index|parquet-footer|parquet-offset-idx"]);
        assert_eq!(of(vec![entry(&["bloom"])], &trace).unwrap_err(), ["role bloom is claimed by more than one cache"]);
        trace.cache = "memcached".to_owned();
        assert_eq!(of(Vec::new(), &trace).unwrap_err(), ["storage.trace.cache is memcached, but storage.trace.memcached is not set"]);
        trace.cache = String::new();
        assert!(of(Vec::new(), &trace).unwrap_err()[0].starts_with("storage.trace.search.cache_control needs"));
    }
}
