//! Caches shared by roles.

pub mod config;
