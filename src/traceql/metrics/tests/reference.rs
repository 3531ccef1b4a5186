//! The rules of metrics written down span by span and point by point, slowly and without tables or stages: what evaluation is checked against.

use std::collections::BTreeMap;

use crate::traceql::ast::{ArithmeticOp, ComparisonOp};
use crate::traceql::metrics::{Label, Labels, Window};
use crate::traceql::print::go_duration;
use crate::traceql::testing::{TestAttributes, TestSpan, TestTrace, TestValue};
use crate::traceql::types::{Kind, Static, Status};

/// A metrics query in the form the reference evaluates; `text` is what it means in the language.
#[derive(Debug, Clone)]
pub(super) struct Simple {
    pub(super) filter: Filter,
    pub(super) function: Function,
    pub(super) by: Vec<Attr>,
    pub(super) second: Vec<Second>,
}

#[derive(Debug, Clone)]
pub(super) enum Expr {
    Simple(Simple),
    Binary(ArithmeticOp, Box<Expr>, Box<Expr>),
    Right(ArithmeticOp, Box<Expr>, f64),
    Left(ArithmeticOp, f64, Box<Expr>),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Filter {
    All,
    Error,
    HasK,
    NamedAOrX,
    Long,
    MoreThanTwo,
    AAndX,
    TwoOfAName,
}

#[derive(Debug, Clone)]
pub(super) enum Function {
    Count,
    Rate,
    Min(Attr),
    Max(Attr),
    Sum(Attr),
    Avg(Attr),
    Histogram(Attr),
    Quantile(Attr, Vec<f64>),
    Compare(Filter, usize),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Second {
    Top(usize),
    Bottom(usize),
    Keep(ComparisonOp, f64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Attr {
    Name,
    Kind,
    Status,
    Duration,
    Service,
    SpanK,
    SpanN,
    AnyK,
    ResourceK,
    ScopeK,
    ScopeName,
    EventName,
    EventTime,
}

impl Filter {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::All => "{}",
            Self::Error => "{ status = error }",
            Self::HasK => "{ span.k != nil }",
            Self::NamedAOrX => "{ name = `a` || name = `x` }",
            Self::Long => "{ duration > 3ns }",
            Self::MoreThanTwo => "{} | count() > 2",
            Self::AAndX => "{ name = `a` } && { name = `x` }",
            Self::TwoOfAName => "{} | by(name) | count() > 1",
        }
    }

    pub(super) fn keeps(self, trace: &TestTrace, span: &TestSpan) -> bool {
        let named = |name: &str| trace.spans.iter().filter(|span| span.name == name).count();
        match self {
            Self::All => true,
            Self::Error => span.status == 2,
            Self::HasK => !value_of(Attr::SpanK, span).is_nil(),
            Self::NamedAOrX => span.name == "a" || span.name == "x",
            Self::Long => span.duration_nanos > 3,
            Self::MoreThanTwo => trace.spans.len() > 2,
            Self::AAndX => named("a") > 0 && named("x") > 0 && (span.name == "a" || span.name == "x"),
            Self::TwoOfAName => named(&span.name) > 1,
        }
    }
}

impl Attr {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Kind => "kind",
            Self::Status => "status",
            Self::Duration => "duration",
            Self::Service => "resource.service.name",
            Self::SpanK => "span.k",
            Self::SpanN => "span.n",
            Self::AnyK => ".k",
            Self::ResourceK => "resource.k",
            Self::ScopeK => "instrumentation.k",
            Self::ScopeName => "instrumentation:name",
            Self::EventName => "event:name",
            Self::EventTime => "event:timeSinceStart",
        }
    }
}

