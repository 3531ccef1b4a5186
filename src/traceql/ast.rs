//! What a TraceQL query says: the tree that the parser builds, the checker checks and the engine evaluates.
//!
//! Not here: type rules ([`super::types`], [`super::check`]) and canonical text ([`super::print`]).
//!
//! Invariants (kept by the parser)
//! * Chains of `&&` or of `||` are one [`FieldExpr::Logical`]: `a || b || c` has three operands. It has at least two operands and
//!   the first is never a `Logical` with the same operator. Long chains therefore do not make the tree deep.
//! * Expressions that reference no span and can be evaluated are folded into a literal.
//! * A [`SpansetExpr::Pipeline`] is never just one spanset expression.
//! * Only the outermost [`MetricsExpr`] and the [`MetricsNode::Query`] leaves have second stages.

use std::sync::Arc;

use super::types::Static;

/// A whole query.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    pub body: QueryBody,
    /// Hints of `with (…)`, as written; unknown names and wrong types are ignored by whoever reads them.
    pub hints: Vec<Hint>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum QueryBody {
    Search(Pipeline),
    Metrics(MetricsExpr),
}

impl Query {
    /// Returns the value of hint `name`; the last one wins.
    pub fn hint(&self, name: &str) -> Option<&Static> {
        self.hints.iter().rev().find(|hint| hint.name == name).map(|hint| &hint.value)
    }
}

/// `name=value` inside `with (…)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Hint {
    pub name: String,
    pub value: Static,
}

/// Stages joined by `|`; never empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    pub stages: Vec<Stage>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// A filter or an operation on filters and wrapped pipelines.
    Spanset(SpansetExpr),
    ScalarFilter(ScalarFilter),
    /// `by(expression)`
    GroupBy(FieldExpr),
    /// `select(a, b)`; never empty.
    Select(Vec<Attribute>),
    Coalesce,
}

#[derive(Debug, Clone, PartialEq)]
pub enum SpansetExpr {
    /// `{ expression }`; `{}` is `{ true }`.
    Filter(FieldExpr),
    Binary {
        op: SpansetOp,
        lhs: Box<SpansetExpr>,
        rhs: Box<SpansetExpr>,
    },
    /// `({…} | …)` as an operand, or as the only stage.
    Pipeline(Box<Pipeline>),
}

