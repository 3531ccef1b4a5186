//! Blocks we write can be read by others: an independent Parquet reader sees the columns that Tempo's blocks have.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::otlp;
use crate::parts;
use crate::process::Place;
use crate::wait::{VISIBLE, eventually};

/// What an independent reader finds in the data of some blocks; fails when it cannot read all of it.
pub(crate) fn describe(blocks: &[PathBuf]) -> Vec<Value> {
    let files: Vec<_> = blocks.iter().map(|block| block.join("data.parquet").display().to_string()).collect();
    let files: Vec<_> = files.iter().map(String::as_str).collect();
    serde_json::from_str(&parts::python("parquet_columns.py", &files)).unwrap()
}

/// Fails unless a block is of a version and its objects agree with its `meta.json`.
pub(crate) fn check_objects(block: &Path, version: &str, rows: &Value) {
    let meta: Value = serde_json::from_slice(&fs::read(block.join("meta.json")).unwrap()).unwrap();
    let block = block.display();
    let size = |name: &str| fs::metadata(format!("{block}/{name}")).unwrap_or_else(|error| panic!("{block}/{name}: {error}")).len();
    assert_eq!(meta["format"], version, "{block}");
    assert_eq!(&meta["totalObjects"], rows, "{block}");
    assert_eq!(meta["size"], size("data.parquet"), "{block}");
    for shard in 0..meta["bloomShards"].as_u64().unwrap() {
        assert!(size(&format!("bloom-{shard}")) > 24, "{block}");
    }
    assert!(size("index") > 0, "{block}");
}

#[test]
fn columns_are_those_of_tempo_and_every_row_can_be_read() {
    check_columns("vParquet5");
}

#[test]
fn columns_of_the_older_version_too() {
    check_columns("vParquet4");
}

fn check_columns(version: &'static str) {
    let place = Place::with(|wishes| wishes.block_version = version);
    let tempo = place.start();
    for seed in 9_000..9_040 {
        let id = otlp::id::<16>(seed);
        let mut trace = otlp::rich_trace(&id, "columns");
        // Traces of many shapes: without resource, without scope, with no attributes at all, with many spans.
        match seed % 4 {
            0 => trace[0].resource = None,
            1 => trace[0].scope_spans[0].scope = None,
            2 => trace.push(otlp::batch("wide", (0..50).map(|number| otlp::span(&id, 100 + number, "bare")).collect())),
            _ => (),
        }
        tempo.client().push(&trace);
        // Only what is live is flushed.
        eventually("live", VISIBLE, || !tempo.client().trace(&id).is_empty());
    }
    tempo.flush();
    let blocks = place.blocks_of("single-tenant");
    let tempo_block = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("testdata/blocks/{version}/alpha"));
    let tempo_block = fs::read_dir(tempo_block).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_dir()).unwrap();
    let expected = describe(&[tempo_block]);
    let own = describe(&blocks);
    let mut rows = 0;
    for (block, found) in blocks.iter().zip(&own) {
        pretty_assertions::assert_eq!(found["columns"], expected[0]["columns"]);
        check_objects(block, version, &found["rows"]);
        rows += found["rows"].as_u64().unwrap();
    }
    assert_eq!(rows, 40);
}
