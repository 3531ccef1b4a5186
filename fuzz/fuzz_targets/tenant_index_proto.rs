//! Fuzzes `index.pb.zst` of a tenant.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tempo_rs::tempodb::fuzzing::tenant_index_proto(bytes));
