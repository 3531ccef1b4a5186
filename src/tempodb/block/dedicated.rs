//! Dedicated columns: attributes that get a column of their own, by configuration (block-format §7).

use serde::{Deserialize, Serialize};
use twox_hash::XxHash64;

use super::meta::BlockVersion;

/// String slots a scope has in vParquet5.
pub const MAX_STRING_SLOTS: usize = 20;
/// Integer slots a scope has in vParquet5.
pub const MAX_INT_SLOTS: usize = 5;
/// String slots a scope has in vParquet3 and vParquet4.
pub const MAX_STRING_SLOTS_V4: usize = 10;

/// One entry of `parquet_dedicated_columns`, as written: texts we do not know are kept, so that a foreign list survives a round trip.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DedicatedColumn {
    /// `resource`, `span` or `event`.
    pub scope: String,
    /// Attribute name without scope.
    pub name: String,
    /// `string` or `int`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `array`, `blob`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// The level whose items carry a dedicated attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DedicatedScope {
    Resource,
    Span,
    Event,
}

impl DedicatedScope {
    pub const ALL: [Self; 3] = [Self::Resource, Self::Span, Self::Event];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resource => "resource",
            Self::Span => "span",
            Self::Event => "event",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }
}

/// What values a dedicated column takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DedicatedKind {
    String,
    Int,
}

impl DedicatedKind {
    pub const ALL: [Self; 2] = [Self::String, Self::Int];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Int => "int",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    fn max_slots(self) -> usize {
        match self {
            Self::String => MAX_STRING_SLOTS,
            Self::Int => MAX_INT_SLOTS,
        }
    }
}

/// A column that vParquet3 and vParquet4 have for an attribute whatever the configuration; in the order of attributes on read-back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FixedColumn {
    Cluster,
    Namespace,
    Pod,
    Container,
    K8sClusterName,
    K8sNamespaceName,
    K8sPodName,
    K8sContainerName,
    HttpMethod,
    HttpUrl,
    HttpStatusCode,
}

impl FixedColumn {
    pub const ALL: [Self; 11] = [
        Self::Cluster,
        Self::Namespace,
        Self::Pod,
        Self::Container,
        Self::K8sClusterName,
        Self::K8sNamespaceName,
        Self::K8sPodName,
        Self::K8sContainerName,
        Self::HttpMethod,
        Self::HttpUrl,
        Self::HttpStatusCode,
    ];

    /// The leaf's own name, which is that of the variant.
    pub fn leaf_name(self) -> String {
        format!("{self:?}")
    }

    pub fn attribute(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Namespace => "namespace",
            Self::Pod => "pod",
            Self::Container => "container",
            Self::K8sClusterName => "k8s.cluster.name",
            Self::K8sNamespaceName => "k8s.namespace.name",
            Self::K8sPodName => "k8s.pod.name",
            Self::K8sContainerName => "k8s.container.name",
            Self::HttpMethod => "http.method",
            Self::HttpUrl => "http.url",
            Self::HttpStatusCode => "http.status_code",
        }
    }

    pub fn scope(self) -> DedicatedScope {
        match self {
            Self::Cluster
            | Self::Namespace
            | Self::Pod
            | Self::Container
            | Self::K8sClusterName
            | Self::K8sNamespaceName
            | Self::K8sPodName
            | Self::K8sContainerName => DedicatedScope::Resource,
            Self::HttpMethod | Self::HttpUrl | Self::HttpStatusCode => DedicatedScope::Span,
        }
    }

    pub fn kind(self) -> DedicatedKind {
        if self == Self::HttpStatusCode { DedicatedKind::Int } else { DedicatedKind::String }
    }
}

/// Where the values of a slot are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SlotPlace {
    /// 1-based: `String01`, `Int01`, …
    Numbered(u8),
    Fixed(FixedColumn),
}

/// An attribute with a column of its own, and its place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DedicatedSlot {
    pub scope: DedicatedScope,
    pub kind: DedicatedKind,
    pub place: SlotPlace,
    pub name: String,
    /// Long texts, stored without dictionary. The compatible system writes empty strings as their bounds in the column index, which must not be used.
    pub is_blob: bool,
}

