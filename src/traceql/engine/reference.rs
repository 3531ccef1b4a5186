//! The language's rules written down span by span, slowly and without tables: what the engine is checked against.
//!
//! Here: filters. [`pipeline`] has stages and operators between spansets, [`tree`] who is whose parent.

pub(super) mod pipeline;
mod tree;

use crate::traceql::ast::{Attribute, AttributeScope, BinaryOp, ComparisonOp, FieldExpr, Intrinsic, LogicalOp, Owner, UnaryOp};
use crate::traceql::regex::Pattern;
use crate::traceql::testing::{TestAttributes, TestSpan, TestTrace, TestValue};
use crate::traceql::types::{Kind, Static, Status, binary, compare, unary};

/// A span, and the event or link that a group of conditions is bound to.
#[derive(Clone, Copy)]
struct Site<'a> {
    trace: &'a TestTrace,
    span: &'a TestSpan,
    event: Option<usize>,
    link: Option<usize>,
}

impl Site<'_> {
    /// Place of the span in its trace.
    fn index(&self) -> usize {
        self.trace.spans.iter().position(|span| std::ptr::eq(span, self.span)).unwrap()
    }
}

/// Whether the filter keeps `span` of `trace`.
pub(super) fn keeps(filter: &FieldExpr, trace: &TestTrace, span: &TestSpan) -> bool {
    holds(filter, Site { trace, span, event: None, link: None })
}

fn holds(expr: &FieldExpr, site: Site<'_>) -> bool {
    match expr {
        FieldExpr::Literal(literal) => *literal == Static::Bool(true),
        FieldExpr::Attribute(attribute) => some_value(attribute, site, |value| *value == Static::Bool(true)),
        FieldExpr::Unary { op: UnaryOp::Not, operand } => fails(operand, site),
        FieldExpr::Unary { op: UnaryOp::Negate, .. } => false,
        FieldExpr::Unary { op: UnaryOp::Exists, operand } => match &**operand {
            FieldExpr::Attribute(attribute) => sites(attribute, site).iter().any(|site| !lookup(attribute, *site).is_nil()),
            _ => each_site(expr, site, |site| !value(operand, site).is_nil()),
        },
        FieldExpr::Unary { op: UnaryOp::NotExists, operand } => match &**operand {
            FieldExpr::Attribute(attribute) => sites(attribute, site).iter().any(|site| lookup(attribute, *site).is_nil()),
            _ => each_site(expr, site, |site| value(operand, site).is_nil()),
        },
        FieldExpr::Logical { op: LogicalOp::Or, operands } => operands.iter().any(|operand| holds(operand, site)),
        FieldExpr::Logical { op: LogicalOp::And, operands } => all_hold(operands, site),
        FieldExpr::Binary { op, lhs, rhs } => match (&**lhs, &**rhs) {
            (FieldExpr::Attribute(attribute), FieldExpr::Literal(literal)) => {
                some_value(attribute, site, |value| satisfies(attribute, *op, value, literal))
            }
            (FieldExpr::Literal(literal), FieldExpr::Attribute(attribute)) => match op {
                BinaryOp::Compare(op) => {
                    some_value(attribute, site, |value| satisfies(attribute, BinaryOp::Compare(op.flipped()), value, literal))
                }
                _ => false,
            },
            _ => each_site(expr, site, |site| binary(*op, &value(lhs, site), &value(rhs, site)) == Ok(Static::Bool(true))),
        },
    }
}

/// `!expr`: of a bare attribute, that it is false.
fn fails(expr: &FieldExpr, site: Site<'_>) -> bool {
    match expr {
        FieldExpr::Literal(literal) => *literal == Static::Bool(false),
        FieldExpr::Attribute(attribute) => some_value(attribute, site, |value| *value == Static::Bool(false)),
        FieldExpr::Unary { op: UnaryOp::Not, operand } => holds(operand, site),
        FieldExpr::Unary { op: UnaryOp::Negate, .. } | FieldExpr::Binary { op: BinaryOp::Arithmetic(_), .. } => false,
        _ => !holds(expr, site),
    }
}

