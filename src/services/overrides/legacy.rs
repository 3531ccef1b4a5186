//! The flat overrides format of 1.x and 2.x: `ingestion_rate_limit_bytes` instead of `ingestion.rate_limit_bytes`.

use std::sync::LazyLock;

use crate::base::yaml::Problem;
use crate::base::yaml::node::{Node, Path, Step};
use crate::services::overrides::limits::Limits;

/// Start error in the compatible system's words: flat keys in the main file without the opt-in.
pub const LEGACY_DISABLED: &str = "DEPRECATED: legacy overrides config format detected but legacy overrides are disabled by default. Legacy overrides will be removed in a future release. Migrate your overrides config to the new scoped format, or set -config.enable-legacy-overrides=true (or enable_legacy_overrides: true in YAML) to continue using legacy overrides temporarily";

/// The same for the runtime file.
pub const LEGACY_FILE_DISABLED: &str = "DEPRECATED: per-tenant overrides file uses the legacy format but legacy overrides are disabled by default. Legacy overrides will be removed in a future release. Migrate the file to the new scoped format, or set -config.enable-legacy-overrides=true (or enable_legacy_overrides: true in YAML) to continue using legacy overrides temporarily";

/// Flat names and where they are in the scoped format.
static NAMES: LazyLock<Vec<(String, Path)>> = LazyLock::new(|| {
    let mut names = Vec::new();
    let tree = Node::of(&Limits::default()).unwrap_or(Node::Null);
    tree.for_each_leaf(&Path::default(), &mut |path, _| {
        let keys: Vec<&str> = path.0.iter().filter_map(|step| if let Step::Key(key) = step { Some(key.as_str()) } else { None }).collect();
        let name = match keys.as_slice() {
            // Nested in the flat format too.
            ["cost_attribution", ..] => return,
            ["ingestion", key @ ("max_traces_per_user" | "max_global_traces_per_user")] => (*key).to_owned(),
            ["ingestion", key] => format!("ingestion_{key}"),
            ["global" | "read" | "compaction" | "storage", key] => (*key).to_owned(),
            other => other.join("_"),
        };
        names.push((name, path.clone()));
    });
    names.push(("cost_attribution".to_owned(), Path::dotted("cost_attribution")));
    names
});

/// Returns the flat names, for suggestions.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|(name, _)| name.as_str())
}

/// True for a name that only the flat format has.
pub fn is_flat_name(key: &str) -> bool {
    NAMES.iter().any(|(name, path)| name == key && path.0.len() > 1)
}

/// True when a mapping contains flat names.
pub fn is_flat(node: &Node) -> bool {
    matches!(node, Node::Map(entries) if entries.iter().any(|(key, _)| is_flat_name(key)))
}

/// A flat mapping turned into a scoped one.
#[derive(Debug, Default)]
pub struct Scoped {
    pub node: Option<Node>,
    /// Flat name and scoped path of every key, to give problems their place in the text back.
    moved: Vec<(String, Path)>,
}

impl Scoped {
    /// Moves the flat keys of a mapping; keys that are not flat names stay in `flat`.
    pub fn take_from(flat: &mut Node) -> Self {
        let mut scoped = Self { node: Some(Node::Map(Vec::new())), moved: Vec::new() };
        for (name, path) in NAMES.iter() {
            if let (Some(value), Some(node)) = (flat.remove(name), scoped.node.as_mut()) {
                node.set(path, value);
                scoped.moved.push((name.clone(), path.clone()));
            }
        }
        scoped
    }

    /// Rewrites the path of a problem found below `scoped_at` to the flat key below `flat_at`.
    pub fn relocate(&self, problem: &mut Problem, scoped_at: &Path, flat_at: &Path) {
        for (name, path) in &self.moved {
            let full = Path(scoped_at.0.iter().chain(&path.0).cloned().collect());
            if problem.path.starts_with(&full) {
                let rest = problem.path.0.split_off(full.0.len());
                problem.path = Path(flat_at.0.iter().cloned().chain([Step::Key(name.clone())]).chain(rest).collect());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_map_to_scoped_paths() {
        for (name, path) in [
            ("ingestion_rate_limit_bytes", "ingestion.rate_limit_bytes"),
            ("max_traces_per_user", "ingestion.max_traces_per_user"),
            ("ingestion_tenant_shard_size", "ingestion.tenant_shard_size"),
            ("max_bytes_per_trace", "global.max_bytes_per_trace"),
            ("max_search_duration", "read.max_search_duration"),
            ("block_retention", "compaction.block_retention"),
            ("metrics_generator_processors", "metrics_generator.processors"),
            ("metrics_generator_processor_span_metrics_dimensions", "metrics_generator.processor.span_metrics.dimensions"),
            ("metrics_generator_forwarder_queue_size", "metrics_generator.forwarder.queue_size"),
            ("parquet_dedicated_columns", "storage.parquet_dedicated_columns"),
            ("forwarders", "forwarders"),
        ] {
            assert!(NAMES.contains(&(name.to_owned(), Path::dotted(path))), "{name}");
        }
        assert!(is_flat_name("block_retention") && !is_flat_name("forwarders") && !is_flat_name("ingestion"));
    }
}
