//! Why a text is not a query that can run. The texts are those of the compatible system; clients show and match them.

use std::fmt;

use crate::base::error_class::ErrorClass;

/// Where a token began. Both are 0 for the end of an empty text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// 1-based; 0 when the token consists of more than one scanned piece (traceql, error positions).
    pub line: u32,
    /// 1-based, in characters.
    pub column: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryErrorKind {
    /// The text does not follow the grammar.
    Syntax(Position),
    /// The query breaks a type or range rule.
    Invalid,
    /// The query is in the language, and not built.
    Unsupported,
}

/// Why a query was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryError {
    pub kind: QueryErrorKind,
    /// Without position or prefix.
    pub text: String,
}

impl QueryError {
    pub(super) fn syntax(position: Position, text: impl Into<String>) -> Self {
        Self { kind: QueryErrorKind::Syntax(position), text: text.into() }
    }

    pub(super) fn invalid(text: impl Into<String>) -> Self {
        Self { kind: QueryErrorKind::Invalid, text: text.into() }
    }

    /// `what not yet supported`
    pub(super) fn unsupported(what: impl fmt::Display) -> Self {
        Self { kind: QueryErrorKind::Unsupported, text: format!("{what} not yet supported") }
    }

    pub fn class(&self) -> ErrorClass {
        ErrorClass::Invalid
    }
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            QueryErrorKind::Syntax(position) if position == Position::default() => write!(f, "parse error : {}", self.text),
            QueryErrorKind::Syntax(Position { line, column }) => write!(f, "parse error at line {line}, col {column}: {}", self.text),
            QueryErrorKind::Invalid | QueryErrorKind::Unsupported => f.write_str(&self.text),
        }
    }
}

impl std::error::Error for QueryError {}
