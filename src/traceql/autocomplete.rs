//! Queries that are still being typed: lenient parsing and condition groups for tag names and tag values (traceql, tag autocompletion).
//!
//! Anything that cannot be understood means "no filter"; only too many groups are an error.

use super::ast::{Attribute, BinaryOp, FieldExpr, LogicalOp, Pipeline, Query, QueryBody, SpansetExpr, Stage};
use super::error::{Position, QueryError};
use super::lexer::{Token, TokenKind, tokenize};
use super::parser::{self, parse_tokens};
use super::types::Static;
use super::validate;

/// What to narrow tags by.
#[derive(Debug, Clone, PartialEq)]
pub struct TagFilter {
    /// A span counts if all conditions of some group hold. Empty: every span. Groups are never empty.
    pub groups: Vec<Vec<Condition>>,
    /// Names the filter in cache keys: canonical text, `{}` for none.
    pub normalized: String,
}

/// `attribute OP value`, with a comparison, regex or list operator.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    pub attribute: Attribute,
    pub op: BinaryOp,
    pub value: Static,
}

impl TagFilter {
    fn none() -> Self {
        Self { groups: Vec::new(), normalized: MATCH_ALL.to_owned() }
    }
}

const MATCH_ALL: &str = "{}";

/// The query has more alternatives than one request may ask for. A client's fault (`InvalidArgument`, 400).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("maximum condition groups reached (limit: {limit}). Reduce the number of OR conditions in the query")]
pub struct TooManyGroups {
    pub limit: usize,
}

/// Returns the filter in `text`, which may be incomplete.
pub fn extract_conditions(text: &str, max_groups: usize) -> Result<TagFilter, TooManyGroups> {
    let Some(query) = parse_lenient(text) else {
        return Ok(TagFilter::none());
    };
    let normalized = match query.to_string() {
        all if all == "{ true }" => MATCH_ALL.to_owned(),
        text => text,
    };
    let groups = match first_filter(&query) {
        Some(filter) => groups_of(filter, max_groups)?,
        None => Vec::new(),
    };
    let groups = if groups.iter().any(Vec::is_empty) { Vec::new() } else { groups };
    Ok(TagFilter { groups, normalized })
}

/// Parses and validates `text`, replacing unfinished comparisons of its first stage by `true` and closing it if needed.
pub fn parse_lenient(text: &str) -> Option<Query> {
    let text = text.trim();
    if text.is_empty() || text.len() > parser::MAX_QUERY_BYTES {
        return None;
    }
    let query = parser::parse(text).or_else(|_| parse_tokens(repaired(tokenize(text)))).ok()?;
    validate(&query).ok()?;
    Some(query)
}

/// Parses what a tag values request names: one attribute or intrinsic.
///
/// # Errors
/// The error of parsing `{name}`, or one that says it is not a single attribute.
pub fn parse_tag(name: &str) -> Result<Attribute, QueryError> {
    let query = parser::parse(&format!("{{{name}}}"))?;
    match first_filter(&query) {
        Some(FieldExpr::Attribute(attribute)) if is_single_filter(&query) => Ok(attribute.clone()),
        _ => Err(QueryError::invalid("not a single attribute")),
    }
}

fn is_single_filter(query: &Query) -> bool {
    query.hints.is_empty() && matches!(&query.body, QueryBody::Search(pipeline) if pipeline.stages.len() == 1)
}

/// Returns the filter a query starts with, looking into wrapped pipelines; `None` when it starts otherwise.
fn first_filter(query: &Query) -> Option<&FieldExpr> {
    let mut pipeline = match &query.body {
        QueryBody::Search(pipeline) => pipeline,
        QueryBody::Metrics(metrics) => match metrics.queries().as_slice() {
            [only] => &only.pipeline,
            _ => return None,
        },
    };
    loop {
        match pipeline.stages.first()? {
            Stage::Spanset(SpansetExpr::Filter(expr)) => return Some(expr),
            Stage::Spanset(SpansetExpr::Pipeline(inner)) => pipeline = inner as &Pipeline,
            Stage::Spanset(SpansetExpr::Binary { .. })
            | Stage::ScalarFilter(_)
            | Stage::GroupBy(_)
            | Stage::Select(_)
            | Stage::Coalesce => return None,
        }
    }
}

/// Returns the alternatives of `expr`, each a conjunction. What is no comparison with a literal adds no condition, which only widens a group.
fn groups_of(expr: &FieldExpr, max_groups: usize) -> Result<Vec<Vec<Condition>>, TooManyGroups> {
    let FieldExpr::Logical { op, operands } = expr else {
        return Ok(vec![comparison(expr).into_iter().collect()]);
    };
    let mut groups: Vec<Vec<Condition>> = match op {
        LogicalOp::And => vec![Vec::new()],
        LogicalOp::Or => Vec::new(),
    };
    for operand in operands {
        let branches = groups_of(operand, max_groups)?;
        match op {
            LogicalOp::Or => {
                for branch in branches {
                    if !groups.contains(&branch) {
                        groups.push(branch);
                    }
                }
            }
            LogicalOp::And => {
                if groups.len() * branches.len() > max_groups {
                    return Err(TooManyGroups { limit: max_groups });
                }
                groups = groups.iter().flat_map(|group| branches.iter().map(|branch| [group.as_slice(), branch].concat())).collect();
            }
        }
        if groups.len() > max_groups {
            return Err(TooManyGroups { limit: max_groups });
        }
    }
    Ok(groups)
}

