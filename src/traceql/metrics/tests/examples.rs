//! The metrics examples over one table and over many.

use super::*;
use crate::traceql::testing::examples::search_examples;
use crate::traceql::testing::metrics_examples::metrics_examples;

#[test]
fn examples_give_their_verdicts() {
    let (fixture, _) = search_examples();
    let (whole, traces) = (vec![fixture.table()], fixture.table_per_trace());
    let mut failures = Vec::new();
    for example in metrics_examples() {
        let plan = plan(&example.query);
        for job_count in [1, 3, 17] {
            let jobs = jobs(if job_count == 1 { &whole } else { &traces }, example.window, job_count);
            let found = answer(&plan, example.window, FinalOptions { max_series: 0, exemplars: 0 }, &jobs);
            failures.extend(example.check(&found).map_err(|failure| format!("in {job_count} jobs: {failure}")).err());
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

fn jobs(tables: &[SpanTable], window: Window, count: usize) -> Vec<Job> {
    let job = |job: usize| {
        let of_job = tables.iter().enumerate().filter(|(at, _)| at % count == job).map(|(_, table)| table.clone()).collect();
        Job { tables: of_job, window, merge: (job % 2 == 1).then_some(job % 3) }
    };
    (0..count).map(job).collect()
}
