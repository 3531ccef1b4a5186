//! `kill -9` at any moment loses no acknowledged span, corrupts no block and duplicates nothing in answers.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::client::{Client, PROTOBUF};
use crate::otlp::{self, hex};
use crate::own_blocks::{check_objects, describe};
use crate::process::{Place, Tempo};
use crate::wait::{SOON, eventually, until_some};

const KILLS: i64 = 20;
const PUSHERS: u64 = 3;
/// The process is killed when it has acknowledged this many requests of a round, at most.
const MOST_REQUESTS: usize = 60;
const SPANS: u64 = 3;

#[test]
fn acknowledged_spans_survive_twenty_kills_under_load() {
    let seed = std::env::var("TEMPO_RS_SEED").map_or(1, |seed| seed.parse().unwrap());
    eprintln!("TEMPO_RS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let place = Place::with(|wishes| {
        wishes.eager_blocks = true;
        wishes.segment_bytes = 1 << 20;
    });
    let mut rounds: Vec<Vec<Vec<u8>>> = Vec::new();
    for round in 0..KILLS {
        let tempo = place.start();
        if let Some(last) = rounds.last() {
            check(&tempo.client(), round - 1, last);
        }
        rounds.push(kill_under_load(tempo, round, &mut random));
    }
    let tempo = place.start();
    for (round, ids) in (0..).zip(&rounds) {
        check(&tempo.client(), round, ids);
    }
    tempo.flush();
    for (round, ids) in (0..).zip(&rounds) {
        check(&tempo.client(), round, ids);
    }
    drop(tempo);

    let blocks = place.blocks_of("single-tenant");
    assert!(!blocks.is_empty());
    for (block, found) in blocks.iter().zip(describe(&blocks)) {
        check_objects(block, "vParquet5", &found["rows"]);
    }
}

/// Pushes from several sides, kills the process in the middle, and returns the ids of the traces it had acknowledged.
fn kill_under_load(tempo: Tempo<'_>, round: i64, random: &mut StdRng) -> Vec<Vec<u8>> {
    let kill_at = random.random_range(1..=MOST_REQUESTS);
    let flush_at = random.random_bool(0.5).then(|| random.random_range(0..kill_at));
    let acknowledged = Mutex::new(Vec::new());
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..PUSHERS {
            let client = tempo.client();
            scope.spawn(|| push_until_killed(client, round, &next, &acknowledged));
        }
        if let Some(flush_at) = flush_at {
            until_some("requests before the flush", SOON, || (acknowledged.lock().len() >= flush_at).then_some(()));
            let client = tempo.client();
            // Not waited for: the kill may come in the middle.
            scope.spawn(move || client.try_get("/flush"));
        }
        until_some("requests before the kill", SOON, || (acknowledged.lock().len() >= kill_at).then_some(()));
        tempo.kill();
    });
    acknowledged.into_inner()
}

fn push_until_killed(client: Client, round: i64, next: &AtomicU64, acknowledged: &Mutex<Vec<Vec<u8>>>) {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let seed = 1_000_000 * (u64::try_from(round).unwrap() + 1) + number;
        let id = otlp::id::<16>(seed);
        let span = |offset: u64| {
            let mut span = otlp::span(&id, seed * 10 + offset, "load");
            span.attributes = vec![otlp::text("round", &format!("r{round}")), otlp::text("filler", &"x".repeat(200))];
            span
        };
        let body = otlp::encode(&[otlp::batch("crash", (0..SPANS).map(span).collect())]);
        match client.try_post_traces(PROTOBUF, None, &body) {
            Ok(answer) if answer.status == 200 => acknowledged.lock().push(id),
            // The process is going down.
            Ok(_) | Err(_) => return,
        }
    }
}

/// Every acknowledged trace of the round is found whole, by id and by search, and nothing twice.
fn check(client: &Client, round: i64, ids: &[Vec<u8>]) {
    for id in ids {
        // `trace` fails on a span that occurs twice.
        eventually(&format!("round {round}: {} is found", hex(id)), SOON, || client.trace(id).len() as u64 == SPANS);
    }
    let query = format!("{{ span.round = \"r{round}\" }}");
    eventually(&format!("round {round}: search finds all"), SOON, || {
        let found = client.search(&[("q", &query), ("limit", "10000")]);
        let distinct: BTreeSet<_> = found.iter().cloned().collect();
        assert_eq!(found.len(), distinct.len(), "round {round}: a trace is listed twice");
        ids.iter().all(|id| distinct.contains(&hex(id)))
    });
}