impl Function {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Count => "count_over_time()".to_owned(),
            Self::Rate => "rate()".to_owned(),
            Self::Min(attr) => format!("min_over_time({})", attr.text()),
            Self::Max(attr) => format!("max_over_time({})", attr.text()),
            Self::Sum(attr) => format!("sum_over_time({})", attr.text()),
            Self::Avg(attr) => format!("avg_over_time({})", attr.text()),
            Self::Histogram(attr) => format!("histogram_over_time({})", attr.text()),
            Self::Quantile(attr, quantiles) => {
                let quantiles: Vec<String> = quantiles.iter().map(f64::to_string).collect();
                format!("quantile_over_time({}, {})", attr.text(), quantiles.join(", "))
            }
            Self::Compare(filter, top_n) => format!("compare({}, {top_n})", filter.text()),
        }
    }

    fn name(&self) -> Option<&'static str> {
        match self {
            Self::Count => Some("count_over_time"),
            Self::Rate => Some("rate"),
            Self::Min(_) => Some("min_over_time"),
            Self::Max(_) => Some("max_over_time"),
            Self::Sum(_) => Some("sum_over_time"),
            Self::Avg(_) => Some("avg_over_time"),
            Self::Histogram(_) | Self::Quantile(..) | Self::Compare(..) => None,
        }
    }
}

impl Simple {
    pub(super) fn text(&self) -> String {
        let mut text = format!("{} | {}", self.filter.text(), self.function.text());
        if !self.by.is_empty() {
            text += &format!(" by ({})", self.by.iter().map(|attr| attr.text()).collect::<Vec<_>>().join(", "));
        }
        for second in &self.second {
            text += &match second {
                Second::Top(limit) => format!(" | topk({limit})"),
                Second::Bottom(limit) => format!(" | bottomk({limit})"),
                Second::Keep(op, scalar) => format!(" {op} {scalar}"),
            };
        }
        text
    }
}

impl Expr {
    pub(super) fn text(&self) -> String {
        let operand = |expr: &Self| match expr {
            Self::Simple(simple) => format!("({})", simple.text()),
            other => format!("({})", other.text()),
        };
        match self {
            Self::Simple(simple) => simple.text(),
            Self::Binary(op, left, right) => format!("{} {op} {}", operand(left), operand(right)),
            Self::Right(op, expr, scalar) => format!("{} {op} {scalar}", operand(expr)),
            Self::Left(op, scalar, expr) => format!("{scalar} {op} {}", operand(expr)),
        }
    }
}

type Rows = Vec<(Labels, Vec<f64>)>;

/// Returns the series of the answer in order, as text and points.
pub(super) fn evaluate(expr: &Expr, traces: &[TestTrace], window: Window) -> Vec<(String, Vec<(i64, f64)>)> {
    let mut rows = rows(expr, traces, window);
    rows.sort_by(|(a, _), (b, _)| a.response_order(b));
    let point = |(interval, value): (usize, f64)| {
        let edge = if window.instant { window.end } else { (window.start / window.step + interval as u64 + 1) * window.step };
        ((edge / 1_000_000) as i64, value)
    };
    let points = |values: Vec<f64>| values.into_iter().enumerate().filter(|(_, value)| !value.is_nan()).map(point).collect::<Vec<_>>();
    let all = rows.into_iter().map(|(labels, values)| (labels.to_string(), points(values)));
    all.filter(|(_, points)| !points.is_empty()).collect()
}

fn rows(expr: &Expr, traces: &[TestTrace], window: Window) -> Rows {
    match expr {
        Expr::Simple(simple) => simple_rows(simple, traces, window),
        Expr::Binary(op, left, right) => binary(*op, &rows(left, traces, window), &rows(right, traces, window)),
        Expr::Right(op, expr, scalar) => map(rows(expr, traces, window), |value| compute(*op, value, *scalar)),
        Expr::Left(op, scalar, expr) => map(rows(expr, traces, window), |value| compute(*op, *scalar, value)),
    }
}

fn map(rows: Rows, compute: impl Fn(f64) -> f64) -> Rows {
    let rows = rows.into_iter().map(|(labels, values)| (labels, values.into_iter().map(&compute).collect::<Vec<f64>>()));
    rows.filter(|(_, values)| values.iter().any(|value| !value.is_nan())).collect()
}

