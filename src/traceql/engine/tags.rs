//! Tag names and tag values of a table, optionally only of spans that pass a filter.

use std::collections::HashSet;

use foldhash::fast::FixedState;

use super::projection::{FetchColumn, FetchKeys, FetchKinds, FetchSpec, SERVICE_NAME};
use crate::base::bitset::Bitset;
use crate::model::span_table::{Attrs, SpanTable, Value as Stored};
use crate::model::strings::StrId;
use crate::traceql::ast::{Attribute, AttributeScope, Intrinsic};
use crate::traceql::autocomplete::{Condition as TagCondition, TagFilter};
use crate::traceql::tags::{TagNames, TagScope, TagValue, TagValues, fixed_values};
use crate::traceql::types::Static;

use super::condition::Condition;
use super::expr::{Level, Node, Test, all, any, level_of};
use super::filter::Evaluator;

/// Which spans count for tag names and values: [`TagFilter`] in the form that is evaluated.
#[derive(Debug, Clone, Default)]
pub struct TagSelection(Option<Node>);

impl TagSelection {
    pub fn new(filter: &TagFilter) -> Self {
        let group = |conditions: &Vec<TagCondition>| all(conditions.iter().filter_map(node_of).collect());
        let node = (!filter.groups.is_empty()).then(|| any(filter.groups.iter().map(group).collect()));
        Self(node.filter(|node| !matches!(node, Node::Const(true))))
    }

    /// Whether every span counts.
    pub fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// What [`tag_names`] reads.
    pub fn names_fetch(&self, scopes: &[TagScope]) -> FetchSpec {
        let mut fetch = self.fetch();
        for scope in scopes {
            match scope {
                TagScope::Resource => {
                    fetch.resource_attributes = FetchKeys::All;
                    fetch.columns.insert(FetchColumn::ServiceName);
                }
                TagScope::Span => fetch.span_attributes = FetchKeys::All,
                TagScope::Instrumentation => fetch.scope_attributes = FetchKeys::All,
                TagScope::Event => {
                    fetch.event_attributes = FetchKeys::All;
                    fetch.columns.insert(FetchColumn::EventOffsets);
                }
                TagScope::Link => {
                    fetch.link_attributes = FetchKeys::All;
                    fetch.columns.insert(FetchColumn::LinkOffsets);
                }
            }
        }
        fetch
    }

    /// What [`tag_values`] reads.
    pub fn values_fetch(&self, attribute: &Attribute) -> FetchSpec {
        let mut fetch = self.fetch();
        for attribute in scoped(attribute) {
            fetch.add(&attribute, FetchKinds::ALL);
        }
        fetch
    }

    fn fetch(&self) -> FetchSpec {
        let mut fetch = FetchSpec::default();
        if let Some(node) = &self.0 {
            node.visit(&mut |attribute, condition| fetch.add(attribute, condition.map_or(FetchKinds::ALL, Condition::kinds)));
        }
        fetch
    }

    /// Returns the items of `level` that belong to a passing span.
    fn select(&self, evaluator: &mut Evaluator<'_>, level: Level) -> Bitset {
        match &self.0 {
            None => Bitset::full(evaluator.levels.count(level)),
            Some(node) => {
                let all = Bitset::full(evaluator.levels.count(Level::Span));
                let spans = evaluator.select(node, Level::Span, &all);
                evaluator.levels.convert(spans, Level::Span, level)
            }
        }
    }
}

/// Returns the test of a condition; `None` for one that cannot be tested on its own.
fn node_of(condition: &TagCondition) -> Option<Node> {
    let attribute = condition.attribute.clone();
    let condition = Condition::new(&attribute, condition.op, &condition.value)?;
    Some(Node::Test(Test { attribute, condition }))
}

/// Adds the names of all attributes in `scopes` that a passing span has.
pub fn tag_names(table: &SpanTable, scopes: &[TagScope], filter: &TagSelection, names: &mut TagNames) {
    let mut evaluator = Evaluator::new(table);
    for scope in scopes {
        if names.is_exhausted() {
            return;
        }
        let (level, attrs) = match scope {
            TagScope::Resource => (Level::Resource, &table.resources.attrs),
            TagScope::Span => (Level::Span, &table.spans.attrs),
            TagScope::Instrumentation => (Level::Scope, &table.scopes.attrs),
            TagScope::Event => (Level::Event, &table.events.attrs),
            TagScope::Link => (Level::Link, &table.links.attrs),
        };
        let owners = filter.select(&mut evaluator, level);
        let is_named = |id: &StrId| *id != StrId::EMPTY;
        if level == Level::Resource && owners.iter().any(|owner| table.resources.service_name.get(owner).is_some_and(is_named)) {
            names.add(*scope, SERVICE_NAME);
        }
        for key in keys_of(table, attrs, &owners, filter.is_all()).iter() {
            names.add(*scope, &table.strings.text(StrId(key as u32)));
        }
    }
}

/// Returns the distinct keys of `owners` as a set of dictionary ids.
fn keys_of(table: &SpanTable, attrs: &Attrs, owners: &Bitset, is_all: bool) -> Bitset {
    let mut keys = Bitset::new(table.strings.len());
    if is_all {
        attrs.keys.iter().for_each(|key| keys.insert(key.index()));
    } else if attrs.of.len() >= owners.len() {
        for owner in owners.iter() {
            attrs.keys[attrs.of.range(owner)].iter().for_each(|key| keys.insert(key.index()));
        }
    }
    keys
}