/// Operands about events alone must hold on one event, those about links alone on one link.
fn all_hold(operands: &[FieldExpr], site: Site<'_>) -> bool {
    let (mut of_events, mut of_links, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for operand in operands {
        match only_items(operand) {
            Some(AttributeScope::Event) if site.event.is_none() => of_events.push(operand),
            Some(AttributeScope::Link) if site.link.is_none() => of_links.push(operand),
            _ => others.push(operand),
        }
    }
    let same_event =
        || (0..site.span.events.len()).any(|event| of_events.iter().all(|expr| holds(expr, Site { event: Some(event), ..site })));
    let same_link = || (0..site.span.links.len()).any(|link| of_links.iter().all(|expr| holds(expr, Site { link: Some(link), ..site })));
    others.iter().all(|expr| holds(expr, site)) && (of_events.is_empty() || same_event()) && (of_links.is_empty() || same_link())
}

/// Returns whether an expression without negation or boolean operands of comparisons is about events (or links) and nothing else.
fn only_items(expr: &FieldExpr) -> Option<AttributeScope> {
    fn has_negation(expr: &FieldExpr) -> bool {
        match expr {
            FieldExpr::Unary { op: UnaryOp::Not, operand } => !matches!(**operand, FieldExpr::Attribute(_)),
            FieldExpr::Logical { op: _, operands } => operands.iter().any(has_negation),
            FieldExpr::Literal(_) => true,
            FieldExpr::Binary { op: _, lhs, rhs } => is_boolean(lhs) || is_boolean(rhs),
            _ => false,
        }
    }
    let mut scopes = Vec::new();
    visit_attributes(expr, &mut |attribute| scopes.push(item_scope(attribute)));
    let first = *scopes.first()?;
    if has_negation(expr) || scopes.iter().any(|scope| *scope != first) { None } else { first }
}

fn visit_attributes(expr: &FieldExpr, visit: &mut dyn FnMut(&Attribute)) {
    match expr {
        FieldExpr::Literal(_) => {}
        FieldExpr::Attribute(attribute) => visit(attribute),
        FieldExpr::Unary { op: _, operand } => visit_attributes(operand, visit),
        FieldExpr::Binary { op: _, lhs, rhs } => {
            visit_attributes(lhs, visit);
            visit_attributes(rhs, visit);
        }
        FieldExpr::Logical { op: _, operands } => operands.iter().for_each(|operand| visit_attributes(operand, visit)),
    }
}

fn is_boolean(expr: &FieldExpr) -> bool {
    match expr {
        FieldExpr::Literal(_) | FieldExpr::Attribute(_) => false,
        FieldExpr::Unary { op: UnaryOp::Negate, operand } => is_boolean(operand),
        FieldExpr::Binary { op: BinaryOp::Arithmetic(_), lhs, rhs } => is_boolean(lhs) || is_boolean(rhs),
        _ => true,
    }
}

fn item_scope(attribute: &Attribute) -> Option<AttributeScope> {
    match attribute {
        Attribute::Named(named) if matches!(named.scope, AttributeScope::Event | AttributeScope::Link) => Some(named.scope),
        Attribute::Intrinsic(Intrinsic::EventName | Intrinsic::EventTimeSinceStart) => Some(AttributeScope::Event),
        Attribute::Intrinsic(Intrinsic::LinkTraceId | Intrinsic::LinkSpanId) => Some(AttributeScope::Link),
        _ => None,
    }
}

/// The site itself, or one per event or link when the attribute belongs to those and none is bound.
fn sites<'a>(attribute: &Attribute, site: Site<'a>) -> Vec<Site<'a>> {
    match item_scope(attribute) {
        Some(AttributeScope::Event) if site.event.is_none() => {
            (0..site.span.events.len()).map(|event| Site { event: Some(event), ..site }).collect()
        }
        Some(AttributeScope::Link) if site.link.is_none() => {
            (0..site.span.links.len()).map(|link| Site { link: Some(link), ..site }).collect()
        }
        _ => vec![site],
    }
}

/// Whether a computed comparison holds for some event, or else some link, whose values it reads. Boolean operands stand for themselves.
fn each_site(expr: &FieldExpr, site: Site<'_>, test: impl Fn(Site<'_>) -> bool) -> bool {
    let mut attributes = Vec::new();
    match expr {
        FieldExpr::Binary { op: _, lhs, rhs } => {
            read_values(lhs, &mut attributes);
            read_values(rhs, &mut attributes);
        }
        FieldExpr::Unary { op: _, operand } => read_values(operand, &mut attributes),
        FieldExpr::Literal(_) | FieldExpr::Attribute(_) | FieldExpr::Logical { .. } => {}
    }
    let about = |scope| attributes.iter().find(|attribute| item_scope(attribute) == Some(scope));
    match about(AttributeScope::Event).or_else(|| about(AttributeScope::Link)) {
        Some(attribute) => sites(attribute, site).into_iter().any(test),
        None => test(site),
    }
}

fn read_values(expr: &FieldExpr, attributes: &mut Vec<Attribute>) {
    match expr {
        FieldExpr::Attribute(attribute) => attributes.push(attribute.clone()),
        FieldExpr::Unary { op: UnaryOp::Negate, operand } => read_values(operand, attributes),
        FieldExpr::Binary { op: BinaryOp::Arithmetic(_), lhs, rhs } => {
            read_values(lhs, attributes);
            read_values(rhs, attributes);
        }
        _ => {}
    }
}

