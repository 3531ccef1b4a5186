//! Fuzzes `data.parquet` as a whole.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tempo_rs::tempodb::fuzzing::parquet_file(bytes));
