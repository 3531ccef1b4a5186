//! Receives spans, checks limits and appends them to the ingest log.

pub mod config;
pub mod receiver_config;
