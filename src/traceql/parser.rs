//! Turns tokens into a [`Query`] by recursive descent with precedence climbing (traceql, grammar).
//!
//! Not here: type rules; a parsed query may still be refused by [`super::check`].
//!
//! `(` may open five different things, so parenthesised text is read as whatever it turns out to be ([`operand`]), within what the
//! surroundings admit. In one place more is accepted than in the compatible system: `({}) > ({} | {})`.
//!
//! Invariants
//! * Recursion is at most [`MAX_DEPTH`] levels of nesting deep, and so is each expression tree.
//! * The first error ends parsing; its position is that of the token at which it was noticed.

mod field;
mod metrics;
mod operand;
mod words;

use super::ast::{FieldExpr, Hint, Pipeline, Query, QueryBody, ScalarExpr, ScalarFilter, SpansetExpr, Stage};
use super::error::QueryError;
use super::lexer::{Token, TokenKind, tokenize};
use super::types::Static;
use operand::{Allowed, Content, Node};

/// Longest accepted query text. Services set a lower limit per tenant; this one bounds the token list (about 40 bytes per byte of text).
pub const MAX_QUERY_BYTES: usize = 1 << 20;

/// Nesting depth of a query, and height of an expression tree. Written queries stay below 20 (chains of `&&` and `||` do not count);
/// parser, checker and engine recurse, and this many levels fit a 2 MiB stack even in unoptimised builds (about 12 KiB a level).
pub const MAX_DEPTH: usize = 128;

/// Parses `text` without checking types.
///
/// # Errors
/// [`super::error::QueryErrorKind::Syntax`] with the position, or `Invalid` when the text exceeds [`MAX_QUERY_BYTES`] or [`MAX_DEPTH`].
pub fn parse(text: &str) -> Result<Query, QueryError> {
    if text.len() > MAX_QUERY_BYTES {
        return Err(QueryError::invalid(format!("query of {} bytes exceeds the limit of {MAX_QUERY_BYTES} bytes", text.len())));
    }
    parse_tokens(tokenize(text))
}

/// Parses a token list as [`tokenize`] makes it.
pub(super) fn parse_tokens(tokens: Vec<Token>) -> Result<Query, QueryError> {
    Parser { tokens, at: 0, depth: 0, operators: 0 }.query()
}

/// Whether `word` alone is an intrinsic.
pub(super) fn is_intrinsic(word: &str) -> bool {
    field::UNSCOPED_INTRINSICS.iter().any(|(name, _)| *name == word)
}

type Parsed<T> = Result<T, QueryError>;

struct Parser {
    /// Ends with `End` or `Bad`.
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    /// Operators between spansets, scalars and metrics so far; each may add one level to a tree.
    operators: usize,
}

impl Parser {
    fn query(mut self) -> Parsed<Query> {
        let body = self.body()?;
        let mut hints = Vec::new();
        while self.accept("with") {
            hints = self.hints()?;
        }
        if !matches!(self.peek(), TokenKind::End) {
            return Err(self.unexpected(&["with"]));
        }
        Ok(Query { body, hints })
    }

    fn body(&mut self) -> Parsed<QueryBody> {
        let body = match self.content(Allowed::ALL)? {
            Content::Pipeline(pipeline) => QueryBody::Search(pipeline),
            Content::Metrics(metrics) => QueryBody::Metrics(metrics),
            Content::Node(Node::Spanset { expr, is_wrapped: _ } | Node::Pipeline(expr)) => QueryBody::Search(unwrapped(expr)),
            Content::Node(Node::PipelineScalar(lhs)) => {
                let filter = self.scalar_filter(lhs, Allowed::PIPELINE_SCALAR | Allowed::SCALAR)?;
                QueryBody::Search(Pipeline { stages: vec![Stage::ScalarFilter(filter)] })
            }
            Content::Node(Node::Metrics(mut metrics)) => {
                metrics.second_stages.extend(self.second_stages()?);
                QueryBody::Metrics(metrics)
            }
            Content::Node(Node::Scalar(_) | Node::ScalarExpr(_)) | Content::PipelineScalar(..) => return Err(self.unexpected(&[])),
        };
        Ok(body)
    }

    fn hints(&mut self) -> Parsed<Vec<Hint>> {
        self.expect("(")?;
        let mut hints = Vec::new();
        loop {
            let TokenKind::Identifier(name) = self.peek() else {
                return Err(self.unexpected(&["IDENTIFIER"]));
            };
            let name = name.clone();
            self.advance();
            self.expect("=")?;
            let value = self.literal()?;
            hints.push(Hint { name, value });
            if !self.accept(",") {
                break;
            }
        }
        self.expect_one_of(")", &[")", ","])?;
        Ok(hints)
    }

    /// Parses the stages after a first stage, each with its `|`. `allowed` says how the whole may end.
    fn pipeline_tail(&mut self, first: Stage, allowed: Allowed) -> Parsed<Content> {
        let mut stages = vec![first];
        while self.accept("|") {
            if allowed.has(Allowed::METRICS)
                && let Some(function) = self.metrics_function()?
            {
                return self.metrics_tail(Pipeline { stages }, function).map(Content::Metrics);
            }
            let is_aggregate = !self.is("(");
            match self.stage()? {
                StageOrScalar::Stage(stage) => stages.push(stage),
                StageOrScalar::Scalar(ScalarExpr::Aggregate(aggregate))
                    if is_aggregate && allowed.has(Allowed::PIPELINE_SCALAR) && self.is(")") =>
                {
                    return Ok(Content::PipelineScalar(Pipeline { stages }, aggregate));
                }
                StageOrScalar::Scalar(_) => return Err(self.unexpected(&[])),
            }
        }
        Ok(Content::Pipeline(Pipeline { stages }))
    }

