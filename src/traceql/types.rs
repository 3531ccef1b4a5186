//! Values of the language, their types, and the rules of operators on them (traceql, type lattice and scalar operators).
//!
//! The evaluator and the parser's constant folding use the same functions, so a folded expression has the value it would have had.
//!
//! Rules that apply to values that are only known at run time: operands whose types do not match give `false`, whatever the operator.
//! Where the compatible system has a defect the sensible rule is used: `^` on integers raises left to right.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::ast::{ArithmeticOp, Attribute, BinaryOp, ComparisonOp, FieldExpr, Intrinsic, LogicalOp, UnaryOp};
use super::regex::Pattern;

/// What is known about the type of an expression before any span is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StaticType {
    Nil,
    /// Known at run time only.
    Attribute,
    Int,
    Float,
    String,
    Boolean,
    /// Nanoseconds.
    Duration,
    Status,
    Kind,
    IntArray,
    FloatArray,
    StringArray,
    BooleanArray,
}

impl StaticType {
    pub fn is_numeric(self) -> bool {
        matches!(self, Self::Int | Self::Float | Self::Duration)
    }

    /// Returns the type of the elements; `None` unless this is an array.
    pub fn element(self) -> Option<Self> {
        match self {
            Self::IntArray => Some(Self::Int),
            Self::FloatArray => Some(Self::Float),
            Self::StringArray => Some(Self::String),
            Self::BooleanArray => Some(Self::Boolean),
            Self::Nil
            | Self::Attribute
            | Self::Int
            | Self::Float
            | Self::String
            | Self::Boolean
            | Self::Duration
            | Self::Status
            | Self::Kind => None,
        }
    }

    /// Whether operands of these types may meet in one operation (traceql, validation).
    pub fn matches(self, other: Self) -> bool {
        let (left, right) = (self.element().unwrap_or(self), other.element().unwrap_or(other));
        left == right || [left, right].iter().any(|t| matches!(t, Self::Attribute | Self::Nil)) || (left.is_numeric() && right.is_numeric())
    }

    /// Whether `op` is defined for operands of this type.
    pub fn allows(self, op: BinaryOp) -> bool {
        let element = self.element().unwrap_or(self);
        match element {
            Self::Attribute => true,
            Self::Boolean => matches!(op, BinaryOp::Compare(ComparisonOp::Eq | ComparisonOp::Ne) | BinaryOp::In | BinaryOp::NotIn),
            Self::Int | Self::Float | Self::Duration => {
                matches!(op, BinaryOp::Arithmetic(_) | BinaryOp::Compare(_) | BinaryOp::In | BinaryOp::NotIn)
            }
            Self::String => !matches!(op, BinaryOp::Arithmetic(_)),
            Self::Nil | Self::Status | Self::Kind => matches!(op, BinaryOp::Compare(ComparisonOp::Eq | ComparisonOp::Ne)),
            Self::IntArray | Self::FloatArray | Self::StringArray | Self::BooleanArray => false,
        }
    }

    /// Whether operands of this type may stand beside `&&` and `||`.
    pub fn allows_logical(self) -> bool {
        matches!(self, Self::Attribute | Self::Boolean | Self::BooleanArray)
    }

    pub fn allows_unary(self, op: UnaryOp) -> bool {
        match op {
            UnaryOp::Negate => self == Self::Attribute || self.is_numeric(),
            UnaryOp::Not => matches!(self, Self::Attribute | Self::Boolean),
            UnaryOp::Exists | UnaryOp::NotExists => true,
        }
    }
}

