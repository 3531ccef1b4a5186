//! Canonical text (traceql, canonical text): names result labels, keys caches, and appears in error texts.
//!
//! Two queries with different meaning never print alike, except that `compare()` prints without its arguments (use [`cache_text`]).
//! For that, four rare texts differ from the compatible system's: strings with a backquote print in double quotes, a negative literal left
//! of `* / % ^` in parentheses, quantiles with more than five decimals in full, and infinite floats as the division that makes them.

use std::fmt::{self, Display, Formatter, Write};

use super::ast::{
    Aggregate, ArithmeticOp, Attribute, AttributeScope, BinaryOp, ComparisonOp, FieldExpr, Hint, Intrinsic, LogicalOp, MetricsExpr,
    MetricsFunction, MetricsNode, MetricsQuery, Owner, Pipeline, Query, QueryBody, Relation, ScalarExpr, ScalarFilter, SecondStage,
    SpansetExpr, SpansetOp, Stage, StructuralForm, UnaryOp,
};
use super::lexer::is_attribute_char;
use super::types::{Kind, Static, Status};

/// Returns the canonical text with the arguments that `compare()` leaves out: equal exactly for equal queries.
pub fn cache_text(query: &Query) -> String {
    let mut text = query.to_string();
    if let QueryBody::Metrics(metrics) = &query.body {
        for part in metrics.queries() {
            if let MetricsFunction::Compare(compare) = &part.function {
                let _ = write!(text, " compare({},{},{})", compare.top_n, compare.start_unix_nanos, compare.end_unix_nanos);
            }
        }
    }
    text
}

/// Returns a duration in Go's form: `1h30m0s`, `1.5s`, `100ms`, `1µs`, `0s`.
pub fn go_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let decimal = |unit: u64| {
        let fraction = format!("{:0width$}", nanos % unit, width = unit.ilog10() as usize);
        let fraction = fraction.trim_end_matches('0');
        let dot = if fraction.is_empty() { "" } else { "." };
        (nanos / unit, format!("{dot}{fraction}"))
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{nanos}ns"),
        1_000..1_000_000 => {
            let (whole, fraction) = decimal(1_000);
            format!("{sign}{whole}{fraction}µs")
        }
        1_000_000..1_000_000_000 => {
            let (whole, fraction) = decimal(1_000_000);
            format!("{sign}{whole}{fraction}ms")
        }
        _ => {
            let (seconds, fraction) = decimal(1_000_000_000);
            let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            match (hours, minutes) {
                (0, 0) => format!("{sign}{seconds}{fraction}s"),
                (0, _) => format!("{sign}{minutes}m{seconds}{fraction}s"),
                _ => format!("{sign}{hours}h{minutes}m{seconds}{fraction}s"),
            }
        }
    }
}

/// Returns a float as Go's shortest `%g`: decimal exponents below -4 or from 6 on are written with `e`, at least two digits long.
pub fn go_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}

/// Returns a float that reads back as a float: with a point or an exponent.
fn float_text(value: f64) -> String {
    let text = go_float(value);
    if value.is_finite() && !text.contains(['e', '.']) { text + ".0" } else { text }
}

/// Returns a scalar of a metrics query: whole numbers without decimals.
fn scalar_text(value: f64) -> String {
    /// Whole floats below this print the same as integers.
    const MAX_EXACT: f64 = 1e15;
    if !value.is_finite() {
        return non_finite_text(value).to_owned();
    }
    if value.fract() == 0.0 && value.abs() < MAX_EXACT { format!("{value:.0}") } else { go_float(value) }
}

/// Returns the division that gives an infinite float or no number, which have no literal.
fn non_finite_text(value: f64) -> &'static str {
    if value.is_nan() {
        "(0.0 / 0)"
    } else if value > 0.0 {
        "(1.0 / 0)"
    } else {
        "(-1.0 / 0)"
    }
}

impl Display for Query {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.body {
            QueryBody::Search(pipeline) => pipeline.fmt(f)?,
            QueryBody::Metrics(metrics) => metrics.fmt(f)?,
        }
        if self.hints.is_empty() {
            return Ok(());
        }
        f.write_str(" with(")?;
        write_list(f, &self.hints, ",")?;
        f.write_char(')')
    }
}

impl Display for Hint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

fn write_list<T: Display>(f: &mut Formatter<'_>, items: &[T], separator: &str) -> fmt::Result {
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            f.write_str(separator)?;
        }
        item.fmt(f)?;
    }
    Ok(())
}

