//! Spans that Grafana Tempo left in its write-ahead log are found after the switch.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::foreign_blocks::{copy_tree, fixtures, read_json};
use crate::process::{Place, Tempo};

const BLOCK: &str = "daee1b73-8553-4698-888c-3e28752dc459";

fn wal_folder() -> String {
    format!("{BLOCK}+beta+vParquet5")
}

/// A multi-tenant place, with the WAL folder of the fixtures below `wal`.
fn place_with_wal(wal: impl Fn(&Place) -> PathBuf) -> (Place, PathBuf) {
    let place = Place::with(|wishes| wishes.multitenancy = true);
    let folder = wal(&place).join(wal_folder());
    copy_tree(&fixtures().join("wal/vParquet5").join(wal_folder()), &folder);
    (place, folder)
}

fn expected_ids() -> Vec<String> {
    let traces = &read_json(&fixtures().join("expected/vParquet5.json"))["beta"][BLOCK]["traces"];
    traces.as_object().unwrap().keys().cloned().collect()
}

fn assert_found(tempo: &Tempo<'_>) {
    let client = tempo.client().tenant("beta");
    let ids = expected_ids();
    assert_eq!(ids.len(), 13);
    for id in ids {
        let answer = client.get(&format!("/api/v2/traces/{id}"));
        assert_eq!(answer.status, 200, "{id}");
        assert!(answer.json()["trace"]["resourceSpans"].as_array().is_some_and(|spans| !spans.is_empty()), "{id}");
    }
}

/// What the process logged since `before` bytes.
fn log_since(tempo: &Tempo<'_>, before: usize) -> String {
    tempo.log()[before..].to_owned()
}

fn objects(block: &Path) -> BTreeSet<String> {
    fs::read_dir(block).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_wal_block_becomes_a_block_and_the_next_start_is_quiet() {
    for wal in [Place::live_store_wal_dir as fn(&Place) -> PathBuf, Place::storage_wal_dir] {
        let (place, folder) = place_with_wal(wal);
        let tempo = place.start();
        assert_found(&tempo);
        assert!(!folder.exists());
        assert!(objects(&place.blocks_dir().join("beta").join(BLOCK)).contains("meta.json"));
        let before = tempo.log().len();
        assert!(tempo.log().contains("replay complete"));
        tempo.kill();
        let tempo = place.start();
        assert_found(&tempo);
        let log = log_since(&tempo, before);
        assert!(!log.contains("replay") && !log.contains("earlier system"), "{log}");
    }
}

#[test]
fn a_takeover_that_was_interrupted_is_finished_without_writing_twice() {
    // The crash came after the block was complete and before the folder was gone.
    let (place, folder) = place_with_wal(Place::live_store_wal_dir);
    let stored = place.blocks_dir().join("beta").join(BLOCK);
    copy_tree(&fixtures().join("vParquet5/beta").join(BLOCK), &stored);
    let data = fs::read(stored.join("data.parquet")).unwrap();
    let tempo = place.start();
    assert_found(&tempo);
    assert!(!folder.exists());
    assert_eq!(fs::read(stored.join("data.parquet")).unwrap(), data);
    tempo.kill();

    // The crash came before the meta was written: the block is written again.
    let (place, folder) = place_with_wal(Place::live_store_wal_dir);
    let stored = place.blocks_dir().join("beta").join(BLOCK);
    fs::create_dir_all(&stored).unwrap();
    fs::write(stored.join("data.parquet"), "half of it").unwrap();
    let tempo = place.start();
    assert_found(&tempo);
    assert!(!folder.exists());
}

#[test]
fn complete_blocks_are_copied_unless_they_were_flushed() {
    let place = Place::with(|wishes| wishes.multitenancy = true);
    let local = place.live_store_wal_dir().join("blocks");
    copy_tree(&fixtures().join("vParquet5/beta").join(BLOCK), &local.join("beta").join(BLOCK));
    let flushed = "d99333a4-b0f0-40ac-a8f6-0908cd6aa039";
    copy_tree(&fixtures().join("vParquet5/beta").join(flushed), &local.join("beta").join(flushed));
    fs::write(local.join("beta").join(flushed).join("flushed"), "2026-11-22T00:59:17Z").unwrap();
    let tempo = place.start();
    assert_found(&tempo);
    let blocks = place.blocks_dir().join("beta");
    assert_eq!(objects(&blocks.join(BLOCK)), objects(&fixtures().join("vParquet5/beta").join(BLOCK)));
    assert!(!blocks.join(flushed).exists());
    assert_eq!(objects(&local.join("beta")), BTreeSet::new());
}

#[test]
fn a_backend_below_the_wal_path_is_never_taken_for_blocks_of_the_log() {
    // `<wal path>/blocks` is the backend.
    let place = Place::with(|wishes| wishes.multitenancy = true);
    let config = fs::read_to_string(place.config_file()).unwrap();
    let wal = place.live_store_wal_dir();
    let parent = place.blocks_dir().parent().unwrap().to_owned();
    fs::write(place.config_file(), config.replace(wal.to_str().unwrap(), parent.to_str().unwrap())).unwrap();
    copy_tree(&fixtures().join("vParquet5"), &place.blocks_dir());
    let tempo = place.start();
    assert_found(&tempo);
    assert!(place.blocks_dir().join("beta").join(BLOCK).join("meta.json").exists());
}
