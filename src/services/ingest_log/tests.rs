//! Behaviour of the embedded log, through its public face and a faulty file layer.

use std::time::Duration;

use super::embedded::Durability;
use super::testing::{Bench, P0, append, contents, read_from, record};
use super::{ConsumerGroup, IngestLog, Lag, LogError, Offset, OffsetRange, PartitionId, Record};
use crate::base::error_class::ErrorClass;
use bytes::Bytes;

fn group(name: &str) -> ConsumerGroup {
    ConsumerGroup::new(name)
}

fn expected(values: &[&str]) -> Vec<(u64, String)> {
    values.iter().enumerate().map(|(offset, value)| (offset as u64, (*value).to_owned())).collect()
}

/// Frame length of [`record`].
fn frame_bytes(value: &str) -> u64 {
    super::frame::frame_bytes(&record(value)).unwrap() as u64
}

#[tokio::test]
async fn records_are_read_back_with_all_their_parts() {
    let mut bench = Bench::new();
    for tail_bytes in [0, 1 << 20] {
        bench.options.path = bench.directory.path().join(tail_bytes.to_string());
        bench.options.tail_bytes = tail_bytes;
        let log = bench.open();
        let spliced = Record { value: vec![Bytes::from_static(b"ab"), Bytes::new(), Bytes::from_static(b"c")], ..record("") };
        assert_eq!(log.append(P0, vec![record("first"), spliced]).await.unwrap(), Offset(0));
        assert_eq!(append(&log, "third").await.unwrap(), Offset(2));
        assert_eq!(log.append(P0, Vec::new()).await.unwrap(), Offset(3));
        let records = read_from(&log, 1).await;
        assert_eq!(records.len(), 2);
        assert_eq!((&records[0].key[..], &records[0].value[..], records[0].timestamp_unix_ms), (&b"tenant"[..], &b"abc"[..], 1_000_000));
        assert_eq!(records[1].offset, Offset(2));
        assert_eq!(log.offsets(P0).await.unwrap(), OffsetRange { start: Offset(0), end: Offset(3) });
    }
}

#[tokio::test]
async fn what_was_appended_is_there_after_reopening() {
    let bench = Bench::new();
    let values: Vec<String> = (0..50).map(|n| format!("value {n}")).collect();
    for part in values.chunks(20) {
        let log = bench.open();
        for value in part {
            append(&log, value).await.unwrap();
        }
        log.close().await.unwrap();
        assert!(matches!(append(&log, "late").await, Err(LogError::Closed)));
        log.close().await.unwrap();
    }
    assert!(bench.segments().len() > 3, "the test spans several segments");
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    assert_eq!(contents(&bench.open()).await, expected(&values));
}

#[tokio::test]
async fn partitions_are_separate_and_fixed() {
    let mut bench = Bench::new();
    bench.options.partitions = 2;
    let log = bench.open();
    assert_eq!(log.partitions(), [P0, PartitionId(1)]);
    append(&log, "zero").await.unwrap();
    assert_eq!(log.append(PartitionId(1), vec![record("one")]).await.unwrap(), Offset(0));
    assert!(matches!(log.append(PartitionId(2), vec![record("two")]).await, Err(LogError::UnknownPartition { .. })));
    drop(log);
    bench.options.partitions = 3;
    assert!(matches!(bench.try_open(), Err(LogError::PartitionsChanged { stored: 2, wanted: 3, .. })));

    let mut empty = Bench::new();
    drop(empty.open());
    empty.options.partitions = 3;
    assert_eq!(empty.open().partitions().len(), 3);
}

#[tokio::test]
async fn one_log_per_directory() {
    let bench = Bench::new();
    let log = bench.open();
    let error = bench.try_open().err().unwrap();
    assert_eq!(error.class(), ErrorClass::Internal);
    let expected =
        format!("ingest log directory {} is in use by another process (pid {})", bench.options.path.display(), std::process::id());
    assert_eq!(error.to_string(), expected);
    log.close().await.unwrap();
    bench.open();
}