fn compute(op: ArithmeticOp, a: f64, b: f64) -> f64 {
    match op {
        ArithmeticOp::Add => a + b,
        ArithmeticOp::Sub => a - b,
        ArithmeticOp::Mul => a * b,
        ArithmeticOp::Div if b == 0.0 => f64::NAN,
        ArithmeticOp::Div => a / b,
        ArithmeticOp::Mod | ArithmeticOp::Pow => panic!("not an operator of metrics"),
    }
}

fn without_name(labels: &Labels) -> Labels {
    labels.iter().filter(|label| &*label.name != "__name__").cloned().collect()
}

fn binary(op: ArithmeticOp, left: &Rows, right: &Rows) -> Rows {
    let find = |rows: &Rows, key: &Labels| rows.iter().find(|(labels, _)| without_name(labels) == *key).cloned();
    let find_or_plain = |rows: &Rows, key: &Labels| find(rows, key).or_else(|| find(rows, &Labels::new()));
    let over_left = find(right, &Labels::new()).is_some();
    let keys = if over_left { left } else { right };
    let mut combined = Rows::new();
    for (key, _) in keys {
        let key = without_name(key);
        let (Some((left, a)), Some((right, b))) = (find_or_plain(left, &key), find_or_plain(right, &key)) else { continue };
        let mut labels: Vec<Label> = Vec::new();
        for label in left.iter().chain(right.iter()) {
            let is_new = labels.iter().all(|known| known.name != label.name);
            let (in_left, in_right) = (left.get(&label.name), right.get(&label.name));
            match (&*label.name, in_left, in_right) {
                ("__name__", Some(Static::String(left)), Some(Static::String(right))) if is_new => {
                    labels.push(Label { name: label.name.clone(), value: Static::string(format!("({left} {op} {right})")) });
                }
                ("__name__", _, _) => {}
                _ if is_new => labels.push(label.clone()),
                _ => {}
            }
        }
        let values: Vec<f64> = a.iter().zip(&b).map(|(a, b)| compute(op, *a, *b)).collect();
        if values.iter().any(|value| !value.is_nan()) {
            combined.push((labels.into_iter().collect(), values));
        }
    }
    combined
}

fn interval_of(window: Window, start: u64) -> Option<usize> {
    if start <= window.start || start > window.end {
        return None;
    }
    if window.instant {
        return Some(0);
    }
    let first = window.start / window.step * window.step;
    Some((0..).find(|interval| start <= first + (*interval as u64 + 1) * window.step).unwrap())
}

fn interval_count(window: Window) -> usize {
    if window.instant { 1 } else { (window.end.div_ceil(window.step) - window.start / window.step) as usize }
}

fn simple_rows(simple: &Simple, traces: &[TestTrace], window: Window) -> Rows {
    let mut spans: Vec<(usize, &TestTrace, &TestSpan)> = Vec::new();
    for trace in traces {
        for span in trace.spans.iter().filter(|span| simple.filter.keeps(trace, span)) {
            spans.extend(interval_of(window, span.start_unix_nanos).map(|interval| (interval, trace, span)));
        }
    }
    let count = interval_count(window);
    let mut rows = match &simple.function {
        Function::Compare(filter, top_n) => compare_rows(&spans, *filter, *top_n, count),
        Function::Quantile(attr, quantiles) => quantile_rows(simple, &spans, *attr, quantiles, count),
        function => {
            let mut observed: Vec<(Labels, Vec<Vec<f64>>)> = Vec::new();
            for (interval, _, span) in &spans {
                let Some((labels, value)) = observation(simple, span) else { continue };
                let known = match observed.iter().position(|(known, _)| *known == labels) {
                    Some(known) => known,
                    None => {
                        observed.push((labels, vec![Vec::new(); count]));
                        observed.len() - 1
                    }
                };
                observed[known].1[*interval].push(value);
            }
            if observed.is_empty() && simple.by.is_empty() && matches!(function, Function::Count | Function::Rate) {
                observed.push((Labels::single("__name__", Static::string(function.name().unwrap())), vec![Vec::new(); count]));
            }
            let summary = |values: &Vec<f64>| summary(function, values, window);
            observed.iter().map(|(labels, intervals)| (labels.clone(), intervals.iter().map(summary).collect())).collect()
        }
    };
    for second in &simple.second {
        apply(second, &mut rows);
    }
    rows
}

