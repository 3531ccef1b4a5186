//! Values of attributes and expressions on single items, for what no selection can answer: arithmetic, comparisons between attributes,
//! grouping, aggregates and results.
//!
//! A missing attribute is nil. An operation that the compatible system refuses (zero divisor, arithmetic on arrays) is nil here.

use std::sync::Arc;

use super::projection::SERVICE_NAME;
use crate::base::bitset::Bitset;
use crate::model::span_table::{Attrs, Value as Stored};
use crate::model::strings::{StrId, StringPool};
use crate::traceql::ast::{ArithmeticOp, Attribute, AttributeScope, BinaryOp, Intrinsic, Owner, UnaryOp};
use crate::traceql::types::{Kind, Static, Status, binary, unary};

use super::expr::{Level, Value, level_of};
use super::filter::Evaluator;

/// Texts made of dictionary strings, one each.
#[derive(Default)]
pub(super) struct TextCache(Vec<Option<Arc<str>>>);

impl TextCache {
    pub(super) fn text(&mut self, pool: &StringPool, id: StrId) -> Arc<str> {
        if self.0.len() < pool.len() {
            self.0.resize(pool.len(), None);
        }
        self.0[id.index()].get_or_insert_with(|| pool.text(id).into()).clone()
    }
}

/// A [`Value`] whose boolean parts are already decided for all items of interest.
pub(super) enum Bound<'v> {
    Literal(&'v Static),
    Attribute(&'v Attribute),
    Negate(Box<Bound<'v>>),
    Arithmetic { op: ArithmeticOp, lhs: Box<Bound<'v>>, rhs: Box<Bound<'v>> },
    Bool(Bitset),
}

impl Evaluator<'_> {
    /// Prepares `value` for the items of `level` in `mask`.
    pub(super) fn bind<'v>(&mut self, value: &'v Value, level: Level, mask: &Bitset) -> Bound<'v> {
        match value {
            Value::Literal(literal) => Bound::Literal(literal),
            Value::Attribute(attribute) => Bound::Attribute(attribute),
            Value::Negate(operand) => Bound::Negate(Box::new(self.bind(operand, level, mask))),
            Value::Arithmetic { op, lhs, rhs } => {
                Bound::Arithmetic { op: *op, lhs: Box::new(self.bind(lhs, level, mask)), rhs: Box::new(self.bind(rhs, level, mask)) }
            }
            Value::Bool(node) => Bound::Bool(self.select(node, level, mask)),
        }
    }

    /// Returns the value on `item` of `level`, one of those it was bound for.
    pub(super) fn value(&mut self, bound: &Bound<'_>, level: Level, item: usize) -> Static {
        match bound {
            Bound::Literal(literal) => (*literal).clone(),
            Bound::Attribute(attribute) => self.attribute(attribute, level, item),
            Bound::Negate(operand) => unary(UnaryOp::Negate, &self.value(operand, level, item)).unwrap_or(Static::Nil),
            Bound::Arithmetic { op, lhs, rhs } => {
                let (lhs, rhs) = (self.value(lhs, level, item), self.value(rhs, level, item));
                binary(BinaryOp::Arithmetic(*op), &lhs, &rhs).unwrap_or(Static::Nil)
            }
            Bound::Bool(selected) => Static::Bool(selected.contains(item)),
        }
    }

    /// Returns the members of `mask` for which `lhs OP rhs` holds.
    pub(super) fn compare(&mut self, op: BinaryOp, lhs: &Value, rhs: &Value, level: Level, mask: &Bitset) -> Bitset {
        let (lhs, rhs) = (self.bind(lhs, level, mask), self.bind(rhs, level, mask));
        mask.filter(|item| {
            let (lhs, rhs) = (self.value(&lhs, level, item), self.value(&rhs, level, item));
            binary(op, &lhs, &rhs) == Ok(Static::Bool(true))
        })
    }

    pub(super) fn present(&mut self, value: &Value, wanted: bool, level: Level, mask: &Bitset) -> Bitset {
        let bound = self.bind(value, level, mask);
        mask.filter(|item| self.value(&bound, level, item).is_nil() != wanted)
    }

    /// Returns the value of `attribute` for `item` of `level`; of several events or links, the first that has one.
    pub(super) fn attribute(&mut self, attribute: &Attribute, level: Level, item: usize) -> Static {
        let home = level_of(attribute);
        if home == level {
            return self.own_attribute(attribute, item);
        }
        if home < level {
            let owner = self.levels.owner(item, level, home);
            return self.own_attribute(attribute, owner);
        }
        let span = self.levels.owner(item, level, Level::Span);
        let values = self.below(home, span).map(|item| self.own_attribute(attribute, item));
        values.into_iter().find(|value| !value.is_nil()).unwrap_or(Static::Nil)
    }

    /// Returns the events or links of `span`; none when they were not read.
    pub(super) fn below(&self, level: Level, span: usize) -> std::ops::Range<usize> {
        let spans = &self.table.spans;
        let offsets = if level == Level::Event { &spans.events } else { &spans.links };
        if span < offsets.len() { offsets.range(span) } else { 0..0 }
    }

    /// Returns the value of `attribute` for an item of its own level.
    pub(super) fn own_attribute(&mut self, attribute: &Attribute, item: usize) -> Static {
        let table = self.table;
        match attribute {
            Attribute::Intrinsic(intrinsic) => self.intrinsic(*intrinsic, item),
            Attribute::Named(named) => {
                let key = named.name.as_bytes();
                if named.owner != Owner::Itself {
                    let relative = self.relatives.of_spans(table, named.owner).of(item);
                    return relative.map_or(Static::Nil, |span| self.attribute_of_span(named.scope, key, span));
                }
                match named.scope {
                    AttributeScope::Span | AttributeScope::Unscoped => self.attribute_of_span(named.scope, key, item),
                    AttributeScope::Resource => self.resource_attribute(key, item),
                    AttributeScope::Event => self.list_value(&table.events.attrs, key, item),
                    AttributeScope::Link => self.list_value(&table.links.attrs, key, item),
                    AttributeScope::Instrumentation => self.list_value(&table.scopes.attrs, key, item),
                }
            }
        }
    }

    /// Returns what a span sees under a key of its own or of its resource.
    fn attribute_of_span(&mut self, scope: AttributeScope, key: &[u8], span: usize) -> Static {
        let own = match scope {
            AttributeScope::Span | AttributeScope::Unscoped => self.list_value(&self.table.spans.attrs, key, span),
            AttributeScope::Resource | AttributeScope::Event | AttributeScope::Link | AttributeScope::Instrumentation => Static::Nil,
        };
        if own.is_nil() && matches!(scope, AttributeScope::Unscoped | AttributeScope::Resource) {
            let resource = self.levels.owner(span, Level::Span, Level::Resource);
            return self.resource_attribute(key, resource);
        }
        own
    }

    fn resource_attribute(&mut self, key: &[u8], resource: usize) -> Static {
        let table = self.table;
        if key == SERVICE_NAME.as_bytes() {
            return table.resources.service_name.get(resource).map_or(Static::Nil, |id| self.text(*id));
        }
        self.list_value(&table.resources.attrs, key, resource)
    }

    fn list_value(&mut self, attrs: &Attrs, key: &[u8], owner: usize) -> Static {
        if owner >= attrs.of.len() || attrs.keys.is_empty() {
            return Static::Nil;
        }
        let pool = &self.table.strings;
        let keys = self.ids.ids_of(pool, key);
        let found = attrs.of_owner(owner).find(|(key, value)| keys.contains(key) && !matches!(value, Stored::Json(_)));
        found.map_or(Static::Nil, |(_, value)| self.stored(attrs, value))
    }

    /// Returns a stored value; an array of one element is that element, what cannot be compared is nil.
    pub(super) fn stored(&mut self, attrs: &Attrs, value: Stored) -> Static {
        match value {
            Stored::Str(id) => self.text(id),
            Stored::Int(value) => Static::Int(value),
            Stored::Double(value) => Static::Float(value),
            Stored::Bool(value) => Static::Bool(value),
            Stored::Json(_) => Static::Nil,
            Stored::Array { .. } => match attrs.elements_of(&value) {
                [single] => self.stored(attrs, *single),
                elements => {
                    let elements: Vec<Static> = elements.iter().map(|element| self.stored(attrs, *element)).collect();
                    array(&elements)
                }
            },
        }
    }

    pub(super) fn text(&mut self, id: StrId) -> Static {
        Static::String(self.texts.text(&self.table.strings, id))
    }

    fn intrinsic(&mut self, intrinsic: Intrinsic, item: usize) -> Static {
        let table = self.table;
        let (spans, traces) = (&table.spans, &table.traces);
        let text = |this: &mut Self, column: &[StrId]| column.get(item).map_or(Static::Nil, |id| this.text(*id));
        let nanos = |column: &[u64]| column.get(item).map_or(Static::Nil, |nanos| Static::Duration(*nanos as i64));
        let int = |column: &[i32]| column.get(item).map_or(Static::Nil, |number| Static::Int(i64::from(*number)));
        match intrinsic {
            Intrinsic::Duration => nanos(&spans.duration_nanos),
            Intrinsic::TraceDuration => nanos(&traces.duration_nanos),
            Intrinsic::EventTimeSinceStart => nanos(&table.events.time_since_start_nanos),
            Intrinsic::Name => text(self, &spans.name),
            Intrinsic::StatusMessage => text(self, &spans.status_message),
            Intrinsic::RootName => text(self, &traces.root_span_name),
            Intrinsic::RootServiceName => text(self, &traces.root_service_name),
            Intrinsic::EventName => text(self, &table.events.name),
            Intrinsic::InstrumentationName => text(self, &table.scopes.name),
            Intrinsic::InstrumentationVersion => text(self, &table.scopes.version),
            Intrinsic::Status => spans.status_code.get(item).map_or(Static::Nil, |code| Static::Status(Status::from_otlp(*code))),
            Intrinsic::Kind => spans.kind.get(item).map_or(Static::Nil, |code| Static::Kind(Kind::from_otlp(*code))),
            Intrinsic::SpanChildCount => int(&spans.child_count),
            Intrinsic::NestedSetLeft => int(&spans.nested_left),
            Intrinsic::NestedSetRight => int(&spans.nested_right),
            Intrinsic::NestedSetParent => int(&spans.nested_parent),
            Intrinsic::SpanId => spans.span_id.get(item).map_or(Static::Nil, |id| Static::string(id.to_string())),
            Intrinsic::SpanParentId => spans.parent_span_id.get(item).map_or(Static::Nil, |id| Static::string(id.to_string())),
            Intrinsic::LinkSpanId => table.links.span_id.get(item).map_or(Static::Nil, |id| Static::string(id.to_string())),
            Intrinsic::TraceId => traces.ids.get(item).map_or(Static::Nil, |id| Static::string(id.to_short_hex())),
            Intrinsic::LinkTraceId => table.links.trace_id.get(item).map_or(Static::Nil, |id| Static::string(id.to_short_hex())),
            Intrinsic::Parent => Static::Nil,
        }
    }
}

/// Returns an array of `elements`, which are scalars of one type; those of another type than the first are left out.
pub(super) fn array(elements: &[Static]) -> Static {
    fn pick<T, U: FromIterator<T>>(elements: &[Static], get: impl Fn(&Static) -> Option<T>) -> U {
        elements.iter().filter_map(get).collect()
    }
    match elements.first() {
        Some(Static::Int(_)) => {
            Static::IntArray(pick::<_, Vec<_>>(elements, |e| if let Static::Int(v) = e { Some(*v) } else { None }).into())
        }
        Some(Static::Float(_)) => {
            Static::FloatArray(pick::<_, Vec<_>>(elements, |e| if let Static::Float(v) = e { Some(*v) } else { None }).into())
        }
        Some(Static::Bool(_)) => {
            Static::BoolArray(pick::<_, Vec<_>>(elements, |e| if let Static::Bool(v) = e { Some(*v) } else { None }).into())
        }
        _ => Static::StringArray(pick::<_, Vec<_>>(elements, |e| if let Static::String(v) = e { Some(v.clone()) } else { None }).into()),
    }
}
