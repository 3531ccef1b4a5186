//! Property: whatever fails and however often the log crashes, no acknowledged record is lost, moved or doubled, and none is invented.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::embedded::EmbeddedLog;
use super::testing::{Bench, P0, contents, record};
use super::{ConsumerGroup, IngestLog, Offset};

/// A step in the life of a log.
#[derive(Debug, Clone)]
enum Step {
    /// Concurrent appends of so many records each.
    Append(Vec<usize>),
    Commit(prop::sample::Index),
    FailSync,
    BreakTruncate,
    WriteLimit(usize),
    DiskFull(usize),
    DiskFree,
    Reopen,
    /// Power loss in the middle of appends: part of what was not synced stays, possibly damaged.
    Crash {
        appends: usize,
        kept_of_rest: f64,
        flips_a_byte: bool,
    },
}

fn arb_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop::collection::vec(1_usize..4, 1..5).prop_map(Step::Append),
        2 => any::<prop::sample::Index>().prop_map(Step::Commit),
        1 => Just(Step::FailSync),
        1 => Just(Step::BreakTruncate),
        1 => (1_usize..60).prop_map(Step::WriteLimit),
        1 => (0_usize..300).prop_map(Step::DiskFull),
        2 => Just(Step::DiskFree),
        1 => Just(Step::Reopen),
        2 => (0_usize..4, 0.0..=1.0, any::<bool>())
            .prop_map(|(appends, kept_of_rest, flips_a_byte)| Step::Crash { appends, kept_of_rest, flips_a_byte }),
    ]
}

/// Drives a log and remembers what it promised.
struct Run {
    bench: Bench,
    submitted: usize,
    /// By offset: the value acknowledged there.
    acknowledged: BTreeMap<u64, String>,
    committed: u64,
}

impl Run {
    async fn append_all(&mut self, log: &EmbeddedLog, sizes: &[usize]) {
        let mut calls = Vec::new();
        for size in sizes {
            let values: Vec<String> = (0..*size).map(|n| format!("value {}", self.submitted + n)).collect();
            self.submitted += size;
            calls.push(async { (log.append(P0, values.iter().map(|value| record(value)).collect()).await, values) });
        }
        for (result, values) in futures::future::join_all(calls).await {
            let Ok(first) = result else { continue };
            for (offset, value) in (first.0..).zip(values) {
                assert_eq!(self.acknowledged.insert(offset, value), None, "offset {offset} was acknowledged twice");
            }
        }
    }

    async fn check(&self, log: &EmbeddedLog) {
        let held = contents(log).await;
        assert!(held.windows(2).all(|pair| pair[0].0 < pair[1].0), "offsets grow: {held:?}");
        let mut values: Vec<&String> = held.iter().map(|(_, value)| value).collect();
        values.sort();
        values.dedup();
        assert_eq!(values.len(), held.len(), "nothing is there twice: {held:?}");
        for (offset, value) in &held {
            let number: usize = value.strip_prefix("value ").and_then(|number| number.parse().ok()).unwrap();
            assert!(number < self.submitted, "{value} was never submitted");
            assert!(self.acknowledged.get(offset).is_none_or(|promised| promised == value), "offset {offset} holds {value}");
        }
        let held: BTreeMap<u64, String> = held.into_iter().collect();
        for (offset, value) in self.acknowledged.range(self.committed..) {
            assert_eq!(held.get(offset), Some(value), "acknowledged at {offset}");
        }
    }

    async fn step(&mut self, mut log: EmbeddedLog, step: Step) -> EmbeddedLog {
        match step {
            Step::Append(sizes) => self.append_all(&log, &sizes).await,
            Step::Commit(index) => {
                let end = log.offsets(P0).await.unwrap().end.0;
                let next = self.committed + index.index((end - self.committed + 1) as usize) as u64;
                // A commit that fails may still count until the restart; the consumer has processed the records.
                let _ = log.commit(&ConsumerGroup::new("live-store"), P0, Offset(next)).await;
                self.committed = next;
            }
            Step::FailSync => self.bench.files.set(|faults| faults.failing_syncs += 1),
            Step::BreakTruncate => self.bench.files.set(|faults| faults.is_truncate_broken = true),
            Step::WriteLimit(bytes) => self.bench.files.set(|faults| faults.write_limit = Some(bytes)),
            Step::DiskFull(bytes) => self.bench.files.set(|faults| faults.free_bytes = Some(bytes)),
            Step::DiskFree => self.bench.files.set(|faults| faults.free_bytes = None),
            Step::Reopen => {
                drop(log);
                self.bench.files.set(|faults| *faults = Default::default());
                log = self.bench.open();
            }
            Step::Crash { appends, kept_of_rest, flips_a_byte } => {
                let held_syncs = self.bench.files.hold_syncs();
                let values = (0..appends).map(|n| format!("value {}", self.submitted + n));
                let mut calls: Vec<_> = values.map(|value| log.append(P0, vec![record(&value)])).collect();
                self.submitted += appends;
                for call in &mut calls {
                    // A full disk may refuse it at once; it cannot be acknowledged.
                    assert!(!matches!(futures::poll!(call), std::task::Poll::Ready(Ok(_))));
                }
                drop(calls);
                self.bench.files.set(|faults| faults.is_dead = true);
                drop(held_syncs);
                drop(log);
                self.bench.files.crash(kept_of_rest, flips_a_byte);
                log = self.bench.open();
            }
        }
        self.check(&log).await;
        log
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_acknowledged_record_is_lost_and_none_is_invented(steps in prop::collection::vec(arb_step(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut bench = Bench::new();
            bench.options.groups = vec![ConsumerGroup::new("live-store")];
            let mut log = bench.open();
            let mut run = Run { bench, submitted: 0, acknowledged: Default::default(), committed: 0 };
            for step in steps {
                log = run.step(log, step).await;
            }
        });
    }
}
