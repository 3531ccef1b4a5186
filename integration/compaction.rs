//! Stored blocks over time: small ones are merged, old ones deleted, traces removed on demand, and whatever happens in between, every trace is
//! found exactly once.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::client::Client;
use crate::otlp::{self, hex};
use crate::process::{Place, Tempo};
use crate::wait::{SOON, VISIBLE, eventually};

/// For work over many blocks on a slow machine.
const LONG: Duration = Duration::from_secs(120);

/// Pushes traces and has each written to a block of its own.
fn write_blocks(tempo: &Tempo<'_>, client: &Client, seeds: std::ops::Range<u64>) -> Vec<Vec<u8>> {
    let ids: Vec<_> = seeds.map(otlp::id::<16>).collect();
    for id in &ids {
        client.push(&otlp::rich_trace(id, "compaction"));
        eventually("live", VISIBLE, || !client.trace(id).is_empty());
        tempo.flush();
    }
    ids
}

/// Fails unless every trace is found whole, and once.
fn check_found_once(client: &Client, ids: &[Vec<u8>]) {
    let found = client.search(&[("q", r#"{ span.test.case = "compaction" }"#), ("limit", "1000"), ("spss", "10")]);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for id in found {
        *counts.entry(id).or_default() += 1;
    }
    for id in ids {
        assert_eq!(client.trace(id).len(), 2, "spans of {}", hex(id));
        assert_eq!(counts.remove(&hex(id)), Some(1), "{}", hex(id));
    }
    assert!(counts.is_empty(), "{counts:?}");
}

fn metas(place: &Place, tenant: &str) -> Vec<Value> {
    // A block may go between the listing and the reading.
    let read = |block: &Path| fs::read(block.join("meta.json")).ok().map(|meta| serde_json::from_slice(&meta).unwrap());
    place.blocks_of(tenant).iter().filter_map(|block| read(block)).collect()
}

fn levels(place: &Place) -> Vec<u64> {
    metas(place, "single-tenant").iter().map(|meta| meta["compactionLevel"].as_u64().unwrap()).collect()
}

#[test]
fn retention_follows_the_limit_of_each_tenant() {
    let place = Place::with(|wishes| {
        wishes.compaction = true;
        wishes.multitenancy = true;
        let rates = "ingestion: {rate_limit_bytes: 100000000, burst_size_bytes: 100000000}";
        wishes.tenant_limits = format!(
            "overrides: {{short: {{{rates}, compaction: {{block_retention: 2s}}}}, off: {{{rates}, compaction: {{block_retention: 2s, compaction_disabled: true}}}}}}"
        );
    });
    let tempo = place.start();
    let mut ids = BTreeMap::new();
    for (tenant, seed) in [("short", 52_000), ("long", 52_100), ("off", 52_200)] {
        let client = tempo.client().tenant(tenant);
        ids.insert(tenant, write_blocks(&tempo, &client, seed..seed + 1));
    }
    eventually("the short tenant has no block any more", LONG, || {
        let entries = fs::read_dir(place.blocks_dir().join("short"))
            .map(|entries| entries.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count());
        entries.unwrap_or(0) == 0
    });
    eventually("nor a trace", SOON, || tempo.client().tenant("short").get(&format!("/api/traces/{}", hex(&ids["short"][0]))).status == 404);
    for tenant in ["long", "off"] {
        assert_eq!(place.blocks_of(tenant).len(), 1, "{tenant}");
        assert_eq!(tempo.client().tenant(tenant).trace(&ids[tenant][0]).len(), 2, "{tenant}");
    }
}

#[test]
fn without_compaction_blocks_stay_as_they_are() {
    let place = Place::new();
    let tempo = place.start();
    assert!(tempo.client().get("/status/backendscheduler").text().starts_with("Active Jobs\n| TENANT"));
    let services = tempo.client().get("/status/services").text();
    assert!(services.contains("backend-scheduler") && services.contains("backend-worker"), "{services}");
    let ids = write_blocks(&tempo, &tempo.client(), 55_000..55_003);
    // The scheduler has looked several times.
    let cycles = || {
        let metrics = tempo.client().get("/metrics").text();
        let line = metrics.lines().find_map(|line| line.strip_prefix("tempo_backend_scheduler_compaction_empty_tenant_cycle_total "));
        line.and_then(|count| count.parse::<f64>().ok()).unwrap_or(0.0)
    };
    let before = cycles();
    eventually("rounds of the scheduler", SOON, || cycles() >= before + 3.0);
    assert_eq!(levels(&place), [0, 0, 0]);
    check_found_once(&tempo.client(), &ids);
}