#[tokio::test]
async fn options_and_oversized_records_are_checked() {
    let mut bench = Bench::new();
    bench.options.max_bytes = bench.options.segment_bytes - 1;
    assert!(matches!(bench.try_open(), Err(LogError::InvalidOption { option: "max_bytes", .. })));
    let log = Bench::new().open();
    let error = log.append(P0, vec![record("fine"), Record::new(Bytes::from(vec![0; 70_000]), Bytes::new(), 0)]).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Invalid);
    assert_eq!(contents(&log).await, []);
}

#[tokio::test]
async fn a_missing_meta_file_beside_records_is_an_error() {
    let bench = Bench::new();
    append(&bench.open(), "value").await.unwrap();
    std::fs::remove_file(bench.options.path.join("meta.json")).unwrap();
    assert!(matches!(bench.try_open(), Err(LogError::Corrupt { .. })));
}

#[tokio::test]
async fn fetch_waits_for_records_and_respects_its_limits() {
    let mut bench = Bench::new();
    for tail_bytes in [0, 1 << 20] {
        bench.options.path = bench.directory.path().join(tail_bytes.to_string());
        bench.options.tail_bytes = tail_bytes;
        let log = bench.open();
        let (fetched, appended) = tokio::join!(log.fetch(P0, Offset(0), 1, Duration::MAX), append(&log, "late"));
        assert_eq!((fetched.unwrap().len(), appended.unwrap()), (1, Offset(0)));
        append(&log, "second").await.unwrap();
        assert_eq!(log.fetch(P0, Offset(0), 0, Duration::ZERO).await.unwrap().len(), 1, "at least one record");
        assert_eq!(log.fetch(P0, Offset(0), 10_000, Duration::ZERO).await.unwrap().len(), 2);
        assert_eq!(log.fetch(P0, Offset(2), 10_000, Duration::from_millis(1)).await.unwrap(), []);
        let error = log.fetch(P0, Offset(3), 1, Duration::ZERO).await.unwrap_err();
        assert_eq!(error.to_string(), "offset 3 of partition 0 is outside 0..2");
    }
}

#[tokio::test]
async fn a_small_tail_and_the_files_together_serve_every_offset() {
    let mut bench = Bench::new();
    bench.options.tail_bytes = 700;
    let log = bench.open();
    for n in 0..40 {
        append(&log, &format!("value {n}")).await.unwrap();
    }
    for from in 0..=40 {
        let offsets: Vec<u64> = read_from(&log, from).await.iter().map(|record| record.offset.0).collect();
        assert_eq!(offsets, (from..40).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn waiting_appends_share_one_sync_and_are_answered_after_it() {
    let bench = Bench::new();
    let log = bench.open();
    append(&log, "first").await.unwrap();
    let held_syncs = bench.files.hold_syncs();
    let syncs_before = bench.files.get(|faults| faults.syncs);
    let mut appends: Vec<_> = ["a", "b", "c", "d", "e"].map(|value| Box::pin(append(&log, value))).into();
    for append in &mut appends {
        assert!(futures::poll!(append).is_pending(), "not answered before the sync");
    }
    bench.files.wait_for_held_syncs(1);
    assert_eq!(log.offsets(P0).await.unwrap().end, Offset(1), "not visible before the sync");
    drop(held_syncs);
    for append in appends {
        append.await.unwrap();
    }
    let syncs = bench.files.get(|faults| faults.syncs) - syncs_before;
    assert!(syncs <= 2, "one group is being synced while the others gather into a second, not {syncs}");
    assert_eq!(contents(&log).await.len(), 6);
}

#[tokio::test]
async fn process_durability_does_not_sync_per_append() {
    let mut bench = Bench::new();
    bench.options.durability = Durability::Process;
    bench.options.segment_bytes = 1 << 20;
    let log = bench.open();
    for _ in 0..5 {
        append(&log, "value").await.unwrap();
    }
    assert_eq!(bench.files.get(|faults| faults.syncs), 0);
    log.close().await.unwrap();
    assert_eq!(bench.files.get(|faults| faults.syncs), 1);
    assert_eq!(contents(&bench.open()).await.len(), 5);
}

#[tokio::test]
async fn a_last_frame_cut_anywhere_is_removed_and_writing_goes_on() {
    let bench = Bench::new();
    let log = bench.open();
    for value in ["one", "two", "torn"] {
        append(&log, value).await.unwrap();
    }
    drop(log);
    let path = bench.segments().pop().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let last_at = (frame_bytes("one") + frame_bytes("two")) as usize;
    for cut in last_at..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let log = bench.open();
        assert_eq!(contents(&log).await, expected(&["one", "two"]), "cut at {cut}");
        assert_eq!(append(&log, "next").await.unwrap(), Offset(2));
        drop(log);
        assert_eq!(contents(&bench.open()).await, expected(&["one", "two", "next"]), "cut at {cut}");
    }
}

#[tokio::test]
async fn a_flipped_bit_costs_only_the_record_it_is_in() {
    let mut bench = Bench::new();
    let log = bench.open();
    let values: Vec<String> = (0..12).map(|n| format!("value {n}")).collect();
    for value in &values {
        append(&log, value).await.unwrap();
    }
    drop(log);
    let segments = bench.segments();
    assert_eq!(segments.len(), 2);
    bench.options.tail_bytes = 0;
    for path in segments {
        let whole = std::fs::read(&path).unwrap();
        let frame = frame_bytes("value 0") as usize;
        for bit in frame * 8..frame * 16 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, flipped).unwrap();
            let log = bench.open();
            let read = contents(&log).await;
            assert_eq!(read.len(), values.len() - 1, "bit {bit} of {}", path.display());
            assert!(read.iter().all(|(offset, value)| *value == values[*offset as usize]));
        }
        std::fs::write(&path, whole).unwrap();
    }
}

