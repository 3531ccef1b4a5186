//! Stored blocks over time: small ones are merged, old ones deleted, traces removed on demand, and whatever happens in between, every trace is
//! found exactly once.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tempo_rs::model::ids::{TenantId, TraceId};
use tempo_rs::services::grpc_client::config::GrpcClientConfig;
use tempo_rs::services::rpc::backend_scheduler::grpc::RemoteScheduler;
use tempo_rs::services::rpc::backend_scheduler::{BackendScheduler, RedactionMode, RedactionRequest, SubmittedRedaction, TraceSelection};
use tempo_rs::services::rpc::status::CallError;

use crate::client::Client;
use crate::otlp::{self, hex};
use crate::process::{Place, Tempo};
use crate::wait::{SOON, VISIBLE, eventually, until_some};

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

fn status(client: &Client) -> Value {
    client.get("/status/backendscheduler?format=json").json()
}

#[test]
fn many_small_blocks_become_few_and_every_trace_is_found_once() {
    let place = Place::with(|wishes| wishes.compaction = true);
    let tempo = place.start();
    let client = tempo.client();
    let ids = write_blocks(&tempo, &client, 50_000..50_009);
    eventually("blocks are merged and rise a level", LONG, || {
        let levels = levels(&place);
        levels.len() <= 3 && levels.iter().any(|level| *level >= 1)
    });
    check_found_once(&client, &ids);

    let page = client.get("/status/backendscheduler");
    assert!(page.text().starts_with("Active Jobs\n| TENANT"), "{}", page.text());
    assert!(status(&client)["active_jobs"].as_array().unwrap().iter().any(|job| job["type"] == "JOB_TYPE_COMPACTION"));
    assert!(client.get("/status/endpoints").text().contains("/status/backendscheduler"));
    let services = client.get("/status/services").text();
    assert!(services.contains("backend-scheduler") && services.contains("backend-worker"), "{services}");
    let metrics = client.get("/metrics").text();
    let of_compaction = r#"tempo_backend_scheduler_jobs_completed_total{tenant="single-tenant",job_type="JOB_TYPE_COMPACTION"}"#;
    assert!(metrics.contains(of_compaction) || metrics.contains("job_type=\"JOB_TYPE_COMPACTION\""), "{metrics}");
    assert!(place.work_dir().join("backend-scheduler.lock").is_file() && place.blocks_dir().join("work.json").is_file());

    // What was replaced goes when nobody can still be reading it.
    eventually("replaced blocks are deleted", LONG, || {
        let entries = fs::read_dir(place.blocks_dir().join("single-tenant")).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count() == place.blocks_of("single-tenant").len()
    });
    check_found_once(&client, &ids);
    assert!(tempo.terminate(SOON).success());
    check_found_once(&place.start().client(), &ids);
}

#[test]
fn kills_in_the_middle_of_compactions_neither_lose_nor_double_anything() {
    let seed = std::env::var("TEMPO_RS_SEED").map_or(1, |seed| seed.parse().unwrap());
    eprintln!("TEMPO_RS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let place = Place::with(|wishes| wishes.compaction = true);
    let mut ids = Vec::new();
    for round in 0..6 {
        let tempo = place.start();
        let client = tempo.client();
        check_found_once(&client, &ids);
        let first = 51_000 + round * 100;
        ids.extend(write_blocks(&tempo, &client, first..first + 4));
        // Some time between the first choice of blocks and the end of all merging.
        std::thread::sleep(Duration::from_millis(random.random_range(0..400)));
        tempo.kill();
    }
    let tempo = place.start();
    check_found_once(&tempo.client(), &ids);
    eventually("all is merged in the end", LONG, || levels(&place).len() <= 4);
    check_found_once(&tempo.client(), &ids);
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

/// Asks the scheduler of a process over gRPC.
fn submit(place: &Place, tenant: &str, ids: &[&[u8]], mode: RedactionMode) -> Result<SubmittedRedaction, CallError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let scheduler = RemoteScheduler::new(&format!("127.0.0.1:{}", place.grpc_port()), &GrpcClientConfig::default()).unwrap();
        let traces = TraceSelection::Ids(ids.iter().map(|id| TraceId::from_bytes(id)).collect());
        scheduler.submit_redaction(&TenantId::parse(tenant).unwrap(), RedactionRequest { traces, mode }).await
    })
}

#[test]
fn redacted_traces_are_gone_and_the_others_stay() {
    let place = Place::with(|wishes| wishes.compaction = true);
    let tempo = place.start();
    let client = tempo.client();
    let nothing = submit(&place, "single-tenant", &[&[1; 16]], RedactionMode::Apply).unwrap_err();
    assert_eq!(nothing.message, "no blocks found for tenant");
    let ids = write_blocks(&tempo, &client, 53_000..53_003);
    let (wanted, others) = ids.split_first().unwrap();

    submit(&place, "single-tenant", &[wanted], RedactionMode::DryRun).unwrap();
    eventually("counting is over", LONG, || status(&client)["redactions"].as_array().unwrap().is_empty());
    check_found_once(&client, &ids);

    submit(&place, "single-tenant", &[wanted], RedactionMode::Apply).unwrap();
    let again = submit(&place, "single-tenant", &[wanted], RedactionMode::Apply).unwrap_err();
    assert_eq!(again.message, "a redaction is already in progress for this tenant");
    eventually("the redaction is over", LONG, || status(&client)["redactions"].as_array().unwrap().is_empty());
    // A replaced block is still asked for a while, as its successor may not be known everywhere.
    let path = format!("/api/traces/{}", hex(wanted));
    until_some("the trace is gone", LONG, || client.try_get(&path).filter(|answer| answer.status == 404));
    check_found_once(&client, others);
    drop(tempo);
    check_found_once(&place.start().client(), others);
}

#[test]
fn scheduler_and_worker_can_be_processes_of_their_own() {
    let writer = Place::new();
    let tempo = writer.start();
    let ids = write_blocks(&tempo, &tempo.client(), 54_000..54_004);
    assert!(tempo.terminate(SOON).success());
    assert_eq!(writer.blocks_of("single-tenant").len(), 4);

    let data = writer.blocks_dir().parent().unwrap().to_owned();
    let of_role = |target: &'static str, scheduler_address: String| {
        Place::with(|wishes| {
            wishes.compaction = true;
            wishes.target = target;
            wishes.data = Some(data.clone());
            wishes.scheduler_address = scheduler_address;
        })
    };
    let scheduler_place = of_role("backend-scheduler", String::new());
    let worker_place = of_role("backend-worker", format!("127.0.0.1:{}", scheduler_place.grpc_port()));
    let scheduler = scheduler_place.start();
    let worker = worker_place.start();
    eventually("the blocks are merged", LONG, || levels(&writer).len() == 1);
    let jobs = status(&scheduler.client());
    assert!(jobs["active_jobs"].as_array().unwrap().iter().any(|job| job["status"] == "JOB_STATUS_SUCCEEDED"), "{jobs}");
    assert_eq!(worker.client().get("/status/backendscheduler").status, 404);
    assert!(worker.terminate(SOON).success() && scheduler.terminate(SOON).success());
    check_found_once(&writer.start().client(), &ids);
}

#[test]
fn without_compaction_blocks_stay_as_they_are() {
    let place = Place::new();
    let tempo = place.start();
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
