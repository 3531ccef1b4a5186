//! Per-tenant limits: the defaults of the main file, and a runtime file that is re-read while the process runs.
//!
//! Not here: enforcement (the roles), the store of user-configurable overrides.
//!
//! Invariants
//! * [`Overrides::for_tenant`] never fails and never blocks on I/O: it answers from the last good runtime file.
//! * A runtime file is taken as a whole or not at all.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use crate::model::ids::TenantId;

pub mod config;
pub mod limits;
pub mod legacy;
mod runtime_file;

use config::OverridesConfig;
use limits::Limits;
pub use runtime_file::OverridesError;
use runtime_file::{Entries, FileSettings};

/// A runtime file is not read more often than this, whatever the configuration says.
const MIN_PERIOD: Duration = Duration::from_millis(10);

/// The limits of every tenant.
#[derive(Debug)]
pub struct Overrides {
    defaults: Arc<Limits>,
    source: Option<Source>,
    entries: RwLock<Arc<Entries>>,
}

/// Where the runtime file is and how it is read.
#[derive(Debug)]
struct Source {
    path: String,
    period: Duration,
    settings: FileSettings,
    /// The bytes last seen, good or bad: the same bytes are not parsed twice.
    last_seen: RwLock<Vec<u8>>,
}

/// Which entry a tenant's limits come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitsOrigin {
    Tenant,
    Wildcard,
    Defaults,
}

impl Overrides {
    /// The same limits for everybody.
    pub fn fixed(defaults: Limits) -> Self {
        Self { defaults: Arc::new(defaults), source: None, entries: RwLock::default() }
    }

    /// Reads the runtime file, if one is configured. `expand_env`: expand `${…}` in it, as in the main file.
    ///
    /// Fails when the file is missing or invalid: without limits nobody starts.
    pub fn load(config: &OverridesConfig, expand_env: bool) -> Result<Self, OverridesError> {
        let mut overrides = Self::fixed(config.defaults.clone());
        publish_default_metrics(&config.defaults);
        if config.per_tenant_override_config.is_empty() {
            return Ok(overrides);
        }
        overrides.source = Some(Source {
            path: config.per_tenant_override_config.clone(),
            period: config.per_tenant_override_period.to_std(),
            settings: FileSettings {
                expand_env,
                enable_legacy: config.enable_legacy_overrides,
                merge_with_defaults: config.merge_with_defaults,
            },
            last_seen: RwLock::default(),
        });
        overrides.reload()?;
        Ok(overrides)
    }

    /// Returns the limits of a tenant: of its own entry, else of `"*"`, else the defaults. A few unset keys fall back to the defaults
    /// ([`Limits::with_fallbacks`]).
    pub fn for_tenant(&self, tenant: &TenantId) -> Arc<Limits> {
        let entries = self.entries.read();
        entries.tenants.get(tenant).or(entries.wildcard.as_ref()).unwrap_or(&self.defaults).clone()
    }

    /// Returns where [`Self::for_tenant`] takes the limits from.
    pub fn origin(&self, tenant: &TenantId) -> LimitsOrigin {
        let entries = self.entries.read();
        if entries.tenants.contains_key(tenant) {
            LimitsOrigin::Tenant
        } else if entries.wildcard.is_some() {
            LimitsOrigin::Wildcard
        } else {
            LimitsOrigin::Defaults
        }
    }

    pub fn defaults(&self) -> &Arc<Limits> {
        &self.defaults
    }

    /// Returns the tenants with an entry of their own, unordered, and the wildcard entry.
    pub fn entries(&self) -> (HashMap<TenantId, Arc<Limits>>, Option<Arc<Limits>>) {
        let entries = self.entries.read();
        (entries.tenants.clone(), entries.wildcard.clone())
    }

    /// Reads the runtime file again; `false` when it has not changed. On an error the old limits stay. Blocks on file I/O.
    pub fn reload(&self) -> Result<bool, OverridesError> {
        let Some(source) = &self.source else { return Ok(false) };
        let result = self.reload_from(source);
        metrics::gauge!("tempo_runtime_config_last_reload_successful", "config" => "overrides").set(if result.is_ok() { 1.0 } else { 0.0 });
        result
    }

    fn reload_from(&self, source: &Source) -> Result<bool, OverridesError> {
        let bytes = runtime_file::read(&source.path)?;
        if *source.last_seen.read() == bytes && !bytes.is_empty() {
            return Ok(false);
        }
        let entries = runtime_file::parse(&source.path, &bytes, &self.defaults, source.settings);
        *source.last_seen.write() = bytes;
        let entries = entries?;
        for warning in &entries.warnings {
            tracing::warn!(file = %source.path, "{warning}");
        }
        publish_entry_metrics(&entries);
        *self.entries.write() = Arc::new(entries);
        Ok(true)
    }

    /// Re-reads the runtime file periodically until `stop` fires. A failure is logged and counted; the last good limits stay.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let Some(period) = self.source.as_ref().map(|source| source.period.max(MIN_PERIOD)) else {
            stop.cancelled().await;
            return;
        };
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(period) => {}
            }
            let this = self.clone();
            match tokio::task::spawn_blocking(move || this.reload()).await {
                Ok(Ok(_changed)) => {}
                Ok(Err(error)) => tracing::error!(err = %error, "failed to load config"),
                Err(panic) => tracing::error!(err = %panic, "failed to load config"),
            }
        }
    }
}