/// Why a list of dedicated columns is refused; the texts are part of the contract (block-format §7).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DedicatedColumnError {
    #[error("invalid dedicated attribute columns: empty name")]
    EmptyName,
    #[error("invalid dedicated attribute columns: duplicate name '{name}' for scope '{scope}'")]
    DuplicateName { name: String, scope: String },
    #[error("invalid dedicated attribute columns: invalid option '{0}'")]
    InvalidOption(String),
    #[error("invalid dedicated attribute columns: unsupported dedicated column type '{0}'")]
    UnsupportedType(String),
    #[error("invalid dedicated attribute columns: unsupported dedicated column scope '{0}'")]
    UnsupportedScope(String),
}

impl DedicatedColumn {
    pub fn new(scope: DedicatedScope, name: &str, kind: DedicatedKind) -> Self {
        Self { scope: scope.as_str().to_owned(), name: name.to_owned(), kind: kind.as_str().to_owned(), options: Vec::new() }
    }

    pub fn with_option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    fn is_blob(&self) -> bool {
        self.options.iter().any(|option| option == "blob")
    }

    fn typed(&self) -> Option<(DedicatedScope, DedicatedKind)> {
        Some((DedicatedScope::parse(&self.scope)?, DedicatedKind::parse(&self.kind)?))
    }
}

/// Returns the list that applies when nothing is configured.
pub fn default_columns() -> Vec<DedicatedColumn> {
    use DedicatedKind::{Int, String};
    use DedicatedScope::{Resource, Span};
    [
        (Resource, "k8s.cluster.name", String),
        (Resource, "k8s.namespace.name", String),
        (Resource, "k8s.pod.name", String),
        (Resource, "k8s.container.name", String),
        (Span, "http.request.method", String),
        (Span, "http.response.status_code", Int),
        (Span, "url.path", String),
        (Span, "url.route", String),
        (Span, "server.address", String),
        (Span, "server.port", Int),
        (Span, "http.method", String),
        (Span, "http.url", String),
        (Span, "http.route", String),
        (Span, "http.status_code", Int),
    ]
    .into_iter()
    .map(|(scope, name, kind)| DedicatedColumn::new(scope, name, kind))
    .collect()
}

/// Checks a configured list; returns warnings about surplus columns, which are ignored when slots are assigned.
pub fn validate(columns: &[DedicatedColumn]) -> Result<Vec<String>, DedicatedColumnError> {
    let mut seen = std::collections::HashSet::new();
    for column in columns {
        if column.name.is_empty() {
            return Err(DedicatedColumnError::EmptyName);
        }
        if !seen.insert((&column.scope, &column.name)) {
            return Err(DedicatedColumnError::DuplicateName { name: column.name.clone(), scope: column.scope.clone() });
        }
        if let Some(option) = column.options.iter().find(|option| !matches!(option.as_str(), "array" | "blob")) {
            return Err(DedicatedColumnError::InvalidOption(option.clone()));
        }
        if DedicatedKind::parse(&column.kind).is_none() {
            return Err(DedicatedColumnError::UnsupportedType(column.kind.clone()));
        }
        if DedicatedScope::parse(&column.scope).is_none() {
            return Err(DedicatedColumnError::UnsupportedScope(column.scope.clone()));
        }
    }
    Ok(surplus_warnings(columns))
}

fn surplus_warnings(columns: &[DedicatedColumn]) -> Vec<String> {
    let mut warnings = Vec::new();
    for scope in DedicatedScope::ALL {
        for kind in DedicatedKind::ALL {
            let count = columns.iter().filter(|column| column.typed() == Some((scope, kind))).count();
            if count > kind.max_slots() {
                warnings.push(format!(
                    "invalid dedicated attribute columns: number of columns with type '{}' and scope '{}' must be <= {} but was {count}",
                    kind.as_str(),
                    scope.as_str(),
                    kind.max_slots(),
                ));
            }
        }
    }
    warnings
}

/// Returns the entries a block of `version` can hold; this list goes to its meta.
pub fn filter_for_version(columns: &[DedicatedColumn], version: BlockVersion) -> Vec<DedicatedColumn> {
    columns
        .iter()
        .filter(|column| match (version, column.typed()) {
            (_, None) => false,
            (BlockVersion::VParquet5, Some(_)) => true,
            (BlockVersion::VParquet3 | BlockVersion::VParquet4, Some((scope, kind))) => fits_v4(column, scope, kind),
        })
        .cloned()
        .collect()
}

