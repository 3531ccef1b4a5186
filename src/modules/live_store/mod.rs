//! Holds recent spans from the ingest log, searchable at once.

pub mod config;
