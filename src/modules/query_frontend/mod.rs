//! Splits queries into jobs and merges the answers.

pub mod config;