/// Returns the labels that a span counts for, and what is measured.
fn observation(simple: &Simple, span: &TestSpan) -> Option<(Labels, f64)> {
    let mut labels = group(&simple.by, simple.function.name(), span);
    let value = match &simple.function {
        Function::Count | Function::Rate => 1.0,
        Function::Min(attr) | Function::Max(attr) | Function::Sum(attr) | Function::Avg(attr) => match value_of(*attr, span) {
            Static::Int(value) => value as f64,
            Static::Float(value) => value,
            Static::Duration(nanos) if *attr == Attr::Duration => nanos as f64 / 1e9,
            Static::Duration(nanos) => nanos as f64,
            _ => return None,
        },
        Function::Histogram(attr) | Function::Quantile(attr, _) => {
            let (value, unit) = match value_of(*attr, span) {
                Static::Int(value) => (value, 1.0),
                Static::Duration(nanos) => (nanos, 1e9),
                _ => return None,
            };
            let bucket = (1..63).map(|exponent| 1_i64 << exponent).find(|bound| value >= 2 && value <= *bound)?;
            labels.push("__bucket", Static::Float(bucket as f64 / unit));
            1.0
        }
        Function::Compare(..) => return None,
    };
    Some((labels, value))
}

fn group(by: &[Attr], name: Option<&str>, span: &TestSpan) -> Labels {
    let mut labels = Labels::new();
    for attr in by {
        let value = value_of(*attr, span);
        if !value.is_nil() {
            labels.push(attr.text(), sent(value));
        }
    }
    match (by.first(), name) {
        (Some(first), _) if labels.is_empty() => labels.push(first.text(), Static::Nil),
        (None, Some(name)) => labels.push("__name__", Static::string(name)),
        _ => {}
    }
    labels
}

/// The value as it arrives after it was sent.
fn sent(value: Static) -> Static {
    match value {
        Static::Duration(nanos) => Static::string(go_duration(nanos)),
        Static::Status(status) => Static::string(status.as_str()),
        Static::Kind(kind) => Static::string(kind.as_str()),
        // cannot be told from nil, which is sent as this text
        Static::String(text) if &*text == "nil" => Static::Nil,
        value if value.elements().is_some() => Static::Nil,
        value => value,
    }
}

fn summary(function: &Function, values: &[f64], window: Window) -> f64 {
    let count = values.len() as f64;
    let step = window.step as f64 / 1e9;
    match function {
        Function::Count | Function::Histogram(_) => count,
        Function::Rate => count / step,
        _ if values.is_empty() => f64::NAN,
        Function::Min(_) => values.iter().copied().reduce(f64::min).unwrap(),
        Function::Max(_) => values.iter().copied().reduce(f64::max).unwrap(),
        Function::Sum(_) => values.iter().sum(),
        Function::Avg(_) => values.iter().sum::<f64>() / count,
        Function::Quantile(..) | Function::Compare(..) => panic!("has rows of its own"),
    }
}

fn quantile_rows(simple: &Simple, spans: &[(usize, &TestTrace, &TestSpan)], attr: Attr, quantiles: &[f64], count: usize) -> Rows {
    let mut groups: Vec<(Labels, Vec<Vec<f64>>)> = Vec::new();
    let bounds = Simple { function: Function::Histogram(attr), ..simple.clone() };
    for (interval, _, span) in spans {
        let Some((mut labels, _)) = observation(&bounds, span) else { continue };
        let bound = labels.remove("__bucket").unwrap().as_f64().unwrap();
        let known = groups.iter().position(|(known, _)| *known == labels).unwrap_or_else(|| {
            groups.push((labels, vec![Vec::new(); count]));
            groups.len() - 1
        });
        groups[known].1[*interval].push(bound);
    }
    let mut rows = Rows::new();
    for (labels, intervals) in groups {
        for quantile in quantiles {
            let mut labels = labels.clone();
            labels.push("p", Static::Float(*quantile));
            rows.push((labels, intervals.iter().map(|bounds| quantile_of(bounds, *quantile)).collect()));
        }
    }
    rows
}

