//! Evaluates boolean expressions on whole tables: selections in, selections out.
//!
//! Invariant: the result of evaluating a node under a mask is a subset of the mask, of the same level.

use super::projection::SERVICE_NAME;
use crate::base::bitset::Bitset;
use crate::model::ids::{SpanId, TraceId};
use crate::model::span_table::{Attrs, SpanTable};
use crate::model::strings::StrId;
use crate::traceql::ast::{Attribute, AttributeScope, ComparisonOp, Intrinsic, NamedAttribute, Owner};
use crate::traceql::types::{Kind, Static, Status};

use super::condition::{Condition, span_id_from_hex};
use super::expr::{Level, Node, Test, level_of};
use super::levels::Levels;
use super::relatives::Relatives;
use super::scan::{IdCache, NumberTest, StringTest, ValueTest, scan_attributes};
use super::value::TextCache;

/// One table under evaluation, with what was looked up in it so far.
pub(super) struct Evaluator<'t> {
    pub(super) table: &'t SpanTable,
    pub(super) levels: Levels<'t>,
    pub(super) ids: IdCache,
    pub(super) texts: TextCache,
    pub(super) relatives: Relatives,
}

impl<'t> Evaluator<'t> {
    pub(super) fn new(table: &'t SpanTable) -> Self {
        Self { table, levels: Levels::new(table), ids: IdCache::default(), texts: TextCache::default(), relatives: Relatives::default() }
    }

    /// Returns the members of `mask`, items of `level`, for which `node` is true.
    pub(super) fn select(&mut self, node: &Node, level: Level, mask: &Bitset) -> Bitset {
        match node {
            Node::Const(true) => mask.clone(),
            Node::Const(false) => Bitset::new(mask.len()),
            Node::All(nodes) => {
                let mut kept = mask.clone();
                for node in nodes {
                    if kept.is_empty() {
                        break;
                    }
                    kept = self.select(node, level, &kept);
                }
                kept
            }
            Node::Any(nodes) => {
                let mut open = mask.clone();
                let mut found = Bitset::new(mask.len());
                for node in nodes {
                    if open.is_empty() {
                        break;
                    }
                    let matched = self.select(node, level, &open);
                    open.subtract(&matched);
                    found.unite(&matched);
                }
                found
            }
            Node::Not(node) => {
                let mut rest = mask.clone();
                rest.subtract(&self.select(node, level, mask));
                rest
            }
            Node::Test(test) => self.on_level(level_of(&test.attribute), level, mask, |this, mask| this.test(test, mask)),
            Node::Compare { op, lhs, rhs } => {
                let home = node.value_level();
                self.on_level(home, level, mask, |this, mask| this.compare(*op, lhs, rhs, home, mask))
            }
            Node::Present { value, wanted } => {
                let home = node.value_level();
                self.on_level(home, level, mask, |this, mask| this.present(value, *wanted, home, mask))
            }
            Node::On(home, node) => self.on_level(*home, level, mask, |this, mask| this.select(node, *home, mask)),
        }
    }

    /// Evaluates on the items of `home` and returns what that means for the members of `mask` on `level`: items above pass it down to all
    /// they own, items below satisfy their owner if any of them does.
    fn on_level(&mut self, home: Level, level: Level, mask: &Bitset, evaluate: impl FnOnce(&mut Self, &Bitset) -> Bitset) -> Bitset {
        if home == level {
            return evaluate(self, mask);
        }
        let home_mask = if home < level { Bitset::full(self.levels.count(home)) } else { self.levels.convert(mask.clone(), level, home) };
        let mut selected = evaluate(self, &home_mask);
        if !selected.is_empty() {
            selected = self.levels.convert(selected, home, level);
            selected.intersect(mask);
            return selected;
        }
        Bitset::new(mask.len())
    }

    fn test(&mut self, test: &Test, mask: &Bitset) -> Bitset {
        match &test.attribute {
            Attribute::Named(named) => self.test_named(named, &test.condition, mask),
            Attribute::Intrinsic(intrinsic) => self.test_intrinsic(*intrinsic, &test.condition, mask),
        }
    }