#[tokio::test]
async fn damage_at_the_end_of_an_open_log_does_not_stop_consumers() {
    let bench = Bench::new();
    let log = bench.open();
    append(&log, "good").await.unwrap();
    append(&log, "lost").await.unwrap();
    let path = bench.segments().pop().unwrap();
    let mut content = std::fs::read(&path).unwrap();
    *content.last_mut().unwrap() ^= 1;
    std::fs::write(&path, content).unwrap();
    assert_eq!(log.fetch(P0, Offset(1), 100, Duration::ZERO).await.unwrap(), []);
    append(&log, "next").await.unwrap();
    assert_eq!(contents(&log).await, [(0, "good".to_owned()), (2, "next".to_owned())]);
}

#[tokio::test]
async fn committed_offsets_survive_and_lag_follows_them() {
    let bench = Bench::new();
    let log = bench.open();
    let store = group("live-store");
    for value in ["a", "b", "c"] {
        append(&log, value).await.unwrap();
    }
    assert_eq!(log.committed(&store, P0).await.unwrap(), None);
    // Records are of second 1000, the clock says the same.
    bench.clock.advance_nanos(7_000_000_000);
    assert_eq!(log.lag(&store, P0).await.unwrap(), Lag { records: 3, time: Duration::from_secs(7) });
    log.commit(&store, P0, Offset(2)).await.unwrap();
    log.commit(&group("metrics-generator"), P0, Offset(3)).await.unwrap();
    assert!(matches!(log.commit(&store, P0, Offset(4)).await, Err(LogError::OffsetOutOfRange { .. })));
    drop(log);
    let log = bench.open();
    assert_eq!(log.committed(&store, P0).await.unwrap(), Some(Offset(2)));
    assert_eq!(log.lag(&store, P0).await.unwrap(), Lag { records: 1, time: Duration::from_secs(7) });
    assert_eq!(log.lag(&group("metrics-generator"), P0).await.unwrap(), Lag::default());
}

#[tokio::test]
async fn offsets_never_fall_below_a_commit() {
    let bench = Bench::new();
    let log = bench.open();
    for value in ["a", "b", "c"] {
        append(&log, value).await.unwrap();
    }
    log.commit(&group("live-store"), P0, Offset(3)).await.unwrap();
    drop(log);
    for path in bench.segments() {
        std::fs::remove_file(path).unwrap();
    }
    let log = bench.open();
    assert_eq!(append(&log, "after the loss").await.unwrap(), Offset(3));
    drop(log);
    assert_eq!(contents(&bench.open()).await, [(3, "after the loss".to_owned())]);
}

#[tokio::test]
async fn a_damaged_commit_file_is_an_error() {
    let bench = Bench::new();
    drop(bench.open());
    let path = bench.options.path.join("commit.json");
    for content in ["", "{", r#"{"version":2,"groups":{}}"#] {
        std::fs::write(&path, content).unwrap();
        assert!(matches!(bench.try_open(), Err(LogError::Corrupt { .. })), "{content}");
    }
}

