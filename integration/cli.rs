//! `tempo-rs cli …` over blocks that Grafana Tempo wrote.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::foreign_blocks::copy_tree;
use crate::process::{Outcome, Place, run};

/// A block of tenant alpha with four row groups, and a trace in it.
const BLOCK: &str = "a0a76807-e24a-4b98-bcfd-0e2a55737f75";
const TRACE: &str = "05e3d4373c4eaa62af70d64f3b26139a";

fn parse_hex(id: &str) -> Vec<u8> {
    (0..id.len()).step_by(2).map(|at| u8::from_str_radix(&id[at..at + 2], 16).unwrap()).collect()
}

/// A copy of the fixture blocks.
struct Store(TempDir);

impl Store {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy_tree(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/blocks/vParquet5"), folder.path());
        Self(folder)
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.path().join(below)
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        let bucket = self.0.path().to_str().unwrap();
        let outcome = run(&[&["cli", "--backend", "local", "--bucket", bucket], arguments].concat());
        assert_eq!(outcome.code, Some(0), "{arguments:?}: {}", outcome.stderr);
        outcome
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[arguments, &["--json"]].concat()).stdout).unwrap()
    }

    fn live_blocks(&self, tenant: &str) -> Vec<String> {
        let blocks = self.json(&["list", "blocks", tenant]);
        blocks.as_array().unwrap().iter().map(|block| block["id"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn lists_are_tables_for_people_and_json_for_scripts() {
    let store = Store::new();
    let text = store.run(&["list", "blocks", "alpha"]).stdout;
    assert!(
        text.starts_with("ID ") && text.contains(BLOCK) && text.contains("vParquet5") && text.ends_with("2 blocks, 250.6 KiB\n"),
        "{text}"
    );
    assert_eq!(store.live_blocks("alpha").len(), 2);
    let tenants = store.json(&["list", "tenants"]);
    assert_eq!(tenants[0], json!({"tenant": "alpha", "live_blocks": 2, "compacted_blocks": 0, "foreign_objects": 0}));
    let summary = store.json(&["list", "compaction-summary", "alpha"]);
    assert_eq!((&summary[0]["lvl"], &summary[0]["blocks"], &summary[0]["objects"]), (&json!(0), &json!(2), &json!(93)));
    assert_eq!(store.json(&["list", "cache-summary", "alpha"])[0]["bloom_shards"], 4);
    assert_eq!(store.json(&["list", "index", "alpha", BLOCK]).as_array().unwrap().len(), 4);
}

#[test]
fn a_block_is_shown_inside() {
    let store = Store::new();
    let text = store.run(&["list", "block", "alpha", BLOCK, "--scan"]).stdout;
    assert!(text.contains("Total objects     : 67\n") && text.contains("Spans                  : "), "{text}");
    let schema = store.run(&["view", "schema", "alpha", BLOCK]).stdout;
    assert!(schema.starts_with("message Trace {") && schema.contains("REPEATED group rs"), "{schema}");
    let footer = store.json(&["view", "footer", "alpha", BLOCK]);
    assert_eq!((&footer["rows"], footer["rowGroups"].as_array().unwrap().len()), (&json!(67), 4));
    let columns = store.json(&["list", "column", "alpha", BLOCK]);
    assert_eq!((columns.as_array().unwrap().len(), &columns[0]["column"], &columns[0]["values"]), (92, &json!("TraceID"), &json!(67)));
    let ids = store.json(&["list", "column", "alpha", BLOCK, "--column", "TraceID"]);
    assert_eq!(ids.as_array().unwrap().len(), 67);
    let kinds = store.json(&["list", "column", "alpha", BLOCK, "--column", "rs.ss.Spans.Kind", "--limit", "5"]);
    assert_eq!(kinds.as_array().unwrap().len(), 5);
}

#[test]
fn traces_are_found_and_summarised() {
    let store = Store::new();
    let outcome = store.run(&["query", "blocks", TRACE, "alpha"]);
    let trace: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert!(!trace["resourceSpans"].as_array().unwrap().is_empty());
    assert!(outcome.stderr.starts_with("block "), "{}", outcome.stderr);
    let summary = store.run(&["query", "trace-summary", TRACE, "alpha"]).stdout;
    assert!(summary.contains(&format!("Trace ID     : {TRACE}\n")) && summary.contains("Scope"), "{summary}");
    let found = store.json(&[
        "search",
        "traceql",
        "{ status = error }",
        "2026-11-01T00:00:00Z",
        "2026-12-01T00:00:00Z",
        "alpha",
        "--limit",
        "1000",
    ]);
    assert!(!found.as_array().unwrap().is_empty());
    let none = store.json(&["search", "blocks", "no.such.name", "5", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "alpha"]);
    assert_eq!(none, json!([]));
}

#[test]
fn objects_built_anew_equal_those_of_the_compatible_system() {
    let store = Store::new();
    let blooms = |store: &Store| {
        let mut blooms: Vec<_> = fs::read_dir(store.path(&format!("alpha/{BLOCK}"))).unwrap().map(|entry| entry.unwrap().path()).collect();
        blooms.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("bloom-"));
        blooms.sort();
        blooms.iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>()
    };
    let (before, index) = (blooms(&store), fs::read(store.path(&format!("alpha/{BLOCK}/index"))).unwrap());
    fs::remove_file(store.path(&format!("alpha/{BLOCK}/index"))).unwrap();
    store.run(&["gen", "index", "alpha", BLOCK]);
    assert_eq!(fs::read(store.path(&format!("alpha/{BLOCK}/index"))).unwrap(), index);
    // The fixture counted more traces than are in the block when it sized its filter, so its shards are compared by what they answer.
    store.run(&["gen", "bloom", "alpha", BLOCK, "0.01", "102400"]);
    assert_eq!((before.len() > 1, blooms(&store).len(), blooms(&store)[0].len()), (true, 1, 102_424));
    assert_eq!(store.json(&["list", "block", "alpha", BLOCK])["bloom_shards"], 1);
    store.run(&["query", "blocks", TRACE, "alpha"]);
}

#[test]
fn traces_are_dropped_only_when_told_so() {
    let store = Store::new();
    let before = store.live_blocks("alpha");
    let listed = store.json(&["rewrite-blocks", "drop-traces", "alpha", TRACE]);
    assert_eq!((listed.as_array().unwrap().is_empty(), store.live_blocks("alpha")), (false, before.clone()));
    store.run(&["rewrite-blocks", "drop-traces", "alpha", TRACE, "--drop-trace"]);
    assert_ne!(store.live_blocks("alpha"), before);
    let bucket = store.0.path().to_str().unwrap();
    let gone = run(&["cli", "--backend", "local", "--bucket", bucket, "query", "blocks", TRACE, "alpha"]);
    assert_eq!((gone.code, gone.stderr.trim_end()), (Some(1), &*format!("error: tenant alpha has no trace {TRACE}")));
}

#[test]
fn blocks_change_their_version_and_keep_their_spans() {
    let store = Store::new();
    let spans = |store: &Store| -> u64 {
        let scan = |block: &String| store.run(&["list", "block", "alpha", block, "--scan"]).stdout;
        let count = |text: String| text.lines().find_map(|line| line.strip_prefix("Spans  ")?.split(": ").nth(1)?.parse::<u64>().ok());
        store.live_blocks("alpha").iter().map(|block| count(scan(block)).unwrap()).sum()
    };
    let before = spans(&store);
    store.run(&["convert", "blocks", "alpha", "--to", "vParquet4"]);
    let blocks = store.json(&["list", "blocks", "alpha"]);
    assert!(blocks.as_array().unwrap().iter().all(|block| block["vers"] == "vParquet4"), "{blocks}");
    assert_eq!((blocks.as_array().unwrap().len(), spans(&store)), (2, before));
}

#[test]
fn a_tenant_is_copied_and_its_traces_are_found_by_a_process() {
    let store = Store::new();
    let moved = store.json(&["migrate", "tenant", "alpha", "gamma"]);
    assert_eq!((&moved["blocks"], &moved["copied"]), (&json!(2), &json!(2)));
    assert_eq!(store.json(&["migrate", "tenant", "alpha", "gamma"])["already_there"], 2);
    let place = Place::with(|wishes| wishes.multitenancy = true);
    copy_tree(store.0.path(), &place.blocks_dir());
    let tempo = place.start();
    let found = |tenant: &str| tempo.client().tenant(tenant).trace(&parse_hex(TRACE));
    assert!(!found("gamma").is_empty());
    assert_eq!(found("gamma"), found("alpha"));
    let address = format!("127.0.0.1:{}", place.http_port());
    let answer = run(&["cli", "query", "api", "trace-id", &address, TRACE, "--org-id", "gamma"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let refused = run(&["cli", "query", "api", "search", &address, "{ nonsense", "--org-id", "gamma"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("400 Bad Request: invalid TraceQL query"), "{}", refused.stderr);
}

#[test]
fn exports_are_read_by_others() {
    let store = Store::new();
    let file = |name: &str| store.path(name).to_str().unwrap().to_owned();
    let export = |format: &str, name: &str| store.json(&["export", "alpha", "--format", format, "--output", &file(name)]);
    let report = export("parquet", "spans.parquet");
    let spans = report["spans"].as_u64().unwrap();
    let columns = crate::parts::python("parquet_columns.py", &[&file("spans.parquet")]);
    assert!(columns.contains("trace_id"), "{columns}");
    assert_eq!(export("json", "spans.json")["spans"], spans);
    let lines = fs::read_to_string(file("spans.json")).unwrap();
    assert_eq!(lines.lines().count() as u64, spans);
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert!(first["attributes"].is_object() && first["trace_id"].as_str().unwrap().len() == 32, "{first}");

    // What comes out as OTLP/JSON goes in again.
    export("otlp-json", "otlp.json");
    let place = Place::new();
    let tempo = place.start();
    for line in fs::read_to_string(file("otlp.json")).unwrap().lines() {
        let answer = tempo.client().post_traces(crate::client::JSON, None, line.as_bytes());
        assert_eq!(answer.status, 200, "{}: {line}", answer.text());
    }
    assert_eq!(export("otlp", "otlp.bin")["spans"], spans);
    let messages = fs::read(file("otlp.bin")).unwrap();
    let mut rest = &messages[..];
    let mut count = 0;
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        rest = &tail[u32::from_be_bytes(*length) as usize..];
        count += 1;
    }
    assert_eq!(count, report["traces"].as_u64().unwrap());
}

#[test]
fn attributes_are_measured_and_columns_suggested() {
    let store = Store::new();
    let text = store.run(&["analyse", "blocks", "beta"]).stdout;
    assert!(text.contains("parquet_dedicated_columns:\n  - {scope: "), "{text}");
    store.run(&["analyse", "block", "alpha", BLOCK, "--json"]);
}

#[test]
fn mistakes_get_one_clear_line() {
    let store = Store::new();
    let bucket = store.0.path().to_str().unwrap();
    for (arguments, text) in [
        (vec!["cli", "list", "blocks", "alpha"], "error: no store is named: use --config-file, or --backend with --bucket"),
        (vec!["cli", "--backend", "floppy", "--bucket", "x", "list", "blocks", "a"], "unknown backend floppy"),
        (vec!["cli", "--backend", "local", "--bucket", bucket, "list", "block", "alpha", "x"], "x is not a block id"),
        (vec!["cli", "--backend", "local", "--bucket", bucket, "query", "blocks", "xyz", "alpha"], "xyz is not a trace id"),
        (
            vec!["cli", "--backend", "local", "--bucket", bucket, "list", "block", "alpha", "346f9850-f0e5-42c3-af24-3adaedc7be98"],
            "has no block",
        ),
    ] {
        let outcome = run(&arguments);
        assert!(outcome.code != Some(0) && outcome.stderr.contains(text), "{arguments:?}: {}", outcome.stderr);
    }
}
