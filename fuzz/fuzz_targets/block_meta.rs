//! Fuzzes `meta.json` of a block.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tempo_rs::tempodb::fuzzing::block_meta(bytes));
