//! Fuzzes the object `index` of a block.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tempo_rs::tempodb::fuzzing::row_group_index(bytes));
