//! Fuzzes a shard of a run of the trace filter.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tempo_rs::tempodb::fuzzing::trace_filter_shard(bytes));