/// Returns `attribute OP literal` as a condition, with the operator flipped when the literal stands on the left.
fn comparison(expr: &FieldExpr) -> Option<Condition> {
    let FieldExpr::Binary { op, lhs, rhs } = expr else {
        return None;
    };
    if matches!(op, BinaryOp::Arithmetic(_)) {
        return None;
    }
    let (attribute, op, value) = match (lhs.as_ref(), rhs.as_ref()) {
        (FieldExpr::Attribute(attribute), FieldExpr::Literal(value)) => (attribute, *op, value),
        (FieldExpr::Literal(value), FieldExpr::Attribute(attribute)) => match op {
            BinaryOp::Compare(op) => (attribute, BinaryOp::Compare(op.flipped()), value),
            _ => return None,
        },
        _ => return None,
    };
    Some(Condition { attribute: attribute.clone(), op, value: value.clone() })
}

/// Returns `tokens` with each comparison that lacks its right side replaced by `true`, up to the first `|`, and a missing `}` added.
fn repaired(tokens: Vec<Token>) -> Vec<Token> {
    let first_pipe = tokens.iter().position(|token| token.kind == TokenKind::Fixed("|")).unwrap_or(tokens.len());
    let mut out: Vec<Token> = Vec::with_capacity(tokens.len() + 1);
    let mut at = 0;
    while at < tokens.len() {
        match unfinished_comparison(&tokens[at..]).filter(|_| at < first_pipe) {
            Some(length) => {
                out.push(Token { kind: TokenKind::Fixed("true"), position: tokens[at].position });
                at += length;
            }
            None => {
                out.push(tokens[at].clone());
                at += 1;
            }
        }
    }
    let count = |text| out.iter().filter(|token| token.kind == TokenKind::Fixed(text)).count();
    if count("{") > count("}") {
        let end = out.iter().position(|token| token.kind == TokenKind::End).unwrap_or(out.len());
        out.insert(end, Token { kind: TokenKind::Fixed("}"), position: Position::default() });
    }
    out
}

/// Returns the number of tokens of `attribute OP` at the start of `tokens`, if nothing it could be compared with follows.
fn unfinished_comparison(tokens: &[Token]) -> Option<usize> {
    let length = attribute_length(tokens)?;
    let fixed = |at: usize| match tokens.get(at).map(|token| &token.kind) {
        Some(TokenKind::Fixed(text)) => Some(*text),
        _ => None,
    };
    let is_comparison = matches!(fixed(length)?, "=" | "!=" | "<" | "<=" | ">" | ">=" | "=~" | "!~");
    let is_end =
        matches!(tokens.get(length + 1).map(|token| &token.kind), Some(TokenKind::End | TokenKind::Fixed("}" | ")" | "&&" | "||")));
    (is_comparison && is_end).then_some(length + 1)
}

/// Returns the number of tokens of the attribute at the start of `tokens`.
fn attribute_length(tokens: &[Token]) -> Option<usize> {
    let end = tokens.iter().position(|token| token.kind == TokenKind::EndAttribute);
    let TokenKind::Fixed(first) = tokens.first()?.kind else {
        return None;
    };
    if first.ends_with('.') {
        return end.map(|end| end + 1);
    }
    if first.ends_with(':') {
        return matches!(tokens.get(1)?.kind, TokenKind::Fixed(_)).then_some(2);
    }
    parser::is_intrinsic(first).then_some(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_the_number_of_groups() {
        let alternatives = |attribute: &str| (0..20).map(|n| format!(".{attribute} = {n}")).collect::<Vec<_>>().join(" || ");
        let text = format!("{{ ({}) && ({}) }}", alternatives("a"), alternatives("b"));
        assert_eq!(extract_conditions(&text, 400).map(|filter| filter.groups.len()), Ok(400));
        let error = extract_conditions(&text, 100).unwrap_err();
        assert_eq!(error.to_string(), "maximum condition groups reached (limit: 100). Reduce the number of OR conditions in the query");
    }

    #[test]
    fn repeated_alternatives_count_once() {
        let filter = extract_conditions("{ .a = 1 || .a = 1 }", 1).unwrap();
        assert_eq!(filter.groups.len(), 1);
    }

    #[test]
    fn reads_tags() {
        for (text, canonical) in
            [("span.http.method", "span.http.method"), (".foo", ".foo"), ("span:name", "name"), ("resource.\"a b\"", "resource.\"a b\"")]
        {
            assert_eq!(parse_tag(text).unwrap().to_string(), canonical);
        }
        for text in ["", "a", ".a = 1", ".a} | {.a", "1"] {
            assert!(parse_tag(text).is_err(), "{text}");
        }
    }

    #[test]
    fn negations_do_not_narrow() {
        assert_eq!(extract_conditions("{ !(.a = 1) }", 100).unwrap().groups, Vec::<Vec<Condition>>::new());
    }
}
