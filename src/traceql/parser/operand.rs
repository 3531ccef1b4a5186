//! What stands around operators outside filters: spansets, wrapped pipelines, scalars and metrics, with or without parentheses.

use std::ops::BitOr;

use super::super::ast::{
    Aggregate, ArithmeticOp, ComparisonOp, MetricsExpr, MetricsNode, Pipeline, Relation, ScalarExpr, SpansetExpr, SpansetOp, Stage,
    StructuralForm, UnaryOp,
};
use super::super::lexer::TokenKind;
use super::super::types::{Static, StaticType, arithmetic, unary};
use super::{Parsed, Parser};

/// Binding strength of `&&` and `||`; higher binds tighter.
pub(super) const LOGICAL: u8 = 2;
pub(super) const COMPARISON: u8 = 3;
pub(super) const ADDITIVE: u8 = 4;
pub(super) const MULTIPLICATIVE: u8 = 6;
pub(super) const POWER: u8 = 7;

/// The kinds of operand that may stand in a place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowed(u8);

impl Allowed {
    pub(super) const SPANSET: Self = Self(1);
    /// A wrapped pipeline.
    pub(super) const PIPELINE: Self = Self(2);
    /// Number or duration literal.
    pub(super) const SCALAR: Self = Self(4);
    pub(super) const SCALAR_EXPR: Self = Self(8);
    /// `({…} | aggregate)`
    pub(super) const PIPELINE_SCALAR: Self = Self(16);
    pub(super) const METRICS: Self = Self(32);
    pub(super) const ALL: Self = Self(63);

    pub(super) fn has(self, kind: Self) -> bool {
        self.0 & kind.0 != 0
    }

    /// Keeps only the kinds in `kinds`.
    fn only(self, kinds: Self) -> Self {
        Self(self.0 & kinds.0)
    }
}

impl BitOr for Allowed {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// An operand, by what may follow it.
pub(super) enum Node {
    /// `is_wrapped`: consists of parenthesised parts only, so it may meet wrapped pipelines.
    Spanset {
        expr: SpansetExpr,
        is_wrapped: bool,
    },
    Pipeline(SpansetExpr),
    Scalar(Static),
    ScalarExpr(ScalarExpr),
    PipelineScalar(ScalarExpr),
    Metrics(MetricsExpr),
}

/// What stands at the top or inside parentheses.
pub(super) enum Content {
    Node(Node),
    /// More than one spanset expression, or a stage of another kind.
    Pipeline(Pipeline),
    PipelineScalar(Pipeline, Aggregate),
    Metrics(MetricsExpr),
}

impl Parser {
    /// Parses an operand or a pipeline.
    pub(super) fn content(&mut self, allowed: Allowed) -> Parsed<Content> {
        if let Some(first) = self.by_or_select()? {
            return self.pipeline_tail(first, allowed);
        }
        match self.climb(allowed | Allowed::SPANSET | Allowed::SCALAR | Allowed::SCALAR_EXPR, 0)? {
            Node::Spanset { expr, is_wrapped: _ } if self.is("|") => self.pipeline_tail(Stage::Spanset(expr), allowed),
            node @ (Node::Scalar(_) | Node::ScalarExpr(_)) if self.comparison().is_some() => {
                let lhs = self.scalar_of(node)?;
                let filter = self.scalar_filter(lhs, Allowed::SCALAR | Allowed::SCALAR_EXPR)?;
                self.pipeline_tail(Stage::ScalarFilter(filter), allowed)
            }
            node => Ok(Content::Node(node)),
        }
    }

    /// Parses operands and the operators between them that bind at least as tightly as `min_level`.
    pub(super) fn climb(&mut self, allowed: Allowed, min_level: u8) -> Parsed<Node> {
        self.nested(|parser| parser.operand_and_operators(allowed, min_level))
    }

    fn operand_and_operators(&mut self, allowed: Allowed, min_level: u8) -> Parsed<Node> {
        let mut lhs = self.operand(allowed)?;
        loop {
            lhs = match lhs {
                Node::Spanset { expr, is_wrapped } => match self.spanset_operator(min_level) {
                    Some((op, level)) => {
                        let pipeline = if is_wrapped { allowed.only(Allowed::PIPELINE) } else { Allowed(0) };
                        self.spanset_rhs(expr, op, Allowed::SPANSET | pipeline, level, is_wrapped)?
                    }
                    None => return Ok(Node::Spanset { expr, is_wrapped }),
                },
                Node::Pipeline(expr) => match self.spanset_operator(min_level) {
                    Some((op, level)) => self.spanset_rhs(expr, op, Allowed::PIPELINE, level, true)?,
                    None => return Ok(Node::Pipeline(expr)),
                },
                scalar => match self.arithmetic_operator(&scalar, allowed, min_level) {
                    Some((op, level)) => self.arithmetic_rhs(scalar, op, allowed, level)?,
                    None => return Ok(scalar),
                },
            };
        }
    }

