//! Expressions inside filters, groupings and aggregates; attributes and literals.

use super::super::ast::{
    Attribute, AttributeScope, BinaryOp, ComparisonOp, FieldExpr, Intrinsic, LogicalOp, NamedAttribute, Owner, UnaryOp,
};
use super::super::check;
use super::super::lexer::TokenKind;
use super::super::types::{self, Kind, Static, Status};
use super::operand::{ADDITIVE, COMPARISON, LOGICAL, MULTIPLICATIVE, POWER, arithmetic_operator, comparison_operator};
use super::{MAX_DEPTH, Parsed, Parser};

/// An expression with the height of its tree.
pub(super) struct Term {
    pub(super) expr: FieldExpr,
    height: usize,
}

impl Term {
    pub(super) fn leaf(expr: FieldExpr) -> Self {
        Self { expr, height: 1 }
    }
}

#[derive(Clone, Copy)]
enum FieldOp {
    Binary(BinaryOp),
    Logical(LogicalOp),
}

impl Parser {
    pub(super) fn field(&mut self) -> Parsed<FieldExpr> {
        self.field_term(0).map(|term| term.expr)
    }

    fn field_term(&mut self, min_level: u8) -> Parsed<Term> {
        self.nested(|parser| parser.field_operand_and_operators(min_level))
    }

    fn field_operand_and_operators(&mut self, min_level: u8) -> Parsed<Term> {
        let mut lhs = self.field_operand()?;
        loop {
            if min_level <= COMPARISON
                && let Some(op) = self.word_operator()
            {
                lhs = self.word_comparison(op, lhs)?;
                continue;
            }
            let Some((op, level)) = field_operator(self.peek()).filter(|(_, level)| *level >= min_level) else {
                return Ok(lhs);
            };
            self.advance();
            if let Some(existence) = existence_operator(op)
                && self.accept("nil")
            {
                lhs = unary(existence, lhs)?;
                continue;
            }
            let rhs = self.field_term(if level == POWER { POWER } else { level + 1 })?;
            lhs = match op {
                FieldOp::Binary(op) => binary(op, lhs, rhs)?,
                FieldOp::Logical(op) => logical(op, lhs, rhs)?,
            };
        }
    }

    fn field_operand(&mut self) -> Parsed<Term> {
        if self.accept("(") {
            let term = self.field_term(0)?;
            self.expect_one_of(")", &[])?;
            return Ok(term);
        }
        if self.accept("-") {
            return unary(UnaryOp::Negate, self.field_term(MULTIPLICATIVE)?);
        }
        if self.accept("!") {
            return unary(UnaryOp::Not, self.field_term(MULTIPLICATIVE)?);
        }
        if self.accept("nil") {
            return self.after_nil();
        }
        if let Some(attribute) = self.attribute_or_none()? {
            return Ok(Term::leaf(FieldExpr::Attribute(attribute)));
        }
        self.literal().map(|value| Term::leaf(FieldExpr::Literal(value)))
    }

    /// Parses `= x` or `!= x` after `nil`. Between two `nil` both are false.
    fn after_nil(&mut self) -> Parsed<Term> {
        let existence = field_operator(self.peek()).and_then(|(op, _)| existence_operator(op));
        let Some(op) = existence else {
            return Err(self.unexpected(&["=", "!="]));
        };
        self.advance();
        if self.accept("nil") {
            return Ok(Term::leaf(FieldExpr::Literal(Static::Bool(false))));
        }
        unary(op, self.field_term(ADDITIVE)?)
    }

    /// Parses a literal without sign.
    pub(super) fn literal(&mut self) -> Parsed<Static> {
        let value = match self.peek() {
            TokenKind::String(text) => Static::string(text.as_str()),
            TokenKind::Integer(value) => Static::Int(*value),
            TokenKind::Float(value) => Static::Float(*value),
            TokenKind::Duration(nanos) => Static::Duration(*nanos),
            TokenKind::Identifier(name) => match name.as_str() {
                "minInt" => Static::Int(i64::MIN),
                "maxInt" => Static::Int(i64::MAX),
                _ => return Err(self.unknown_identifier(name)),
            },
            TokenKind::Fixed(word) => match keyword_literal(word) {
                Some(value) => value,
                None => return Err(self.unexpected(&[])),
            },
            TokenKind::EndAttribute | TokenKind::End | TokenKind::Bad(_) => return Err(self.unexpected(&[])),
        };
        self.advance();
        Ok(value)
    }

    /// Parses `(a, b)`.
    pub(super) fn attribute_list(&mut self) -> Parsed<Vec<Attribute>> {
        self.expect("(")?;
        let mut attributes = vec![self.attribute()?];
        while self.accept(",") {
            attributes.push(self.attribute()?);
        }
        self.expect_one_of(")", &[")", ","])?;
        Ok(attributes)
    }

    pub(super) fn attribute(&mut self) -> Parsed<Attribute> {
        match self.attribute_or_none()? {
            Some(attribute) => Ok(attribute),
            None => Err(self.unexpected(&[])),
        }
    }

