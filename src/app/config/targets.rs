//! What `-target` accepts and which roles each name runs.

use std::collections::BTreeSet;

/// Roles of `all`. The gateway and adaptive roles belong to it too, idle unless their blocks enable them.
const ALL_ROLES: &[&str] =
    &["backend-scheduler", "backend-worker", "query-frontend", "querier", "distributor", "metrics-generator", "live-store"];

/// Roles of the classic composition.
const CLASSIC_ROLES: &[&str] = &["compactor", "query-frontend", "querier", "ingester", "distributor", "metrics-generator"];

/// Targets and their roles.
pub const TARGETS: &[(&str, &[&str])] = &[
    ("all", ALL_ROLES),
    ("all-3.0", ALL_ROLES),
    ("scalable-single-binary", CLASSIC_ROLES),
    ("distributor", &["distributor"]),
    ("ingester", &["ingester"]),
    ("block-builder", &["block-builder"]),
    ("live-store", &["live-store"]),
    ("metrics-generator", &["metrics-generator"]),
    ("metrics-generator-no-local-blocks", &["metrics-generator"]),
    ("query-frontend", &["query-frontend"]),
    ("querier", &["querier"]),
    ("backend-scheduler", &["backend-scheduler"]),
    ("backend-worker", &["backend-worker"]),
    ("compactor", &["compactor"]),
    ("overrides-api", &[]),
    ("usage-report", &[]),
    ("gateway", &["gateway"]),
    ("admin-api", &["admin-api"]),
    ("tokengen", &["tokengen"]),
    ("sampler-gateway", &["sampler-gateway"]),
    ("sampler", &["sampler"]),
    ("policy-store", &["policy-store"]),
    ("decision-index", &["decision-index"]),
    ("canary", &["canary"]),
];

/// Internal modules; legal as a target, hardly intended.
pub const INTERNAL_MODULES: &[&str] = &[
    "internal-server",
    "server",
    "cache-provider",
    "store",
    "optional-store",
    "memberlist-kv",
    "overrides",
    "live-store-ring",
    "partition-ring",
    "ring",
    "secondary-ring",
    "metrics-generator-ring",
    "generator-ring-watcher",
    "ingest-log",
    "common",
];

/// The meaning of a `target` value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Targets {
    /// The names, in order, without repetition.
    pub names: Vec<String>,
    /// The roles they run.
    pub roles: BTreeSet<&'static str>,
}

impl Targets {
    /// Takes one name or a comma-separated list.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut targets = Self::default();
        for name in text.split(',').map(str::trim) {
            let roles = match TARGETS.iter().find(|(known, _)| *known == name) {
                Some((_, roles)) => *roles,
                None if INTERNAL_MODULES.contains(&name) => &[],
                None => return Err(format!("failed to init module services: unrecognised module name: {name}")),
            };
            targets.roles.extend(roles);
            if !targets.names.iter().any(|known| known == name) {
                targets.names.push(name.to_owned());
            }
        }
        Ok(targets)
    }

    pub fn has(&self, role: &str) -> bool {
        self.roles.contains(role)
    }

    /// True for `all`: one process with every role, rings in memory.
    pub fn is_all(&self) -> bool {
        self.names.iter().any(|name| name == "all" || name == "all-3.0")
    }

    /// True when the classic write path or compaction is run by name.
    pub fn is_classic(&self) -> bool {
        self.has("ingester") || self.has("compactor")
    }

    /// Names that are internal modules.
    pub fn internal(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str).filter(|name| INTERNAL_MODULES.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_unions() {
        let targets = Targets::parse("querier,query-frontend, querier").unwrap();
        assert_eq!(targets.names, ["querier", "query-frontend"]);
        assert!(targets.has("querier") && !targets.has("distributor") && !targets.is_all());
        assert!(Targets::parse("all").unwrap().has("live-store"));
        assert_eq!(Targets::parse("quirier").unwrap_err(), "failed to init module services: unrecognised module name: quirier");
        assert_eq!(Targets::parse("server").unwrap().internal().collect::<Vec<_>>(), ["server"]);
    }
}