#[tokio::test]
async fn segments_are_deleted_once_every_group_has_committed_them() {
    let mut bench = Bench::new();
    bench.options.groups = vec![group("live-store"), group("metrics-generator")];
    let log = bench.open();
    for n in 0..40 {
        append(&log, &format!("value {n}")).await.unwrap();
    }
    let before = bench.segments().len();
    log.commit(&group("live-store"), P0, Offset(40)).await.unwrap();
    assert_eq!(bench.segments().len(), before, "the other group has not committed");
    log.commit(&group("metrics-generator"), P0, Offset(15)).await.unwrap();
    let start = log.offsets(P0).await.unwrap().start;
    assert!(start > Offset(0) && start <= Offset(15), "{start}");
    assert_eq!(read_from(&log, 15).await.len(), 25);
    assert_eq!(read_from(&log, 0).await[0].offset, start, "a removed offset is moved forward");
    log.commit(&group("metrics-generator"), P0, Offset(40)).await.unwrap();
    assert_eq!(bench.segments().len(), 1, "the last segment stays");
    drop(log);
    assert_eq!(append(&bench.open(), "next").await.unwrap(), Offset(40));
}

#[tokio::test]
async fn groups_of_an_earlier_run_hold_records_until_they_had_time_to_register() {
    let bench = Bench::new();
    let log = bench.open();
    for n in 0..40 {
        append(&log, &format!("value {n}")).await.unwrap();
    }
    log.commit(&group("old"), P0, Offset(1)).await.unwrap();
    drop(log);
    let log = bench.open();
    log.commit(&group("new"), P0, Offset(40)).await.unwrap();
    assert_eq!(log.offsets(P0).await.unwrap().start, Offset(0));
    bench.clock.advance_nanos(601_000_000_000);
    log.commit(&group("new"), P0, Offset(40)).await.unwrap();
    assert!(log.offsets(P0).await.unwrap().start > Offset(30));
}

#[tokio::test]
async fn committed_segments_are_kept_for_a_time_but_give_way_to_new_records() {
    let mut bench = Bench::new();
    bench.options.retain_committed = Duration::from_secs(60);
    bench.options.max_bytes = 2_000;
    let log = bench.open();
    for n in 0..20 {
        append(&log, &format!("value {n}")).await.unwrap();
    }
    let before = bench.segments().len();
    log.commit(&group("live-store"), P0, Offset(20)).await.unwrap();
    assert_eq!(bench.segments().len(), before, "young");
    bench.clock.advance_nanos(61_000_000_000);
    log.commit(&group("live-store"), P0, Offset(20)).await.unwrap();
    assert_eq!(bench.segments().len(), 1, "old");

    bench.options.path = bench.directory.path().join("second");
    let log = bench.open();
    for n in 0..200 {
        let offset = append(&log, &format!("value {n}")).await.unwrap();
        log.commit(&group("live-store"), P0, offset.next()).await.unwrap();
    }
    assert!(bench.segment_bytes() <= 2_000);
}