/// Returns the type of an attribute: known for most intrinsics, else [`StaticType::Attribute`].
pub fn attribute_type(attribute: &Attribute) -> StaticType {
    let Attribute::Intrinsic(intrinsic) = attribute else {
        return StaticType::Attribute;
    };
    match intrinsic {
        Intrinsic::Duration | Intrinsic::TraceDuration | Intrinsic::EventTimeSinceStart => StaticType::Duration,
        Intrinsic::Name
        | Intrinsic::StatusMessage
        | Intrinsic::SpanId
        | Intrinsic::SpanParentId
        | Intrinsic::RootName
        | Intrinsic::RootServiceName
        | Intrinsic::TraceId
        | Intrinsic::EventName
        | Intrinsic::LinkTraceId
        | Intrinsic::LinkSpanId => StaticType::String,
        Intrinsic::Status => StaticType::Status,
        Intrinsic::Kind => StaticType::Kind,
        Intrinsic::SpanChildCount | Intrinsic::NestedSetLeft | Intrinsic::NestedSetRight | Intrinsic::NestedSetParent => StaticType::Int,
        Intrinsic::InstrumentationName | Intrinsic::InstrumentationVersion => StaticType::Attribute,
        Intrinsic::Parent => StaticType::Nil,
    }
}

/// Returns the type an expression has if its operands are legal.
pub fn expression_type(expr: &FieldExpr) -> StaticType {
    match expr {
        FieldExpr::Literal(value) => value.static_type(),
        FieldExpr::Attribute(attribute) => attribute_type(attribute),
        FieldExpr::Unary { op: UnaryOp::Negate | UnaryOp::Not, operand } => expression_type(operand),
        FieldExpr::Unary { op: UnaryOp::Exists | UnaryOp::NotExists, operand: _ } | FieldExpr::Logical { .. } => StaticType::Boolean,
        FieldExpr::Binary { op: BinaryOp::Arithmetic(_), lhs, rhs } => match expression_type(lhs) {
            StaticType::Attribute => expression_type(rhs),
            known => known,
        },
        FieldExpr::Binary { .. } => StaticType::Boolean,
    }
}

/// Status of a span. The discriminants are the language's own order, not OTLP's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    Error = 0,
    Ok = 1,
    Unset = 2,
}

impl Status {
    /// Maps the OTLP status code; unknown codes are unset.
    pub fn from_otlp(code: i32) -> Self {
        match code {
            1 => Self::Ok,
            2 => Self::Error,
            _ => Self::Unset,
        }
    }

    pub fn to_otlp(self) -> i32 {
        match self {
            Self::Unset => 0,
            Self::Ok => 1,
            Self::Error => 2,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Ok => "ok",
            Self::Unset => "unset",
        }
    }
}

/// Kind of a span. The discriminants are the language's own order, not OTLP's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Unspecified = 0,
    Internal = 1,
    Client = 2,
    Server = 3,
    Producer = 4,
    Consumer = 5,
}

impl Kind {
    /// Maps the OTLP span kind; unknown kinds are unspecified.
    pub fn from_otlp(kind: i32) -> Self {
        match kind {
            1 => Self::Internal,
            2 => Self::Server,
            3 => Self::Client,
            4 => Self::Producer,
            5 => Self::Consumer,
            _ => Self::Unspecified,
        }
    }

    pub fn to_otlp(self) -> i32 {
        match self {
            Self::Unspecified => 0,
            Self::Internal => 1,
            Self::Server => 2,
            Self::Client => 3,
            Self::Producer => 4,
            Self::Consumer => 5,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Internal => "internal",
            Self::Client => "client",
            Self::Server => "server",
            Self::Producer => "producer",
            Self::Consumer => "consumer",
        }
    }
}

/// A value.
///
/// `==` and `Hash` are structural, with floats by bit pattern and all NaN alike, so values can be grouping keys. The language's `=` is [`compare`].
#[derive(Debug, Clone)]
pub enum Static {
    Nil,
    Int(i64),
    Float(f64),
    String(Arc<str>),
    Bool(bool),
    /// Nanoseconds.
    Duration(i64),
    Status(Status),
    Kind(Kind),
    IntArray(Arc<[i64]>),
    FloatArray(Arc<[f64]>),
    StringArray(Arc<[Arc<str>]>),
    BoolArray(Arc<[bool]>),
}

impl Static {
    pub fn string(text: impl Into<Arc<str>>) -> Self {
        Self::String(text.into())
    }

    pub fn is_nil(&self) -> bool {
        matches!(self, Self::Nil)
    }

