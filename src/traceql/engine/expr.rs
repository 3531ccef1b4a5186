//! Filter expressions in the form the evaluator wants: a tree of set operations over tests, each at the level its attribute lives on.
//!
//! Differences to the AST
//! * `attribute OP literal` is a [`Test`] whichever side the literal is on; `!` is pushed into bare attributes.
//! * Anything else that compares is a [`Node::Compare`] of two values, evaluated item by item.
//! * Event conditions joined by `&&` are one [`Node::On`] node: they must hold on the same event. Links likewise.
//! * `&&` operands stand in order of cost; sets do not care.

use crate::traceql::ast::{
    ArithmeticOp, Attribute, AttributeScope, BinaryOp, ComparisonOp, FieldExpr, Intrinsic, LogicalOp, Owner, UnaryOp,
};
use crate::traceql::types::Static;

use super::condition::Condition;

/// What an item of a table is. Each of the first four owns items of the next; a span owns events and links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Trace,
    Resource,
    Scope,
    Span,
    Event,
    Link,
}

/// A boolean expression.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    Const(bool),
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Test(Test),
    /// Both sides are computed values; false unless they can be compared.
    Compare {
        op: BinaryOp,
        lhs: Value,
        rhs: Value,
    },
    /// `value != nil` (wanted) or `value = nil` of a computed value.
    Present {
        value: Value,
        wanted: bool,
    },
    /// The node holds on one and the same item of the level.
    On(Level, Box<Node>),
}

/// An attribute and what its values are asked.
#[derive(Debug, Clone)]
pub(crate) struct Test {
    pub(super) attribute: Attribute,
    pub(super) condition: Condition,
}

/// An expression of any type.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Literal(Static),
    Attribute(Attribute),
    Negate(Box<Value>),
    Arithmetic { op: ArithmeticOp, lhs: Box<Value>, rhs: Box<Value> },
    Bool(Box<Node>),
}

/// Returns where the values of `attribute` live; an unscoped one belongs to the span.
pub(super) fn level_of(attribute: &Attribute) -> Level {
    match attribute {
        Attribute::Named(named) if named.owner != Owner::Itself => Level::Span,
        Attribute::Named(named) => match named.scope {
            AttributeScope::Unscoped | AttributeScope::Span => Level::Span,
            AttributeScope::Resource => Level::Resource,
            AttributeScope::Event => Level::Event,
            AttributeScope::Link => Level::Link,
            AttributeScope::Instrumentation => Level::Scope,
        },
        Attribute::Intrinsic(intrinsic) => match intrinsic {
            Intrinsic::Duration
            | Intrinsic::Name
            | Intrinsic::Status
            | Intrinsic::StatusMessage
            | Intrinsic::Kind
            | Intrinsic::SpanId
            | Intrinsic::SpanParentId
            | Intrinsic::SpanChildCount
            | Intrinsic::NestedSetLeft
            | Intrinsic::NestedSetRight
            | Intrinsic::NestedSetParent
            | Intrinsic::Parent => Level::Span,
            Intrinsic::RootName | Intrinsic::RootServiceName | Intrinsic::TraceDuration | Intrinsic::TraceId => Level::Trace,
            Intrinsic::EventName | Intrinsic::EventTimeSinceStart => Level::Event,
            Intrinsic::LinkTraceId | Intrinsic::LinkSpanId => Level::Link,
            Intrinsic::InstrumentationName | Intrinsic::InstrumentationVersion => Level::Scope,
        },
    }
}

impl Node {
    pub(super) fn new(expr: &FieldExpr) -> Self {
        match expr {
            FieldExpr::Literal(literal) => Self::Const(matches!(literal, Static::Bool(true))),
            FieldExpr::Attribute(attribute) => bare(attribute, true),
            FieldExpr::Unary { op: UnaryOp::Not, operand } => negation(operand),
            FieldExpr::Unary { op: UnaryOp::Negate, operand: _ } => Self::Const(false),
            FieldExpr::Unary { op: UnaryOp::Exists, operand } => presence(operand, true),
            FieldExpr::Unary { op: UnaryOp::NotExists, operand } => presence(operand, false),
            FieldExpr::Logical { op: LogicalOp::And, operands } => all(operands.iter().map(Self::new).collect()),
            FieldExpr::Logical { op: LogicalOp::Or, operands } => any(operands.iter().map(Self::new).collect()),
            FieldExpr::Binary { op: BinaryOp::Arithmetic(_), .. } => Self::Const(false),
            FieldExpr::Binary { op, lhs, rhs } => comparison(*op, lhs, rhs),
        }
    }