    fn spanset_rhs(&mut self, lhs: SpansetExpr, op: SpansetOp, allowed: Allowed, level: u8, is_wrapped: bool) -> Parsed<Node> {
        self.advance();
        self.count_operator()?;
        let binary = |rhs| SpansetExpr::Binary { op, lhs: Box::new(lhs), rhs: Box::new(rhs) };
        match self.climb(allowed, level + 1)? {
            Node::Spanset { expr, is_wrapped: rhs_is_wrapped } => {
                Ok(Node::Spanset { expr: binary(expr), is_wrapped: is_wrapped && rhs_is_wrapped })
            }
            Node::Pipeline(expr) => Ok(Node::Pipeline(binary(expr))),
            Node::Scalar(_) | Node::ScalarExpr(_) | Node::PipelineScalar(_) | Node::Metrics(_) => Err(self.unexpected(&[])),
        }
    }

    /// Returns the arithmetic operator that comes next, if it may follow `lhs`.
    fn arithmetic_operator(&self, lhs: &Node, allowed: Allowed, min_level: u8) -> Option<(ArithmeticOp, u8)> {
        let (op, level) = arithmetic_operator(self.peek())?;
        let is_basic = !matches!(op, ArithmeticOp::Mod | ArithmeticOp::Pow);
        let is_legal = match lhs {
            Node::Scalar(_) => is_basic || allowed.has(Allowed::SCALAR_EXPR),
            Node::Metrics(_) => is_basic,
            Node::ScalarExpr(_) | Node::PipelineScalar(_) => true,
            Node::Spanset { .. } | Node::Pipeline(_) => false,
        };
        (is_legal && level >= min_level).then_some((op, level))
    }

    fn arithmetic_rhs(&mut self, lhs: Node, op: ArithmeticOp, allowed: Allowed, level: u8) -> Parsed<Node> {
        self.advance();
        self.count_operator()?;
        let is_basic = !matches!(op, ArithmeticOp::Mod | ArithmeticOp::Pow);
        let rhs_allowed = match &lhs {
            Node::Scalar(_) => {
                let metrics = if is_basic { allowed.only(Allowed::METRICS) } else { Allowed(0) };
                Allowed::SCALAR | allowed.only(Allowed::SCALAR_EXPR) | metrics
            }
            Node::ScalarExpr(_) => Allowed::SCALAR | Allowed::SCALAR_EXPR,
            Node::PipelineScalar(_) => Allowed::PIPELINE_SCALAR,
            Node::Metrics(_) => Allowed::METRICS | Allowed::SCALAR,
            Node::Spanset { .. } | Node::Pipeline(_) => Allowed(0),
        };
        let rhs = self.climb(rhs_allowed, if level == POWER { POWER } else { level + 1 })?;
        match (lhs, rhs) {
            (Node::Scalar(_), Node::Scalar(_)) if !is_basic => Err(self.unexpected(&[])),
            (Node::Scalar(lhs), Node::Scalar(rhs)) => self.fold_scalars(op, &lhs, &rhs).map(Node::Scalar),
            (Node::Metrics(lhs), Node::Metrics(rhs)) => {
                Ok(metrics_node(MetricsNode::Binary { op, lhs: Box::new(lhs), rhs: Box::new(rhs) }))
            }
            (Node::Metrics(lhs), Node::Scalar(rhs)) => {
                let scalar = self.metrics_operand(&rhs)?;
                Ok(metrics_node(MetricsNode::ScalarRight { op, lhs: Box::new(lhs), scalar }))
            }
            (Node::Scalar(lhs), Node::Metrics(rhs)) => {
                let scalar = self.metrics_operand(&lhs)?;
                Ok(metrics_node(MetricsNode::ScalarLeft { op, scalar, rhs: Box::new(rhs) }))
            }
            (lhs @ Node::PipelineScalar(_), rhs) => self.scalar_binary(op, lhs, rhs).map(Node::PipelineScalar),
            (lhs, rhs) => self.scalar_binary(op, lhs, rhs).map(Node::ScalarExpr),
        }
    }

