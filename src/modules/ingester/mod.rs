//! Classic write path: holds recent traces, replicated, and flushes blocks.

pub mod config;