/// Whether a value of the attribute, element by element, passes.
fn some_value(attribute: &Attribute, site: Site<'_>, test: impl Fn(&Static) -> bool) -> bool {
    sites(attribute, site).iter().any(|site| {
        let value = lookup(attribute, *site);
        value.elements().unwrap_or_else(|| vec![value]).iter().any(&test)
    })
}

fn satisfies(attribute: &Attribute, op: BinaryOp, value: &Static, literal: &Static) -> bool {
    let list = literal.elements().unwrap_or_else(|| vec![literal.clone()]);
    let is_intrinsic = matches!(attribute, Attribute::Intrinsic(_));
    let comparable = |literal: &Static| {
        value.static_type() == literal.static_type()
            || matches!((value, literal), (Static::Float(_), Static::Int(_)))
            || (is_intrinsic && value.static_type().is_numeric() && literal.static_type().is_numeric())
    };
    if !list.iter().all(comparable) {
        return false;
    }
    let equals = |literal: &Static| match (value, literal) {
        (Static::String(id), Static::String(literal)) if is_id(attribute) => is_same_id(id, literal),
        _ => compare(ComparisonOp::Eq, value, literal),
    };
    let matches = |literal: &Static| match (value, literal) {
        (Static::String(text), Static::String(pattern)) => Pattern::compile(pattern).unwrap().is_match(text),
        _ => false,
    };
    match op {
        BinaryOp::Arithmetic(_) => false,
        BinaryOp::Compare(ComparisonOp::Eq) => equals(literal),
        BinaryOp::Compare(ComparisonOp::Ne) => !equals(literal),
        BinaryOp::Compare(op) => compare(op, value, literal),
        BinaryOp::In => list.iter().any(equals),
        BinaryOp::NotIn => !list.iter().any(equals),
        BinaryOp::Regex | BinaryOp::MatchAny => list.iter().any(matches),
        BinaryOp::NotRegex | BinaryOp::MatchNone => matches!(value, Static::String(_)) && !list.iter().any(matches),
    }
}

fn is_id(attribute: &Attribute) -> bool {
    let Attribute::Intrinsic(intrinsic) = attribute else { return false };
    matches!(intrinsic, Intrinsic::TraceId | Intrinsic::SpanId | Intrinsic::SpanParentId | Intrinsic::LinkTraceId | Intrinsic::LinkSpanId)
}

/// Ids are equal in any letter case and padding.
fn is_same_id(id: &str, literal: &str) -> bool {
    !literal.is_empty() && id.trim_start_matches('0') == literal.to_ascii_lowercase().trim_start_matches('0')
}

fn value(expr: &FieldExpr, site: Site<'_>) -> Static {
    match expr {
        FieldExpr::Literal(literal) => literal.clone(),
        FieldExpr::Attribute(attribute) => {
            let values = sites(attribute, site).into_iter().map(|site| lookup(attribute, site));
            values.into_iter().find(|value| !value.is_nil()).unwrap_or(Static::Nil)
        }
        FieldExpr::Unary { op: UnaryOp::Negate, operand } => unary(UnaryOp::Negate, &value(operand, site)).unwrap_or(Static::Nil),
        FieldExpr::Binary { op: op @ BinaryOp::Arithmetic(_), lhs, rhs } => {
            binary(*op, &value(lhs, site), &value(rhs, site)).unwrap_or(Static::Nil)
        }
        _ => Static::Bool(holds(expr, site)),
    }
}

