//! Reads and checks the runtime file of per-tenant limits.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use crate::base::expand_env;
use crate::base::yaml::decode::decode;
use crate::base::yaml::node::{Node, Path, Step};
use crate::base::yaml::{Document, Problem};
use crate::model::ids::TenantId;
use crate::services::overrides::legacy::{self, LEGACY_FILE_DISABLED, Scoped};
use crate::services::overrides::limits::Limits;
use crate::tempodb::config::DedicatedColumnConfig;

/// Largest runtime file, also after decompression. A tenant's entry is below 10 KiB, so this is far beyond any real one.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Why the runtime file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum OverridesError {
    #[error("load file: open {path}: {cause}")]
    Read {
        path: String,
        /// In the text, because the compatible system's message contains it.
        cause: std::io::Error,
    },
    #[error("load file: {path}: reading per-tenant overrides from a URL is not supported yet")]
    UrlNotSupported { path: String },
    #[error("load file: {path} is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge { path: String },
    #[error("load file: {}", .problems.join("\n"))]
    Invalid { problems: Vec<String> },
}

/// How a file is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileSettings {
    pub(super) expand_env: bool,
    pub(super) enable_legacy: bool,
    pub(super) merge_with_defaults: bool,
}

/// A good file.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) tenants: HashMap<TenantId, Arc<Limits>>,
    pub(super) wildcard: Option<Arc<Limits>>,
    pub(super) warnings: Vec<String>,
}