    fn test_named(&mut self, named: &NamedAttribute, condition: &Condition, mask: &Bitset) -> Bitset {
        if let Condition::Missing = condition {
            let mut missing = mask.clone();
            missing.subtract(&self.test_named(named, &Condition::Exists, mask));
            return missing;
        }
        if named.owner != Owner::Itself {
            return self.test_relative(named, condition, mask);
        }
        let table = self.table;
        let key = named.name.as_bytes();
        match named.scope {
            AttributeScope::Span => self.test_attributes(&table.spans.attrs, key, condition, mask),
            AttributeScope::Event => self.test_attributes(&table.events.attrs, key, condition, mask),
            AttributeScope::Link => self.test_attributes(&table.links.attrs, key, condition, mask),
            AttributeScope::Instrumentation => self.test_attributes(&table.scopes.attrs, key, condition, mask),
            AttributeScope::Resource => self.test_resource(key, condition, mask),
            AttributeScope::Unscoped => self.test_unscoped(key, condition, mask),
        }
    }

    /// Tests parents or roots, and selects the spans that have one that passes.
    fn test_relative(&mut self, named: &NamedAttribute, condition: &Condition, mask: &Bitset) -> Bitset {
        let relatives = self.relatives.of_spans(self.table, named.owner);
        let mut asked = Bitset::new(mask.len());
        mask.iter().filter_map(|span| relatives.of(span)).for_each(|relative| asked.insert(relative));
        let own = NamedAttribute { owner: Owner::Itself, ..named.clone() };
        let home = if own.scope == AttributeScope::Resource { Level::Resource } else { Level::Span };
        let passed = self.on_level(home, Level::Span, &asked, |this, mask| this.test_named(&own, condition, mask));
        mask.filter(|span| relatives.of(span).is_some_and(|relative| passed.contains(relative)))
    }

    /// A span attribute hides the resource attribute of the same name, whether it passes or not.
    fn test_unscoped(&mut self, key: &[u8], condition: &Condition, mask: &Bitset) -> Bitset {
        let table = self.table;
        let mut passed = self.test_attributes(&table.spans.attrs, key, condition, mask);
        let resources = self.test_resource(key, condition, &Bitset::full(self.levels.count(Level::Resource)));
        if !resources.is_empty() {
            let mut inherited = self.levels.convert(resources, Level::Resource, Level::Span);
            inherited.intersect(mask);
            inherited.subtract(&self.test_attributes(&table.spans.attrs, key, &Condition::Exists, &inherited));
            passed.unite(&inherited);
        }
        passed
    }

    /// The service name has a column, where absent and empty are the same; it is never nil.
    fn test_resource(&mut self, key: &[u8], condition: &Condition, mask: &Bitset) -> Bitset {
        let resources = &self.table.resources;
        if key == SERVICE_NAME.as_bytes() {
            self.test_strings(&resources.service_name, condition, mask)
        } else {
            self.test_attributes(&resources.attrs, key, condition, mask)
        }
    }

    fn test_attributes(&mut self, attrs: &Attrs, key: &[u8], condition: &Condition, mask: &Bitset) -> Bitset {
        let pool = &self.table.strings;
        let mut passed = Bitset::new(mask.len());
        let keys = self.ids.ids_of(pool, key);
        if keys.is_empty() {
            return passed;
        }
        let mut test = ValueTest::new(condition, pool, &mut self.ids);
        if !test.is_never() {
            scan_attributes(attrs, &keys, mask, |value| test.passes(pool, attrs, value), |owner| passed.insert(owner));
        }
        passed
    }

    fn test_strings(&mut self, column: &[StrId], condition: &Condition, mask: &Bitset) -> Bitset {
        let pool = &self.table.strings;
        StringTest::new(condition, pool, &mut self.ids).filter_column(pool, column, mask)
    }

