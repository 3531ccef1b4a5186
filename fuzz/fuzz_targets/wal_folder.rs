//! Fuzzes name and `meta.json` of a folder of the write-ahead log.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tempo_rs::tempodb::fuzzing::wal_folder(bytes));
