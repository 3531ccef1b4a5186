//! One comparison of an attribute with literals: the form that is evaluated per attribute value, before any span is looked at.
//!
//! The rule (traceql, two-level semantics): `attribute OP literal` holds iff some value of the attribute, arrays element by element, has the
//! type of the literal and satisfies the operator. Intrinsics that are numbers compare with every kind of number, and an integer literal
//! meets floats too: the compatible system compares it with floats only while it happens to read another attribute unfiltered.

use std::sync::Arc;

use crate::model::ids::{SpanId, TraceId};
use crate::traceql::ast::{Attribute, BinaryOp, ComparisonOp, Intrinsic};
use crate::traceql::regex::Pattern;
use crate::traceql::types::{Static, StaticType, compare};

use super::projection::FetchKinds;

#[derive(Debug, Clone)]
pub(crate) enum Condition {
    Compare(ComparisonOp, Static),
    /// `IN` (wanted) and `NOT IN`: literals of one type.
    OneOf {
        literals: Vec<Static>,
        wanted: bool,
    },
    /// `=~`, `MATCH ANY` (wanted) and `!~`, `MATCH NONE`.
    Matches {
        patterns: Vec<Pattern>,
        wanted: bool,
    },
    Exists,
    Missing,
}

impl Condition {
    /// Returns the condition `attribute OP literal`; `None` if the operator has no such form or a pattern is invalid.
    pub(super) fn new(attribute: &Attribute, op: BinaryOp, literal: &Static) -> Option<Self> {
        let list = || literal.elements().unwrap_or_else(|| vec![literal.clone()]).iter().map(|l| normalized(attribute, l)).collect();
        let patterns = || -> Option<Vec<Pattern>> {
            let list = literal.elements().unwrap_or_else(|| vec![literal.clone()]);
            list.iter()
                .map(|pattern| match pattern {
                    Static::String(text) => Pattern::compile(text).ok(),
                    _ => None,
                })
                .collect()
        };
        match op {
            BinaryOp::Arithmetic(_) => None,
            BinaryOp::Compare(op) => match literal.elements() {
                Some(_) => None,
                None if matches!(op, ComparisonOp::Eq | ComparisonOp::Ne) => Some(Self::Compare(op, normalized(attribute, literal))),
                None => Some(Self::Compare(op, literal.clone())),
            },
            BinaryOp::In => Some(Self::OneOf { literals: list(), wanted: true }),
            BinaryOp::NotIn => Some(Self::OneOf { literals: list(), wanted: false }),
            BinaryOp::Regex | BinaryOp::MatchAny => Some(Self::Matches { patterns: patterns()?, wanted: true }),
            BinaryOp::NotRegex | BinaryOp::MatchNone => Some(Self::Matches { patterns: patterns()?, wanted: false }),
        }
    }

    /// Whether a single value (no array) passes. [`Condition::Missing`] accepts none.
    pub(super) fn accepts(&self, value: &Static, is_intrinsic: bool) -> bool {
        let comparable = |literal: &Static| meets(literal, value, is_intrinsic);
        match self {
            Self::Compare(op, literal) => comparable(literal) && compare(*op, value, literal),
            Self::OneOf { literals, wanted } => {
                literals.iter().any(comparable) && literals.iter().any(|l| comparable(l) && compare(ComparisonOp::Eq, value, l)) == *wanted
            }
            Self::Matches { patterns, wanted } => match value {
                Static::String(text) => patterns.iter().any(|pattern| pattern.is_match(text)) == *wanted,
                _ => false,
            },
            Self::Exists => !value.is_nil(),
            Self::Missing => false,
        }
    }

    /// Whether `text` passes.
    pub(super) fn accepts_text(&self, text: &[u8]) -> bool {
        match self {
            Self::Compare(op, Static::String(literal)) => {
                let literal = literal.as_bytes();
                match op {
                    ComparisonOp::Eq => text == literal,
                    ComparisonOp::Ne => text != literal,
                    ComparisonOp::Lt => text < literal,
                    ComparisonOp::Le => text <= literal,
                    ComparisonOp::Gt => text > literal,
                    ComparisonOp::Ge => text >= literal,
                }
            }
            Self::OneOf { literals, wanted } => {
                let mut strings = literals.iter().filter_map(as_text).peekable();
                strings.peek().is_some() && strings.any(|literal| text == literal.as_bytes()) == *wanted
            }
            Self::Matches { patterns, wanted } => patterns.iter().any(|pattern| pattern.is_match_lossy(text)) == *wanted,
            Self::Exists => true,
            Self::Compare(_, _) | Self::Missing => false,
        }
    }

