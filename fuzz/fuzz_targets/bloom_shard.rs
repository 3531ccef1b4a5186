//! Fuzzes an object `bloom-N` of a block.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tempo_rs::tempodb::fuzzing::bloom_shard(bytes));
