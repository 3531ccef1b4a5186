//! Cuts the ingest log into blocks.

pub mod config;