    fn attribute_or_none(&mut self) -> Parsed<Option<Attribute>> {
        let TokenKind::Fixed(text) = *self.peek() else {
            return Ok(None);
        };
        if let Some(scope) = attribute_scope(text) {
            self.advance();
            return self.attribute_name(scope, Owner::Itself).map(Some);
        }
        if let Some(owner) = relative(text) {
            self.advance();
            let scope = match *self.peek() {
                TokenKind::Fixed(text @ ("span." | "resource.")) => attribute_scope(text),
                _ => None,
            };
            if scope.is_some() {
                self.advance();
            }
            return self.attribute_name(scope.unwrap_or(AttributeScope::Unscoped), owner).map(Some);
        }
        if let Some(intrinsics) = scoped_intrinsics(text) {
            self.advance();
            let found = intrinsics.iter().find(|(name, _)| self.is(name));
            let Some((_, intrinsic)) = found else {
                let names: Vec<&str> = intrinsics.iter().map(|(name, _)| *name).collect();
                return Err(self.unexpected(if names.len() > 4 { &[] } else { &names }));
            };
            self.advance();
            return Ok(Some(Attribute::Intrinsic(*intrinsic)));
        }
        let Some((_, intrinsic)) = UNSCOPED_INTRINSICS.iter().find(|(name, _)| *name == text) else {
            return Ok(None);
        };
        self.advance();
        Ok(Some(Attribute::Intrinsic(*intrinsic)))
    }

    fn attribute_name(&mut self, scope: AttributeScope, owner: Owner) -> Parsed<Attribute> {
        let TokenKind::Identifier(name) = self.peek() else {
            return Err(self.unexpected(&["IDENTIFIER"]));
        };
        let name = name.as_str().into();
        self.advance();
        self.expect_end_of_attribute()?;
        Ok(Attribute::Named(NamedAttribute { scope, name, owner }))
    }

    fn expect_end_of_attribute(&mut self) -> Parsed<()> {
        if !matches!(self.peek(), TokenKind::EndAttribute) {
            return Err(self.unexpected(&["END_ATTRIBUTE"]));
        }
        self.advance();
        Ok(())
    }
}

pub(super) const UNSCOPED_INTRINSICS: &[(&str, Intrinsic)] = &[
    ("duration", Intrinsic::Duration),
    ("name", Intrinsic::Name),
    ("status", Intrinsic::Status),
    ("statusMessage", Intrinsic::StatusMessage),
    ("kind", Intrinsic::Kind),
    ("nestedSetLeft", Intrinsic::NestedSetLeft),
    ("nestedSetRight", Intrinsic::NestedSetRight),
    ("nestedSetParent", Intrinsic::NestedSetParent),
    ("rootName", Intrinsic::RootName),
    ("rootServiceName", Intrinsic::RootServiceName),
    ("traceDuration", Intrinsic::TraceDuration),
    ("parent", Intrinsic::Parent),
];

/// Returns what may follow a scope that ends in a colon, in the order in which errors list it.
fn scoped_intrinsics(scope: &str) -> Option<&'static [(&'static str, Intrinsic)]> {
    match scope {
        "trace:" => Some(&[
            ("duration", Intrinsic::TraceDuration),
            ("rootName", Intrinsic::RootName),
            ("rootService", Intrinsic::RootServiceName),
            ("id", Intrinsic::TraceId),
        ]),
        "span:" => Some(&[
            ("duration", Intrinsic::Duration),
            ("name", Intrinsic::Name),
            ("status", Intrinsic::Status),
            ("statusMessage", Intrinsic::StatusMessage),
            ("kind", Intrinsic::Kind),
            ("id", Intrinsic::SpanId),
            ("parentID", Intrinsic::SpanParentId),
            ("childCount", Intrinsic::SpanChildCount),
        ]),
        "event:" => Some(&[("name", Intrinsic::EventName), ("timeSinceStart", Intrinsic::EventTimeSinceStart)]),
        "link:" => Some(&[("traceID", Intrinsic::LinkTraceId), ("spanID", Intrinsic::LinkSpanId)]),
        "instrumentation:" => Some(&[("name", Intrinsic::InstrumentationName), ("version", Intrinsic::InstrumentationVersion)]),
        _ => None,
    }
}

fn relative(text: &str) -> Option<Owner> {
    match text {
        "parent." => Some(Owner::Parent),
        "root." => Some(Owner::Root),
        _ => None,
    }
}

fn attribute_scope(text: &str) -> Option<AttributeScope> {
    match text {
        "." => Some(AttributeScope::Unscoped),
        "span." => Some(AttributeScope::Span),
        "resource." => Some(AttributeScope::Resource),
        "event." => Some(AttributeScope::Event),
        "link." => Some(AttributeScope::Link),
        "instrumentation." => Some(AttributeScope::Instrumentation),
        _ => None,
    }
}

