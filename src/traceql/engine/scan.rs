//! Scans over columns of one table: strings are compared as dictionary ids, attribute keys likewise.

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::bitset::Bitset;
use crate::model::span_table::{Attrs, Value};
use crate::model::strings::{StrId, StringPool};
use crate::traceql::ast::ComparisonOp;
use crate::traceql::types::{Static, compare};

use super::condition::{Condition, meets};
use super::levels::OwnerCursor;

/// Ids of literals and keys in a pool, searched once each.
#[derive(Default)]
pub(super) struct IdCache(HashMap<Box<[u8]>, Arc<[StrId]>>);

impl IdCache {
    /// Returns all ids whose string is `text`; a decoded pool may have several.
    pub(super) fn ids_of(&mut self, pool: &StringPool, text: &[u8]) -> Arc<[StrId]> {
        if let Some(ids) = self.0.get(text) {
            return ids.clone();
        }
        let ids: Arc<[StrId]> = pool.iter().filter(|(_, candidate)| *candidate == text).map(|(id, _)| id).collect();
        self.0.insert(text.into(), ids.clone());
        ids
    }
}

/// A condition on strings, answered per dictionary id.
pub(super) enum StringTest<'c> {
    /// The id must be (or must not be) among these.
    Ids {
        ids: Vec<StrId>,
        wanted: bool,
    },
    /// Evaluated once per id that occurs: 0 unknown, 1 no, 2 yes.
    PerId {
        condition: &'c Condition,
        known: Vec<u8>,
    },
    Never,
}

impl<'c> StringTest<'c> {
    pub(super) fn new(condition: &'c Condition, pool: &StringPool, cache: &mut IdCache) -> Self {
        if !condition.is_about_text() {
            return Self::Never;
        }
        match condition.exact_texts() {
            Some((texts, wanted)) => {
                let ids: Vec<StrId> = texts.iter().flat_map(|text| cache.ids_of(pool, text.as_bytes()).to_vec()).collect();
                if ids.is_empty() && wanted { Self::Never } else { Self::Ids { ids, wanted } }
            }
            None => Self::PerId { condition, known: vec![0; pool.len()] },
        }
    }

    pub(super) fn is_never(&self) -> bool {
        matches!(self, Self::Never)
    }

    pub(super) fn passes(&mut self, pool: &StringPool, id: StrId) -> bool {
        match self {
            Self::Ids { ids, wanted } => ids.contains(&id) == *wanted,
            Self::PerId { condition, known } => {
                let known = &mut known[id.index()];
                if *known == 0 {
                    *known = 1 + u8::from(condition.accepts_text(pool.get(id)));
                }
                *known == 2
            }
            Self::Never => false,
        }
    }

    /// Returns the members of `mask` whose string passes. A column that was not read has no member.
    pub(super) fn filter_column(&mut self, pool: &StringPool, column: &[StrId], mask: &Bitset) -> Bitset {
        if column.len() < mask.len() || self.is_never() {
            return Bitset::new(mask.len());
        }
        if let Self::Ids { ids, wanted } = &self
            && let [only] = ids.as_slice()
        {
            return mask.filter(|item| (column[item] == *only) == *wanted);
        }
        mask.filter(|item| self.passes(pool, column[item]))
    }
}

/// A condition on an integer column.
pub(super) enum NumberTest {
    Int(ComparisonOp, i64),
    Float(ComparisonOp, f64),
    Never,
    Always,
    OneOf { literals: Vec<Static>, wanted: bool },
}

impl NumberTest {
    /// Numbers of every kind compare with an intrinsic number.
    pub(super) fn new(condition: &Condition) -> Self {
        match condition {
            Condition::Compare(op, Static::Int(literal) | Static::Duration(literal)) => Self::Int(*op, *literal),
            Condition::Compare(op, Static::Float(literal)) => Self::Float(*op, *literal),
            Condition::OneOf { literals, wanted } if literals.iter().all(|l| l.as_f64().is_some()) => {
                Self::OneOf { literals: literals.clone(), wanted: *wanted }
            }
            Condition::Exists => Self::Always,
            Condition::Compare(_, _) | Condition::OneOf { .. } | Condition::Matches { .. } | Condition::Missing => Self::Never,
        }
    }

    /// Returns the members of `mask` whose number passes.
    pub(super) fn filter(&self, mask: &Bitset, number: impl Fn(usize) -> i64) -> Bitset {
        match self {
            Self::Int(op, literal) => match op {
                ComparisonOp::Eq => mask.filter(|item| number(item) == *literal),
                ComparisonOp::Ne => mask.filter(|item| number(item) != *literal),
                ComparisonOp::Lt => mask.filter(|item| number(item) < *literal),
                ComparisonOp::Le => mask.filter(|item| number(item) <= *literal),
                ComparisonOp::Gt => mask.filter(|item| number(item) > *literal),
                ComparisonOp::Ge => mask.filter(|item| number(item) >= *literal),
            },
            Self::Float(op, literal) => mask.filter(|item| holds(*op, &(number(item) as f64), literal)),
            Self::OneOf { literals, wanted } => mask.filter(|item| {
                let number = number(item);
                let is_equal = |literal: &Static| match literal {
                    Static::Int(literal) | Static::Duration(literal) => number == *literal,
                    other => other.as_f64() == Some(number as f64),
                };
                literals.iter().any(is_equal) == *wanted
            }),
            Self::Always => mask.clone(),
            Self::Never => Bitset::new(mask.len()),
        }
    }
}