    /// Parses a stage that is not the first one.
    fn stage(&mut self) -> Parsed<StageOrScalar> {
        if self.accept("coalesce") {
            self.expect("(")?;
            self.expect(")")?;
            return Ok(StageOrScalar::Stage(Stage::Coalesce));
        }
        if let Some(stage) = self.by_or_select()? {
            return Ok(StageOrScalar::Stage(stage));
        }
        Ok(match self.climb(Allowed::SPANSET | Allowed::SCALAR | Allowed::SCALAR_EXPR, 0)? {
            Node::Spanset { expr, is_wrapped: _ } => StageOrScalar::Stage(Stage::Spanset(expr)),
            node @ (Node::Scalar(_) | Node::ScalarExpr(_)) => {
                let scalar = self.scalar_of(node)?;
                if self.comparison().is_none() {
                    return Ok(StageOrScalar::Scalar(scalar));
                }
                StageOrScalar::Stage(Stage::ScalarFilter(self.scalar_filter(scalar, Allowed::SCALAR | Allowed::SCALAR_EXPR)?))
            }
            Node::Pipeline(_) | Node::PipelineScalar(_) | Node::Metrics(_) => return Err(self.unexpected(&[])),
        })
    }

    fn by_or_select(&mut self) -> Parsed<Option<Stage>> {
        if self.accept("by") {
            self.expect("(")?;
            let expr = self.field()?;
            self.expect_one_of(")", &[])?;
            return Ok(Some(Stage::GroupBy(expr)));
        }
        if self.accept("select") {
            return self.attribute_list().map(|attributes| Some(Stage::Select(attributes)));
        }
        Ok(None)
    }

    /// Parses `CMP scalar` after `lhs`. Two literals are no filter.
    fn scalar_filter(&mut self, lhs: ScalarExpr, allowed: Allowed) -> Parsed<ScalarFilter> {
        let Some(op) = self.comparison() else {
            return Err(self.unexpected(&[]));
        };
        self.advance();
        let rhs = self.climb(allowed, operand::ADDITIVE)?;
        let rhs = self.scalar_of(rhs)?;
        if let (ScalarExpr::Literal(_), ScalarExpr::Literal(_)) = (&lhs, &rhs) {
            return Err(self.unexpected(&[]));
        }
        Ok(ScalarFilter { op, lhs, rhs })
    }

    /// Parses `{ expression }`.
    fn filter(&mut self) -> Parsed<FieldExpr> {
        self.expect("{")?;
        if self.accept("}") {
            return Ok(FieldExpr::Literal(Static::Bool(true)));
        }
        let expr = self.field()?;
        self.expect_one_of("}", &[])?;
        Ok(expr)
    }

    // Tokens

    fn peek(&self) -> &TokenKind {
        &self.tokens[self.at].kind
    }

    fn peek_second(&self) -> Option<&TokenKind> {
        self.tokens.get(self.at + 1).map(|token| &token.kind)
    }

    /// Moves on; stays at the last token.
    fn advance(&mut self) {
        self.at = (self.at + 1).min(self.tokens.len() - 1);
    }

    fn is(&self, text: &str) -> bool {
        matches!(self.peek(), TokenKind::Fixed(found) if *found == text)
    }

    fn accept(&mut self, text: &str) -> bool {
        let found = self.is(text);
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, text: &'static str) -> Parsed<()> {
        self.expect_one_of(text, &[text])
    }

    /// Consumes `text`; the error lists `alternatives`, or nothing.
    fn expect_one_of(&mut self, text: &str, alternatives: &[&str]) -> Parsed<()> {
        if self.accept(text) { Ok(()) } else { Err(self.unexpected(alternatives)) }
    }

    // Errors

    /// Returns the error for the next token; `alternatives` are named when there are one to four of them.
    fn unexpected(&self, alternatives: &[&str]) -> QueryError {
        let token = &self.tokens[self.at];
        if let TokenKind::Bad(message) = &token.kind {
            return QueryError::syntax(token.position, message);
        }
        let mut text = format!("syntax error: unexpected {}", token.kind.name());
        if !alternatives.is_empty() {
            text.push_str(", expecting ");
            text.push_str(&alternatives.join(" or "));
        }
        QueryError::syntax(token.position, text)
    }

    /// Returns an error at the token just consumed.
    fn error_behind(&self, text: impl Into<String>) -> QueryError {
        QueryError::syntax(self.tokens[self.at.saturating_sub(1)].position, text)
    }

    fn unknown_identifier(&self, name: &str) -> QueryError {
        QueryError::syntax(self.tokens[self.at].position, format!("unknown identifier: {name}"))
    }

    fn too_deep() -> QueryError {
        QueryError::invalid(format!("query is nested deeper than {MAX_DEPTH} levels"))
    }

    /// Runs `parse` one level deeper.
    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= MAX_DEPTH {
            return Err(Self::too_deep());
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    /// Counts an operator outside filters.
    fn count_operator(&mut self) -> Parsed<()> {
        self.operators += 1;
        if self.operators > MAX_DEPTH { Err(Self::too_deep()) } else { Ok(()) }
    }
}

enum StageOrScalar {
    Stage(Stage),
    /// A scalar without comparison, which only some surroundings admit.
    Scalar(ScalarExpr),
}

/// Returns the pipeline that a spanset expression standing alone is.
fn unwrapped(expr: SpansetExpr) -> Pipeline {
    match expr {
        SpansetExpr::Pipeline(pipeline) => *pipeline,
        expr @ (SpansetExpr::Filter(_) | SpansetExpr::Binary { .. }) => Pipeline { stages: vec![Stage::Spanset(expr)] },
    }
}

#[cfg(test)]
mod tests;