fn lookup(attribute: &Attribute, site: Site<'_>) -> Static {
    let span = site.span;
    let root = site.trace.spans.iter().rev().find(|span| span.parent.is_none());
    let service = |span: &TestSpan| match find(&span.resource, "service.name") {
        Static::String(name) => Static::String(name),
        _ => Static::string(""),
    };
    let text = |text: &str| Static::string(text);
    match attribute {
        Attribute::Named(named) if named.owner != Owner::Itself => {
            let path = tree::Tree::new(site.trace).path(site.index());
            let relative = if named.owner == Owner::Parent { path.get(1) } else { path.last() };
            let own = Attribute::named(named.scope, named.name.clone());
            relative.map_or(Static::Nil, |span| lookup(&own, Site { span: &site.trace.spans[*span], event: None, link: None, ..site }))
        }
        Attribute::Named(named) => {
            let resource = || if &*named.name == "service.name" { service(span) } else { find(&span.resource, &named.name) };
            match named.scope {
                AttributeScope::Span => find(&span.attributes, &named.name),
                AttributeScope::Resource => resource(),
                AttributeScope::Unscoped => match find(&span.attributes, &named.name) {
                    Static::Nil => resource(),
                    value => value,
                },
                AttributeScope::Instrumentation => find(&span.scope.attributes, &named.name),
                AttributeScope::Event => site.event.map_or(Static::Nil, |event| find(&span.events[event].attributes, &named.name)),
                AttributeScope::Link => site.link.map_or(Static::Nil, |link| find(&span.links[link].attributes, &named.name)),
            }
        }
        Attribute::Intrinsic(intrinsic) => match intrinsic {
            Intrinsic::Duration => Static::Duration(span.duration_nanos as i64),
            Intrinsic::Name => text(&span.name),
            Intrinsic::Status => Static::Status(Status::from_otlp(span.status)),
            Intrinsic::StatusMessage => text(&span.status_message),
            Intrinsic::Kind => Static::Kind(Kind::from_otlp(span.kind)),
            Intrinsic::SpanId => text(&span.id.to_string()),
            Intrinsic::SpanParentId => text(&span.parent.to_string()),
            Intrinsic::RootName => text(root.map_or("", |root| &root.name)),
            Intrinsic::RootServiceName => root.map_or_else(|| text(""), service),
            Intrinsic::TraceDuration => {
                let start = site.trace.spans.iter().map(|span| span.start_unix_nanos).min().unwrap_or(0);
                let end = site.trace.spans.iter().map(|span| span.start_unix_nanos + span.duration_nanos).max().unwrap_or(0);
                Static::Duration((end - start) as i64)
            }
            Intrinsic::TraceId => text(&site.trace.id.to_short_hex()),
            Intrinsic::EventName => site.event.map_or(Static::Nil, |event| text(&span.events[event].name)),
            Intrinsic::EventTimeSinceStart => {
                site.event.map_or(Static::Nil, |event| Static::Duration(span.events[event].since_start_nanos as i64))
            }
            Intrinsic::LinkTraceId => site.link.map_or(Static::Nil, |link| text(&span.links[link].trace_id.to_short_hex())),
            Intrinsic::LinkSpanId => site.link.map_or(Static::Nil, |link| text(&span.links[link].span_id.to_string())),
            Intrinsic::InstrumentationName => text(&span.scope.name),
            Intrinsic::InstrumentationVersion => text(&span.scope.version),
            Intrinsic::SpanChildCount => Static::Int(tree::Tree::new(site.trace).child_count(site.index())),
            Intrinsic::NestedSetLeft => Static::Int(tree::Tree::new(site.trace).numbers(site.index()).left),
            Intrinsic::NestedSetRight => Static::Int(tree::Tree::new(site.trace).numbers(site.index()).right),
            Intrinsic::NestedSetParent => Static::Int(tree::Tree::new(site.trace).numbers(site.index()).parent),
            Intrinsic::Parent => unreachable!("does not validate"),
        },
    }
}

fn find(attributes: &TestAttributes, key: &str) -> Static {
    let usable = |value: &TestValue| !matches!(value, TestValue::Bytes(_));
    attributes.iter().find(|(name, value)| name == key && usable(value)).map_or(Static::Nil, |(_, value)| to_static(value))
}

fn to_static(value: &TestValue) -> Static {
    match value {
        TestValue::Str(text) => Static::string(text.as_str()),
        TestValue::Int(value) => Static::Int(*value),
        TestValue::Double(value) => Static::Float(*value),
        TestValue::Bool(value) => Static::Bool(*value),
        TestValue::Bytes(_) => Static::Nil,
        TestValue::Array(elements) => match elements.as_slice() {
            [single] => to_static(single),
            elements => match elements.first() {
                Some(TestValue::Int(_)) => Static::IntArray(
                    elements.iter().filter_map(|e| if let TestValue::Int(v) = e { Some(*v) } else { None }).collect::<Vec<_>>().into(),
                ),
                Some(TestValue::Bool(_)) => Static::BoolArray(
                    elements.iter().filter_map(|e| if let TestValue::Bool(v) = e { Some(*v) } else { None }).collect::<Vec<_>>().into(),
                ),
                Some(TestValue::Double(_)) => Static::FloatArray(
                    elements.iter().filter_map(|e| if let TestValue::Double(v) = e { Some(*v) } else { None }).collect::<Vec<_>>().into(),
                ),
                _ => Static::StringArray(
                    elements
                        .iter()
                        .filter_map(|e| if let TestValue::Str(v) = e { Some(v.as_str().into()) } else { None })
                        .collect::<Vec<_>>()
                        .into(),
                ),
            },
        },
    }
}
