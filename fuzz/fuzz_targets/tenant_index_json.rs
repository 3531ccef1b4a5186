//! Fuzzes `index.json.gz` of a tenant.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tempo_rs::tempodb::fuzzing::tenant_index_json(bytes));