    pub fn static_type(&self) -> StaticType {
        match self {
            Self::Nil => StaticType::Nil,
            Self::Int(_) => StaticType::Int,
            Self::Float(_) => StaticType::Float,
            Self::String(_) => StaticType::String,
            Self::Bool(_) => StaticType::Boolean,
            Self::Duration(_) => StaticType::Duration,
            Self::Status(_) => StaticType::Status,
            Self::Kind(_) => StaticType::Kind,
            Self::IntArray(_) => StaticType::IntArray,
            Self::FloatArray(_) => StaticType::FloatArray,
            Self::StringArray(_) => StaticType::StringArray,
            Self::BoolArray(_) => StaticType::BooleanArray,
        }
    }

    /// Returns ints, floats and durations (nanoseconds) as a float.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Int(value) | Self::Duration(value) => Some(*value as f64),
            Self::Float(value) => Some(*value),
            Self::Nil
            | Self::String(_)
            | Self::Bool(_)
            | Self::Status(_)
            | Self::Kind(_)
            | Self::IntArray(_)
            | Self::FloatArray(_)
            | Self::StringArray(_)
            | Self::BoolArray(_) => None,
        }
    }

    /// Returns the elements of an array as scalars; `None` unless this is an array.
    pub fn elements(&self) -> Option<Vec<Self>> {
        match self {
            Self::IntArray(values) => Some(values.iter().map(|v| Self::Int(*v)).collect()),
            Self::FloatArray(values) => Some(values.iter().map(|v| Self::Float(*v)).collect()),
            Self::StringArray(values) => Some(values.iter().map(|v| Self::String(v.clone())).collect()),
            Self::BoolArray(values) => Some(values.iter().map(|v| Self::Bool(*v)).collect()),
            Self::Nil
            | Self::Int(_)
            | Self::Float(_)
            | Self::String(_)
            | Self::Bool(_)
            | Self::Duration(_)
            | Self::Status(_)
            | Self::Kind(_) => None,
        }
    }
}

impl PartialEq for Static {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nil, Self::Nil) => true,
            (Self::Int(a), Self::Int(b)) | (Self::Duration(a), Self::Duration(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => float_key(*a) == float_key(*b),
            (Self::String(a), Self::String(b)) => a == b,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Status(a), Self::Status(b)) => a == b,
            (Self::Kind(a), Self::Kind(b)) => a == b,
            (Self::IntArray(a), Self::IntArray(b)) => a == b,
            (Self::FloatArray(a), Self::FloatArray(b)) => {
                a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| float_key(*a) == float_key(*b))
            }
            (Self::StringArray(a), Self::StringArray(b)) => a == b,
            (Self::BoolArray(a), Self::BoolArray(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Static {}

/// Returns the bits of `value`, the same for every NaN.
fn float_key(value: f64) -> u64 {
    if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() }
}

impl Hash for Static {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Self::Nil => {}
            Self::Int(value) | Self::Duration(value) => value.hash(state),
            Self::Float(value) => float_key(*value).hash(state),
            Self::String(value) => value.hash(state),
            Self::Bool(value) => value.hash(state),
            Self::Status(value) => value.hash(state),
            Self::Kind(value) => value.hash(state),
            Self::IntArray(values) => values.hash(state),
            Self::FloatArray(values) => values.iter().for_each(|value| float_key(*value).hash(state)),
            Self::StringArray(values) => values.hash(state),
            Self::BoolArray(values) => values.hash(state),
        }
    }
}

/// Why an operation has no value. The texts are those of the compatible system, where each of them ends the query; an evaluator that
/// goes on treats the value as nil.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    #[error("division by zero")]
    DivisionByZero,
    #[error("modulo by zero")]
    ModuloByZero,
    #[error("unsupported operation")]
    ArithmeticOnArray,
    #[error("array operators must consist of a scalar and an array operand")]
    ArrayWithArray,
    #[error("expected a numeric")]
    NotNumeric,
    #[error("expected a boolean")]
    NotBoolean,
    #[error("invalid regex: `{0}`")]
    InvalidRegex(Arc<str>),
}