    /// Returns the texts of which a value must equal one (`true`) or none (`false`); `None` for other conditions.
    pub(super) fn exact_texts(&self) -> Option<(Vec<&Arc<str>>, bool)> {
        match self {
            Self::Compare(ComparisonOp::Eq, Static::String(literal)) => Some((vec![literal], true)),
            Self::Compare(ComparisonOp::Ne, Static::String(literal)) => Some((vec![literal], false)),
            Self::OneOf { literals, wanted } => {
                let texts: Vec<_> = literals.iter().filter_map(as_text).collect();
                (!texts.is_empty()).then_some((texts, *wanted))
            }
            Self::Compare(_, _) | Self::Matches { .. } | Self::Exists | Self::Missing => None,
        }
    }

    /// Returns the kinds of attribute values that it takes to decide.
    pub(super) fn kinds(&self) -> FetchKinds {
        match self {
            Self::Compare(_, literal) => FetchKinds::compared_with(literal),
            Self::OneOf { literals, wanted: _ } => {
                literals.iter().map(FetchKinds::compared_with).fold(FetchKinds::default(), FetchKinds::union)
            }
            Self::Matches { .. } => FetchKinds { strings: true, ..FetchKinds::default() },
            Self::Exists | Self::Missing => FetchKinds::ALL,
        }
    }

    /// Whether strings can pass at all.
    pub(super) fn is_about_text(&self) -> bool {
        match self {
            Self::Compare(_, literal) => matches!(literal, Static::String(_)),
            Self::OneOf { literals, wanted: _ } => literals.iter().any(|l| matches!(l, Static::String(_))),
            Self::Matches { .. } | Self::Exists => true,
            Self::Missing => false,
        }
    }
}

/// Whether a value is looked at when it is compared with `literal`.
pub(super) fn meets(literal: &Static, value: &Static, is_intrinsic: bool) -> bool {
    let (literal, value) = (literal.static_type(), value.static_type());
    literal == value
        || (literal == StaticType::Int && value == StaticType::Float)
        || (is_intrinsic && literal.is_numeric() && value.is_numeric())
}

fn as_text(literal: &Static) -> Option<&Arc<str>> {
    match literal {
        Static::String(text) => Some(text),
        _ => None,
    }
}

/// Ids are compared as the text the language gives them: any zero padding and letter case of a literal that is hex means the same id.
fn normalized(attribute: &Attribute, literal: &Static) -> Static {
    let (Attribute::Intrinsic(intrinsic), Static::String(text)) = (attribute, literal) else {
        return literal.clone();
    };
    let normal = match intrinsic {
        Intrinsic::TraceId | Intrinsic::LinkTraceId => TraceId::from_hex(significant(text)).map(|id| id.to_short_hex()),
        Intrinsic::SpanId | Intrinsic::SpanParentId | Intrinsic::LinkSpanId => span_id_from_hex(text).map(|id| id.to_string()),
        Intrinsic::Duration
        | Intrinsic::Name
        | Intrinsic::Status
        | Intrinsic::StatusMessage
        | Intrinsic::Kind
        | Intrinsic::SpanChildCount
        | Intrinsic::NestedSetLeft
        | Intrinsic::NestedSetRight
        | Intrinsic::NestedSetParent
        | Intrinsic::RootName
        | Intrinsic::RootServiceName
        | Intrinsic::TraceDuration
        | Intrinsic::EventName
        | Intrinsic::EventTimeSinceStart
        | Intrinsic::InstrumentationName
        | Intrinsic::InstrumentationVersion
        | Intrinsic::Parent => None,
    };
    normal.map_or_else(|| literal.clone(), Static::string)
}

/// Takes leading zeros off; the last one stays.
fn significant(text: &str) -> &str {
    let rest = text.trim_start_matches('0');
    if rest.is_empty() { &text[text.len().saturating_sub(1)..] } else { rest }
}

/// Parses up to 16 significant hex digits; shorter texts are padded with zeros on the left.
pub(super) fn span_id_from_hex(text: &str) -> Option<SpanId> {
    let text = if text.is_ascii() { significant(text) } else { text };
    if text.is_empty() || text.len() > 16 || text.starts_with('+') {
        return None;
    }
    u64::from_str_radix(text, 16).ok().map(|id| SpanId(id.to_be_bytes()))
}
