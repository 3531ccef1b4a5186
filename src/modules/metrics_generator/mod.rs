//! Derives span metrics and service graphs from the ingest log.

pub mod config;