/// Returns `lhs OP rhs` for run-time values. Compiles patterns on each call: loops over spans hold a [`Pattern`] instead.
pub fn binary(op: BinaryOp, lhs: &Static, rhs: &Static) -> Result<Static, OperationError> {
    let (left, right) = (lhs.static_type(), rhs.static_type());
    if !left.matches(right) || !left.allows(op) || !right.allows(op) {
        return Ok(Static::Bool(false));
    }
    if left.element().is_some() || right.element().is_some() {
        return array_binary(op, lhs, rhs);
    }
    match op {
        BinaryOp::Arithmetic(op) => arithmetic(op, lhs, rhs),
        BinaryOp::Compare(op) => Ok(Static::Bool(compare(op, lhs, rhs))),
        BinaryOp::Regex => regex(lhs, rhs).map(Static::Bool),
        BinaryOp::NotRegex => regex(lhs, rhs).map(|matched| Static::Bool(!matched)),
        BinaryOp::In | BinaryOp::NotIn | BinaryOp::MatchAny | BinaryOp::MatchNone => Ok(Static::Bool(false)),
    }
}

/// Returns `lhs OP rhs` of `&&` and `||`; anything but booleans gives `false`.
pub fn logical(op: LogicalOp, lhs: &Static, rhs: &Static) -> Static {
    let (Static::Bool(left), Static::Bool(right)) = (lhs, rhs) else {
        return Static::Bool(false);
    };
    Static::Bool(match op {
        LogicalOp::And => *left && *right,
        LogicalOp::Or => *left || *right,
    })
}

/// Returns `OP operand`.
pub fn unary(op: UnaryOp, operand: &Static) -> Result<Static, OperationError> {
    match (op, operand) {
        (UnaryOp::Negate, Static::Int(value)) => Ok(Static::Int(value.wrapping_neg())),
        (UnaryOp::Negate, Static::Duration(value)) => Ok(Static::Duration(value.wrapping_neg())),
        (UnaryOp::Negate, Static::Float(value)) => Ok(Static::Float(-value)),
        (UnaryOp::Negate, _) => Err(OperationError::NotNumeric),
        (UnaryOp::Not, Static::Bool(value)) => Ok(Static::Bool(!value)),
        (UnaryOp::Not, _) => Err(OperationError::NotBoolean),
        (UnaryOp::Exists, value) => Ok(Static::Bool(!value.is_nil())),
        (UnaryOp::NotExists, value) => Ok(Static::Bool(value.is_nil())),
    }
}

/// Compares two scalars as the language does; `false` for values that cannot be compared, nil among them (also for `!=`).
pub fn compare(op: ComparisonOp, lhs: &Static, rhs: &Static) -> bool {
    match (lhs, rhs) {
        (Static::Nil, _) | (_, Static::Nil) => false,
        (Static::Int(a), Static::Int(b)) | (Static::Duration(a), Static::Duration(b)) => holds(op, a, b),
        (Static::String(a), Static::String(b)) => holds(op, a.as_bytes(), b.as_bytes()),
        (Static::Bool(a), Static::Bool(b)) => holds(op, a, b),
        (Static::Status(a), Static::Status(b)) => holds(op, a, b),
        (Static::Kind(a), Static::Kind(b)) => holds(op, a, b),
        _ => match (lhs.as_f64(), rhs.as_f64()) {
            (Some(a), Some(b)) => holds(op, &a, &b),
            _ => op == ComparisonOp::Ne && lhs != rhs,
        },
    }
}

fn holds<T: PartialOrd + ?Sized>(op: ComparisonOp, a: &T, b: &T) -> bool {
    match op {
        ComparisonOp::Eq => a == b,
        ComparisonOp::Ne => a != b,
        ComparisonOp::Lt => a < b,
        ComparisonOp::Le => a <= b,
        ComparisonOp::Gt => a > b,
        ComparisonOp::Ge => a >= b,
    }
}

