//! Fuzzes `tempo-rs.tags`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tempo_rs::tempodb::fuzzing::side_tags(bytes));
