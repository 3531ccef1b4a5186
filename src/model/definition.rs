//! Resources and scopes as comparable values: equal ones of a trace are merged (block-format §4.7).

use std::hash::{BuildHasher, Hash, Hasher};

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::span_table::{Attrs, SpanTable, Value};
use super::strings::StrId;

/// The content of a resource or scope. Its strings come from one interner, so equal ids mean equal strings and the reverse.
#[derive(Debug, Default)]
pub(super) struct Definition {
    /// Service name of a resource, name of a scope.
    pub(super) name: StrId,
    pub(super) version: StrId,
    /// Not part of the comparison.
    pub(super) dropped: u32,
    /// Sorted by key; array values point into its own `elements`. No owner is closed.
    pub(super) attrs: Attrs,
    /// The first definition with the same content.
    pub(super) canonical: u32,
}

impl Definition {
    /// Appends the resource that owns all scopes not yet owned.
    pub(super) fn push_resource(&self, table: &mut SpanTable) {
        let resources = &mut table.resources;
        resources.scopes.push_end(table.scopes.name.len());
        resources.service_name.push(self.name);
        resources.dropped_attributes.push(self.dropped);
        self.copy_attrs(&mut resources.attrs);
    }

    /// Appends the scope that owns all spans not yet owned.
    pub(super) fn push_scope(&self, table: &mut SpanTable) {
        let scopes = &mut table.scopes;
        scopes.spans.push_end(table.spans.span_id.len());
        scopes.name.push(self.name);
        scopes.version.push(self.version);
        scopes.dropped_attributes.push(self.dropped);
        self.copy_attrs(&mut scopes.attrs);
    }

    fn copy_attrs(&self, attrs: &mut Attrs) {
        for (&key, value) in self.attrs.keys.iter().zip(&self.attrs.values) {
            let copy = match value {
                Value::Array { .. } => attrs.array(self.attrs.elements_of(value).iter().copied()),
                scalar => *scalar,
            };
            attrs.push(key, copy);
        }
        attrs.close_owner();
    }

    fn content_hash(&self) -> u64 {
        let mut hasher = FixedState::default().build_hasher();
        (self.name, self.version, &self.attrs.keys).hash(&mut hasher);
        for value in &self.attrs.values {
            hash_value(value, self.attrs.elements_of(value), &mut hasher);
        }
        hasher.finish()
    }

    fn same_content(&self, other: &Self) -> bool {
        self.name == other.name
            && self.version == other.version
            && self.attrs.keys == other.attrs.keys
            && self.attrs.values.iter().zip(&other.attrs.values).all(|(a, b)| same_value(a, &self.attrs, b, &other.attrs))
    }
}

fn hash_value(value: &Value, elements: &[Value], hasher: &mut impl Hasher) {
    std::mem::discriminant(value).hash(hasher);
    match value {
        Value::Str(id) | Value::Json(id) => id.hash(hasher),
        Value::Int(value) => value.hash(hasher),
        Value::Double(value) => value.to_bits().hash(hasher),
        Value::Bool(value) => value.hash(hasher),
        Value::Array { .. } => elements.iter().for_each(|element| hash_value(element, &[], hasher)),
    }
}

/// Compares doubles by their bits, so that a NaN equals itself.
fn same_value(a: &Value, attrs_of_a: &Attrs, b: &Value, attrs_of_b: &Attrs) -> bool {
    match (a, b) {
        (Value::Double(a), Value::Double(b)) => a.to_bits() == b.to_bits(),
        (Value::Array { .. }, Value::Array { .. }) => {
            let (a, b) = (attrs_of_a.elements_of(a), attrs_of_b.elements_of(b));
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_value(a, attrs_of_a, b, attrs_of_b))
        }
        _ => a == b,
    }
}

/// A growing list of definitions that knows which are equal.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    list: Vec<Definition>,
    by_content: HashMap<u64, Vec<u32>, FixedState>,
}

impl Definitions {
    pub(super) fn add(&mut self, mut definition: Definition) -> u32 {
        let index = self.list.len() as u32;
        let alike = self.by_content.entry(definition.content_hash()).or_default();
        let twin = alike.iter().copied().find(|&other| self.list[other as usize].same_content(&definition));
        definition.canonical = twin.unwrap_or(index);
        if twin.is_none() {
            alike.push(index);
        }
        self.list.push(definition);
        index
    }

    pub(super) fn get(&self, index: u32) -> &Definition {
        &self.list[index as usize]
    }

    /// Returns the same number for definitions with the same content.
    pub(super) fn canonical(&self, index: u32) -> u32 {
        self.list[index as usize].canonical
    }
}

/// Numbers the groups of one trace in order of first occurrence, in constant time per look-up.
#[derive(Debug, Default)]
pub(super) struct Ranks {
    /// group → (trace it was last seen in, its rank there)
    last: Vec<(u32, u32)>,
    trace: u32,
    next: u32,
}

impl Ranks {
    pub(super) fn start_trace(&mut self) {
        self.trace += 1;
        self.next = 0;
    }

    pub(super) fn rank(&mut self, group: u32) -> u32 {
        let group = group as usize;
        if self.last.len() <= group {
            self.last.resize(group + 1, (0, 0));
        }
        let (trace, rank) = &mut self.last[group];
        if *trace != self.trace {
            (*trace, *rank) = (self.trace, self.next);
            self.next += 1;
        }
        *rank
    }
}

/// Numbers the scopes of one trace in order of first occurrence under their resource: where a scope stands under other resources does not count.
#[derive(Debug, Default)]
pub(super) struct ScopeRanks {
    /// (resource, scope) → group
    groups: HashMap<(u32, u32), u32, FixedState>,
    ranks: Ranks,
}

impl ScopeRanks {
    pub(super) fn start_trace(&mut self) {
        self.ranks.start_trace();
    }

    /// `resource` and `scope` are canonical.
    pub(super) fn rank(&mut self, resource: u32, scope: u32) -> u32 {
        let new = self.groups.len() as u32;
        self.ranks.rank(*self.groups.entry((resource, scope)).or_insert(new))
    }
}

/// Kinds outside 0…7 count as 0 when spans are compared (block-format §9).
pub(super) fn dedupe_kind(kind: i32) -> u8 {
    u8::try_from(kind).ok().filter(|kind| *kind <= 7).unwrap_or(0)
}