    fn scalar_binary(&self, op: ArithmeticOp, lhs: Node, rhs: Node) -> Parsed<ScalarExpr> {
        Ok(ScalarExpr::Binary { op, lhs: Box::new(self.scalar_of(lhs)?), rhs: Box::new(self.scalar_of(rhs)?) })
    }

    /// Returns a scalar node as an expression.
    pub(super) fn scalar_of(&self, node: Node) -> Parsed<ScalarExpr> {
        match node {
            Node::Scalar(value) => Ok(ScalarExpr::Literal(value)),
            Node::ScalarExpr(expr) | Node::PipelineScalar(expr) => Ok(expr),
            Node::Spanset { .. } | Node::Pipeline(_) | Node::Metrics(_) => Err(self.unexpected(&[])),
        }
    }

    fn fold_scalars(&self, op: ArithmeticOp, lhs: &Static, rhs: &Static) -> Parsed<Static> {
        if [lhs, rhs].iter().any(|value| value.static_type() == StaticType::Duration) {
            return Err(self.error_behind("duration cannot be used in scalar arithmetic"));
        }
        arithmetic(op, lhs, rhs).map_err(|err| self.error_behind(err.to_string()))
    }

    /// Returns a scalar of metrics arithmetic.
    fn metrics_operand(&self, value: &Static) -> Parsed<f64> {
        match value {
            Static::Int(_) | Static::Float(_) => Ok(value.as_f64().unwrap_or(f64::NAN)),
            _ => Err(self.error_behind("duration cannot be used as a scalar operand in metric arithmetic")),
        }
    }

    fn operand(&mut self, allowed: Allowed) -> Parsed<Node> {
        if self.is("{") && allowed.has(Allowed::SPANSET) {
            return Ok(Node::Spanset { expr: SpansetExpr::Filter(self.filter()?), is_wrapped: false });
        }
        if self.accept("(") {
            return self.parenthesised(allowed);
        }
        if allowed.has(Allowed::SCALAR)
            && let Some(value) = self.scalar_literal()?
        {
            return Ok(Node::Scalar(value));
        }
        if allowed.has(Allowed::SCALAR_EXPR)
            && let Some(aggregate) = self.aggregate()?
        {
            return Ok(Node::ScalarExpr(ScalarExpr::Aggregate(aggregate)));
        }
        Err(self.unexpected(if allowed == Allowed::PIPELINE { &["("] } else { &[] }))
    }

    /// Parses what follows `(`, and the `)`.
    fn parenthesised(&mut self, allowed: Allowed) -> Parsed<Node> {
        let may_be_pipeline = allowed.has(Allowed::PIPELINE | Allowed::PIPELINE_SCALAR | Allowed::METRICS);
        let content = if may_be_pipeline { self.content(allowed)? } else { Content::Node(self.climb(allowed, 0)?) };
        let node = match content {
            Content::Node(Node::Spanset { expr, is_wrapped: _ }) if allowed.has(Allowed::SPANSET) => {
                Node::Spanset { expr, is_wrapped: true }
            }
            // `({})` where only a wrapped pipeline fits is one
            Content::Node(Node::Spanset { expr, is_wrapped: _ }) if allowed.has(Allowed::PIPELINE) => Node::Pipeline(expr),
            Content::Node(node @ Node::Pipeline(_)) if allowed.has(Allowed::PIPELINE) => node,
            Content::Node(node @ Node::Scalar(_)) if allowed.has(Allowed::SCALAR) => node,
            Content::Node(node @ Node::ScalarExpr(_)) if allowed.has(Allowed::SCALAR_EXPR) => node,
            Content::Node(node @ Node::PipelineScalar(_)) if allowed.has(Allowed::PIPELINE_SCALAR) => node,
            Content::Node(node @ Node::Metrics(_)) if allowed.has(Allowed::METRICS) => node,
            Content::Pipeline(pipeline) if allowed.has(Allowed::PIPELINE) => Node::Pipeline(SpansetExpr::Pipeline(Box::new(pipeline))),
            Content::PipelineScalar(pipeline, aggregate) => Node::PipelineScalar(ScalarExpr::Pipeline(Box::new(pipeline), aggregate)),
            Content::Metrics(metrics) => Node::Metrics(metrics),
            Content::Node(_) | Content::Pipeline(_) => return Err(self.unexpected(&[])),
        };
        self.expect_one_of(")", &[])?;
        Ok(node)
    }