/// Reads the raw bytes, `.gz` decompressed.
pub(super) fn read(path: &str) -> Result<Vec<u8>, OverridesError> {
    if path.starts_with("http://") || path.starts_with("https://") {
        return Err(OverridesError::UrlNotSupported { path: path.to_owned() });
    }
    let io_error = |cause| OverridesError::Read { path: path.to_owned(), cause };
    let file = std::fs::File::open(path).map_err(io_error)?;
    let mut reader: Box<dyn Read> = if path.ends_with(".gz") { Box::new(flate2::read::MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut bytes = Vec::new();
    reader.by_ref().take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(io_error)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(OverridesError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

/// Checks a file and makes each entry's limits.
pub(super) fn parse(path: &str, bytes: &[u8], defaults: &Limits, settings: FileSettings) -> Result<Entries, OverridesError> {
    let mut reader = Reader { path, defaults, settings, problems: Vec::new(), entries: Entries::default() };
    match Document::parse(&String::from_utf8_lossy(bytes)) {
        Ok(document) => reader.read_document(document),
        Err(problems) => problems.iter().for_each(|problem| reader.report(problem)),
    }
    if reader.problems.is_empty() { Ok(reader.entries) } else { Err(OverridesError::Invalid { problems: reader.problems }) }
}

struct Reader<'a> {
    path: &'a str,
    defaults: &'a Limits,
    settings: FileSettings,
    problems: Vec<String>,
    entries: Entries,
}

impl Reader<'_> {
    fn report(&mut self, problem: &Problem) {
        let line = problem.line.map_or(String::new(), |line| format!(":{line}"));
        let key = if problem.path.0.is_empty() { String::new() } else { format!("{}: ", problem.path) };
        self.problems.push(format!("{}{line}: {key}{}", self.path, problem.message));
    }

    fn report_at(&mut self, document: &Document, path: &Path, message: String) {
        self.report(&Problem { path: path.clone(), line: document.line_of(path), message, is_unknown_key: false });
    }

    fn read_document(&mut self, mut document: Document) {
        if self.settings.expand_env
            && let Err(error) = expand_node(&mut document.root)
        {
            self.problems.push(format!("{}: {error}", self.path));
            return;
        }
        let mut root = document.root.clone();
        let Node::Map(top) = &root else {
            self.report_at(&document, &Path::default(), "expected a mapping".to_owned());
            return;
        };
        let unknown: Vec<String> = top.iter().map(|(key, _)| key.clone()).filter(|key| key != "overrides").collect();
        for key in unknown {
            self.report_at(&document, &Path::default().key(&key), format!("unknown key {key:?}, only \"overrides\" is known here"));
        }
        let at = Path::dotted("overrides");
        let tenants = match root.remove("overrides") {
            None | Some(Node::Null) => return,
            Some(Node::Map(tenants)) => tenants,
            Some(_) => {
                self.report_at(&document, &at, "expected a mapping of tenants".to_owned());
                return;
            }
        };
        let is_legacy = tenants.iter().any(|(_, entry)| legacy::is_flat(entry));
        if is_legacy && !self.settings.enable_legacy {
            self.problems.push(format!("{}: {LEGACY_FILE_DISABLED}", self.path));
            return;
        }
        if is_legacy {
            self.entries.warnings.push("DEPRECATED: the per-tenant overrides file uses the legacy (flat, unscoped) format".to_owned());
        }
        let base = self.base_tree(&tenants, is_legacy);
        for (name, entry) in tenants {
            if entry != Node::Null {
                self.read_entry(&document, &at.child(Step::Key(name.clone())), &name, entry, &base, is_legacy);
            }
        }
    }

    /// What entries are laid over: nothing, or with `merge_with_defaults` the defaults and the wildcard entry.
    fn base_tree(&self, tenants: &[(String, Node)], is_legacy: bool) -> Node {
        if !self.settings.merge_with_defaults {
            return Node::of(&Limits::default()).unwrap_or(Node::Map(Vec::new()));
        }
        let mut base = Node::of(self.defaults).unwrap_or(Node::Map(Vec::new()));
        if let Some((_, wildcard)) = tenants.iter().find(|(name, _)| name == "*") {
            let mut wildcard = wildcard.clone();
            let scoped = if is_legacy { Scoped::take_from(&mut wildcard).node } else { Some(wildcard) };
            base.overlay(scoped.unwrap_or(Node::Null));
        }
        base
    }

    fn read_entry(&mut self, document: &Document, at: &Path, name: &str, mut entry: Node, base: &Node, is_legacy: bool) {
        let mut scoped = Scoped::default();
        if is_legacy {
            if matches!(entry, Node::Map(_)) {
                scoped = Scoped::take_from(&mut entry);
            }
            if let (Some(flat), Node::Map(rest)) = (scoped.node.take(), &mut entry) {
                for (key, _) in rest.drain(..) {
                    self.report_at(document, &at.key(&key), format!("unknown key {key:?} in the legacy overrides format"));
                }
                entry = flat;
            }
        }
        // Local blocks went away with 3.0; entries that still tune them must not stop anybody.
        if entry.remove_at(&Path::dotted("metrics_generator.processor.local_blocks")).is_some() {
            self.entries.warnings.push(format!("{at}.metrics_generator.processor.local_blocks was removed and is ignored"));
        }
        let sets_headers = entry.at(&Path::dotted("metrics_generator.remote_write_headers")).is_some();
        let mut tree = base.clone();
        if matches!(entry, Node::Map(_)) {
            tree.overlay(entry);
        } else {
            tree = entry;
        }
        // Decoding happens at the entry's place in the document, so that paths and lines are right.
        let mut placed = Node::Map(Vec::new());
        placed.set(at, tree);
        let decoded = decode::<RuntimeFile>(&placed, Some(document));
        for mut problem in decoded.problems {
            scoped.relocate(&mut problem, at, at);
            problem.line = document.line_of(&problem.path);
            self.report(&problem);
        }
        let Some(mut limits) = decoded.value.and_then(|mut file| file.overrides.remove(name)) else { return };
        if self.settings.merge_with_defaults && !sets_headers {
            // Secrets do not travel through the tree: there they are stars.
            limits.metrics_generator.remote_write_headers.clone_from(&self.defaults.metrics_generator.remote_write_headers);
        }
        if let Err(text) = limits.validate() {
            self.problems.push(format!("{}: validating overrides for {name} failed: {text}", self.path));
            return;
        }
        let surplus = DedicatedColumnConfig::surplus(&limits.storage.parquet_dedicated_columns);
        self.entries.warnings.extend(surplus.into_iter().map(|text| format!("{at}: {text}")));
        let zero = limits.zero_rate_keys();
        if !zero.is_empty() {
            let keys = zero.join(" and ");
            self.entries
                .warnings
                .push(format!("{at}: ingestion.{keys} unset or 0: every push of this tenant is rejected (entries do not inherit)"));
        }
        let limits = Arc::new(limits.with_fallbacks(self.defaults));
        if name == "*" {
            self.entries.wildcard = Some(limits);
            return;
        }
        match TenantId::parse(name) {
            Ok(tenant) => {
                self.entries.tenants.insert(tenant, limits);
            }
            Err(error) => self.report_at(document, at, error.to_string()),
        }
    }
}

/// The file's shape, for one entry at a time.
#[derive(serde::Deserialize)]
struct RuntimeFile {
    overrides: HashMap<String, Limits>,
}

/// Expands `${…}` in every text. After parsing, so that comments are left alone.
fn expand_node(node: &mut Node) -> Result<(), expand_env::ExpandError> {
    match node {
        Node::Text(text) => *text = expand_env::expand_from_environment(text)?,
        Node::List(items) => items.iter_mut().try_for_each(expand_node)?,
        Node::Map(entries) => {
            for (key, value) in entries {
                *key = expand_env::expand_from_environment(key)?;
                expand_node(value)?;
            }
        }
        Node::Null | Node::Bool(_) | Node::Int(_) | Node::UInt(_) | Node::Float(_) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCOPED: FileSettings = FileSettings { expand_env: false, enable_legacy: false, merge_with_defaults: false };

    fn errors(text: &str, settings: FileSettings) -> String {
        parse("o.yaml", text.as_bytes(), &Limits::builtin(), settings).unwrap_err().to_string()
    }

    #[test]
    fn every_problem_is_reported_with_its_line() {
        let text = "overrides:\n  a:\n    ingestion:\n      rate_limit_bytes: many\n      burst: 1\n  b:\n    read: {max_search_duration: 1.5h}\nother: 1\n";
        assert_eq!(
            errors(text, SCOPED),
            "load file: o.yaml:8: other: unknown key \"other\", only \"overrides\" is known here\n\
             o.yaml:4: overrides.a.ingestion.rate_limit_bytes: expected an integer, found \"many\"\n\
             o.yaml:5: overrides.a.ingestion.burst: unknown key \"burst\"\n\
             o.yaml:7: overrides.b.read.max_search_duration: unknown unit \".\" in duration \"1.5h\""
        );
    }

    #[test]
    fn legacy_format_needs_the_opt_in() {
        let text = "overrides:\n  a:\n    ingestion_rate_limit_bytes: 5\n    max_search_duration: 1d\n    cost_attribution: {max_cardinality: 3}\n";
        assert!(errors(text, SCOPED).contains("per-tenant overrides file uses the legacy format but legacy overrides are disabled"));
        let legacy = FileSettings { enable_legacy: true, ..SCOPED };
        let entries = parse("o.yaml", text.as_bytes(), &Limits::builtin(), legacy).unwrap();
        let a = &entries.tenants[&TenantId::parse("a").unwrap()];
        assert_eq!(
            (a.ingestion.rate_limit_bytes, a.read.max_search_duration.to_string(), a.cost_attribution.max_cardinality),
            (5, "1d".to_owned(), 3)
        );
        let wrong = "overrides:\n  a:\n    ingestion_rate_limit_bytes: x\n    block_retentoin: 1d\n";
        assert_eq!(
            errors(wrong, legacy),
            "load file: o.yaml:4: overrides.a.block_retentoin: unknown key \"block_retentoin\" in the legacy overrides format\n\
             o.yaml:3: overrides.a.ingestion_rate_limit_bytes: expected an integer, found \"x\""
        );
    }

    #[test]
    fn validation_names_the_tenant() {
        let text = "overrides: {a: {metrics_generator: {native_histogram_bucket_factor: 0.5}}}";
        assert_eq!(
            errors(text, SCOPED),
            "load file: o.yaml: validating overrides for a failed: metrics_generator.native_histogram_bucket_factor must be greater than 1"
        );
    }

    #[test]
    fn an_entry_without_a_rate_is_warned_about() {
        let text = "overrides: {a: {global: {max_bytes_per_trace: 1}}}";
        let entries = parse("o.yaml", text.as_bytes(), &Limits::builtin(), SCOPED).unwrap();
        assert_eq!(
            entries.warnings,
            [
                "overrides.a: ingestion.rate_limit_bytes and burst_size_bytes unset or 0: every push of this tenant is rejected (entries do not inherit)"
            ]
        );
    }
}
