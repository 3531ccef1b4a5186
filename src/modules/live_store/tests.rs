//! The live-store as a whole: a real log, real blocks, virtual time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use pretty_assertions::assert_eq;

use super::config::LiveStoreConfig;
use super::testing::{World, block_folders, eventually, push_bytes};
use crate::base::duration::GoDuration;
use crate::model::ids::TenantId;
use crate::services::ingest_log::Offset;
use crate::traceql::types::Static;

const OBJECTS: [&str; 6] = ["bloom-0", "data.parquet", "index", "meta.json", "tempo-rs.pruning", "tempo-rs.tags"];

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[tokio::test(start_paused = true)]
async fn offsets_are_committed_once_the_block_is_complete() {
    let world = World::new();
    let running = world.start(LiveStoreConfig::default()).await;
    running.push(&[(1, &[1, 2]), (2, &[3])]).await;
    running.push(&[(1, &[4])]).await;
    assert_eq!((running.committed().await, running.block_count()), (None, 0));

    world.objects.close_gate();
    running.pass(seconds(31));
    eventually("all but the meta is written", || world.files().len() == OBJECTS.len() - 1).await;
    assert_eq!((running.committed().await, running.block_count()), (None, 0));
    assert_eq!(running.live_spans(1).await, [(1, 1), (1, 2), (1, 4)]);
    running.push(&[(3, &[5])]).await;

    world.objects.open_gate();
    running.commits(2).await;
    assert_eq!(running.block_count(), 1);
    assert_eq!(world.files(), OBJECTS);
    assert_eq!(running.stored_spans(1).await, [[(1, 1), (1, 2), (1, 4)]]);
    assert_eq!(running.found("{}").await, [3]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn every_span_counts_once_at_every_step_of_a_flush() {
    let world = World::new();
    let running = world.start(LiveStoreConfig::default()).await;
    running.push(&[(1, &[1, 2]), (2, &[3])]).await;
    running.push(&[(1, &[2, 4])]).await;
    assert_eq!(running.counted().await, (4.0, 0), "span 2 came twice");

    world.objects.answers.send_replace(false);
    running.pass(seconds(31));
    eventually("the meta is written", || world.files().len() == OBJECTS.len()).await;
    running.poll().await;
    assert_eq!(running.counted().await, (4.0, 0), "a poll finds the block before the live-store knows that it is complete");
    running.push(&[(2, &[5])]).await;
    assert_eq!(running.counted().await, (5.0, 0));

    world.objects.answers.send_replace(true);
    running.commits(2).await;
    for _ in 0..2 {
        assert_eq!(running.counted().await, (1.0, 1));
        running.poll().await;
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_backend_costs_time_but_no_spans() {
    let world = World::new();
    world.objects.faults.lock().extend(["data.parquet", "bloom-0", "index", "meta.json"]);
    world.objects.close_gate();
    let running = world.start(LiveStoreConfig::default()).await;
    running.push(&[(1, &[1]), (2, &[2])]).await;
    running.pass(seconds(31));
    eventually("four attempts fail", || world.objects.faults.lock().is_empty()).await;
    assert_eq!(running.committed().await, None);
    assert_eq!(running.found("{}").await, [1, 2]);

    world.objects.open_gate();
    running.commits(1).await;
    assert_eq!(world.files(), OBJECTS);
    assert_eq!(block_folders(&world.objects).await.len(), 1);
    assert_eq!(running.stored_spans(2).await, [[(2, 2)]]);
    assert_eq!(running.live_spans(2).await, []);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn objects_that_a_failed_attempt_could_not_remove_become_those_of_the_block() {
    let world = World::new();
    world.objects.keeps_all.store(true, Ordering::Relaxed);
    world.objects.faults.lock().extend(["index", "meta.json"]);
    let running = world.start(LiveStoreConfig::default()).await;
    running.push(&[(1, &[1]), (2, &[2])]).await;
    assert!(running.store.flush_now(None).await);
    assert_eq!((world.files(), running.block_count()), (OBJECTS.map(str::to_owned).to_vec(), 1));
    assert_eq!(running.stored_spans(2).await, [[(2, 2)]]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_in_trouble_leaves_no_objects_and_the_log_as_it_was() {
    let world = World::new();
    world.objects.faults.lock().extend(["meta.json"; 1000]);
    let running = world.start(LiveStoreConfig::default()).await;
    running.push(&[(1, &[1])]).await;
    running.pass(seconds(31));
    eventually("an attempt fails", || world.objects.faults.lock().len() < 1000).await;
    running.stop().await;
    assert_eq!(world.files(), Vec::<String>::new());

    world.objects.faults.lock().clear();
    let running = world.start(LiveStoreConfig::default()).await;
    assert_eq!(running.live_spans(1).await, [(1, 1)]);
    running.pass(seconds(31));
    running.commits(1).await;
    assert_eq!(running.stored_spans(1).await, [[(1, 1)]]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_consumes_from_the_committed_offset() {
    let world = World::new();
    let running = world.start(LiveStoreConfig::default()).await;
    running.push(&[(1, &[1])]).await;
    running.push(&[(2, &[2])]).await;
    assert!(running.store.flush_now(None).await);
    assert_eq!(running.committed().await, Some(2));
    running.push(&[(3, &[3])]).await;
    running.push(&[(2, &[4])]).await;
    running.stop().await;

    let running = world.start(LiveStoreConfig::default()).await;
    assert!(running.store.is_ready());
    assert_eq!(running.found("{}").await, [2, 3]);
    assert_eq!(running.live_spans(2).await, [(2, 4)]);
    assert_eq!((running.position(), running.committed().await), (Offset(4), Some(2)));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn traces_in_several_segments_are_answered_whole() {
    let world = World::new();
    let running = world.start(LiveStoreConfig::default()).await;
    running.push(&[(1, &[1]), (2, &[2]), (4, &[9])]).await;
    running.push(&[(1, &[3])]).await;
    running.push(&[(1, &[4, 1]), (3, &[5]), (4, &[9])]).await;
    assert_eq!(running.live_spans(1).await, [(1, 1), (1, 3), (1, 4)]);
    assert_eq!(running.found("{} | count() = 3").await, [1]);
    assert_eq!(running.found("{} | count() = 1").await, [2, 3, 4]);
    let hit = running.search("{} | count() > 2").await.remove(0);
    assert_eq!((hit.span_sets[0].matched, hit.span_sets[0].spans.len()), (3, 3));
    assert_eq!(hit.span_sets[0].attributes, [("count()".into(), Static::Int(3))]);

    // While one piece is being flushed and another comes in, the trace stays whole.
    world.objects.close_gate();
    running.pass(seconds(31));
    eventually("a flush is under way", || world.files().len() == OBJECTS.len() - 1).await;
    running.push(&[(1, &[6])]).await;
    assert_eq!(running.found("{} | count() = 4").await, [1]);
    world.objects.open_gate();
    running.commits(3).await;
    assert_eq!((running.live_spans(1).await, running.found("{}").await), (vec![(1, 6)], vec![1]));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn full_memory_stops_consuming_until_a_block_is_written() {
    let world = World::new();
    world.objects.close_gate();
    let running = world.start(LiveStoreConfig { max_live_traces_bytes: 1, ..LiveStoreConfig::default() }).await;
    running.push(&[(1, &[1])]).await;
    running.append("single-tenant", push_bytes(&[(2, &[2])])).await;
    running.append("single-tenant", push_bytes(&[(3, &[3])])).await;
    eventually("what is in memory is being flushed", || world.files().len() == OBJECTS.len() - 1).await;
    tokio::time::sleep(seconds(10)).await;
    assert_eq!(running.position(), Offset(1));
    assert_eq!(running.found("{}").await, [1]);

    world.objects.open_gate();
    running.commits(3).await;
    for trace in 1..=3 {
        assert_eq!(running.stored_spans(trace).await, [[(trace, trace)]]);
    }
    running.stop().await;
}

#[test]
fn records_that_cannot_be_decoded_are_counted_and_skipped() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(consume_broken_records()));
    let metrics = recorder.handle().render();
    for line in [
        "tempo_live_store_records_dropped_total{tenant=\"single-tenant\",reason=\"decoding_failed\"} 4",
        "tempo_live_store_records_processed_total{tenant=\"single-tenant\"} 6",
        "tempo_live_store_traces_created_total{tenant=\"single-tenant\"} 2",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
}

async fn consume_broken_records() {
    let world = World::new();
    let running = world.start(LiveStoreConfig::default()).await;
    running.push(&[(1, &[1])]).await;
    let whole = push_bytes(&[(2, &[2]), (3, &[3])]);
    let broken_span = push_bytes(&[(4, &[4])]).slice(..40);
    running.append("single-tenant", Bytes::from_static(b"\xff\xff\xff")).await;
    running.append("single-tenant", whole.slice(..whole.len() - 18)).await; // the last id is missing
    running.append("single-tenant", broken_span).await;
    running.append("..", push_bytes(&[(5, &[5])])).await;
    running.push(&[(6, &[6])]).await;
    assert_eq!(running.found("{}").await, [1, 6]);
    assert!(running.store.flush_now(None).await);
    assert_eq!(running.committed().await, Some(6));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn old_traces_are_cut_and_growing_ones_stay() {
    let world = World::new();
    let config = LiveStoreConfig { max_trace_live: GoDuration::minutes(1), ..LiveStoreConfig::default() };
    let running = world.start(config).await;
    running.push(&[(1, &[1]), (2, &[2])]).await;
    running.pass(seconds(29));
    running.push(&[(2, &[3]), (3, &[4])]).await;
    assert_eq!(running.block_count(), 0);

    // The first record is older than `max_block_duration`, the second younger than `max_trace_idle`.
    running.pass(seconds(2));
    eventually("a block is listed", || running.block_count() == 1).await;
    eventually("the flush ended", || running.store.state.lock().tenants[&TenantId::single()].cut_count() == 0).await;
    assert_eq!(running.stored_spans(1).await, [[(1, 1)]]);
    assert_eq!(running.stored_spans(2).await, Vec::<Vec<(u8, u8)>>::new());
    assert_eq!(running.found("{}").await, [2, 3]);
    assert_eq!(running.live_spans(2).await, [(2, 2), (2, 3)]);
    assert_eq!(running.committed().await, None, "the first record has a span that is not in a block");

    // They keep growing, but no longer than `max_trace_live`.
    running.push(&[(2, &[5])]).await;
    running.pass(seconds(30));
    running.commits(3).await;
    assert_eq!(running.stored_spans(2).await, [[(2, 2), (2, 3), (2, 5)]]);
    assert_eq!(running.found("{}").await, Vec::<u8>::new());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn demanded_flushes_wait_for_those_under_way_and_survive_their_caller() {
    let world = World::new();
    let config = LiveStoreConfig { max_trace_live: GoDuration::minutes(1), ..LiveStoreConfig::default() };
    let running = world.start(config).await;
    world.objects.close_gate();
    running.push(&[(1, &[1])]).await;
    running.pass(seconds(31));
    eventually("a flush is under way", || world.files().len() == OBJECTS.len() - 1).await;
    running.push(&[(2, &[2])]).await;

    let mut demand = Box::pin(running.store.flush_now(None));
    assert!(tokio::time::timeout(seconds(1), &mut demand).await.is_err(), "the gate is closed");
    world.objects.open_gate();
    assert!(demand.await);
    assert_eq!((running.block_count(), running.committed().await), (2, Some(2)));
    assert!(running.store.state.lock().tenants.is_empty());

    world.objects.close_gate();
    running.push(&[(3, &[3])]).await;
    let left = tokio::time::timeout(seconds(1), running.store.flush_now(Some(&TenantId::single()))).await;
    assert!(left.is_err(), "the gate is closed");
    world.objects.open_gate();
    eventually("the block is listed", || running.block_count() == 3).await;
    running.pass(seconds(0));
    running.commits(3).await;
    assert!(running.store.flush_now(Some(&TenantId::parse("nobody").unwrap())).await);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn many_small_batches_become_few_segments() {
    let world = World::new();
    let running = world.start(LiveStoreConfig::default()).await;
    for number in 0..120 {
        running.push(&[(1, &[number]), (number + 2, &[number])]).await;
    }
    let segments = running.store.snapshot(&TenantId::single()).segments.len();
    assert!(segments <= 50, "{segments}");
    assert_eq!(running.live_spans(1).await.len(), 120);
    assert_eq!(running.found("{} | count() = 1").await.len(), 120);
    assert_eq!(running.found("{} | count() = 120").await, [1]);
    assert!(running.store.flush_now(None).await);
    assert_eq!(running.stored_spans(1).await[0].len(), 120);
    running.stop().await;
}
