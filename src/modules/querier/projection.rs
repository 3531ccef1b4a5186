//! Which row groups need not be decoded for a query, and which rows of the others.

use crate::base::cpu_pool::CpuPool;
use crate::tempodb::block::error::BlockReadError;
use crate::tempodb::block::prune::{IntColumn, Range, StringColumn};
use crate::tempodb::block::read::{BlockReader, ReadMeter};
use crate::tempodb::block::schema::Level;
use crate::tempodb::block::selection::RowSelection;
use crate::tempodb::block::text_test::TextTest;
use crate::traceql::engine::projection::{AttributeLevel, FetchColumn, FetchCondition, FetchSpec, FetchTarget, FetchTest, SERVICE_NAME};

/// Whether a trace of the row group may match, by statistics and dictionaries. Reads dictionaries only where the statistics do not decide.
pub(super) async fn row_group_may_match(
    reader: &BlockReader,
    group: usize,
    spec: &FetchSpec,
    meter: &ReadMeter,
    cpu: &CpuPool,
) -> Result<bool, BlockReadError> {
    for condition in &spec.conditions {
        if let (FetchTarget::Column(column), FetchTest::Numbers(wanted)) = (&condition.target, &condition.test)
            && let Some(column) = int_column(*column)
        {
            let may = match reader.int_range(group, &column)? {
                Range::Empty => false,
                Range::Unknown => true,
                Range::Within(known) => known.min <= i128::from(*wanted.end()) && known.max >= i128::from(*wanted.start()),
            };
            if !may {
                return Ok(false);
            }
        }
    }
    for condition in &spec.conditions {
        if !strings_may_match(reader, group, condition, meter, cpu).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn strings_may_match(
    reader: &BlockReader,
    group: usize,
    condition: &FetchCondition,
    meter: &ReadMeter,
    cpu: &CpuPool,
) -> Result<bool, BlockReadError> {
    let Some(test) = text_test(&condition.test) else { return Ok(true) };
    for column in string_columns(&condition.target) {
        let Some(column) = column else { return Ok(true) };
        let probe = reader.fetch_string_probe(group, &column, meter).await?;
        let test = test.clone();
        let job = move || probe.may_contain(&test);
        // A pool that fails will say so when the row group is decoded.
        if cpu.run("probe_dictionary", job).await.unwrap_or(Ok(true))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the rows of a row group that can match, when a condition on an attribute value leaves few of them; `None`: all.
pub(super) async fn candidate_rows(
    reader: &BlockReader,
    group: usize,
    spec: &FetchSpec,
    meter: &ReadMeter,
    cpu: &CpuPool,
) -> Result<Option<RowSelection>, BlockReadError> {
    for condition in &spec.conditions {
        let Some(test) = text_test(&condition.test) else { continue };
        let columns: Vec<_> = string_columns(&condition.target).into_iter().collect();
        let [Some(column)] = columns.as_slice() else { continue };
        let Some(values) = reader.candidate_values(group, column)? else { continue };
        // A pool that fails will say so when the row group is decoded.
        let job = move || values.codes(&test).map(|codes| (values, codes));
        let Ok(Some((values, codes))) = cpu.run("find_candidate_values", job).await else { continue };
        let Some(candidates) = reader.fetch_candidates(values, codes, meter).await? else { continue };
        let Ok(rows) = cpu.run("find_candidate_rows", move || candidates.rows()).await else { continue };
        let Some(rows) = rows? else { continue };
        if rows.len() <= reader.rows(group) / 2 {
            return Ok(Some(rows));
        }
    }
    Ok(None)
}

/// Returns what a string must pass; `None` for tests of other things.
fn text_test(test: &FetchTest) -> Option<TextTest<'static>> {
    match test {
        FetchTest::Strings(wanted) => {
            let all = wanted.clone();
            let test = TextTest::new(move |value| all.iter().any(|wanted| is_same(wanted.as_bytes(), value)));
            Some(if let [only] = wanted.as_slice() { test.requiring(only.as_bytes()) } else { test })
        }
        FetchTest::Patterns(patterns) => {
            let all = patterns.clone();
            let test = TextTest::new(move |value| all.iter().any(|pattern| pattern.is_match_lossy(value)));
            let required = if let [only] = patterns.as_slice() { only.required() } else { None };
            Some(if let Some(text) = required { test.requiring(text) } else { test })
        }
        FetchTest::Numbers(_) | FetchTest::TraceIds(_) | FetchTest::Present => None,
    }
}

/// Compares a literal with one of very many strings, most of which are as long but end differently: ids, numbers, paths.
fn is_same(literal: &[u8], value: &[u8]) -> bool {
    literal.len() == value.len() && literal.last() == value.last() && literal == value
}

pub(super) fn int_column(column: FetchColumn) -> Option<IntColumn> {
    match column {
        FetchColumn::SpanStart => Some(IntColumn::SpanStart),
        FetchColumn::SpanDuration => Some(IntColumn::SpanDuration),
        FetchColumn::Kind => Some(IntColumn::SpanKind),
        FetchColumn::StatusCode => Some(IntColumn::StatusCode),
        FetchColumn::EventTime => Some(IntColumn::EventTimeSinceStart),
        _ => None,
    }
}

/// The columns of which any may hold the value; `None` stands for one that cannot be tested.
pub(super) fn string_columns(target: &FetchTarget) -> Vec<Option<StringColumn>> {
    let attribute = |level, key: &str| StringColumn::Attr(level, key.as_bytes().to_vec());
    let resource = |key: &str| if key == SERVICE_NAME { StringColumn::ServiceName } else { attribute(Level::Resource, key) };
    match target {
        FetchTarget::Column(column) => vec![match column {
            FetchColumn::RootServiceName => Some(StringColumn::RootServiceName),
            FetchColumn::RootSpanName => Some(StringColumn::RootSpanName),
            FetchColumn::ServiceName => Some(StringColumn::ServiceName),
            FetchColumn::ScopeName => Some(StringColumn::ScopeName),
            FetchColumn::ScopeVersion => Some(StringColumn::ScopeVersion),
            FetchColumn::SpanName => Some(StringColumn::SpanName),
            FetchColumn::EventName => Some(StringColumn::EventName),
            _ => None,
        }],
        FetchTarget::TraceId => vec![None],
        FetchTarget::Attribute(level, key) => vec![Some(match level {
            AttributeLevel::Resource => resource(key),
            AttributeLevel::Scope => attribute(Level::Scope, key),
            AttributeLevel::Span => attribute(Level::Span, key),
            AttributeLevel::Event => attribute(Level::Event, key),
            AttributeLevel::Link => attribute(Level::Link, key),
        })],
        FetchTarget::SpanOrResource(key) => vec![Some(resource(key)), Some(attribute(Level::Span, key))],
    }
}