/// The quantile of values of which only the bucket is known: the wanted one lies within its bucket as far as its rank among those there.
fn quantile_of(bounds: &[f64], quantile: f64) -> f64 {
    if bounds.is_empty() {
        return 0.0;
    }
    let mut sorted = bounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let wanted = ((quantile * sorted.len() as f64).ceil() as usize).max(1);
    let bound = sorted[wanted - 1];
    let below = sorted.iter().filter(|other| **other < bound).count();
    let here = sorted.iter().filter(|other| **other == bound).count();
    let lower = sorted.iter().copied().rfind(|other| *other < bound).unwrap_or(bound / 2.0);
    let share = (wanted - below) as f64 / here as f64;
    lower * (bound / lower).powf(share)
}

fn compare_rows(spans: &[(usize, &TestTrace, &TestSpan)], filter: Filter, top_n: usize, count: usize) -> Rows {
    let mut totals: BTreeMap<(bool, String), Vec<f64>> = BTreeMap::new();
    let mut values: Vec<(bool, String, Static, Vec<f64>)> = Vec::new();
    for (interval, trace, span) in spans {
        let side = filter.keeps(trace, span);
        for (name, value) in compared(span) {
            totals.entry((side, name.clone())).or_insert_with(|| vec![0.0; count])[*interval] += 1.0;
            let is_it = |known: &&mut (bool, String, Static, Vec<f64>)| (known.0, &known.1, &known.2) == (side, &name, &value);
            match values.iter_mut().find(is_it) {
                Some(known) => known.3[*interval] += 1.0,
                None => {
                    let mut counts = vec![0.0; count];
                    counts[*interval] = 1.0;
                    values.push((side, name, value, counts));
                }
            }
        }
    }
    let labels = |meta: &str, name: &str, value: Static| {
        let mut labels = Labels::single("__meta_type", Static::string(meta));
        labels.push(name, value);
        labels
    };
    let meta = |side: bool| if side { "selection" } else { "baseline" };
    let mut rows = Rows::new();
    for ((side, name), counts) in &totals {
        let mut of_name: Vec<(Labels, Vec<f64>)> = Vec::new();
        for (_, _, value, counts) in values.iter().filter(|known| (known.0, &known.1) == (*side, name)) {
            of_name.push((labels(meta(*side), name, value.clone()), counts.clone()));
        }
        of_name.sort_by(|(a, a_counts), (b, b_counts)| {
            let (a_sum, b_sum): (f64, f64) = (a_counts.iter().sum(), b_counts.iter().sum());
            b_sum.total_cmp(&a_sum).then_with(|| a.response_order(b))
        });
        rows.extend(of_name.into_iter().take(top_n));
        rows.push((labels(&format!("{}_total", meta(*side)), name, Static::Nil), counts.clone()));
    }
    rows
}

/// Returns what is counted of a span. Its trace's root and its children are left to the examples.
fn compared(span: &TestSpan) -> BTreeMap<String, Static> {
    let mut all = Vec::new();
    for (scope, attributes) in [("span", &span.attributes), ("resource", &span.resource), ("instrumentation", &span.scope.attributes)] {
        for (key, value) in attributes.iter().filter(|(key, _)| key != "service.name") {
            all.push((format!("{scope}.{key}"), static_of(value)));
        }
    }
    for (name, text) in [
        ("name", &span.name),
        ("statusMessage", &span.status_message),
        ("instrumentation:name", &span.scope.name),
        ("instrumentation:version", &span.scope.version),
    ] {
        all.push((name.to_owned(), Static::string(text.clone())));
    }
    for attr in [Attr::Kind, Attr::Status, Attr::Service] {
        all.push((attr.text().to_owned(), value_of(attr, span)));
    }
    let is_value = |(_, value): &(String, Static)| *value != Static::Nil;
    all.into_iter().filter(is_value).map(|(name, value)| (name, sent(value))).collect()
}