/// Adds the values that passing spans have for `attribute`. An unscoped one is looked for in resources, spans and scopes alike.
pub fn tag_values(table: &SpanTable, attribute: &Attribute, filter: &TagSelection, values: &mut TagValues) {
    if fixed_values(attribute).is_some() {
        return;
    }
    let mut evaluator = Evaluator::new(table);
    for attribute in scoped(attribute) {
        if values.is_exhausted() {
            return;
        }
        let owners = filter.select(&mut evaluator, level_of(&attribute));
        let mut found = Found::new(table);
        found.collect(&mut evaluator, &attribute, &owners);
        found.add_to(values);
    }
}

/// The attributes whose values are asked for: the attribute itself, or its three scopes when it has none.
fn scoped(attribute: &Attribute) -> Vec<Attribute> {
    match attribute {
        Attribute::Named(named) if named.scope == AttributeScope::Unscoped => {
            [AttributeScope::Resource, AttributeScope::Span, AttributeScope::Instrumentation]
                .map(|scope| Attribute::named(scope, named.name.clone()))
                .into()
        }
        other => vec![other.clone()],
    }
}

/// Distinct values of one attribute in one table.
struct Found<'t> {
    table: &'t SpanTable,
    strings: Bitset,
    others: HashSet<Static, FixedState>,
}

impl<'t> Found<'t> {
    fn new(table: &'t SpanTable) -> Self {
        Self { table, strings: Bitset::new(table.strings.len()), others: HashSet::default() }
    }

    fn collect(&mut self, evaluator: &mut Evaluator<'_>, attribute: &Attribute, owners: &Bitset) {
        let table = self.table;
        match attribute {
            Attribute::Named(named) => {
                let attrs = match named.scope {
                    AttributeScope::Resource => &table.resources.attrs,
                    AttributeScope::Span | AttributeScope::Unscoped => &table.spans.attrs,
                    AttributeScope::Event => &table.events.attrs,
                    AttributeScope::Link => &table.links.attrs,
                    AttributeScope::Instrumentation => &table.scopes.attrs,
                };
                if named.scope == AttributeScope::Resource && &*named.name == SERVICE_NAME {
                    self.column(&table.resources.service_name, owners);
                    self.strings_without_empty();
                    return;
                }
                let keys = evaluator.ids.ids_of(&table.strings, named.name.as_bytes());
                for owner in owners.iter().take_while(|owner| *owner < attrs.of.len()) {
                    for (_, value) in attrs.of_owner(owner).filter(|(key, _)| keys.contains(key)) {
                        attrs.elements_of(&value).iter().for_each(|value| self.add(*value));
                    }
                }
            }
            Attribute::Intrinsic(intrinsic) => match intrinsic {
                Intrinsic::Name => self.column(&table.spans.name, owners),
                Intrinsic::StatusMessage => self.column(&table.spans.status_message, owners),
                Intrinsic::RootName => self.column(&table.traces.root_span_name, owners),
                Intrinsic::RootServiceName => self.column(&table.traces.root_service_name, owners),
                Intrinsic::EventName => self.column(&table.events.name, owners),
                Intrinsic::InstrumentationName => self.column(&table.scopes.name, owners),
                Intrinsic::InstrumentationVersion => self.column(&table.scopes.version, owners),
                Intrinsic::SpanChildCount
                | Intrinsic::NestedSetLeft
                | Intrinsic::NestedSetRight
                | Intrinsic::NestedSetParent
                | Intrinsic::EventTimeSinceStart => {
                    for owner in owners.iter() {
                        self.others.insert(evaluator.own_attribute(attribute, owner));
                    }
                }
                Intrinsic::Duration
                | Intrinsic::Status
                | Intrinsic::Kind
                | Intrinsic::SpanId
                | Intrinsic::SpanParentId
                | Intrinsic::TraceDuration
                | Intrinsic::TraceId
                | Intrinsic::LinkTraceId
                | Intrinsic::LinkSpanId
                | Intrinsic::Parent => {}
            },
        }
    }

    fn column(&mut self, column: &[StrId], owners: &Bitset) {
        if column.len() >= owners.len() {
            owners.iter().for_each(|owner| self.strings.insert(column[owner].index()));
        }
    }

    /// An empty service name means that there is none.
    fn strings_without_empty(&mut self) {
        self.strings = self.strings.filter(|id| id != StrId::EMPTY.index());
    }

    fn add(&mut self, value: Stored) {
        match value {
            Stored::Str(id) => self.strings.insert(id.index()),
            Stored::Int(value) => {
                self.others.insert(Static::Int(value));
            }
            Stored::Double(value) => {
                self.others.insert(Static::Float(value));
            }
            Stored::Bool(value) => {
                self.others.insert(Static::Bool(value));
            }
            Stored::Array { .. } | Stored::Json(_) => {}
        }
    }

    fn add_to(self, values: &mut TagValues) {
        for id in self.strings.iter() {
            values.add(TagValue { kind: "string", text: self.table.strings.text(StrId(id as u32)).into() });
        }
        let mut others: Vec<TagValue> = self.others.iter().filter_map(TagValue::new).collect();
        others.sort_unstable();
        others.into_iter().for_each(|value| values.add(value));
    }
}