    /// Parses a literal with its signs, if there is one.
    fn scalar_literal(&mut self) -> Parsed<Option<Static>> {
        let value = match self.peek() {
            TokenKind::Integer(value) => Static::Int(*value),
            TokenKind::Float(value) => Static::Float(*value),
            TokenKind::Duration(nanos) => Static::Duration(*nanos),
            TokenKind::Fixed("-") => {
                self.advance();
                let Node::Scalar(value) = self.nested(|parser| parser.operand(Allowed::SCALAR))? else {
                    return Err(self.unexpected(&[]));
                };
                return unary(UnaryOp::Negate, &value).map(Some).map_err(|err| self.error_behind(err.to_string()));
            }
            _ => return Ok(None),
        };
        self.advance();
        Ok(Some(value))
    }

    fn aggregate(&mut self) -> Parsed<Option<Aggregate>> {
        let build: fn(_) -> Aggregate = match self.peek() {
            TokenKind::Fixed("count") => {
                self.advance();
                self.expect("(")?;
                self.expect(")")?;
                return Ok(Some(Aggregate::Count));
            }
            TokenKind::Fixed("min") => Aggregate::Min,
            TokenKind::Fixed("max") => Aggregate::Max,
            TokenKind::Fixed("avg") => Aggregate::Avg,
            TokenKind::Fixed("sum") => Aggregate::Sum,
            TokenKind::Identifier(name) if name == "count_distinct" => Aggregate::CountDistinct,
            _ => return Ok(None),
        };
        self.advance();
        self.expect("(")?;
        let operand = self.field()?;
        self.expect_one_of(")", &[])?;
        Ok(Some(build(operand)))
    }

    /// Returns the comparison operator that comes next, without consuming it.
    pub(super) fn comparison(&self) -> Option<ComparisonOp> {
        comparison_operator(self.peek())
    }

    fn spanset_operator(&self, min_level: u8) -> Option<(SpansetOp, u8)> {
        let TokenKind::Fixed(text) = self.peek() else {
            return None;
        };
        let (op, level) = match *text {
            "&&" => (SpansetOp::And, LOGICAL),
            "||" => (SpansetOp::Or, LOGICAL),
            structural => (structural_operator(structural)?, COMPARISON),
        };
        (level >= min_level).then_some((op, level))
    }
}

fn metrics_node(node: MetricsNode) -> Node {
    Node::Metrics(MetricsExpr { node, second_stages: Vec::new() })
}

fn structural_operator(text: &str) -> Option<SpansetOp> {
    let (form, relation) = match text.as_bytes() {
        [b'!', ..] => (StructuralForm::Negated, &text[1..]),
        [b'&', ..] => (StructuralForm::Union, &text[1..]),
        _ => (StructuralForm::Plain, text),
    };
    let relation = match relation {
        ">" => Relation::Child,
        "<" => Relation::Parent,
        ">>" => Relation::Descendant,
        "<<" => Relation::Ancestor,
        "~" => Relation::Sibling,
        _ => return None,
    };
    Some(SpansetOp::Structural { relation, form })
}

pub(super) fn comparison_operator(token: &TokenKind) -> Option<ComparisonOp> {
    match token {
        TokenKind::Fixed("=") => Some(ComparisonOp::Eq),
        TokenKind::Fixed("!=") => Some(ComparisonOp::Ne),
        TokenKind::Fixed("<") => Some(ComparisonOp::Lt),
        TokenKind::Fixed("<=") => Some(ComparisonOp::Le),
        TokenKind::Fixed(">") => Some(ComparisonOp::Gt),
        TokenKind::Fixed(">=") => Some(ComparisonOp::Ge),
        _ => None,
    }
}

pub(super) fn arithmetic_operator(token: &TokenKind) -> Option<(ArithmeticOp, u8)> {
    match token {
        TokenKind::Fixed("+") => Some((ArithmeticOp::Add, ADDITIVE)),
        TokenKind::Fixed("-") => Some((ArithmeticOp::Sub, ADDITIVE)),
        TokenKind::Fixed("*") => Some((ArithmeticOp::Mul, MULTIPLICATIVE)),
        TokenKind::Fixed("/") => Some((ArithmeticOp::Div, MULTIPLICATIVE)),
        TokenKind::Fixed("%") => Some((ArithmeticOp::Mod, MULTIPLICATIVE)),
        TokenKind::Fixed("^") => Some((ArithmeticOp::Pow, POWER)),
        _ => None,
    }
}
