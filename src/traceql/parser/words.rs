//! Comparisons spelled as words, which the compatible system does not have: lists, parts of texts, any letter case.
//!
//! A word where an operator is due is a syntax error there, so no query changes its meaning. Parts of texts become regular expressions, which
//! every implementation understands in canonical text.

use super::super::ast::{Attribute, BinaryOp, ComparisonOp, FieldExpr, LogicalOp};
use super::super::lexer::TokenKind;
use super::super::types::{Static, unary};
use super::field::{Term, binary, logical};
use super::{Parsed, Parser};
use crate::traceql::ast::UnaryOp;

/// An operator with all its words consumed by [`Parser::word_comparison`].
#[derive(Clone, Copy)]
pub(super) struct WordOperator {
    word: Word,
    is_negated: bool,
    /// Tokens of the operator.
    length: usize,
}

#[derive(Clone, Copy)]
enum Word {
    /// `in (…)`, `IN […]`
    In,
    /// `MATCH ANY […]`, `MATCH NONE […]`
    Match,
    Part(Part),
}

/// Where in a text another one must stand.
#[derive(Clone, Copy)]
struct Part {
    is_open_before: bool,
    is_open_after: bool,
    ignores_case: bool,
}

impl Part {
    fn new(word: &str) -> Option<Self> {
        let (rest, ignores_case) = word.strip_prefix('i').map_or((word, false), |rest| (rest, true));
        let (is_open_before, is_open_after) = match rest {
            "contains" => (true, true),
            "startswith" => (false, true),
            "endswith" => (true, false),
            "equals" => (false, false),
            _ => return None,
        };
        Some(Self { is_open_before, is_open_after, ignores_case })
    }

    fn pattern(self, text: &str) -> String {
        let open = |is_open| if is_open { ".*" } else { "" };
        let text = quoted(text);
        let text = if self.ignores_case { format!("(?i:{text})") } else { text };
        format!("{}{text}{}", open(self.is_open_before), open(self.is_open_after))
    }
}

/// Returns the pattern that matches just `text`.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if "\\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

impl Parser {
    /// Returns the operator that comes next, without consuming it.
    pub(super) fn word_operator(&self) -> Option<WordOperator> {
        let word = |at: usize| match self.tokens.get(self.at + at).map(|token| &token.kind) {
            Some(TokenKind::Identifier(word)) => word.as_str(),
            _ => "",
        };
        let is_negated = matches!(word(0), "not" | "NOT");
        let first = usize::from(is_negated);
        match word(first) {
            "in" | "IN" => Some(WordOperator { word: Word::In, is_negated, length: first + 1 }),
            "MATCH" if !is_negated && matches!(word(1), "ANY" | "NONE") => {
                Some(WordOperator { word: Word::Match, is_negated: word(1) == "NONE", length: 2 })
            }
            other => Part::new(other).map(|part| WordOperator { word: Word::Part(part), is_negated, length: first + 1 }),
        }
    }

    pub(super) fn word_comparison(&mut self, operator: WordOperator, lhs: Term) -> Parsed<Term> {
        for _ in 0..operator.length {
            self.advance();
        }
        match operator.word {
            Word::Part(part) => {
                let TokenKind::String(text) = self.peek() else {
                    return Err(self.unexpected(&["STRING"]));
                };
                let pattern = Term::leaf(FieldExpr::Literal(Static::string(part.pattern(text))));
                self.advance();
                binary(if operator.is_negated { BinaryOp::NotRegex } else { BinaryOp::Regex }, lhs, pattern)
            }
            Word::Match => {
                let list = self.list_of_one_type()?;
                let op = if operator.is_negated { BinaryOp::MatchNone } else { BinaryOp::MatchAny };
                binary(op, lhs, Term::leaf(FieldExpr::Literal(list)))
            }
            Word::In => {
                let values = self.list()?;
                match crate::traceql::rewrite::list_of(&values) {
                    Some(list) => {
                        let op = if operator.is_negated { BinaryOp::NotIn } else { BinaryOp::In };
                        binary(op, lhs, Term::leaf(FieldExpr::Literal(list)))
                    }
                    None => self.chain_of_comparisons(operator.is_negated, lhs, values),
                }
            }
        }
    }

    /// Durations, statuses and kinds have no lists: each is compared by itself.
    fn chain_of_comparisons(&self, is_negated: bool, lhs: Term, values: Vec<Static>) -> Parsed<Term> {
        let FieldExpr::Attribute(attribute) = lhs.expr else {
            return Err(self.error_behind("this list can only be compared with an attribute"));
        };
        let types: Vec<_> = values.iter().map(Static::static_type).collect();
        if types.iter().any(|one| *one != types[0]) {
            return Err(self.error_behind("the elements of a list must be of one type"));
        }
        let (op, chain) = if is_negated { (ComparisonOp::Ne, LogicalOp::And) } else { (ComparisonOp::Eq, LogicalOp::Or) };
        let compared = |attribute: &Attribute, value: Static| {
            let attribute = Term::leaf(FieldExpr::Attribute(attribute.clone()));
            binary(BinaryOp::Compare(op), attribute, Term::leaf(FieldExpr::Literal(value)))
        };
        let mut values = values.into_iter();
        let Some(first) = values.next() else { return Err(self.unexpected(&[])) };
        let first = compared(&attribute, first)?;
        values.try_fold(first, |all, value| logical(chain, all, compared(&attribute, value)?))
    }

    fn list_of_one_type(&mut self) -> Parsed<Static> {
        let values = self.list()?;
        crate::traceql::rewrite::list_of(&values).ok_or_else(|| self.error_behind("the elements of a list must be of one type"))
    }

    /// Parses `(a, b)` or `[a, b]`.
    fn list(&mut self) -> Parsed<Vec<Static>> {
        let is_bracket = |kind: &TokenKind, text: &str| matches!(kind, TokenKind::Identifier(found) if found == text);
        let is_square = is_bracket(self.peek(), "[");
        if is_square {
            self.advance();
        } else {
            self.expect("(")?;
        }
        let mut values = vec![self.signed_literal()?];
        while self.accept(",") {
            values.push(self.signed_literal()?);
        }
        if !is_square {
            self.expect_one_of(")", &[")", ","])?;
        } else if is_bracket(self.peek(), "]") {
            self.advance();
        } else {
            return Err(self.unexpected(&[]));
        }
        Ok(values)
    }

    fn signed_literal(&mut self) -> Parsed<Static> {
        if !self.accept("-") {
            return self.literal();
        }
        let value = self.literal()?;
        unary(UnaryOp::Negate, &value).map_err(|error| self.error_behind(error.to_string()))
    }
}
