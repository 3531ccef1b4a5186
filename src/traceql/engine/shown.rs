//! What results show of matching traces and spans (traceql, search results).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::strings::StrId;
use crate::traceql::ast::{Attribute, Intrinsic};
use crate::traceql::result::{ServiceStats, SpanHit, SpanSetHit, TraceHit};
use crate::traceql::types::Static;

use super::condition::Condition;
use super::expr::{Level, level_of};
use super::filter::Evaluator;
use super::plan::{Plan, Shown};
use super::value::array;
use super::{MatchedSet, MatchedTrace};

/// Returns the result for `trace`, which is row `row` of the evaluator's table.
pub(super) fn trace_hit(plan: &Plan, trace: &MatchedTrace, evaluator: &mut Evaluator<'_>, row: usize) -> TraceHit {
    let traces = &evaluator.table.traces;
    let nanos = |column: &[u64]| column.get(row).copied().unwrap_or(0);
    let (start_unix_nanos, duration_nanos) = (nanos(&traces.start_unix_nanos), nanos(&traces.duration_nanos));
    let span_sets = trace.span_sets.iter().map(|set| span_set_hit(plan, set, evaluator, row)).collect();
    TraceHit {
        trace_id: trace.trace_id,
        root_service_name: text_at(evaluator, &traces.root_service_name, row),
        root_trace_name: text_at(evaluator, &traces.root_span_name, row),
        start_unix_nanos,
        duration_nanos,
        service_stats: service_stats(evaluator, row),
        span_sets,
    }
}

fn service_stats(evaluator: &mut Evaluator<'_>, row: usize) -> BTreeMap<Arc<str>, ServiceStats> {
    let traces = &evaluator.table.traces;
    if row >= traces.service_stats_of.len() {
        return BTreeMap::new();
    }
    let stats = &traces.service_stats;
    let entries = traces.service_stats_of.range(row).map(|at| {
        let counts = ServiceStats { span_count: stats.span_count[at], error_count: stats.error_count[at] };
        (text_at(evaluator, &stats.service_name, at), counts)
    });
    entries.collect()
}

fn span_set_hit(plan: &Plan, set: &MatchedSet, evaluator: &mut Evaluator<'_>, row: usize) -> SpanSetHit {
    let of_trace = evaluator.table.spans_of_trace(row);
    let spans = set.spans.iter().map(|span| of_trace.start + *span as usize).filter(|span| of_trace.contains(span));
    SpanSetHit {
        spans: spans.map(|span| span_hit(plan, evaluator, span)).collect(),
        matched: set.matched,
        attributes: set.attributes.clone(),
    }
}

fn span_hit(plan: &Plan, evaluator: &mut Evaluator<'_>, span: usize) -> SpanHit {
    let spans = &evaluator.table.spans;
    let mut attributes = Vec::with_capacity(plan.shown.len());
    for shown in &plan.shown {
        if let Some(value) = shown_value(shown, evaluator, span) {
            attributes.push((shown.key.clone(), value));
        }
    }
    SpanHit {
        span_id: spans.span_id.get(span).copied().unwrap_or_default(),
        name: if plan.shows_name { text_at(evaluator, &spans.name, span) } else { "".into() },
        start_unix_nanos: spans.start_unix_nanos.get(span).copied().unwrap_or(0),
        duration_nanos: spans.duration_nanos.get(span).copied().unwrap_or(0),
        attributes,
    }
}

/// Returns what is listed for the attribute; of several events or links, the value of the last that has one.
fn shown_value(shown: &Shown, evaluator: &mut Evaluator<'_>, span: usize) -> Option<Static> {
    let attribute = &shown.attribute;
    let home = level_of(attribute);
    if home <= Level::Span {
        let owner = evaluator.levels.owner(span, Level::Span, home);
        let value = evaluator.own_attribute(attribute, owner);
        return passing(shown, value);
    }
    let items = evaluator.below(home, span);
    if items.is_empty() && shown.conditions.is_none() && *attribute == Attribute::Intrinsic(Intrinsic::EventName) {
        return Some(Static::string(""));
    }
    items.rev().find_map(|item| {
        let value = evaluator.own_attribute(attribute, item);
        passing(shown, value)
    })
}

/// Returns the part of `value` that passes the conditions.
fn passing(shown: &Shown, value: Static) -> Option<Static> {
    let Some(conditions) = &shown.conditions else {
        return Some(value).filter(|value| !value.is_nil());
    };
    if value.is_nil() {
        let asked_for_absence = conditions.iter().any(|condition| matches!(condition, Condition::Missing));
        return asked_for_absence.then_some(Static::Nil);
    }
    let is_intrinsic = matches!(shown.attribute, Attribute::Intrinsic(_));
    let passes = |value: &Static| conditions.iter().any(|condition| condition.accepts(value, is_intrinsic));
    let Some(elements) = value.elements() else {
        return Some(value).filter(passes);
    };
    let mut passed: Vec<Static> = elements.into_iter().filter(passes).collect();
    match passed.len() {
        0 => None,
        1 => passed.pop(),
        _ => Some(array(&passed)),
    }
}

fn text_at(evaluator: &mut Evaluator<'_>, column: &[StrId], item: usize) -> Arc<str> {
    column.get(item).map_or_else(|| "".into(), |id| evaluator.texts.text(&evaluator.table.strings, *id))
}