/// Returns `lhs OP rhs` of two numbers; `false` unless both are numbers. Integers wrap; a mixed result is a float.
pub fn arithmetic(op: ArithmeticOp, lhs: &Static, rhs: &Static) -> Result<Static, OperationError> {
    if let (Static::Int(a), Static::Int(b)) = (lhs, rhs) {
        return int_arithmetic(op, *a, *b).map(Static::Int);
    }
    let (Some(a), Some(b)) = (lhs.as_f64(), rhs.as_f64()) else {
        return Ok(Static::Bool(false));
    };
    Ok(Static::Float(float_arithmetic(op, a, b)))
}

fn int_arithmetic(op: ArithmeticOp, a: i64, b: i64) -> Result<i64, OperationError> {
    match op {
        ArithmeticOp::Add => Ok(a.wrapping_add(b)),
        ArithmeticOp::Sub => Ok(a.wrapping_sub(b)),
        ArithmeticOp::Mul => Ok(a.wrapping_mul(b)),
        ArithmeticOp::Div if b == 0 => Err(OperationError::DivisionByZero),
        ArithmeticOp::Div => Ok(a.wrapping_div(b)),
        ArithmeticOp::Mod if b == 0 => Err(OperationError::ModuloByZero),
        ArithmeticOp::Mod => Ok(a.wrapping_rem(b)),
        // through floats like the compatible system; `as` saturates
        ArithmeticOp::Pow => Ok((a as f64).powf(b as f64) as i64),
    }
}

/// Returns `a OP b` after IEEE 754; `%` has the sign of the dividend.
pub fn float_arithmetic(op: ArithmeticOp, a: f64, b: f64) -> f64 {
    match op {
        ArithmeticOp::Add => a + b,
        ArithmeticOp::Sub => a - b,
        ArithmeticOp::Mul => a * b,
        ArithmeticOp::Div => a / b,
        ArithmeticOp::Mod => a % b,
        ArithmeticOp::Pow => a.powf(b),
    }
}

fn regex(text: &Static, pattern: &Static) -> Result<bool, OperationError> {
    let (Static::String(text), Static::String(pattern)) = (text, pattern) else {
        return Ok(false);
    };
    match Pattern::compile(pattern) {
        Ok(compiled) => Ok(compiled.is_match(text)),
        Err(_) => Err(OperationError::InvalidRegex(pattern.clone())),
    }
}

/// One operand is an array: positive operators hold if any element satisfies them, negative ones if all do. The element is always the
/// compared value, also when the array stands on the left of an ordering operator (traceql, arrays).
fn array_binary(op: BinaryOp, lhs: &Static, rhs: &Static) -> Result<Static, OperationError> {
    match op {
        BinaryOp::Arithmetic(_) => return Err(OperationError::ArithmeticOnArray),
        BinaryOp::In | BinaryOp::NotIn | BinaryOp::MatchAny | BinaryOp::MatchNone => return list_operator(op, lhs, rhs),
        BinaryOp::Compare(_) | BinaryOp::Regex | BinaryOp::NotRegex => {}
    }
    let outcomes: Vec<Static> = match (lhs.elements(), rhs.elements()) {
        (Some(_), Some(_)) => return Err(OperationError::ArrayWithArray),
        (Some(elements), None) => elements.iter().map(|element| binary(op, element, rhs)).collect::<Result<_, _>>()?,
        (None, Some(elements)) => elements.iter().map(|element| binary(op, lhs, element)).collect::<Result<_, _>>()?,
        (None, None) => return Ok(Static::Bool(false)),
    };
    let mut satisfied = outcomes.iter().map(|outcome| *outcome == Static::Bool(true));
    Ok(Static::Bool(match op {
        BinaryOp::NotRegex | BinaryOp::Compare(ComparisonOp::Ne) => satisfied.all(|yes| yes),
        _ => satisfied.any(|yes| yes),
    }))
}