impl Display for Pipeline {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write_list(f, &self.stages, "|")
    }
}

impl Display for Stage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spanset(spanset) => spanset.fmt(f),
            Self::ScalarFilter(filter) => filter.fmt(f),
            Self::GroupBy(expr) => write!(f, "by({expr})"),
            Self::Select(attributes) => {
                f.write_str("select(")?;
                write_list(f, attributes, ", ")?;
                f.write_char(')')
            }
            Self::Coalesce => f.write_str("coalesce()"),
        }
    }
}

impl Display for SpansetExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter(expr) => write!(f, "{{ {expr} }}"),
            Self::Binary { op, lhs, rhs } => write!(f, "({lhs}) {op} ({rhs})"),
            Self::Pipeline(pipeline) => pipeline.fmt(f),
        }
    }
}

impl Display for SpansetOp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (relation, form) = match self {
            Self::And => return f.write_str("&&"),
            Self::Or => return f.write_str("||"),
            Self::Structural { relation, form } => (relation, form),
        };
        f.write_str(match form {
            StructuralForm::Plain => "",
            StructuralForm::Negated => "!",
            StructuralForm::Union => "&",
        })?;
        f.write_str(match relation {
            Relation::Child => ">",
            Relation::Parent => "<",
            Relation::Descendant => ">>",
            Relation::Ancestor => "<<",
            Relation::Sibling => "~",
        })
    }
}

impl Display for ScalarFilter {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write_scalar_side(f, &self.lhs)?;
        write!(f, " {} ", self.op)?;
        write_scalar_side(f, &self.rhs)
    }
}

fn write_scalar_side(f: &mut Formatter<'_>, expr: &ScalarExpr) -> fmt::Result {
    match expr {
        ScalarExpr::Literal(value) => write_literal(f, value),
        ScalarExpr::Aggregate(_) | ScalarExpr::Binary { .. } | ScalarExpr::Pipeline(..) => write!(f, "({expr})"),
    }
}

impl Display for ScalarExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(value) => write_literal(f, value),
            Self::Aggregate(aggregate) => aggregate.fmt(f),
            Self::Binary { op, lhs, rhs } => {
                write_scalar_side(f, lhs)?;
                write!(f, " {op} ")?;
                write_scalar_side(f, rhs)
            }
            Self::Pipeline(pipeline, aggregate) => write!(f, "{pipeline}|{aggregate}"),
        }
    }
}

impl Display for Aggregate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count => f.write_str("count()"),
            Self::Min(expr) => write!(f, "min({expr})"),
            Self::Max(expr) => write!(f, "max({expr})"),
            Self::Avg(expr) => write!(f, "avg({expr})"),
            Self::Sum(expr) => write!(f, "sum({expr})"),
            Self::CountDistinct(expr) => write!(f, "count_distinct({expr})"),
        }
    }
}

impl Display for FieldExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(value) => write_literal(f, value),
            Self::Attribute(attribute) => attribute.fmt(f),
            Self::Unary { op, operand } => match op {
                UnaryOp::Negate => write_prefixed(f, '-', operand),
                UnaryOp::Not => write_prefixed(f, '!', operand),
                UnaryOp::Exists => write_side(f, operand).and_then(|()| f.write_str(" != nil")),
                UnaryOp::NotExists => write_side(f, operand).and_then(|()| f.write_str(" = nil")),
            },
            Self::Binary { op, lhs, rhs } => {
                if binds_tighter_than_minus(*op) && is_negative_literal(lhs) {
                    write!(f, "({lhs})")?;
                } else {
                    write_side(f, lhs)?;
                }
                write!(f, " {op} ")?;
                write_side(f, rhs)
            }
            Self::Logical { op, operands } => write_chain(f, *op, operands),
        }
    }
}

fn write_prefixed(f: &mut Formatter<'_>, sign: char, operand: &FieldExpr) -> fmt::Result {
    f.write_char(sign)?;
    write_side(f, operand)
}

/// Writes an operand: anything but literals and attributes in parentheses.
fn write_side(f: &mut Formatter<'_>, expr: &FieldExpr) -> fmt::Result {
    match expr {
        FieldExpr::Literal(_) | FieldExpr::Attribute(_) => expr.fmt(f),
        FieldExpr::Unary { .. } | FieldExpr::Binary { .. } | FieldExpr::Logical { .. } => write!(f, "({expr})"),
    }
}