fn fits_v4(column: &DedicatedColumn, scope: DedicatedScope, kind: DedicatedKind) -> bool {
    let is_fixed = |fixed: FixedColumn| (fixed.scope(), fixed.kind(), fixed.attribute()) == (scope, kind, &column.name);
    let is_service = scope == DedicatedScope::Resource && column.name == "service.name";
    let is_string = kind == DedicatedKind::String && scope != DedicatedScope::Event && column.options.is_empty();
    is_string && !is_service && !FixedColumn::ALL.into_iter().any(is_fixed)
}

/// Assigns slots in list order, per scope and type; entries beyond the last slot get none. Fixed columns follow where the version has them, so that
/// the order of slots is the order of attributes on read-back.
pub fn assign_slots(columns: &[DedicatedColumn], version: BlockVersion) -> Vec<DedicatedSlot> {
    let mut slots: Vec<DedicatedSlot> = Vec::new();
    for column in columns {
        let Some((scope, kind)) = column.typed() else { continue };
        let max = match (version, kind, scope) {
            (BlockVersion::VParquet5, kind, _) => kind.max_slots(),
            (_, DedicatedKind::String, DedicatedScope::Resource | DedicatedScope::Span) => MAX_STRING_SLOTS_V4,
            (_, DedicatedKind::Int, _) | (_, _, DedicatedScope::Event) => 0,
        };
        let used = slots.iter().filter(|slot| slot.scope == scope && slot.kind == kind).count();
        if used < max {
            let (name, is_blob) = (column.name.clone(), column.is_blob() && kind == DedicatedKind::String);
            slots.push(DedicatedSlot { scope, kind, place: SlotPlace::Numbered(used as u8 + 1), name, is_blob });
        }
    }
    if version != BlockVersion::VParquet5 {
        slots.extend(FixedColumn::ALL.map(|fixed| DedicatedSlot {
            scope: fixed.scope(),
            kind: fixed.kind(),
            place: SlotPlace::Fixed(fixed),
            name: fixed.attribute().to_owned(),
            is_blob: false,
        }));
    }
    slots
}

/// Returns the hash that tells lists apart: 0 for none; the order matters (block-format §7).
pub fn hash(columns: &[DedicatedColumn]) -> u64 {
    if columns.is_empty() {
        return 0;
    }
    let mut bytes = Vec::new();
    for column in columns {
        bytes.extend_from_slice(column.scope.as_bytes());
        for part in [&column.name, &column.kind].into_iter().chain(&column.options) {
            bytes.push(0xff);
            bytes.extend_from_slice(part.as_bytes());
        }
    }
    XxHash64::oneshot(0, &bytes)
}

/// The JSON form inside `meta.json`: short keys, defaults left out.
#[derive(Serialize, Deserialize)]
struct MetaEntry {
    #[serde(default = "default_scope", skip_serializing_if = "is_default_scope", rename = "s")]
    scope: String,
    #[serde(default, rename = "n")]
    name: String,
    #[serde(default = "default_kind", skip_serializing_if = "is_default_kind", rename = "t")]
    kind: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty", rename = "o")]
    options: Vec<String>,
}

fn default_scope() -> String {
    DedicatedScope::Span.as_str().to_owned()
}

fn is_default_scope(scope: &String) -> bool {
    scope == DedicatedScope::Span.as_str()
}

fn default_kind() -> String {
    DedicatedKind::String.as_str().to_owned()
}

fn is_default_kind(kind: &String) -> bool {
    kind == DedicatedKind::String.as_str()
}

/// Serde form of the list in `meta.json`; `null` reads as empty.
pub(super) mod meta_json {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{DedicatedColumn, MetaEntry};

    pub(in crate::tempodb::block) fn serialize<S: Serializer>(columns: &[DedicatedColumn], serializer: S) -> Result<S::Ok, S::Error> {
        let entries: Vec<MetaEntry> = columns
            .iter()
            .cloned()
            .map(|column| MetaEntry { scope: column.scope, name: column.name, kind: column.kind, options: column.options })
            .collect();
        entries.serialize(serializer)
    }