    /// Calls `visit` for every test and, with no condition, for every attribute that is read as a value.
    pub(super) fn visit(&self, visit: &mut dyn FnMut(&Attribute, Option<&Condition>)) {
        match self {
            Self::Const(_) => {}
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().for_each(|node| node.visit(visit)),
            Self::Not(node) | Self::On(_, node) => node.visit(visit),
            Self::Test(test) => visit(&test.attribute, Some(&test.condition)),
            Self::Compare { op: _, lhs, rhs } => {
                lhs.visit(visit);
                rhs.visit(visit);
            }
            Self::Present { value, wanted: _ } => value.visit(visit),
        }
    }

    /// Returns the level when all tests are on that one level and none is negated.
    fn pure_level(&self) -> Option<Level> {
        match self {
            Self::All(nodes) | Self::Any(nodes) => {
                let (first, rest) = nodes.split_first()?;
                let level = first.pure_level()?;
                rest.iter().all(|node| node.pure_level() == Some(level)).then_some(level)
            }
            Self::Test(test) => Some(level_of(&test.attribute)),
            Self::Compare { .. } | Self::Present { .. } => Some(self.value_level()),
            Self::On(level, _) => Some(*level),
            Self::Const(_) | Self::Not(_) => None,
        }
    }

    /// Returns the level on which the values of a [`Node::Compare`] or [`Node::Present`] are read: the deepest one they mention. Boolean
    /// operands are decided per span at the deepest.
    pub(super) fn value_level(&self) -> Level {
        match self {
            Self::Compare { op: _, lhs, rhs } => deeper(lhs.level(), rhs.level()),
            Self::Present { value, wanted: _ } => value.level(),
            Self::Const(_) => Level::Trace,
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().map(Self::value_level).fold(Level::Trace, deeper),
            Self::Not(node) | Self::On(_, node) => node.value_level(),
            Self::Test(test) => level_of(&test.attribute),
        }
    }

    /// Rough cost of evaluating the node on all spans, for ordering only.
    pub(super) fn cost(&self) -> u32 {
        match self {
            Self::Const(_) => 0,
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().map(Self::cost).sum::<u32>() + 1,
            Self::Not(node) => node.cost() + 1,
            Self::On(_, node) => node.cost() + 20,
            Self::Test(test) => match (level_of(&test.attribute), &test.attribute) {
                (Level::Trace | Level::Resource | Level::Scope, _) => 1,
                (Level::Span, Attribute::Intrinsic(Intrinsic::SpanId | Intrinsic::SpanParentId)) => 6,
                (Level::Span, Attribute::Intrinsic(_)) => 4,
                (Level::Span, Attribute::Named(_)) => 12,
                (Level::Event | Level::Link, _) => 20,
            },
            Self::Compare { .. } | Self::Present { .. } => 100,
        }
    }
}

impl Value {
    pub(super) fn new(expr: &FieldExpr) -> Self {
        match expr {
            FieldExpr::Literal(literal) => Self::Literal(literal.clone()),
            FieldExpr::Attribute(attribute) => Self::Attribute(attribute.clone()),
            FieldExpr::Unary { op: UnaryOp::Negate, operand } => Self::Negate(Box::new(Self::new(operand))),
            FieldExpr::Binary { op: BinaryOp::Arithmetic(op), lhs, rhs } => {
                Self::Arithmetic { op: *op, lhs: Box::new(Self::new(lhs)), rhs: Box::new(Self::new(rhs)) }
            }
            FieldExpr::Unary { op: UnaryOp::Not | UnaryOp::Exists | UnaryOp::NotExists, .. }
            | FieldExpr::Binary { .. }
            | FieldExpr::Logical { .. } => Self::Bool(Box::new(Node::new(expr))),
        }
    }

    fn level(&self) -> Level {
        match self {
            Self::Literal(_) => Level::Trace,
            Self::Attribute(attribute) => level_of(attribute),
            Self::Negate(value) => value.level(),
            Self::Arithmetic { op: _, lhs, rhs } => deeper(lhs.level(), rhs.level()),
            Self::Bool(node) => node.value_level().min(Level::Span),
        }
    }

    pub(super) fn visit(&self, visit: &mut dyn FnMut(&Attribute, Option<&Condition>)) {
        match self {
            Self::Literal(_) => {}
            Self::Attribute(attribute) => visit(attribute, None),
            Self::Negate(value) => value.visit(visit),
            Self::Arithmetic { op: _, lhs, rhs } => {
                lhs.visit(visit);
                rhs.visit(visit);
            }
            Self::Bool(node) => node.visit(visit),
        }
    }
}

/// Returns the deeper level; of events and links, events.
fn deeper(a: Level, b: Level) -> Level {
    match (a, b) {
        (Level::Event, _) | (_, Level::Event) => Level::Event,
        _ => a.max(b),
    }
}