/// Operators between spansets. Structural ones relate a span `r` of the right side to the spans `l` of the left side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SpansetOp {
    /// `&&`
    And,
    /// `||`
    Or,
    Structural {
        relation: Relation,
        form: StructuralForm,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Relation {
    /// `>`: some `l` is the parent of `r`.
    Child,
    /// `<`: some `l` is a child of `r`.
    Parent,
    /// `>>`: some `l` is an ancestor of `r`.
    Descendant,
    /// `<<`: some `l` is a descendant of `r`.
    Ancestor,
    /// `~`
    Sibling,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StructuralForm {
    /// Spans of the right side for which the relation holds.
    Plain,
    /// `!>`: spans of the right side for which it does not.
    Negated,
    /// `&>`: spans of both sides that take part in a pair.
    Union,
}

/// `scalar CMP scalar` as a stage.
#[derive(Debug, Clone, PartialEq)]
pub struct ScalarFilter {
    pub op: ComparisonOp,
    pub lhs: ScalarExpr,
    pub rhs: ScalarExpr,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ScalarExpr {
    /// Int, float or duration.
    Literal(Static),
    Aggregate(Aggregate),
    Binary {
        op: ArithmeticOp,
        lhs: Box<ScalarExpr>,
        rhs: Box<ScalarExpr>,
    },
    /// `({…} | count())`
    Pipeline(Box<Pipeline>, Aggregate),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Aggregate {
    Count,
    Min(FieldExpr),
    Max(FieldExpr),
    Avg(FieldExpr),
    Sum(FieldExpr),
    /// `count_distinct(x)`: number of different values; an extension.
    CountDistinct(FieldExpr),
}

impl Aggregate {
    /// Returns what is aggregated; `None` for `count()`.
    pub fn operand(&self) -> Option<&FieldExpr> {
        match self {
            Self::Count => None,
            Self::Min(expr) | Self::Max(expr) | Self::Avg(expr) | Self::Sum(expr) | Self::CountDistinct(expr) => Some(expr),
        }
    }
}

/// An expression over one span.
#[derive(Debug, Clone, PartialEq)]
pub enum FieldExpr {
    Literal(Static),
    Attribute(Attribute),
    Unary {
        op: UnaryOp,
        operand: Box<FieldExpr>,
    },
    Binary {
        op: BinaryOp,
        lhs: Box<FieldExpr>,
        rhs: Box<FieldExpr>,
    },
    /// A left-associative chain of one logical operator.
    Logical {
        op: LogicalOp,
        operands: Vec<FieldExpr>,
    },
}

impl FieldExpr {
    /// Whether the value depends on a span, that is, whether any attribute is named.
    pub fn references_span(&self) -> bool {
        match self {
            Self::Literal(_) => false,
            Self::Attribute(_) => true,
            Self::Unary { op: _, operand } => operand.references_span(),
            Self::Binary { op: _, lhs, rhs } => lhs.references_span() || rhs.references_span(),
            Self::Logical { op: _, operands } => operands.iter().any(Self::references_span),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnaryOp {
    /// `-x`
    Negate,
    /// `!x`
    Not,
    /// `x != nil`
    Exists,
    /// `x = nil`
    NotExists,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogicalOp {
    And,
    Or,
}

/// Operators of [`FieldExpr::Binary`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BinaryOp {
    Arithmetic(ArithmeticOp),
    Compare(ComparisonOp),
    /// `=~`
    Regex,
    /// `!~`
    NotRegex,
    /// `attribute IN [literals]`; made by [`super::rewrite`], or written as an extension.
    In,
    NotIn,
    /// `attribute =~` any of the patterns; likewise.
    MatchAny,
    MatchNone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ArithmeticOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ComparisonOp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

impl ComparisonOp {
    /// Returns the operator with its sides exchanged: `a < b` is `b > a`.
    pub fn flipped(self) -> Self {
        match self {
            Self::Eq => Self::Eq,
            Self::Ne => Self::Ne,
            Self::Lt => Self::Gt,
            Self::Le => Self::Ge,
            Self::Gt => Self::Lt,
            Self::Ge => Self::Le,
        }
    }
}

/// What a query can read from a span.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Attribute {
    Intrinsic(Intrinsic),
    Named(NamedAttribute),
}

impl Attribute {
    /// Returns attribute `name` of `scope`.
    pub fn named(scope: AttributeScope, name: impl Into<Arc<str>>) -> Self {
        Self::Named(NamedAttribute { scope, name: name.into(), owner: Owner::Itself })
    }
}

/// A key of an attribute list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NamedAttribute {
    pub scope: AttributeScope,
    /// Never empty.
    pub name: Arc<str>,
    /// With another owner than the span itself, the scope is unscoped, span or resource.
    pub owner: Owner,
}

/// Whose attribute is read for a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    Itself,
    /// `parent.`: the parent's. Nil for roots and for spans whose parent is not there.
    Parent,
    /// `root.`: that of the root above the span; a root is its own. Nil for spans that lead to none.
    Root,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttributeScope {
    /// `.name`: span, then resource (traceql, attribute lookup).
    Unscoped,
    Span,
    Resource,
    Event,
    Link,
    Instrumentation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Intrinsic {
    Duration,
    Name,
    Status,
    StatusMessage,
    Kind,
    SpanId,
    SpanParentId,
    SpanChildCount,
    NestedSetLeft,
    NestedSetRight,
    NestedSetParent,
    RootName,
    RootServiceName,
    TraceDuration,
    TraceId,
    EventName,
    EventTimeSinceStart,
    LinkTraceId,
    LinkSpanId,
    InstrumentationName,
    InstrumentationVersion,
    /// `parent`; parses but does not validate.
    Parent,
}

/// A metrics query or arithmetic over metrics queries.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricsExpr {
    pub node: MetricsNode,
    /// Applied to the result of `node` in this order.
    pub second_stages: Vec<SecondStage>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum MetricsNode {
    Query(MetricsQuery),
    /// `+ - * /` only.
    Binary {
        op: ArithmeticOp,
        lhs: Box<MetricsExpr>,
        rhs: Box<MetricsExpr>,
    },
    /// `expr op scalar`
    ScalarRight {
        op: ArithmeticOp,
        lhs: Box<MetricsExpr>,
        scalar: f64,
    },
    /// `scalar op expr`
    ScalarLeft {
        op: ArithmeticOp,
        scalar: f64,
        rhs: Box<MetricsExpr>,
    },
}

impl MetricsExpr {
    /// Returns the sub-queries, left to right; equal ones are repeated.
    pub fn queries(&self) -> Vec<&MetricsQuery> {
        match &self.node {
            MetricsNode::Query(query) => vec![query],
            MetricsNode::Binary { op: _, lhs, rhs } => {
                let mut queries = lhs.queries();
                queries.extend(rhs.queries());
                queries
            }
            MetricsNode::ScalarRight { op: _, lhs: expr, scalar: _ } | MetricsNode::ScalarLeft { op: _, scalar: _, rhs: expr } => {
                expr.queries()
            }
        }
    }
}

/// `pipeline | function by (…)`. Prints as the sub-query key (metrics, routing key) without second stages.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricsQuery {
    pub pipeline: Pipeline,
    pub function: MetricsFunction,
    /// Empty: ungrouped.
    pub by: Vec<Attribute>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum MetricsFunction {
    Rate,
    CountOverTime,
    MinOverTime(Attribute),
    MaxOverTime(Attribute),
    SumOverTime(Attribute),
    AvgOverTime(Attribute),
    HistogramOverTime(Attribute),
    QuantileOverTime { attribute: Attribute, quantiles: Vec<f64> },
    Compare(Compare),
}

impl MetricsFunction {
    /// Returns the measured attribute, if the function measures one.
    pub fn attribute(&self) -> Option<&Attribute> {
        match self {
            Self::Rate | Self::CountOverTime | Self::Compare(_) => None,
            Self::MinOverTime(attribute)
            | Self::MaxOverTime(attribute)
            | Self::SumOverTime(attribute)
            | Self::AvgOverTime(attribute)
            | Self::HistogramOverTime(attribute)
            | Self::QuantileOverTime { attribute, quantiles: _ } => Some(attribute),
        }
    }
}

/// `compare({ selection }, top_n, start, end)`
#[derive(Debug, Clone, PartialEq)]
pub struct Compare {
    pub selection: FieldExpr,
    pub top_n: i64,
    /// 0 together with `end_unix_nanos` 0: the whole window.
    pub start_unix_nanos: i64,
    pub end_unix_nanos: i64,
}

/// `top_n` of a [`Compare`] that does not say.
pub const DEFAULT_COMPARE_TOP_N: i64 = 10;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SecondStage {
    TopK(i64),
    BottomK(i64),
    /// Keeps the points for which `value OP scalar` holds.
    Filter {
        op: ComparisonOp,
        scalar: f64,
    },
}