/// Writes `a && b && c` as the pairs it consists of: `(a && b) && c`.
fn write_chain(f: &mut Formatter<'_>, op: LogicalOp, operands: &[FieldExpr]) -> fmt::Result {
    for _ in 2..operands.len() {
        f.write_char('(')?;
    }
    for (at, operand) in operands.iter().enumerate() {
        if at > 1 {
            f.write_char(')')?;
        }
        if at > 0 {
            write!(f, " {op} ")?;
        }
        write_side(f, operand)?;
    }
    Ok(())
}

/// Whether `-1 OP x` reads as `-(1 OP x)`.
fn binds_tighter_than_minus(op: BinaryOp) -> bool {
    matches!(op, BinaryOp::Arithmetic(ArithmeticOp::Mul | ArithmeticOp::Div | ArithmeticOp::Mod | ArithmeticOp::Pow))
}

fn is_negative_literal(expr: &FieldExpr) -> bool {
    match expr {
        FieldExpr::Literal(Static::Int(value) | Static::Duration(value)) => *value < 0,
        FieldExpr::Literal(Static::Float(value)) => value.is_sign_negative() && value.is_finite(),
        _ => false,
    }
}

fn write_literal(f: &mut Formatter<'_>, value: &Static) -> fmt::Result {
    match value {
        Static::Float(value) if !value.is_finite() => f.write_str(non_finite_text(*value)),
        value => value.fmt(f),
    }
}

impl Display for LogicalOp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::And => "&&",
            Self::Or => "||",
        })
    }
}

impl Display for BinaryOp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arithmetic(op) => op.fmt(f),
            Self::Compare(op) => op.fmt(f),
            Self::Regex => f.write_str("=~"),
            Self::NotRegex => f.write_str("!~"),
            Self::In => f.write_str("IN"),
            Self::NotIn => f.write_str("NOT IN"),
            Self::MatchAny => f.write_str("MATCH ANY"),
            Self::MatchNone => f.write_str("MATCH NONE"),
        }
    }
}

impl Display for ArithmeticOp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
            Self::Mod => "%",
            Self::Pow => "^",
        })
    }
}

impl Display for ComparisonOp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Eq => "=",
            Self::Ne => "!=",
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Gt => ">",
            Self::Ge => ">=",
        })
    }
}

impl Display for Attribute {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let named = match self {
            Self::Intrinsic(intrinsic) => return f.write_str(intrinsic.as_str()),
            Self::Named(named) => named,
        };
        let is_own = named.owner == Owner::Itself;
        f.write_str(match named.owner {
            Owner::Itself => "",
            Owner::Parent => "parent.",
            Owner::Root => "root.",
        })?;
        f.write_str(match named.scope {
            AttributeScope::Unscoped if !is_own => "",
            AttributeScope::Unscoped => ".",
            AttributeScope::Span => "span.",
            AttributeScope::Resource => "resource.",
            AttributeScope::Event => "event.",
            AttributeScope::Link => "link.",
            AttributeScope::Instrumentation => "instrumentation.",
        })?;
        let reads_as_scope = !is_own && (named.name.starts_with("span.") || named.name.starts_with("resource."));
        if !reads_as_scope && named.name.chars().all(|c| is_attribute_char(c) && c != '"') {
            return f.write_str(&named.name);
        }
        write!(f, "\"{}\"", named.name.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

impl Intrinsic {
    /// Returns the canonical name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Duration => "duration",
            Self::Name => "name",
            Self::Status => "status",
            Self::StatusMessage => "statusMessage",
            Self::Kind => "kind",
            Self::SpanId => "span:id",
            Self::SpanParentId => "span:parentID",
            Self::SpanChildCount => "span:childCount",
            Self::NestedSetLeft => "nestedSetLeft",
            Self::NestedSetRight => "nestedSetRight",
            Self::NestedSetParent => "nestedSetParent",
            Self::RootName => "rootName",
            Self::RootServiceName => "rootServiceName",
            Self::TraceDuration => "traceDuration",
            Self::TraceId => "trace:id",
            Self::EventName => "event:name",
            Self::EventTimeSinceStart => "event:timeSinceStart",
            Self::LinkTraceId => "link:traceID",
            Self::LinkSpanId => "link:spanID",
            Self::InstrumentationName => "instrumentation:name",
            Self::InstrumentationVersion => "instrumentation:version",
            Self::Parent => "parent",
        }
    }
}

