//! Per-tenant limits.

pub mod config;
pub mod limits;