#[tokio::test]
async fn a_full_log_refuses_and_recovers_when_consumers_commit() {
    let mut bench = Bench::new();
    bench.options.max_bytes = 900;
    bench.options.groups = vec![group("live-store")];
    let log = bench.open();
    let mut appended = 0;
    let error = loop {
        match append(&log, "some value").await {
            Ok(_) => appended += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(appended, 900 / frame_bytes("some value"));
    assert!(matches!(error, LogError::Full { limit: 900 }) && error.is_retryable());
    assert_eq!(read_from(&log, 0).await.len() as u64, appended, "nothing uncommitted is deleted");
    log.commit(&group("live-store"), P0, Offset(appended)).await.unwrap();
    for _ in 0..appended / 2 {
        append(&log, "some value").await.unwrap();
    }
    assert_eq!(read_from(&log, appended).await.len() as u64, appended / 2);
}

#[tokio::test]
async fn a_full_log_of_one_committed_segment_makes_room() {
    let mut bench = Bench::new();
    bench.options.max_bytes = 400;
    let log = bench.open();
    for n in 0..100 {
        let value = format!("value {n}");
        if let Err(error) = append(&log, &value).await {
            assert!(matches!(error, LogError::Full { .. }));
            let end = log.offsets(P0).await.unwrap().end;
            log.commit(&group("live-store"), P0, end).await.unwrap();
            assert_eq!(append(&log, &value).await.unwrap(), end);
        }
    }
    let held = contents(&log).await;
    assert_eq!(held.last(), Some(&(99, "value 99".to_owned())));
    assert!(bench.segment_bytes() <= 400);
}

/// Fills the disk after `free_bytes`, appends until it is refused, frees space again, and checks that exactly what was acknowledged is there.
async fn check_disk_full(bench: &Bench, free_bytes: usize) {
    let log = bench.open();
    let mut acknowledged = vec!["before".to_owned()];
    append(&log, "before").await.unwrap();
    bench.files.set(|faults| faults.free_bytes = Some(free_bytes));
    let mut refused = 0;
    for n in 0..15 {
        let value = format!("value {n}");
        match append(&log, &value).await {
            Ok(_) => acknowledged.push(value),
            Err(error) => {
                assert!(matches!(error, LogError::DiskFull { .. }) && error.is_retryable(), "{error:?}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
    let after_failure = read_from(&log, 0).await.len();
    assert_eq!(after_failure, acknowledged.len());
    bench.files.set(|faults| {
        faults.free_bytes = None;
        faults.is_truncate_broken = false;
    });
    append(&log, "after").await.unwrap();
    acknowledged.push("after".to_owned());
    let acknowledged: Vec<&str> = acknowledged.iter().map(String::as_str).collect();
    assert_eq!(contents(&log).await, expected(&acknowledged));
    drop(log);
    assert_eq!(contents(&bench.open()).await, expected(&acknowledged));
}

#[tokio::test]
async fn a_full_disk_refuses_appends_and_corrupts_nothing() {
    for free_bytes in 0..120 {
        check_disk_full(&Bench::new(), free_bytes).await;
    }
}

#[tokio::test]
async fn a_full_disk_with_short_writes_or_without_truncation_corrupts_nothing() {
    for free_bytes in 0..120 {
        let bench = Bench::new();
        bench.files.set(|faults| faults.write_limit = Some(7));
        check_disk_full(&bench, free_bytes).await;
        let bench = Bench::new();
        bench.files.set(|faults| faults.is_truncate_broken = true);
        check_disk_full(&bench, free_bytes).await;
    }
}

#[tokio::test]
async fn a_commit_on_a_full_disk_frees_the_space_it_needs() {
    let bench = Bench::new();
    let log = bench.open();
    for n in 0..40 {
        append(&log, &format!("value {n}")).await.unwrap();
    }
    bench.files.set(|faults| faults.free_bytes = Some(0));
    assert!(append(&log, "no room").await.is_err());
    log.commit(&group("live-store"), P0, Offset(40)).await.unwrap();
    append(&log, "room").await.unwrap();
}

#[tokio::test]
async fn a_failed_sync_fails_its_group_and_its_offsets_are_given_again() {
    for is_truncate_broken in [false, true] {
        let bench = Bench::new();
        let log = bench.open();
        append(&log, "kept").await.unwrap();
        bench.files.set(|faults| {
            faults.failing_syncs = 1;
            faults.is_truncate_broken = is_truncate_broken;
        });
        let error = append(&log, "lost").await.unwrap_err();
        assert!(matches!(error, LogError::Io { action: "sync", .. }) && error.is_retryable(), "{error:?}");
        assert_eq!(append(&log, "next").await.unwrap(), Offset(1));
        assert_eq!(contents(&log).await, expected(&["kept", "next"]));
        drop(log);
        assert_eq!(contents(&bench.open()).await, expected(&["kept", "next"]));
    }
}

#[test]
fn lag_gauges_have_the_names_of_the_dashboards() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        super::metrics::describe();
        super::metrics::publish_lag(&group("live-store"), P0, Lag { records: 5, time: Duration::from_millis(1500) });
    });
    let text = handle.render();
    assert!(text.contains(r#"tempo_ingest_group_partition_lag{group="live-store",partition="0"} 5"#), "{text}");
    assert!(text.contains(r#"tempo_ingest_group_partition_lag_seconds{group="live-store",partition="0"} 1.5"#), "{text}");
}
