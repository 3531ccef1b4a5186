//! Fuzzes pages of a column chunk.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tempo_rs::tempodb::fuzzing::data_pages(bytes));