fn keyword_literal(word: &str) -> Option<Static> {
    Some(match word {
        "true" => Static::Bool(true),
        "false" => Static::Bool(false),
        "ok" => Static::Status(Status::Ok),
        "error" => Static::Status(Status::Error),
        "unset" => Static::Status(Status::Unset),
        "unspecified" => Static::Kind(Kind::Unspecified),
        "internal" => Static::Kind(Kind::Internal),
        "server" => Static::Kind(Kind::Server),
        "client" => Static::Kind(Kind::Client),
        "producer" => Static::Kind(Kind::Producer),
        "consumer" => Static::Kind(Kind::Consumer),
        _ => return None,
    })
}

fn field_operator(token: &TokenKind) -> Option<(FieldOp, u8)> {
    if let Some((op, level)) = arithmetic_operator(token) {
        return Some((FieldOp::Binary(BinaryOp::Arithmetic(op)), level));
    }
    if let Some(op) = comparison_operator(token) {
        return Some((FieldOp::Binary(BinaryOp::Compare(op)), COMPARISON));
    }
    match token {
        TokenKind::Fixed("=~") => Some((FieldOp::Binary(BinaryOp::Regex), COMPARISON)),
        TokenKind::Fixed("!~") => Some((FieldOp::Binary(BinaryOp::NotRegex), COMPARISON)),
        TokenKind::Fixed("&&") => Some((FieldOp::Logical(LogicalOp::And), LOGICAL)),
        TokenKind::Fixed("||") => Some((FieldOp::Logical(LogicalOp::Or), LOGICAL)),
        _ => None,
    }
}

/// Returns what `= nil` and `!= nil` ask.
fn existence_operator(op: FieldOp) -> Option<UnaryOp> {
    match op {
        FieldOp::Binary(BinaryOp::Compare(ComparisonOp::Eq)) => Some(UnaryOp::NotExists),
        FieldOp::Binary(BinaryOp::Compare(ComparisonOp::Ne)) => Some(UnaryOp::Exists),
        FieldOp::Binary(_) | FieldOp::Logical(_) => None,
    }
}

// Building blocks fold what references no span and passes validation (traceql, parse-time folding).

fn grown(expr: FieldExpr, height: usize) -> Parsed<Term> {
    if height > MAX_DEPTH { Err(Parser::too_deep()) } else { Ok(Term { expr, height }) }
}

fn unary(op: UnaryOp, operand: Term) -> Parsed<Term> {
    if let FieldExpr::Literal(value) = &operand.expr
        && value.static_type().allows_unary(op)
        && let Ok(folded) = types::unary(op, value)
    {
        return Ok(Term::leaf(FieldExpr::Literal(folded)));
    }
    grown(FieldExpr::Unary { op, operand: Box::new(operand.expr) }, operand.height + 1)
}

pub(super) fn binary(op: BinaryOp, lhs: Term, rhs: Term) -> Parsed<Term> {
    if let (FieldExpr::Literal(left), FieldExpr::Literal(right)) = (&lhs.expr, &rhs.expr)
        && check::are_operands_legal(op, left.static_type(), right.static_type())
        && let Ok(folded) = types::binary(op, left, right)
    {
        return Ok(Term::leaf(FieldExpr::Literal(folded)));
    }
    let height = lhs.height.max(rhs.height) + 1;
    let (lhs, rhs) = strip_trace_id(op, lhs.expr, rhs.expr);
    grown(FieldExpr::Binary { op, lhs: Box::new(lhs), rhs: Box::new(rhs) }, height)
}

pub(super) fn logical(op: LogicalOp, lhs: Term, rhs: Term) -> Parsed<Term> {
    if let (FieldExpr::Literal(left @ Static::Bool(_)), FieldExpr::Literal(right @ Static::Bool(_))) = (&lhs.expr, &rhs.expr) {
        return Ok(Term::leaf(FieldExpr::Literal(types::logical(op, left, right))));
    }
    match lhs.expr {
        FieldExpr::Logical { op: left_op, mut operands } if left_op == op => {
            operands.push(rhs.expr);
            grown(FieldExpr::Logical { op, operands }, lhs.height.max(rhs.height + 1))
        }
        left => grown(FieldExpr::Logical { op, operands: vec![left, rhs.expr] }, lhs.height.max(rhs.height) + 1),
    }
}

/// Strips leading zeros from the text that `trace:id` is compared with: stored ids print without them.
fn strip_trace_id(op: BinaryOp, lhs: FieldExpr, rhs: FieldExpr) -> (FieldExpr, FieldExpr) {
    const TRACE_ID: FieldExpr = FieldExpr::Attribute(Attribute::Intrinsic(Intrinsic::TraceId));
    let strip = |text: &str| FieldExpr::Literal(Static::string(text.trim_start_matches('0')));
    match (op, &lhs, &rhs) {
        (BinaryOp::Compare(_), attribute, FieldExpr::Literal(Static::String(text))) if *attribute == TRACE_ID => {
            let rhs = strip(text);
            (lhs, rhs)
        }
        (BinaryOp::Compare(_), FieldExpr::Literal(Static::String(text)), attribute) if *attribute == TRACE_ID => {
            let lhs = strip(text);
            (lhs, rhs)
        }
        _ => (lhs, rhs),
    }
}