    pub(in crate::tempodb::block) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<[DedicatedColumn]>, D::Error> {
        let entries = Option::<Vec<MetaEntry>>::deserialize(deserializer)?.unwrap_or_default();
        let column = |entry: MetaEntry| DedicatedColumn { scope: entry.scope, name: entry.name, kind: entry.kind, options: entry.options };
        Ok(entries.into_iter().map(column).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(scope: &str, name: &str, kind: &str, options: &[&str]) -> DedicatedColumn {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        DedicatedColumn { scope: scope.to_owned(), name: name.to_owned(), kind: kind.to_owned(), options }
    }

    #[test]
    fn invalid_lists_are_refused_with_the_known_texts() {
        let prefix = "invalid dedicated attribute columns: ";
        let cases = [
            (vec![column("span", "", "string", &[])], "empty name"),
            (vec![column("span", "a", "string", &[]), column("span", "a", "int", &[])], "duplicate name 'a' for scope 'span'"),
            (vec![column("span", "a", "string", &["zip"])], "invalid option 'zip'"),
            (vec![column("span", "a", "float", &[])], "unsupported dedicated column type 'float'"),
            (vec![column("link", "a", "int", &[])], "unsupported dedicated column scope 'link'"),
        ];
        for (columns, text) in cases {
            assert_eq!(validate(&columns).unwrap_err().to_string(), format!("{prefix}{text}"));
        }
        assert_eq!(validate(&default_columns()), Ok(Vec::new()));
    }

    #[test]
    fn surplus_columns_are_a_warning_and_get_no_slot() {
        let columns: Vec<_> = (0..6).map(|i| column("event", &format!("a{i}"), "int", &[])).collect();
        assert_eq!(
            validate(&columns).unwrap(),
            ["invalid dedicated attribute columns: number of columns with type 'int' and scope 'event' must be <= 5 but was 6"]
        );
        assert_eq!(assign_slots(&columns, BlockVersion::VParquet5).len(), 5);
    }

    #[test]
    fn vparquet4_keeps_plain_strings_without_fixed_column() {
        let names: Vec<_> = filter_for_version(&default_columns(), BlockVersion::VParquet4).into_iter().map(|c| c.name).collect();
        assert_eq!(names, ["http.request.method", "url.path", "url.route", "server.address", "http.route"]);
    }

    #[test]
    fn slots_count_per_scope_and_type() {
        let columns = [
            column("span", "a", "string", &["blob"]),
            column("span", "b", "int", &[]),
            column("resource", "c", "string", &[]),
            column("span", "d", "string", &[]),
        ];
        let slots: Vec<_> = assign_slots(&columns, BlockVersion::VParquet5)
            .iter()
            .map(|slot| format!("{} {} {:?} {} {}", slot.scope.as_str(), slot.kind.as_str(), slot.place, slot.name, slot.is_blob))
            .collect();
        assert_eq!(
            slots,
            [
                "span string Numbered(1) a true",
                "span int Numbered(1) b false",
                "resource string Numbered(1) c false",
                "span string Numbered(2) d false"
            ]
        );
    }

    #[test]
    fn vparquet4_has_ten_strings_a_scope_and_the_fixed_columns() {
        let columns: Vec<_> = (0..12).map(|i| column("span", &format!("a{i}"), "string", &[])).collect();
        let slots = assign_slots(&columns, BlockVersion::VParquet4);
        let numbered = slots.iter().filter(|slot| matches!(slot.place, SlotPlace::Numbered(_))).count();
        assert_eq!((numbered, slots.len()), (10, 21));
        let strings_of_codes = [column("span", "http.status_code", "string", &[])];
        assert_eq!(filter_for_version(&strings_of_codes, BlockVersion::VParquet4), strings_of_codes);
        let dropped = [
            ("span", "http.url", "string"),
            ("resource", "pod", "string"),
            ("resource", "service.name", "string"),
            ("event", "x", "string"),
            ("span", "n", "int"),
        ];
        for (scope, name, kind) in dropped {
            assert_eq!(filter_for_version(&[column(scope, name, kind, &[])], BlockVersion::VParquet4), [], "{scope} {name}");
        }
        assert_eq!(filter_for_version(&[column("span", "x", "string", &["array"])], BlockVersion::VParquet3), []);
    }

    #[test]
    fn the_hash_depends_on_order_and_options() {
        let (a, b) = (column("span", "a", "string", &[]), column("span", "b", "string", &["array"]));
        assert_eq!(hash(&[]), 0);
        assert_ne!(hash(&[a.clone(), b.clone()]), hash(&[b.clone(), a.clone()]));
        assert_ne!(hash(std::slice::from_ref(&b)), hash(&[column("span", "b", "string", &[])]));
        assert_eq!(hash(&[a]), XxHash64::oneshot(0, b"span\xffa\xffstring"));
    }
}
