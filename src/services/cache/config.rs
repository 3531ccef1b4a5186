//! `cache:`, and the cache clients that `storage.trace` of 2.x may also name.

use crate::base::config_block::config_block;
use crate::tempodb::config::{BackgroundCacheConfig, MemcachedConfig, RedisConfig};

/// What a cache may be used for.
pub const CACHE_ROLES: [&str; 7] =
    ["bloom", "trace-id-index", "parquet-footer", "parquet-column-idx", "parquet-offset-idx", "parquet-page", "frontend-search"];

config_block! {
    /// `cache:`.
    pub struct CacheConfig {
        /// Writing behind.
        background: BackgroundCacheConfig = BackgroundCacheConfig::default(),
        /// The caches; each role may be claimed once.
        caches: Vec<CacheEntryConfig> = Vec::new(),
    }

    /// One entry of `cache.caches`: roles, and either `memcached` or `redis`.
    pub struct CacheEntryConfig {
        /// See [`CACHE_ROLES`].
        roles: Vec<String> = Vec::new(),
        /// A memcached cluster.
        #[serde(skip_serializing_if = "Option::is_none")]
        memcached: Option<MemcachedConfig> = None,
        /// A redis server or cluster.
        #[serde(skip_serializing_if = "Option::is_none")]
        redis: Option<RedisConfig> = None,
    }
}

impl CacheConfig {
    /// Returns the start errors of this block, in the texts of the compatible system.
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut claimed = std::collections::BTreeSet::new();
        for cache in &self.caches {
            let roles = cache.roles.join(" ");
            match (&cache.memcached, &cache.redis) {
                (Some(_), Some(_)) => problems.push(format!("cache config for role [{roles}] has both memcached and redis configs")),
                (None, None) => problems.push(format!("cache config for role [{roles}] has neither memcached nor redis configs")),
                (Some(_), None) | (None, Some(_)) => {}
            }
            if cache.roles.is_empty() {
                problems.push("configured caches require a valid role".to_owned());
            }
            for role in &cache.roles {
                if !CACHE_ROLES.contains(&role.as_str()) {
                    problems.push(format!("role {role} is not a valid role"));
                } else if !claimed.insert(role) {
                    problems.push(format!("role {role} is claimed by more than one cache"));
                }
            }
        }
        problems
    }
}