fn apply(second: &Second, rows: &mut Rows) {
    let intervals = rows.first().map_or(0, |(_, values)| values.len());
    match second {
        Second::Keep(op, scalar) => {
            for value in rows.iter_mut().flat_map(|(_, values)| values) {
                let is_kept = match op {
                    ComparisonOp::Eq => *value == *scalar,
                    ComparisonOp::Ne => *value != *scalar,
                    ComparisonOp::Lt => *value < *scalar,
                    ComparisonOp::Le => *value <= *scalar,
                    ComparisonOp::Gt => *value > *scalar,
                    ComparisonOp::Ge => *value >= *scalar,
                };
                if !is_kept {
                    *value = f64::NAN;
                }
            }
        }
        Second::Top(limit) | Second::Bottom(limit) if rows.len() > *limit => {
            for interval in 0..intervals {
                let mut order: Vec<usize> = (0..rows.len()).filter(|row| !rows[*row].1[interval].is_nan()).collect();
                order.sort_by(|a, b| {
                    let (a, b) = (&rows[*a], &rows[*b]);
                    a.1[interval].partial_cmp(&b.1[interval]).unwrap().then_with(|| without_name(&a.0).tie_order(&without_name(&b.0)))
                });
                if matches!(second, Second::Top(_)) {
                    order.reverse();
                }
                order.iter().skip(*limit).for_each(|row| rows[*row].1[interval] = f64::NAN);
            }
        }
        Second::Top(_) | Second::Bottom(_) => {}
    }
    rows.retain(|(_, values)| values.iter().any(|value| !value.is_nan()));
}

/// Returns the value of an attribute of a span.
fn value_of(attr: Attr, span: &TestSpan) -> Static {
    let find = |attributes: &TestAttributes, key: &str| {
        attributes.iter().find(|(known, _)| known == key).map_or(Static::Nil, |(_, value)| static_of(value))
    };
    match attr {
        Attr::Name => Static::string(span.name.clone()),
        Attr::Kind => Static::Kind(Kind::from_otlp(span.kind)),
        Attr::Status => Static::Status(Status::from_otlp(span.status)),
        Attr::Duration => Static::Duration(span.duration_nanos as i64),
        Attr::Service => match find(&span.resource, "service.name") {
            Static::Nil => Static::string(""),
            name => name,
        },
        Attr::SpanK => find(&span.attributes, "k"),
        Attr::SpanN => find(&span.attributes, "n"),
        Attr::AnyK => match find(&span.attributes, "k") {
            Static::Nil => find(&span.resource, "k"),
            value => value,
        },
        Attr::ResourceK => find(&span.resource, "k"),
        Attr::ScopeK => find(&span.scope.attributes, "k"),
        Attr::ScopeName => Static::string(span.scope.name.clone()),
        Attr::EventName => span.events.first().map_or(Static::Nil, |event| Static::string(event.name.clone())),
        Attr::EventTime => span.events.first().map_or(Static::Nil, |event| Static::Duration(event.since_start_nanos as i64)),
    }
}

fn static_of(value: &TestValue) -> Static {
    match value {
        TestValue::Str(text) => Static::string(text.clone()),
        TestValue::Int(value) => Static::Int(*value),
        TestValue::Double(value) => Static::Float(*value),
        TestValue::Bool(value) => Static::Bool(*value),
        TestValue::Bytes(_) => Static::Nil,
        TestValue::Array(elements) => match elements.as_slice() {
            [single] => static_of(single),
            // what the elements are does not matter to metrics
            elements => Static::IntArray(vec![elements.len() as i64].into()),
        },
    }
}
