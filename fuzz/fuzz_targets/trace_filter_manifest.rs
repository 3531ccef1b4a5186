//! Fuzzes `tempo-rs.ids.manifest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tempo_rs::tempodb::fuzzing::trace_filter_manifest(bytes));