impl Display for Static {
    /// Literals as in queries, except for infinite floats.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nil => f.write_str("nil"),
            Self::Int(value) => value.fmt(f),
            Self::Float(value) => f.write_str(&float_text(*value)),
            Self::String(text) => write_string(f, text),
            Self::Bool(value) => value.fmt(f),
            Self::Duration(nanos) => f.write_str(&go_duration(*nanos)),
            Self::Status(status) => status.fmt(f),
            Self::Kind(kind) => kind.fmt(f),
            Self::IntArray(_) | Self::FloatArray(_) | Self::StringArray(_) | Self::BoolArray(_) => {
                f.write_char('[')?;
                write_list(f, &self.elements().unwrap_or_default(), ", ")?;
                f.write_char(']')
            }
        }
    }
}

/// Writes a string in backquotes; one that cannot stand there, in double quotes.
fn write_string(f: &mut Formatter<'_>, text: &str) -> fmt::Result {
    if !text.contains(['`', '\r']) {
        return write!(f, "`{text}`");
    }
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            _ => f.write_char(c)?,
        }
    }
    f.write_char('"')
}

impl Display for Status {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Display for Kind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Display for MetricsExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.node {
            MetricsNode::Query(query) => query.fmt(f)?,
            MetricsNode::Binary { op, lhs, rhs } => write!(f, "({lhs}) {op} ({rhs})")?,
            MetricsNode::ScalarRight { op, lhs, scalar } => write!(f, "({lhs}) {op} {}", scalar_text(*scalar))?,
            MetricsNode::ScalarLeft { op, scalar, rhs } => write!(f, "{} {op} ({rhs})", scalar_text(*scalar))?,
        }
        for stage in &self.second_stages {
            stage.fmt(f)?;
        }
        Ok(())
    }
}

impl Display for SecondStage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::TopK(limit) => write!(f, " | topk({limit})"),
            Self::BottomK(limit) => write!(f, " | bottomk({limit})"),
            Self::Filter { op, scalar } => write!(f, " {op} {}", scalar_text(*scalar)),
        }
    }
}

impl Display for MetricsQuery {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} | {}", self.pipeline, self.function)?;
        if self.by.is_empty() {
            return Ok(());
        }
        f.write_str("by(")?;
        write_list(f, &self.by, ",")?;
        f.write_char(')')
    }
}

impl Display for MetricsFunction {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate => f.write_str("rate()"),
            Self::CountOverTime => f.write_str("count_over_time()"),
            Self::MinOverTime(attribute) => write!(f, "min_over_time({attribute})"),
            Self::MaxOverTime(attribute) => write!(f, "max_over_time({attribute})"),
            Self::SumOverTime(attribute) => write!(f, "sum_over_time({attribute})"),
            Self::AvgOverTime(attribute) => write!(f, "avg_over_time({attribute})"),
            Self::HistogramOverTime(attribute) => write!(f, "histogram_over_time({attribute})"),
            Self::QuantileOverTime { attribute, quantiles } => {
                write!(f, "quantile_over_time({attribute}")?;
                quantiles.iter().try_for_each(|quantile| write!(f, ",{}", quantile_text(*quantile)))?;
                f.write_char(')')
            }
            // The stray brace is what the compatible system prints.
            Self::Compare(compare) => write!(f, "compare({{ {} }}}}", compare.selection),
        }
    }
}

fn quantile_text(quantile: f64) -> String {
    let text = format!("{quantile:.5}");
    if text.parse() == Ok(quantile) { text } else { go_float(quantile) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_numbers_as_go_does() {
        for (value, text) in [
            (0.5, "0.5"),
            (1000.0, "1000.0"),
            (1e6, "1e+06"),
            (1234567.5, "1.2345675e+06"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (-0.0, "-0.0"),
        ] {
            assert_eq!(float_text(value), text);
        }
        for (value, text) in [(10.0, "10"), (0.1, "0.1"), (1e6, "1000000"), (-2.0, "-2")] {
            assert_eq!(scalar_text(value), text);
        }
    }

    #[test]
    fn prints_durations_as_go_does() {
        for (nanos, text) in [
            (0, "0s"),
            (999, "999ns"),
            (1_000, "1µs"),
            (1_500_000, "1.5ms"),
            (100_000_000, "100ms"),
            (-1_500_000_000, "-1.5s"),
            (60_000_000_000, "1m0s"),
            (5_400_000_000_000, "1h30m0s"),
            (3_600_000_000_001, "1h0m0.000000001s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(go_duration(nanos), text);
        }
    }
}