/// Publishes `tempo_limits_defaults`.
fn publish_default_metrics(limits: &Limits) {
    let read = &limits.read;
    let extra = [
        ("max_bytes_per_tag_values_query", as_gauge(read.max_bytes_per_tag_values_query)),
        ("max_blocks_per_tag_values_query", as_gauge(read.max_blocks_per_tag_values_query as u64)),
    ];
    for (name, value) in metric_values(limits).into_iter().chain(extra) {
        metrics::gauge!("tempo_limits_defaults", "limit_name" => name).set(value);
    }
}

/// Publishes `tempo_limits_overrides`.
fn publish_entry_metrics(entries: &Entries) {
    let wildcard = entries.wildcard.iter().map(|limits| ("*", limits));
    for (user, limits) in entries.tenants.iter().map(|(tenant, limits)| (tenant.as_str(), limits)).chain(wildcard) {
        for (name, value) in metric_values(limits) {
            metrics::gauge!("tempo_limits_overrides", "limit_name" => name, "user" => user.to_owned()).set(value);
        }
        if limits.metrics_generator.disable_collection {
            metrics::gauge!("tempo_limits_overrides", "limit_name" => "metrics_generator_dry_run_enabled", "user" => user.to_owned())
                .set(1.0);
        }
    }
}

fn metric_values(limits: &Limits) -> [(&'static str, f64); 7] {
    let ingestion = &limits.ingestion;
    [
        ("max_local_traces_per_user", as_gauge(ingestion.max_traces_per_user as u64)),
        ("max_global_traces_per_user", as_gauge(ingestion.max_global_traces_per_user as u64)),
        ("ingestion_rate_limit_bytes", as_gauge(ingestion.rate_limit_bytes)),
        ("ingestion_burst_size_bytes", as_gauge(ingestion.burst_size_bytes)),
        ("max_bytes_per_trace", as_gauge(limits.global.max_bytes_per_trace)),
        // In nanoseconds, as dashboards expect.
        ("block_retention", as_gauge(limits.compaction.block_retention.as_millis()) * 1e6),
        ("metrics_generator_max_active_series", f64::from(limits.metrics_generator.max_active_series)),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
fn as_gauge(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::duration::PromDuration;

    fn tenant(id: &str) -> TenantId {
        TenantId::parse(id).unwrap()
    }

    fn config(path: &std::path::Path) -> OverridesConfig {
        OverridesConfig { per_tenant_override_config: path.display().to_string(), ..OverridesConfig::default() }
    }

    const FILE: &str = "overrides:\n  a: {ingestion: {rate_limit_bytes: 5}}\n  'empty': null\n  '*': {global: {max_bytes_per_trace: 7}}\n";

    #[test]
    fn entries_do_not_inherit_except_for_a_few_keys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("o.yaml");
        std::fs::write(&path, FILE).unwrap();
        let overrides = Overrides::load(&config(&path), false).unwrap();
        let a = overrides.for_tenant(&tenant("a"));
        assert_eq!((a.ingestion.rate_limit_bytes, a.ingestion.burst_size_bytes, a.global.max_bytes_per_trace), (5, 0, 0));
        assert_eq!((a.ingestion.retry_info_enabled, a.metrics_generator.native_histogram_bucket_factor), (Some(true), 1.1));
        assert_eq!((a.read.max_condition_groups_per_tag_query, a.ingestion.rate_strategy.as_str()), (100, "local"));
        for other in ["b", "empty"] {
            assert_eq!(overrides.for_tenant(&tenant(other)).global.max_bytes_per_trace, 7);
            assert_eq!(overrides.origin(&tenant(other)), LimitsOrigin::Wildcard);
        }
    }

    #[test]
    fn merging_inherits_key_by_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("o.yaml");
        std::fs::write(&path, FILE).unwrap();
        let overrides = Overrides::load(&OverridesConfig { merge_with_defaults: true, ..config(&path) }, false).unwrap();
        let a = overrides.for_tenant(&tenant("a"));
        assert_eq!((a.ingestion.rate_limit_bytes, a.ingestion.burst_size_bytes, a.global.max_bytes_per_trace), (5, 30_000_000, 7));
        assert_eq!(overrides.for_tenant(&tenant("b")).ingestion.rate_limit_bytes, 30_000_000);
    }

    #[test]
    fn a_bad_file_leaves_the_last_good_limits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("o.yaml");
        assert!(Overrides::load(&config(&path), false).unwrap_err().to_string().contains("o.yaml"));
        std::fs::write(&path, FILE).unwrap();
        let overrides = Overrides::load(&config(&path), false).unwrap();
        assert!(!overrides.reload().unwrap());
        std::fs::write(&path, "overrides:\n  a:\n    ingestion: {rate_limit: 5}\n").unwrap();
        let error = overrides.reload().unwrap_err().to_string();
        assert!(error.contains("o.yaml:3: overrides.a.ingestion.rate_limit: unknown key"), "{error}");
        assert_eq!(overrides.for_tenant(&tenant("a")).ingestion.rate_limit_bytes, 5);
        std::fs::write(&path, "").unwrap();
        assert!(overrides.reload().unwrap());
        assert_eq!(overrides.origin(&tenant("a")), LimitsOrigin::Defaults);
    }

    #[tokio::test]
    async fn the_file_is_read_again_periodically() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("o.yaml");
        std::fs::write(&path, FILE).unwrap();
        let config = OverridesConfig { per_tenant_override_period: PromDuration::millis(1), ..config(&path) };
        let overrides = Arc::new(Overrides::load(&config, false).unwrap());
        std::fs::write(&path, "overrides: {a: {ingestion: {rate_limit_bytes: 6}}}").unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(overrides.clone().run(stop.clone()));
        let reloaded = async {
            while overrides.for_tenant(&tenant("a")).ingestion.rate_limit_bytes != 6 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), reloaded).await.unwrap();
        stop.cancel();
        task.await.unwrap();
    }
}
