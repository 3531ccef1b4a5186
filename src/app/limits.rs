//! Hands each role the part of the tenants' limits that it knows.

use std::sync::Arc;

use crate::base::yaml::node::Node;
use crate::model::ids::TenantId;
use crate::modules::backend_scheduler::{RulesOf, TenantRules};
use crate::modules::backend_worker::storage::{LimitsOf as WorkerLimitsOf, TenantLimits as WorkerLimits};
use crate::modules::distributor::limits::{IngestionLimits, TenantLimits};
use crate::modules::query_frontend::limits::{LimitsOf, QueryLimits};
use crate::services::overrides::Overrides;
use crate::services::overrides::limits::Limits;
use crate::tempodb::block::dedicated::DedicatedColumn;

/// The limits of intake, as overrides have them now.
pub(super) struct IngestionLimitsOf(pub(super) Arc<Overrides>);

impl IngestionLimits for IngestionLimitsOf {
    fn ingestion(&self, tenant: &TenantId) -> TenantLimits {
        // Only the defaults choose the strategy.
        let strategy = TenantLimits::from(&self.0.defaults().ingestion).rate_strategy;
        TenantLimits { rate_strategy: strategy, ..TenantLimits::from(&self.0.for_tenant(tenant).ingestion) }
    }
}

/// The limits of queries, as overrides have them now.
pub(super) fn query_limits(overrides: Arc<Overrides>) -> LimitsOf {
    Arc::new(move |tenant| {
        let limits = overrides.for_tenant(tenant);
        let read = &limits.read;
        QueryLimits {
            max_bytes_per_trace: limits.global.max_bytes_per_trace,
            max_search_seconds: read.max_search_duration.to_std().as_secs(),
            max_metrics_seconds: read.max_metrics_duration.to_std().as_secs(),
            max_bytes_per_tag_values_query: read.max_bytes_per_tag_values_query,
            max_condition_groups_per_tag_query: read.max_condition_groups_per_tag_query,
            max_blocks_per_tag_values_query: read.max_blocks_per_tag_values_query,
            left_pad_trace_ids: read.left_pad_trace_ids,
        }
    })
}

/// What the backend scheduler asks of overrides. `columns`: those that a tenant's blocks are written with.
pub(super) fn scheduler_rules(
    overrides: Arc<Overrides>,
    columns: impl Fn(&TenantId) -> Vec<DedicatedColumn> + Send + Sync + 'static,
) -> RulesOf {
    Arc::new(move |tenant| {
        let limits = overrides.for_tenant(tenant);
        TenantRules {
            compaction_disabled: limits.compaction.compaction_disabled,
            compaction_window: limits.compaction.compaction_window.positive(),
            dedicated_columns: columns(tenant),
        }
    })
}

/// What the backend worker asks of overrides.
pub(super) fn worker_limits(
    overrides: Arc<Overrides>,
    columns: impl Fn(&TenantId) -> Vec<DedicatedColumn> + Send + Sync + 'static,
) -> WorkerLimitsOf {
    Arc::new(move |tenant| {
        let limits = overrides.for_tenant(tenant);
        WorkerLimits {
            compaction_disabled: limits.compaction.compaction_disabled,
            block_retention: limits.compaction.block_retention.positive(),
            max_bytes_per_trace: usize::try_from(limits.global.max_bytes_per_trace).unwrap_or(usize::MAX),
            dedicated_columns: columns(tenant),
        }
    })
}

/// Returns the text of `/status/runtime_config`: the defaults and the tenants' limits as YAML; with mode `diff` only what differs.
pub(super) fn render(overrides: &Overrides, mode: Option<&str>) -> Result<String, String> {
    let is_diff = match mode {
        None | Some("") => false,
        Some("diff") => true,
        Some(other) => return Err(format!("unknown value for mode query parameter: {other}")),
    };
    let tree = |limits: &Limits| Node::of(limits).map_err(|error| error.to_string());
    let defaults = tree(overrides.defaults())?;
    let (tenants, wildcard) = overrides.entries();
    let mut entries: Vec<_> = tenants.iter().map(|(tenant, limits)| (tenant.as_str().to_owned(), limits)).collect();
    entries.extend(wildcard.iter().map(|limits| ("*".to_owned(), limits)));
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    let mut rendered = std::collections::BTreeMap::new();
    for (tenant, limits) in entries {
        let own = tree(limits)?;
        let shown = if is_diff { own.difference(&defaults).unwrap_or(Node::Map(Vec::new())) } else { own };
        rendered.insert(tenant, shown);
    }
    let mut parts = std::collections::BTreeMap::new();
    if !is_diff {
        parts.insert("defaults", serde_norway::to_value(&defaults).map_err(|error| error.to_string())?);
    }
    parts.insert("overrides", serde_norway::to_value(&rendered).map_err(|error| error.to_string())?);
    serde_norway::to_string(&parts).map(|yaml| format!("---\n{yaml}")).map_err(|error| error.to_string())
}