fn bare(attribute: &Attribute, wanted: bool) -> Node {
    let condition = Condition::Compare(ComparisonOp::Eq, Static::Bool(wanted));
    Node::Test(Test { attribute: attribute.clone(), condition })
}

/// `!operand`: nil stays nil, so a bare attribute must be there; everything else is a boolean.
fn negation(operand: &FieldExpr) -> Node {
    match operand {
        FieldExpr::Literal(literal) => Node::Const(matches!(literal, Static::Bool(false))),
        FieldExpr::Attribute(attribute) => bare(attribute, false),
        FieldExpr::Unary { op: UnaryOp::Not, operand } => Node::new(operand),
        FieldExpr::Unary { op: UnaryOp::Negate, .. } | FieldExpr::Binary { op: BinaryOp::Arithmetic(_), .. } => Node::Const(false),
        FieldExpr::Unary { op: UnaryOp::Exists | UnaryOp::NotExists, .. } | FieldExpr::Binary { .. } | FieldExpr::Logical { .. } => {
            Node::Not(Box::new(Node::new(operand)))
        }
    }
}

fn presence(operand: &FieldExpr, wanted: bool) -> Node {
    match operand {
        FieldExpr::Attribute(attribute) => {
            let condition = if wanted { Condition::Exists } else { Condition::Missing };
            Node::Test(Test { attribute: attribute.clone(), condition })
        }
        _ => Node::Present { value: Value::new(operand), wanted },
    }
}

fn comparison(op: BinaryOp, lhs: &FieldExpr, rhs: &FieldExpr) -> Node {
    let test = match (lhs, rhs) {
        (FieldExpr::Attribute(attribute), FieldExpr::Literal(literal)) => Some((attribute, op, literal)),
        (FieldExpr::Literal(literal), FieldExpr::Attribute(attribute)) => match op {
            BinaryOp::Compare(op) => Some((attribute, BinaryOp::Compare(op.flipped()), literal)),
            BinaryOp::Arithmetic(_)
            | BinaryOp::Regex
            | BinaryOp::NotRegex
            | BinaryOp::In
            | BinaryOp::NotIn
            | BinaryOp::MatchAny
            | BinaryOp::MatchNone => None,
        },
        _ => None,
    };
    if let Some((attribute, op, literal)) = test
        && let Some(condition) = Condition::new(attribute, op, literal)
    {
        return Node::Test(Test { attribute: attribute.clone(), condition });
    }
    Node::Compare { op, lhs: Value::new(lhs), rhs: Value::new(rhs) }
}

/// Returns the conjunction.
pub(super) fn all(operands: Vec<Node>) -> Node {
    let mut nodes = Vec::with_capacity(operands.len());
    for operand in operands {
        match operand {
            Node::Const(true) => {}
            Node::All(inner) => nodes.extend(inner),
            other => nodes.push(other),
        }
    }
    if nodes.iter().any(|node| matches!(node, Node::Const(false))) {
        return Node::Const(false);
    }
    for level in [Level::Event, Level::Link] {
        group(level, &mut nodes);
    }
    nodes.sort_by_key(Node::cost);
    match nodes.len() {
        0 => Node::Const(true),
        1 => nodes.remove(0),
        _ => Node::All(nodes),
    }
}

/// Joins the operands that look at items of `level` alone into one node about the same item.
fn group(level: Level, nodes: &mut Vec<Node>) {
    let is_member = |node: &Node| node.pure_level() == Some(level);
    if nodes.iter().filter(|node| is_member(node)).count() < 2 {
        return;
    }
    let (members, others) = nodes.drain(..).partition(is_member);
    let members = Vec::into_iter(members).flat_map(|node| match node {
        Node::On(_, inner) => match *inner {
            Node::All(nodes) => nodes,
            other => vec![other],
        },
        other => vec![other],
    });
    let members = Node::All(members.collect());
    *nodes = others;
    nodes.push(Node::On(level, Box::new(members)));
}

/// Returns the disjunction.
pub(super) fn any(operands: Vec<Node>) -> Node {
    let mut nodes = Vec::with_capacity(operands.len());
    for operand in operands {
        match operand {
            Node::Const(false) => {}
            Node::Any(inner) => nodes.extend(inner),
            other => nodes.push(other),
        }
    }
    if nodes.iter().any(|node| matches!(node, Node::Const(true))) {
        return Node::Const(true);
    }
    nodes.sort_by_key(Node::cost);
    match nodes.len() {
        0 => Node::Const(false),
        1 => nodes.remove(0),
        _ => Node::Any(nodes),
    }
}