    fn test_intrinsic(&mut self, intrinsic: Intrinsic, condition: &Condition, mask: &Bitset) -> Bitset {
        let table = self.table;
        let (spans, traces) = (&table.spans, &table.traces);
        match intrinsic {
            Intrinsic::Name => self.test_strings(&spans.name, condition, mask),
            Intrinsic::StatusMessage => self.test_strings(&spans.status_message, condition, mask),
            Intrinsic::RootName => self.test_strings(&traces.root_span_name, condition, mask),
            Intrinsic::RootServiceName => self.test_strings(&traces.root_service_name, condition, mask),
            Intrinsic::EventName => self.test_strings(&table.events.name, condition, mask),
            Intrinsic::InstrumentationName => self.test_strings(&table.scopes.name, condition, mask),
            Intrinsic::InstrumentationVersion => self.test_strings(&table.scopes.version, condition, mask),
            Intrinsic::Duration => test_numbers(&spans.duration_nanos, condition, mask, |nanos| *nanos as i64),
            Intrinsic::TraceDuration => test_numbers(&traces.duration_nanos, condition, mask, |nanos| *nanos as i64),
            Intrinsic::EventTimeSinceStart => test_numbers(&table.events.time_since_start_nanos, condition, mask, |nanos| *nanos as i64),
            Intrinsic::SpanChildCount => test_numbers(&spans.child_count, condition, mask, |n| i64::from(*n)),
            Intrinsic::NestedSetLeft => test_numbers(&spans.nested_left, condition, mask, |n| i64::from(*n)),
            Intrinsic::NestedSetRight => test_numbers(&spans.nested_right, condition, mask, |n| i64::from(*n)),
            Intrinsic::NestedSetParent => test_numbers(&spans.nested_parent, condition, mask, |n| i64::from(*n)),
            Intrinsic::Status => test_enum(&spans.status_code, condition, mask, |code| Static::Status(Status::from_otlp(code))),
            Intrinsic::Kind => test_enum(&spans.kind, condition, mask, |code| Static::Kind(Kind::from_otlp(code))),
            Intrinsic::SpanId => test_ids(&spans.span_id, condition, mask, span_id_from_hex, SpanId::to_string),
            Intrinsic::SpanParentId => test_ids(&spans.parent_span_id, condition, mask, span_id_from_hex, SpanId::to_string),
            Intrinsic::LinkSpanId => test_ids(&table.links.span_id, condition, mask, span_id_from_hex, SpanId::to_string),
            Intrinsic::TraceId => test_ids(&traces.ids, condition, mask, TraceId::from_hex, TraceId::to_short_hex),
            Intrinsic::LinkTraceId => test_ids(&table.links.trace_id, condition, mask, TraceId::from_hex, TraceId::to_short_hex),
            Intrinsic::Parent => Bitset::new(mask.len()),
        }
    }
}

fn test_numbers<T>(column: &[T], condition: &Condition, mask: &Bitset, number: impl Fn(&T) -> i64) -> Bitset {
    if column.len() < mask.len() {
        return Bitset::new(mask.len());
    }
    NumberTest::new(condition).filter(mask, |item| number(&column[item]))
}

/// Enums have few values: each is decided once.
fn test_enum(column: &[i32], condition: &Condition, mask: &Bitset, value: impl Fn(i32) -> Static) -> Bitset {
    /// More than OTLP defines today; numbers outside are decided one by one.
    const KNOWN: usize = 8;
    if column.len() < mask.len() {
        return Bitset::new(mask.len());
    }
    let passes = |code: i32| condition.accepts(&value(code), false);
    let known: [bool; KNOWN] = std::array::from_fn(|code| passes(code as i32));
    mask.filter(|item| {
        let code = column[item];
        usize::try_from(code).ok().and_then(|code| known.get(code).copied()).unwrap_or_else(|| passes(code))
    })
}

/// Equality compares ids, everything else their text.
fn test_ids<T: PartialEq>(
    column: &[T],
    condition: &Condition,
    mask: &Bitset,
    parse: impl Fn(&str) -> Option<T>,
    text: impl Fn(&T) -> String,
) -> Bitset {
    if column.len() < mask.len() {
        return Bitset::new(mask.len());
    }
    if let Condition::Compare(ComparisonOp::Eq, Static::String(literal)) = condition
        && let Some(id) = parse(literal)
    {
        return mask.filter(|item| column[item] == id);
    }
    mask.filter(|item| condition.accepts_text(text(&column[item]).as_bytes()))
}
