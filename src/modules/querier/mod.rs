//! Executes query jobs over live-stores and blocks.

pub mod config;
