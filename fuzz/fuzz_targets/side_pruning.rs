//! Fuzzes `tempo-rs.pruning`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tempo_rs::tempodb::fuzzing::side_pruning(bytes));
