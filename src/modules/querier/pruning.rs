//! Which row groups of a block can match, from its side object alone: one small read a block, or none when it is in memory.

use std::ops::Range;

use ::metrics::counter;

use super::projection::string_columns;
use crate::model::ids::TenantId;
use crate::tempodb::block::meta::BlockMeta;
use crate::tempodb::block::prune::{IntColumn, StringColumn};
use crate::tempodb::block::read::ReadMeter;
use crate::tempodb::block::side::pruning::Probe;
use crate::tempodb::block::side::store::SideObjects;
use crate::tempodb::block::side::{AttrScope, TextColumn};
use crate::tempodb::metrics::{SIDE_SAVED_BYTES, SIDE_SAVED_REQUESTS, SIDE_SKIPPED_ROW_GROUPS};
use crate::traceql::engine::projection::{AttributeLevel, FetchColumn, FetchCondition, FetchSpec, FetchTarget, FetchTest};
use crate::traceql::result::SearchRequest;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Returns those of `row_groups` that may match; `None` when the block has no side object.
pub(super) async fn candidate_groups(
    side: &SideObjects,
    tenant: &TenantId,
    meta: &BlockMeta,
    row_groups: &Range<usize>,
    probes: &[Probe],
    meter: &ReadMeter,
) -> Option<Vec<usize>> {
    if probes.is_empty() {
        return None;
    }
    let summary = side.summary(tenant, meta, meter).await?;
    let all = row_groups.start.min(summary.groups.len())..row_groups.end.min(summary.groups.len());
    let mut candidates = Vec::new();
    for group in all.clone() {
        if side.group_may_match(tenant, meta, &summary, group, probes, meter).await {
            candidates.push(group);
        }
    }
    counter!(SIDE_SKIPPED_ROW_GROUPS).increment((all.len() - candidates.len()) as u64);
    if candidates.is_empty() {
        counter!(SIDE_SAVED_REQUESTS).increment(1);
        counter!(SIDE_SAVED_BYTES).increment(u64::from(meta.footer_size_bytes));
    }
    Some(candidates)
}

/// Returns what all must hold in a row group for it to hold anything that `spec` wants.
pub(super) fn condition_probes(spec: &FetchSpec) -> Vec<Probe> {
    spec.conditions.iter().filter_map(probe_of).collect()
}

/// Returns what all must hold in a row group for it to matter to a search.
pub(super) fn probes_of(spec: &FetchSpec, request: &SearchRequest) -> Vec<Probe> {
    let mut probes = condition_probes(spec);
    if request.start_unix_seconds != 0 || request.end_unix_seconds != 0 {
        let nanos = |seconds: u32| u64::from(seconds) * NANOS_PER_SECOND;
        let end_unix_nanos = if request.end_unix_seconds == 0 { u64::MAX } else { nanos(request.end_unix_seconds) };
        probes.push(Probe::TraceTimes { start_unix_nanos: nanos(request.start_unix_seconds), end_unix_nanos });
    }
    if request.min_duration_nanos.is_some() || request.max_duration_nanos.is_some() {
        let bound = |nanos: Option<u64>, otherwise| nanos.map_or(otherwise, |nanos| i64::try_from(nanos).unwrap_or(i64::MAX));
        let wanted = bound(request.min_duration_nanos, i64::MIN)..=bound(request.max_duration_nanos, i64::MAX);
        probes.push(Probe::Within(IntColumn::TraceDuration, wanted));
    }
    probes
}

/// `None` for conditions of which side objects know nothing.
fn probe_of(condition: &FetchCondition) -> Option<Probe> {
    let target = &condition.target;
    match &condition.test {
        FetchTest::Strings(texts) => {
            let texts: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
            if *target == FetchTarget::Column(FetchColumn::StatusMessage) {
                return Some(Probe::text(TextColumn::StatusMessage, texts));
            }
            any(string_columns(target).into_iter().map(|column| strings_probe(&column?, &texts)))
        }
        FetchTest::Numbers(wanted) => match target {
            FetchTarget::Column(column) => Some(Probe::Within(int_column(*column)?, wanted.clone())),
            _ => any(keys_of(target)?.into_iter().map(|(scope, key)| {
                Some(if wanted.start() == wanted.end() { Probe::number(scope, key, *wanted.start()) } else { Probe::key(scope, key) })
            })),
        },
        FetchTest::Present | FetchTest::Patterns(_) => any(keys_of(target)?.into_iter().map(|(scope, key)| Some(Probe::key(scope, key)))),
        FetchTest::TraceIds(_) => None,
    }
}

fn strings_probe(column: &StringColumn, texts: &[&[u8]]) -> Option<Probe> {
    if let StringColumn::Attr(level, key) = column {
        return Some(Probe::strings(AttrScope::of_level(*level)?, key, texts.iter().copied()));
    }
    Some(Probe::text(TextColumn::of_column(column)?, texts.iter().copied()))
}

/// Joins alternatives; one that cannot be probed makes all useless.
fn any(alternatives: impl Iterator<Item = Option<Probe>>) -> Option<Probe> {
    let mut alternatives = alternatives.collect::<Option<Vec<_>>>()?;
    if alternatives.len() == 1 { alternatives.pop() } else { Some(Probe::Any(alternatives)) }
}

/// The attributes of which any may hold the value; `None` when the target is no attribute.
fn keys_of(target: &FetchTarget) -> Option<Vec<(AttrScope, &[u8])>> {
    match target {
        FetchTarget::Column(_) | FetchTarget::TraceId => None,
        FetchTarget::Attribute(level, key) => {
            let scope = match level {
                AttributeLevel::Resource => AttrScope::Resource,
                AttributeLevel::Scope => AttrScope::Scope,
                AttributeLevel::Span => AttrScope::Span,
                AttributeLevel::Event => AttrScope::Event,
                AttributeLevel::Link => AttrScope::Link,
            };
            Some(vec![(scope, key.as_bytes())])
        }
        FetchTarget::SpanOrResource(key) => Some(vec![(AttrScope::Resource, key.as_bytes()), (AttrScope::Span, key.as_bytes())]),
    }
}

fn int_column(column: FetchColumn) -> Option<IntColumn> {
    match column {
        // The only number that is asked for of the three in these columns.
        FetchColumn::TraceTimes => Some(IntColumn::TraceDuration),
        other => super::projection::int_column(other),
    }
}