/// A condition on generic attribute values; the literal's type decides which values are looked at.
pub(super) enum ValueTest<'c> {
    Text(StringTest<'c>),
    Int(ComparisonOp, i64),
    Double(ComparisonOp, f64),
    Bool(ComparisonOp, bool),
    OneOf { literals: &'c [Static], wanted: bool },
    Any,
    Never,
}

impl<'c> ValueTest<'c> {
    pub(super) fn new(condition: &'c Condition, pool: &StringPool, cache: &mut IdCache) -> Self {
        match condition {
            Condition::Exists => Self::Any,
            Condition::Missing => Self::Never,
            Condition::Compare(op, Static::Int(literal)) => Self::Int(*op, *literal),
            Condition::Compare(op, Static::Float(literal)) => Self::Double(*op, *literal),
            Condition::Compare(op, Static::Bool(literal)) => Self::Bool(*op, *literal),
            _ if condition.is_about_text() => match StringTest::new(condition, pool, cache) {
                StringTest::Never => Self::Never,
                test => Self::Text(test),
            },
            Condition::OneOf { literals, wanted } => Self::OneOf { literals, wanted: *wanted },
            Condition::Compare(_, _) | Condition::Matches { .. } => Self::Never,
        }
    }

    pub(super) fn is_never(&self) -> bool {
        matches!(self, Self::Never)
    }

    /// Whether a value passes; of an array, whether any element does.
    pub(super) fn passes(&mut self, pool: &StringPool, attrs: &Attrs, value: Value) -> bool {
        match value {
            Value::Array { start, len } => {
                if matches!(self, Self::Any) {
                    return true;
                }
                let elements = attrs.elements.get(start as usize..start as usize + len as usize).unwrap_or_default();
                elements.iter().any(|element| self.passes_scalar(pool, *element))
            }
            scalar => self.passes_scalar(pool, scalar),
        }
    }

    fn passes_scalar(&mut self, pool: &StringPool, value: Value) -> bool {
        match (self, value) {
            // the text of a value that cannot be compared; it counts as missing
            (_, Value::Json(_)) => false,
            (Self::Any, _) => true,
            (Self::Text(test), Value::Str(id)) => test.passes(pool, id),
            (Self::Int(op, literal), Value::Int(value)) => holds(*op, &value, literal),
            (Self::Int(op, literal), Value::Double(value)) => holds(*op, &value, &(*literal as f64)),
            (Self::Double(op, literal), Value::Double(value)) => holds(*op, &value, literal),
            (Self::Bool(op, literal), Value::Bool(value)) => holds(*op, &value, literal),
            (Self::OneOf { literals, wanted }, Value::Int(value)) => one_of(literals, *wanted, &Static::Int(value)),
            (Self::OneOf { literals, wanted }, Value::Double(value)) => one_of(literals, *wanted, &Static::Float(value)),
            (Self::OneOf { literals, wanted }, Value::Bool(value)) => one_of(literals, *wanted, &Static::Bool(value)),
            _ => false,
        }
    }
}

fn one_of(literals: &[Static], wanted: bool, value: &Static) -> bool {
    let met = |literal: &Static| meets(literal, value, false);
    literals.iter().any(met) && literals.iter().any(|literal| met(literal) && compare(ComparisonOp::Eq, value, literal)) == wanted
}

fn holds<T: PartialOrd>(op: ComparisonOp, a: &T, b: &T) -> bool {
    match op {
        ComparisonOp::Eq => a == b,
        ComparisonOp::Ne => a != b,
        ComparisonOp::Lt => a < b,
        ComparisonOp::Le => a <= b,
        ComparisonOp::Gt => a > b,
        ComparisonOp::Ge => a >= b,
    }
}

/// Keys compared at a time; a multiple of every vector width.
const KEYS_AT_ONCE: usize = 32;

/// A selection this many times smaller than its universe is walked owner by owner instead of scanning all keys.
const SPARSE: usize = 8;

/// Calls `visit` with the owner of every attribute with one of the `keys` whose value passes and whose owner is in `mask`, in storage order.
/// Values of owners outside the mask may be tested too, since finding owners costs more. Does nothing when the attributes were not read.
pub(super) fn scan_attributes(
    attrs: &Attrs,
    keys: &[StrId],
    mask: &Bitset,
    mut passes: impl FnMut(Value) -> bool,
    mut visit: impl FnMut(usize),
) {
    if keys.is_empty() || attrs.keys.is_empty() {
        return;
    }
    if mask.count() * SPARSE < mask.len() {
        for owner in mask.iter() {
            for at in attrs.of.range(owner) {
                if keys.contains(&attrs.keys[at]) && passes(attrs.values[at]) {
                    visit(owner);
                }
            }
        }
        return;
    }
    let mut owners = OwnerCursor::new(&attrs.of);
    for (chunk, candidates) in attrs.keys.chunks(KEYS_AT_ONCE).enumerate() {
        // no early exit, so that the comparisons become vector instructions
        let any = keys.iter().any(|key| candidates.iter().fold(false, |any, candidate| any | (candidate == key)));
        if any {
            for (offset, candidate) in candidates.iter().enumerate() {
                let at = chunk * KEYS_AT_ONCE + offset;
                if keys.contains(candidate) && passes(attrs.values[at]) {
                    let owner = owners.owner_of(at);
                    if mask.contains(owner) {
                        visit(owner);
                    }
                }
            }
        }
    }
}