/// `value IN [list]` and its kin; the list stands on the right, the value may be an array itself.
fn list_operator(op: BinaryOp, value: &Static, list: &Static) -> Result<Static, OperationError> {
    let Some(list) = list.elements() else {
        return Ok(Static::Bool(false));
    };
    let values = value.elements().unwrap_or_else(|| vec![value.clone()]);
    let single = if matches!(op, BinaryOp::In | BinaryOp::NotIn) { BinaryOp::Compare(ComparisonOp::Eq) } else { BinaryOp::Regex };
    let mut any = false;
    for value in &values {
        for item in &list {
            any |= binary(single, value, item)? == Static::Bool(true);
        }
    }
    Ok(Static::Bool(any == matches!(op, BinaryOp::In | BinaryOp::MatchAny)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(values: &[i64]) -> Static {
        Static::IntArray(values.into())
    }

    fn text(value: &str) -> Static {
        Static::string(value)
    }

    #[test]
    fn operators_follow_the_rules() {
        use ArithmeticOp::{Add, Div, Mod, Pow};
        use ComparisonOp::{Eq, Ge, Gt, Lt, Ne};
        let (yes, no) = (Ok(Static::Bool(true)), Ok(Static::Bool(false)));
        let arithmetic = BinaryOp::Arithmetic;
        let compare = BinaryOp::Compare;
        let second = 1_000_000_000;
        for (lhs, op, rhs, expected) in [
            (Static::Int(2), arithmetic(Pow), Static::Int(3), Ok(Static::Int(8))),
            (Static::Int(i64::MAX), arithmetic(Add), Static::Int(1), Ok(Static::Int(i64::MIN))),
            (Static::Int(-7), arithmetic(Div), Static::Int(2), Ok(Static::Int(-3))),
            (Static::Int(-7), arithmetic(Mod), Static::Int(2), Ok(Static::Int(-1))),
            (Static::Int(1), arithmetic(Div), Static::Int(0), Err(OperationError::DivisionByZero)),
            (Static::Int(1), arithmetic(Mod), Static::Int(0), Err(OperationError::ModuloByZero)),
            (Static::Float(1.0), arithmetic(Div), Static::Int(0), Ok(Static::Float(f64::INFINITY))),
            (Static::Duration(second), arithmetic(Add), Static::Duration(second), Ok(Static::Float(2e9))),
            (text("a"), arithmetic(Add), Static::Int(1), no.clone()),
            (Static::Duration(second), compare(Eq), Static::Float(1e9), yes.clone()),
            (Static::Nil, compare(Eq), Static::Nil, no.clone()),
            (Static::Nil, compare(Ne), Static::Int(1), no.clone()),
            (text("1"), compare(Ne), Static::Int(1), no.clone()),
            (text("b"), compare(Gt), text("a"), yes.clone()),
            (text("a\nb"), BinaryOp::Regex, text("a.b"), yes.clone()),
            (text("ab"), BinaryOp::NotRegex, text("a"), yes.clone()),
            (list(&[1, 3]), compare(Gt), Static::Int(2), yes.clone()),
            (Static::Int(2), compare(Lt), list(&[1, 3]), yes.clone()),
            (list(&[1, 3]), compare(Ge), Static::Float(3.5), no.clone()),
            (list(&[1, 3]), compare(Ne), Static::Int(1), no.clone()),
            (list(&[]), compare(Ne), Static::Int(1), yes.clone()),
            (list(&[1]), compare(Eq), list(&[1]), Err(OperationError::ArrayWithArray)),
            (list(&[1]), arithmetic(Add), Static::Int(1), Err(OperationError::ArithmeticOnArray)),
            (Static::Int(3), BinaryOp::In, list(&[1, 3]), yes.clone()),
            (list(&[4, 3]), BinaryOp::NotIn, list(&[1, 3]), no.clone()),
            (Static::Status(Status::Ok), compare(Eq), Static::Status(Status::Ok), yes),
            (Static::Status(Status::Ok), compare(Eq), Static::Int(1), no),
        ] {
            assert_eq!(binary(op, &lhs, &rhs), expected, "{lhs} {op} {rhs}");
        }
    }

    #[test]
    fn keys_tell_types_apart() {
        assert_ne!(Static::Int(1), Static::Float(1.0));
        assert_ne!(Static::Int(1), Static::Duration(1));
        assert_eq!(Static::Float(f64::NAN), Static::Float(-f64::NAN));
        assert_ne!(Static::Float(0.0), Static::Float(-0.0));
    }
}
