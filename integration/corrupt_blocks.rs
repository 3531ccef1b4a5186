//! A corrupt block fails no query: it is left out, the answer says that it is partial, and the block is given up after some tries.

use std::fs;
use std::path::Path;

use crate::client::{Answer, Client};
use crate::process::Place;

const RANGE: (&str, &str) = ("1795308000", "1795312000");

/// Damages bytes in the middle of the data pages of every block of a tenant but one; returns how many were damaged.
fn damage_all_but_one(place: &Place, tenant: &str) -> usize {
    let mut blocks = place.blocks_of(tenant);
    blocks.sort();
    for block in &blocks[1..] {
        let data = block.join("data.parquet");
        let mut bytes = fs::read(&data).unwrap();
        // The first half of a file is pages; the footer stays whole.
        let half = bytes.len() / 2;
        bytes[100..half].iter_mut().for_each(|byte| *byte ^= 0x55);
        fs::write(&data, bytes).unwrap();
    }
    blocks.len() - 1
}

fn search(client: &Client, query: &str) -> Answer {
    client.ask("/api/search", &[("q", query), ("start", RANGE.0), ("end", RANGE.1), ("limit", "1000")])
}

#[test]
fn answers_are_partial_and_the_block_is_given_up() {
    let place = Place::with(|wishes| wishes.multitenancy = true);
    crate::foreign_blocks::copy_tree(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/blocks/vParquet5"), &place.blocks_dir());
    let whole = {
        let tempo = place.start();
        let answer = search(&tempo.client().tenant("alpha"), "{}");
        assert_eq!(answer.skipped_jobs, None);
        answer.json()["traces"].as_array().unwrap().len()
    };
    assert_eq!(damage_all_but_one(&place, "alpha"), 1);
    let tempo = place.start();
    let client = tempo.client().tenant("alpha");
    // More often than a block is tried before it is given up.
    for _ in 0..5 {
        let answer = search(&client, "{}");
        assert_eq!(answer.skipped_jobs.as_deref(), Some("1"));
        let found = answer.json()["traces"].as_array().unwrap().len();
        assert!((1..whole).contains(&found), "{found} of {whole}");
    }
    let tags = client.ask("/api/v2/search/tags", &[("start", RANGE.0), ("end", RANGE.1)]);
    assert_eq!((tags.status, tags.skipped_jobs.as_deref()), (200, Some("1")));
    let of_tenant = r#"{tenant="alpha""#;
    assert_eq!(client.metric("tempo_rs_tempodb_quarantined_blocks_total", of_tenant), 1.0);
    assert_eq!(client.metric("tempo_rs_tempodb_corrupt_reads_total", of_tenant), 3.0);
}
