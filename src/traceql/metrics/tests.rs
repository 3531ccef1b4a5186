//! The stages together: examples, generated queries against the reference, and bounds.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::model::span_table::SpanTable;
use crate::traceql::compile;

mod bounds;
mod examples;
mod generated;
mod reference;

/// How spans are spread: tables of jobs, and which merge each job goes into; `None`: straight to the final stage.
struct Job {
    tables: Vec<SpanTable>,
    window: Window,
    merge: Option<usize>,
}

fn plan(query: &str) -> MetricsPlan {
    MetricsPlan::new(&compile(query).unwrap()).unwrap()
}

fn raw(plan: &MetricsPlan, options: JobOptions, tables: &[SpanTable]) -> SeriesSet {
    let cancelled = AtomicBool::new(false);
    let mut raw = RawMetrics::new(plan, options).unwrap();
    for table in tables {
        if raw.is_full() {
            break;
        }
        raw.add(table, None, &cancelled).unwrap();
    }
    raw.finish()
}

/// Runs all stages.
fn answer(plan: &MetricsPlan, window: Window, options: FinalOptions, jobs: &[Job]) -> FinalResult {
    let job_options = |window: Window| JobOptions { window, exemplars: options.exemplars, max_series: options.max_series };
    let merges = jobs.iter().filter_map(|job| job.merge).max().map_or(0, |last| last + 1);
    let mut merges: Vec<SumStage> = (0..merges).map(|_| SumStage::new(plan, job_options(window)).unwrap()).collect();
    let mut last = FinalStage::new(plan, window, options).unwrap();
    for job in jobs {
        let set = raw(plan, job_options(job.window), &job.tables);
        match job.merge {
            Some(merge) => merges[merge].add(set),
            None => last.add(set),
        }
    }
    merges.into_iter().for_each(|merge| last.add(merge.finish()));
    last.finish()
}
